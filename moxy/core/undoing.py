"""How the last event of a heart is taken back.

Lives here: what an effect leaves behind for that, and undoing. Must not: effects.

A task event puts one task in the place of another, and `Heart.swap` moves it between the orders. So the task that was
there before is all that it takes to undo one; the few events that change more leave a `Changes`.
"""

from typing import Final, TypeAlias, final

from moxy.core.events import (
    Acked,
    AnyEvent,
    DeadLettered,
    Deleted,
    Enqueued,
    Event,
    Expired,
    Extended,
    Failed,
    Leased,
    Matured,
    Redriven,
    Released,
    Requeued,
    TaskEvent,
)
from moxy.core.heart import (
    DEAD_LETTERED,
    DELETED,
    EXPIRED_COUNT,
    EXTENDED,
    FAILED_COUNT,
    MATURED,
    REDRIVEN,
    RELEASED,
    REQUEUED,
    Heart,
)
from moxy.core.packing import Entry, unfold
from moxy.core.policy import Policy
from moxy.core.tasks import Task

_COUNT_OF: Final[dict[type[Event], int]] = {
    Matured: MATURED,
    Extended: EXTENDED,
    Expired: EXPIRED_COUNT,
    Failed: FAILED_COUNT,
    Released: RELEASED,
    Requeued: REQUEUED,
    DeadLettered: DEAD_LETTERED,
    Redriven: REDRIVEN,
    Deleted: DELETED,
}


@final
class Changes:
    """What an event changed besides one task: what it takes to undo it."""

    __slots__ = ("forgot", "gone", "paused", "policy", "remembered", "task")

    def __init__(self, heart: Heart, task: Entry | None) -> None:
        self.task: Final = task
        self.policy: Final[Policy] = heart.policy
        self.paused: Final[bool] = heart.paused
        self.gone: Final[list[Task]] = []
        self.remembered: Final[list[str]] = []
        self.forgot: Final[list[tuple[str, int, int]]] = []


Undo: TypeAlias = Entry | Changes | None
"""The task as it was before a task event, None when it was not there; Changes when that is not all."""


def undo(h: Heart, e: AnyEvent, before: Undo, at_ms: int, last_token: int) -> None:
    """Take back the event that came last. `at_ms` and `last_token` are those of before."""
    changes = before if isinstance(before, Changes) else None
    if changes is not None:
        _undo_changes(h, changes)
    if isinstance(e, TaskEvent):
        was = before.task if isinstance(before, Changes) else before
        h.swap(h.task(e.number), None if was is None else unfold(e.number, was))
        if isinstance(e, Enqueued):
            h.next_number = e.number
            h.enqueued -= 1
        elif isinstance(e, Leased):
            h.leased -= 1
        elif isinstance(e, Acked):
            h.acked -= 1
        else:
            h.counts[_COUNT_OF[type(e)]] -= 1
            if isinstance(e, Redriven):
                h.next_number = e.place
    elif changes is not None:
        for task in changes.gone:
            h.swap(None, task)
            h.counts[DELETED] -= 1
    h.seq = e.seq - 1
    h.at_ms = at_ms
    h.last_token = last_token
    if not at_ms:
        h.born_ms = 0


def _undo_changes(h: Heart, changes: Changes) -> None:
    h.policy, h.paused = changes.policy, changes.paused
    for task_id in changes.remembered:
        h.forget(task_id)
    for task_id, until_ms, number in changes.forgot:
        h.remember(task_id, until_ms, number)
