"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass, field

from .._core.signatures import checked

__all__ = ["CheckError", "Report"]


class CheckError(AssertionError):
    """A check found something wrong; the message lists all of it."""


@checked
@dataclass
class Report:
    """What a check found.

    Attributes:
        subject: what was checked.
        problems: what is wrong; a check that finds any raises :class:`CheckError`.
        notes: what is right but good to know, such as times at which a conversion is singular.

    Example:
        >>> try:
        ...     Report("Velocity", problems=["velocity is not finite"]).settle()
        ... except CheckError as error:
        ...     print(error)
        Velocity: 1 problems, 0 notes
          problem: velocity is not finite
    """

    subject: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {len(self.problems)} problems, {len(self.notes)} notes"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def settle(self) -> Report:
        """Return the report, or raise it.

        Raises:
            CheckError: if it has problems.
        """
        if self.problems:
            raise CheckError(str(self))
        return self
