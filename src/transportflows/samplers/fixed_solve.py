"""A solve as a module of torch, to be exported, compiled, or put into other networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.conditions import with_start
from .._core.signatures import checked
from .._core.written import Written, buffers_of
from ..fields.base import Field, check_field
from ..solve.epsilon import ConstantEpsilon
from ..solve.grid import Spacing, as_margin
from .choices import as_grid, as_solve, as_stepper
from .multistep import Multistep
from .schemes import Scheme
from .starts import check_from_point, check_from_start

__all__ = ["FixedSolve"]


@checked
class FixedSolve(nn.Module):
    """The ODE of a field by fixed steps: ``forward(start, **cond)`` gives the end states.

    Its numbers are those of ``sample(field, start=start, ...)``; it has nothing around the network
    calls and additions of the steps, no chunks, no checks of the states, and is differentiable. So
    ``torch.export.export(FixedSolve(field, steps=20).eval(), (start,), strict=False)`` makes one
    program of it, and ``torch.onnx.export(..., dynamo=True)`` a file for other runtimes, with any
    number of rows by ``dynamic_shapes``. These name the arguments of ``forward``, so that for rows
    of conditions a module around it names them: ``forward(self, start, label): return
    self.solve(start, label=label)``.

    Args:
        field: whose networks are called; they are part of the module.
        scheme: see :func:`sample`: of one step, such as ``"heun"``, or of few, such as ``"dpm2m"``.
        steps: number of steps.
        t: first and last time, or a grid.
        spacing: see :func:`sample`.
        margin: see :func:`sample`.
        dtype: of the states; that of the network by default, and float32 where it is of half
            precision. The tables of the steps are made for it, and for the device of the network.

    Raises:
        ValueError: for an adaptive scheme, an unknown one, one with a noise of its own, a grid that
            cannot be, or where ``sample`` refuses the ODE.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.Velocity(tpf.networks.MLP(2, 16, 2), process)
        >>> solve = FixedSolve(field, scheme="heun", steps=5).eval()
        >>> program = torch.export.export(solve, (torch.zeros(3, 2),), strict=False)
        >>> program.module()(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        field: Field,
        *,
        scheme: str | Scheme | Multistep = "heun",
        steps: int = 100,
        t: tuple[float, float] | Sequence[float] | Tensor = (0.0, 1.0),
        spacing: str | Spacing = "uniform",
        margin: float | tuple[float, float] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_field(field, "FixedSolve solves")
        self.field, schedules = field, [ConstantEpsilon(0.0)]
        found, steps = as_solve(field, scheme, steps, schedules, None, (), fixed=True)
        self.grid, _ = as_grid(field, t, steps, spacing, None, found)
        check_from_point(field.process.base, float(self.grid[0]), schedules)
        if field.process.coupling.condition_on_start:
            check_from_start(field.process.coupling, self.grid, schedules)
        own = as_stepper(field, schedules, found, as_margin(margin), (), gradients=False)  # type: ignore[arg-type]
        like = field.reference()
        kind = torch.promote_types(like.dtype, torch.float32) if dtype is None else dtype
        shape = tuple(field.process.shape or (1,))
        self._stepper = [own]  # in a list, so that its field is no second part of the module
        self._like = like.new_zeros((1, *shape), dtype=kind)
        self._prepare()
        if self._prepared.noisy:
            raise ValueError(
                f"the scheme {own.name!r} has a noise of its own, and FixedSolve is of an ODE;"
                " write scheme='ddim' or 'dpm2m', or call sample"
            )

    def _prepare(self) -> None:
        """Make the tables for the process as it is now."""
        self._written = self._now()
        self._prepared = self._stepper[0].prepare(self.grid, self._like)

    def _now(self) -> Written:
        process = self.field.process
        return Written(buffers_of(process.interpolant, process._modules.get("base")))

    def forward(self, start: Tensor, **cond: Any) -> Tensor:
        """The states at the last time.

        Args:
            start: states at the first time, ``(n, *)``, in the units of the data.
            cond: conditions of the network, tensors of n rows or others.

        Raises:
            ValueError: if they are of another dtype or device than the tables, the networks are in
                training mode, or conditions are not those of the training.
        """
        if start.dtype != self._like.dtype or start.device != self._like.device:
            raise ValueError(
                f"this FixedSolve was made for {self._like.dtype} on {self._like.device}, got"
                f" {start.dtype} on {start.device}; write start.to(dtype=...), or make another"
                " FixedSolve of the field that was moved"
            )
        nets = (net for net in self.field.networks if isinstance(net, nn.Module))
        if any(module.training for net in nets for module in net.modules()):
            raise ValueError(
                "the networks are in training mode; write solve.eval() (and solve.train() after)"
            )
        stepper, transform = self._stepper[0], self.field.transform
        x = start if transform is None else transform(start)
        if not torch.compiler.is_compiling() and not self._now().same(self._written):
            self._prepare()  # after load_state_dict, say
        if self.field.process.coupling.condition_on_start:
            cond = dict(with_start(cond, x))
        cond = self._checked(cond, x)
        rows: Any = _Whole(cond)
        memory = stepper.memory(self._prepared, x, rows)
        for step in range(len(self.grid) - 1):
            x, memory = stepper.step(self._prepared, step, x, memory, rows, ())
        return x if transform is None else transform.invert(x)

    def _checked(self, cond: dict[str, Any], x: Tensor) -> dict[str, Any]:
        """The conditions, if they are those of the training."""
        if not torch.compiler.is_compiling():
            how: dict[str, Any] = {"rows": "rows of start", "ranges": False, "device": x.device}
            return self.field.check_conditions(cond, x.shape[0], **how)
        for name in self.field.conditions or ():
            if name not in cond:
                raise ValueError(
                    f"the condition {name!r}, which the field was trained with, is missing; give"
                    f" it to torch.export as an example, {{{name!r}: ...}}"
                )
        return cond

    def extra_repr(self) -> str:
        """The scheme and its steps."""
        return f"{self._stepper[0].name}, {len(self.grid) - 1} steps"


class _Whole:
    """All rows, in one chunk."""

    def __init__(self, cond: dict[str, Any]) -> None:
        self.cond = cond
