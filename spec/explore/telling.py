"""What an exploration tells: its figures, and the shortest way to what is broken.

What lives here: the report, and how a command or an event is written in a line. What must not live here: the search.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from moxy.core.commands import AnyCommand
from moxy.core.events import AnyEvent, TaskEvent
from moxy.core.policy import Policy


@dataclass(frozen=True)
class Violation:
    """What is broken, and the shortest way there: one line a move, one for each of its events."""

    sentence: str
    moves: int
    transcript: str

    def __str__(self) -> str:
        return f"{self.transcript}\n  => {self.sentence}"


@dataclass(frozen=True)
class Report:
    """What an exploration found. `edges_by_move` adds up to `edges`; `finals`: states in which nothing waits."""

    scope: str
    states: int
    edges: int
    depth: int
    finals: int
    seconds: float
    edges_by_move: dict[str, int] = field(default_factory=dict)
    violation: Violation | None = None


_HIDDEN: Final = ("queue", "seq", "at_ms", "payload", "lease_id", "task_id")


def brief(what: AnyCommand | AnyEvent | Policy | Sequence[AnyEvent]) -> str:
    """A command or an event without what is the same in all of them, and without what was left at its default."""
    if isinstance(what, Sequence):
        return ", ".join(map(brief, what)) or "nothing"
    defaults = dict(
        zip(what.__struct_fields__[::-1], what.__struct_defaults__[::-1], strict=False)  # only the last have one
    )
    shown = [
        f"{name}={brief(value) if isinstance(value, Policy) else repr(value)}"
        for name in what.__struct_fields__
        if (value := getattr(what, name)) != defaults.get(name)
        and (name not in _HIDDEN or (name == "task_id" and not isinstance(what, TaskEvent)))
    ]
    return f"{type(what).__name__}({', '.join(shown)})"
