"""A log read at leisure: the state at any point, what differs between two, what another policy would have done.

Lives here: folds over events that somebody else has read. Must not: read files, print, or change anything.
A log that no longer reaches back begins with a `base`: the states that its oldest kept event follows.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from moxy.core.events import (
    Acked,
    AnyEvent,
    DeadLettered,
    Enqueued,
    Expired,
    Failed,
    Leased,
    TaskEvent,
)
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.core.tasks import Task

States = dict[str, QueueState]


def fold(base: Mapping[str, QueueState], events: Iterable[AnyEvent]) -> Iterator[tuple[AnyEvent, QueueState]]:
    """Each event with the state of its queue after it. Raises IllegalEvent."""
    states: States = dict(base)
    for event in events:
        state = apply(states.get(event.queue) or QueueState(event.queue), event)
        states[event.queue] = state
        yield event, state


def states_at(
    base: Mapping[str, QueueState],
    events: Iterable[AnyEvent],
    until_seq: int | None = None,
    until_ms: int | None = None,
) -> States:
    """All states after the last event of each queue that is `within` the bounds (None: no bound)."""
    states: States = dict(base)
    for event in events:
        if within(event, until_seq, until_ms):
            states[event.queue] = apply(states.get(event.queue) or QueueState(event.queue), event)
    return states


def within(event: AnyEvent, until_seq: int | None, until_ms: int | None) -> bool:
    """Whether the event is not past a point: a sequence number of its own queue, or a time."""
    return (until_seq is None or event.seq <= until_seq) and (until_ms is None or event.at_ms <= until_ms)


class Change(msgspec.Struct, frozen=True):
    """One difference: of the queue itself (`task_id` ""), or of one task. None: was not, or is not, there."""

    task_id: str
    field: str
    before: object
    after: object


_TASK_FIELDS: Final = ("state", "place", "due_ms", "expires_ms", "token", "lease", "death", "tally")
_QUEUE_FIELDS: Final = ("paused", "policy", "next_number", "last_token", "totals")


def diff(before: QueueState, after: QueueState) -> list[Change]:
    """What differs between two states of one queue, the queue's own fields first, then task by task."""
    changes: list[Change] = []
    for field in _QUEUE_FIELDS:
        changes += _differ("", field, getattr(before, field), getattr(after, field))
    for number in sorted({*before.tasks, *after.tasks}):
        changes += _diff_task(before.tasks.get(number), after.tasks.get(number))
    return changes


def _diff_task(old: Task | None, new: Task | None) -> list[Change]:
    if old is new:
        return []
    if old is None or new is None:
        there = old or new
        assert there is not None
        return [Change(there.task_id, "state", old and old.state, new and new.state)]
    changes: list[Change] = []
    for field in _TASK_FIELDS:
        changes += _differ(new.task_id, field, getattr(old, field), getattr(new, field))
    return changes


def _differ(task_id: str, field: str, old: object, new: object) -> list[Change]:
    """The difference of one field; of two records, that of each of their fields."""
    if old == new:
        return []
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        changes: list[Change] = []
        for inner in old.__struct_fields__:
            changes += _differ(task_id, f"{field}.{inner}", getattr(old, inner), getattr(new, inner))
        return changes
    return [Change(task_id, field, old, new)]


def of_task(events: Iterable[AnyEvent], queue: str, task_id: str) -> list[AnyEvent]:
    """The events of the latest task with that id."""
    found: list[AnyEvent] = []
    for event in events:
        if event.queue == queue and isinstance(event, TaskEvent) and event.task_id == task_id:
            if isinstance(event, Enqueued):
                found.clear()
            found.append(event)
    return found


class WhatIf(msgspec.Struct, frozen=True):
    """What a policy would have changed, as far as a log can tell."""

    deliveries: int
    expiries: int
    expiries_avoided: int
    expiries_added: int
    dead_letters: int
    dead_letters_avoided: int
    unknown: int
    put_off: int = 0


class _Life:
    """What is known of one task while its log is read."""

    __slots__ = ("ended_ms", "expired_after_ms", "leased_ms", "retry")

    def __init__(self) -> None:
        self.leased_ms = 0
        self.ended_ms = 0
        self.retry = 0
        self.expired_after_ms: list[int] = []


def what_if(
    events: Iterable[AnyEvent],
    queue: str,
    lease_ms: int,
    max_attempts: int | None = None,
    backoff_ms: int | None = None,
) -> WhatIf:
    """Estimate another visibility timeout, another maximum of attempts and another backoff from a real log.

    The evidence is how long the delivery took that was acknowledged in the end: a lease that expired sooner than that
    was too short, and one of `lease_ms` would not have expired if that long is enough. A task that was never
    acknowledged says nothing (`unknown`): its workers may have died. It is an estimate: with other leases, workers
    would have behaved differently.
    """
    lives: dict[int, _Life] = {}
    deliveries = expiries = avoided = added = dead = dead_avoided = unknown = put_off = 0
    for event in events:
        if event.queue != queue or not isinstance(event, TaskEvent):
            continue
        life = lives.setdefault(event.number, _Life())
        if isinstance(event, Leased):
            deliveries += 1
            if life.retry and backoff_ms and event.at_ms - life.ended_ms < backoff_ms << min(life.retry - 1, 32):
                put_off += 1
            life.leased_ms, life.retry = event.at_ms, 0
        elif isinstance(event, Failed):
            life.ended_ms, life.retry = event.at_ms, event.attempts
        elif isinstance(event, Expired):
            expiries += 1
            life.ended_ms, life.retry = event.at_ms, event.attempts
            life.expired_after_ms.append(event.at_ms - life.leased_ms)
        elif isinstance(event, Acked):
            took_ms = event.at_ms - life.leased_ms
            needless = [ms for ms in life.expired_after_ms if ms < took_ms <= lease_ms]
            avoided += len(needless)
            unknown += sum(1 for ms in life.expired_after_ms if ms >= took_ms)
            added += took_ms > lease_ms
            del lives[event.number]
        elif isinstance(event, DeadLettered):
            dead += 1
            unknown += len(life.expired_after_ms)
            if event.cause == "attempts" and max_attempts is not None:
                dead_avoided += max_attempts == 0 or event.attempts < max_attempts
            life.expired_after_ms.clear()
    unknown += sum(len(life.expired_after_ms) for life in lives.values())
    return WhatIf(deliveries, expiries, avoided, added, dead, dead_avoided, unknown, put_off)
