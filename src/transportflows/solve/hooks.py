"""Hooks: what a user looks at, or changes, after each step of a solve.

A hook is a callable that is given a :class:`Moment` after each step. It may look at the states (a
preview, a measure), end the solve (``moment.stop()``), or return states to go on with (inpainting,
clipping). Every solve of the library takes them: ``sample(field, n, hooks=[look])``. Where
earlier states are remembered, as by multistep schemes, or where a log-density is carried along,
states that a hook changed would make the result wrong, and such a hook is refused::

    def look(moment):
        if moment.step % 10 == 0:
            print(moment.t, moment.x.std())

    def clip(moment):
        return moment.x.clamp(-1, 1)

A hook runs in the step loop: reading a value from the device in it makes the loop wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from .._core.arguments import shown
from .._core.distributed import World
from .._core.reprs import call, summary
from .._core.signatures import checked
from .noise import NoiseSource
from .rows import Chunks

__all__ = [
    "BegunHook",
    "Corrector",
    "Hook",
    "Hooks",
    "Moment",
    "SolveHook",
    "check_hook",
    "in_units_of",
    "name_of",
]


@checked
@dataclass
class Moment:
    """A moment of a solve: the states after a step.

    Attributes:
        step: how many steps are done, from 1.
        steps: how many there are in all.
        t: the time reached.
        x: the states of all rows, ``(n, *)``, or ``(K, n, *)`` for K epsilons above 0 (one that is
            0 is solved apart from them), in the units of the data where the solve has such. The
            next step may overwrite them: clone what is to be kept, and return other states instead
            of writing into these.
        cond: the conditions.
        stopped: whether a hook has ended the solve.

    Raises:
        AttributeError: where one is written to: return states, or call :meth:`stop`.

    Example:
        >>> import torch, transportflows as tpf
        >>> def look(moment):
        ...     print(moment.step, moment.t, moment.x.tolist())
        ...     if moment.t >= 0.5: moment.stop()
        >>> one, x = lambda t, x: torch.ones_like(x), torch.zeros(1, 1)
        >>> solution = tpf.samplers.integrate(one, x, [0.0, 0.25, 0.5, 1.0], hooks=[look])
        1 0.25 [[0.25]]
        2 0.5 [[0.5]]
    """

    step: int
    steps: int
    t: float
    x: Tensor
    cond: Mapping[str, Any] = field(default_factory=dict)
    stopped: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if "stopped" in vars(self):  # the last that the constructor sets
            cure = "call moment.stop()"
            if name != "stopped":
                cure = "return the states to go on with, return moment.x.clamp(-1, 1)"
            raise AttributeError(f"moment.{name} = ... would change nothing in the solve; {cure}")
        super().__setattr__(name, value)

    __repr__ = summary

    def stop(self) -> None:
        """End the solve here."""
        vars(self)["stopped"] = True

    def shown_to(self, hook: Hook) -> Tensor | None:
        """What a hook returns that was shown these states, which it must not write into.

        Raises:
            ValueError: if it does.
        """
        x = self.x
        version = None if x.is_inference() else x._version
        changed = hook(self)
        if version is not None and x._version != version:
            raise ValueError(
                f"the hook {name_of(hook)} writes into moment.x; return other states instead, such"
                " as moment.x.clamp(-1, 1) for moment.x.clamp_(-1, 1), or clone the states first"
            )
        return changed


class Hook(Protocol):
    """What is called after each step: any function of a :class:`Moment`.

    Example:
        >>> import torch, transportflows as tpf
        >>> def clip(moment):
        ...     return moment.x.clamp(-1, 1)
        >>> five, x = lambda t, x: torch.full_like(x, 5.0), torch.zeros(1, 1)
        >>> tpf.samplers.integrate(five, x, [0.0, 1.0], hooks=[clip]).x
        tensor([[1.]])
    """

    def __call__(self, moment: Moment, /) -> Tensor | None:
        """Look at the states, and return None; or return other states of their shape."""


@checked
class BegunHook(ABC):
    """What a :class:`SolveHook` does in one solve, made by its ``begin``.

    It is of that solve alone, so it may keep what it likes from step to step. It works in the units
    of the solve, those of the field, where other hooks are given those of the data.

    Attributes:
        name: told in ``Solution.scheme``.
        nfe: evaluations of the field for each row, so far.
        most: how many they will be at most.
    """

    name: str = "hook"
    nfe: int = 0
    most: int = 0

    @abstractmethod
    def __call__(self, moment: Moment, /) -> Tensor | None:
        """Look at the states, and return None; or return others."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, nfe={self.nfe}, most={self.most})"


@checked
class SolveHook(ABC):
    """A hook that is made ready for each solve, such as a corrector.

    It holds what the user asked for and nothing of a solve, so that one may serve several solves,
    in several threads too: what it tabulates and keeps is in the :class:`BegunHook` that
    :meth:`begin` gives.
    """

    @abstractmethod
    def begin(
        self, times: Tensor, x: Tensor, chunks: Chunks, noise: NoiseSource, key: int
    ) -> BegunHook:
        """What acts in a solve, made ready for it.

        Args:
            times: the grid, float64, ``(steps + 1,)``.
            x: the starting states of one group, ``(n, *)``.
            chunks: how the rows of all groups are divided.
            noise: source of standard normals for these rows, the hook's own and not begun: write
                ``noise.begin(key, x, 0.0)``, then ``noise.normal(step)``.
            key: its key, which the solve's seed determines.
        """

    def __repr__(self) -> str:
        return call(self)


Hooks: TypeAlias = Sequence[Hook | SolveHook]
"""What a solve is given: functions of a :class:`Moment`, and hooks made ready for each solve."""


@checked
class Corrector(ABC):
    """What draws states towards the law after each step: a choice of ``sample``."""

    @abstractmethod
    def bound(self, field: Any, noise: NoiseSource, key: int, team: World) -> SolveHook:
        """The hook of one call of ``sample``.

        Args:
            field: the field that is sampled.
            noise: source of standard normals: of increments over times of length 1.
            key: its key.
            team: the processes that share the solve.
        """


def name_of(hook: Any) -> str:
    """What a hook is called in messages."""
    return str(
        hook.name
        if isinstance(hook, BegunHook)
        else getattr(hook, "__name__", None) or type(hook).__name__
    )


def check_hook(hook: Any) -> None:
    """Refuse what cannot be called after a step.

    Raises:
        TypeError: if it is neither a function of a moment nor a :class:`SolveHook`.
    """
    if not (callable(hook) or isinstance(hook, SolveHook)):
        raise TypeError(
            f"a hook is a function of a Moment, def look(moment): ..., got {shown(hook)}"
        )


def in_units_of(transform: Any, hooks: Hooks) -> list[Hook | SolveHook]:
    """Hooks of states in the units of the data, for a solve in those of a transform."""
    if transform is None:
        return list(hooks)

    def wrapped(hook: Hook) -> Hook:
        check_hook(hook)

        def look(moment: Moment) -> Tensor | None:
            seen = replace(moment, x=transform.invert(moment.x))
            changed = seen.shown_to(hook)
            if seen.stopped:
                moment.stop()
            return None if changed is None else transform(changed)

        look.__name__ = name_of(hook)
        return look

    return [hook if isinstance(hook, SolveHook) else wrapped(hook) for hook in hooks]
