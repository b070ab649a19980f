"""Is this interpolant right?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core.checks import shown
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..gaussian_part import GaussianPart, NoisePart
from ..interpolants import AffineInterpolant, Interpolant
from ..process import Process
from .report import Report

__all__ = ["check_interpolant"]


@checked
def check_interpolant(
    interpolant: Interpolant | Process,
    *,
    base: Distribution | None = None,
    shape: Sequence[int] | None = None,
) -> Report:
    """Check an interpolant: ends, derivatives, γ², broadcasting, dtypes, conversions.

    Args:
        interpolant: of the library or of your own; or a process, for its interpolant. One with
            parameters is checked as a copy in float64, or, where it cannot be had in that, in the
            dtype of its parameters, with wider tolerances.
        base: law at t = 0 for the conversions; standard normal by default.
        shape: event shape to try it on; that of the process, or ``(3,)``.

    Returns:
        The report; its notes name times at which a velocity does not determine the score.

    Raises:
        TypeError: if it is no interpolant.
        CheckError: if anything is wrong: a wrong end, a wrong derivative, a negative γ², a time
            that does not broadcast, a dtype that is not kept.

    Example:
        >>> import transportflows as tpf
        >>> class Power(tpf.AffineInterpolant):
        ...     def alpha(self, t): return 1 - t**2
        ...     def beta(self, t): return t**2
        >>> print(tpf.testing.check_interpolant(Power()))
        Power: 0 problems, 0 notes
    """
    if isinstance(interpolant, Process):
        shape = interpolant.shape if shape is None else shape
        interpolant = interpolant.interpolant
    if not isinstance(interpolant, Interpolant):
        raise TypeError(f"check_interpolant takes an Interpolant, got {shown(interpolant)}")
    report = Report(type(interpolant).__name__)
    shape = (3,) if shape is None else tuple(shape)
    rows = math.prod(shape)  # as many rows as numbers in an event: a missed broadcast still runs
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, rows, *shape, generator=generator, dtype=torch.float64)
    interpolant, dtype = _exact(interpolant, x0, x1)
    x0, x1 = x0.to(dtype), x1.to(dtype)
    for check in (_check_ends, _check_gamma, _check_derivatives, _check_broadcast, _check_dtypes):
        try:
            check(report, interpolant, x0, x1)
        except Exception as error:  # a user's code may raise anything: that too is a finding
            name = check.__name__.removeprefix("_check_")
            hint = "; if it is made for one event shape, give shape=" if shape == (3,) else ""
            report.problems.append(
                f"the check of {name} raised {type(error).__name__}: {error}{hint}"
            )
    if not report.problems and isinstance(interpolant, AffineInterpolant):
        _note_conversions(report, interpolant, base)
    return report.settle()


def _exact(path: Interpolant, x0: Tensor, x1: Tensor) -> tuple[Interpolant, torch.dtype]:
    """A path as it is checked, and in which dtype: float64 where it can be had in that."""
    own = next((p.dtype for p in path.parameters()), torch.float64)
    if own == torch.float64:
        return path, own
    wide = copy.deepcopy(path).double()
    try:
        with torch.no_grad():
            wide.mean(x1.new_tensor(0.3), x0, x1)
            wide.gamma_sq(x1.new_tensor([0.3]))
    except RuntimeError:  # it makes tensors of a dtype of its own
        return path, own
    return wide, torch.float64


def _check_ends(report: Report, interpolant: Interpolant, x0: Tensor, x1: Tensor) -> None:
    with torch.no_grad():
        for name, error in interpolant.end_errors(x0, x1).items():
            if not error <= (1e-6 if x1.dtype == torch.float64 else 1e-4):
                report.problems.append(f"wrong end: {name} is {error:.3g} and must be 0")


def _check_gamma(report: Report, interpolant: Interpolant, x0: Tensor, x1: Tensor) -> None:
    t = torch.linspace(0, 1, 1001, dtype=x1.dtype)
    rounding = 1e-8 if x1.dtype == torch.float64 else 1e-5
    with torch.no_grad():
        square, gamma = interpolant.gamma_sq(t), interpolant.gamma(t)
        rate = interpolant.gamma_sq_dot(t[[0, -1]])
    if not bool((square >= -1e-4 * rounding).all()):
        worst = int(square.argmin())
        report.problems.append(
            f"negative γ²: gamma_sq({float(t[worst]):.3g}) = {float(square[worst]):.3g}"
        )
    elif float((gamma.square() - square).abs().max()) > rounding:
        worst = int((gamma.square() - square).abs().argmax())
        report.problems.append(f"gamma² differs from gamma_sq at t = {float(t[worst]):.3g}")
    if not bool(torch.isfinite(rate).all()):
        report.problems.append(
            "the derivative of γ² is not finite at an end; write gamma_sq(t) without a root"
            " instead of gamma(t), such as t * (1 - t) for sqrt(t (1 - t))"
        )


def _check_derivatives(report: Report, interpolant: Interpolant, x0: Tensor, x1: Tensor) -> None:
    wide = x1.dtype == torch.float64
    step, rounding = (1e-5, 1e-5) if wide else (5e-3, 1e-2)
    times = torch.linspace(0.03, 0.97, 41, dtype=x1.dtype)
    for point in interpolant.breakpoints:
        times = times[(times - point).abs() > max(1e-3, 2 * step)]
    pairs: list[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        ("gamma_sq_dot", interpolant.gamma_sq, interpolant.gamma_sq_dot),
        (
            "mean_dot",
            lambda t: torch.stack([interpolant.mean(s, x0, x1) for s in t]),
            lambda t: torch.stack([interpolant.mean_dot(s, x0, x1) for s in t]),
        ),
    ]
    if interpolant.has_latent:
        pairs.append(("gamma_dot", interpolant.gamma, interpolant.gamma_dot))
    if isinstance(interpolant, AffineInterpolant):
        pairs += [
            ("alpha_dot", interpolant.alpha, interpolant.alpha_dot),
            ("beta_dot", interpolant.beta, interpolant.beta_dot),
            ("alpha_sq_dot", interpolant.alpha_sq, interpolant.alpha_sq_dot),
        ]
        with torch.no_grad():
            gap = (interpolant.alpha_sq(times) - interpolant.alpha(times).square()).abs().max()
        if float(gap) > 1e-3 * rounding:
            report.problems.append("alpha_sq differs from alpha²")
    for name, value, derivative in pairs:
        with torch.no_grad():
            difference = (value(times + step) - value(times - step)) / (2 * step)
            given = derivative(times)
        with torch.inference_mode():
            inferred = derivative(times.clone())
        error = (given - difference).abs() / (1 + difference.abs())
        if not float(error.max()) < rounding:
            worst = int(error.flatten(1).amax(1).argmax() if error.ndim > 1 else error.argmax())
            at = difference[worst].flatten()
            k = int((given[worst].flatten() - at).abs().argmax())
            found = float(given[worst].flatten()[k])
            cut = (
                "; a zero often means float(t), t.item() or torch.tensor(t) in the function, which"
                " cuts the derivative"
            )
            report.problems.append(
                f"wrong derivative: {name}({float(times[worst]):.3g}) is {found:.6g}, and by finite"
                f" differences {float(at[k]):.6g}{cut if found == 0 else ''}"
            )
        elif not torch.allclose(given, inferred, rtol=1e-5 * rounding, atol=1e-7 * rounding):
            report.problems.append(f"{name} differs under torch.inference_mode()")


def _check_broadcast(report: Report, interpolant: Interpolant, x0: Tensor, x1: Tensor) -> None:
    t = torch.linspace(0.1, 0.9, x1.shape[0], dtype=x1.dtype)
    wide = t.reshape(-1, *(1,) * (x1.ndim - 1))
    alone = [interpolant.mean(s, x0[k : k + 1], x1[k : k + 1]) for k, s in enumerate(t)]
    expected = torch.cat(alone)
    for name, given in (
        ("mean", interpolant.mean(wide, x0, x1)),
        ("mean_dot", interpolant.mean_dot(t, x0, x1)),
    ):
        if given.shape != x1.shape:
            report.problems.append(
                f"broken broadcast: {name} gave shape {tuple(given.shape)} for states of shape"
                f" {tuple(x1.shape)}"
            )
        elif name == "mean" and not torch.allclose(
            given, expected, atol=1e-10 if x1.dtype == torch.float64 else 1e-5
        ):
            report.problems.append(
                "broken broadcast: a row of mean(t, x0, x1) differs from the same row alone; t"
                " comes with the dimensions of x1, so write t * x1 and no reshapes"
            )
    functions = [("gamma_sq", interpolant.gamma_sq)]
    if isinstance(interpolant, AffineInterpolant):
        functions += [("alpha", interpolant.alpha), ("beta", interpolant.beta)]
    for name, function in functions:
        for times in (t[0], t, wide):
            if function(times).shape != times.shape:
                report.problems.append(
                    f"broken broadcast: {name} gave shape {tuple(function(times).shape)} for times"
                    f" of shape {tuple(times.shape)}"
                )
                break


def _check_dtypes(report: Report, interpolant: Interpolant, x0: Tensor, x1: Tensor) -> None:
    learned = any(True for _ in interpolant.parameters())
    for dtype in (torch.float32, torch.float64) if x1.dtype == torch.float64 else (x1.dtype,):
        t = torch.full((x1.shape[0], *(1,) * (x1.ndim - 1)), 0.3, dtype=dtype)
        path = copy.deepcopy(interpolant).to(dtype) if learned else interpolant
        given = path.mean(t, x0.to(dtype), x1.to(dtype)).dtype
        square = path.gamma_sq(t).dtype
        if given != dtype or square != dtype:
            report.problems.append(
                f"dtype not kept: for {dtype} mean gave {given} and gamma_sq {square}"
            )


def _note_conversions(
    report: Report, interpolant: AffineInterpolant, base: Distribution | None
) -> None:
    process = (
        Process(interpolant, Gaussian((1,)) if base is None else base)
        if interpolant.uses_base
        else Process(interpolant, shape=(1,))
    )
    jumps = _jumps(process.noise_part)
    if jumps:
        shown = ", ".join(f"{time:.3g}" for time in jumps[:5])
        report.notes.append(
            f"the noise jumps: σ̂ touches 0 at t = {shown}, where ẑ = (α (x0 - m) + γ z) / σ̂"
            " changes its sign, and no smooth network follows it. Learn the velocity, or both"
            " velocity and data; or give the path a latent that is not 0 there"
        )
    if not isinstance(process.noise_part, GaussianPart):
        return
    times = process.part.degenerate_times
    if times:
        listed = ", ".join(f"{time:.3g}" for time in times[:5])
        report.notes.append(
            f"singular conversion: a velocity does not determine the score at t = {listed}; score,"
            " noise and data from a Velocity are refused. Learn the noise (NoisePredictor), or"
            " both (FieldPair)"
        )


@torch.no_grad()
def _jumps(part: NoisePart) -> list[float]:
    """Times inside (0, 1) at which all that multiplies noise changes its sign."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64, device=part.device)[1:-1]
    t = t[part.scale(t) > 1e-6]  # off the zeros themselves
    weights = [w for w in part.noise_weights(t) if w is not None]
    if not weights:
        return []
    turned = torch.stack([w[1:] * w[:-1] < 0 for w in weights]).all(0)
    times: list[float] = (0.5 * (t[1:] + t[:-1]))[turned].tolist()
    return times
