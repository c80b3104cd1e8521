"""The numbered invariants near one step: of the tasks that its events touched, however many others wait.

Lives here: what `invariants` says of a whole state, asked only where a step can have broken it, in O(log n). Must not:
be believed alone. An event that changed a task it does not name is seen only by a recount of all tasks, so whoever
uses this recounts now and then, and at the end (`journal/verify`).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from moxy.core.events import Acked, AnyEvent, Deleted, Leased, Purged, TaskEvent
from moxy.core.heart import place_of, ttl_place_of
from moxy.core.invariants import (
    StepCheck,
    buried_for_a_reason,
    conservation,
    counters,
    no_early_expiry,
    odd_death,
    odd_lease,
    rising_tokens,
    sequence,
    told_attempts,
)
from moxy.core.lifecycle import EXPIRED, FAILED
from moxy.core.state import QueueState
from moxy.core.tasks import Task

STEP_CHECKS: Final[tuple[StepCheck, ...]] = (
    rising_tokens,
    no_early_expiry,
    told_attempts,
    counters,
    sequence,
    buried_for_a_reason,
)
"""Those of `invariants.STEP_CHECKS` that look at nothing but the events and the tasks that these name.

First those that look at the state before, last those that look at the one after: to change over costs the step between.
"""


def touched(before: QueueState, events: Sequence[AnyEvent]) -> set[int]:
    """The numbers of the tasks that a step can have changed. A purge touches every task of its state."""
    numbers = {event.number for event in events if isinstance(event, TaskEvent)}
    for event in events:
        if isinstance(event, Purged):
            numbers.update(task.number for task in before.in_state(event.state))
    return numbers


def broken_near(before: QueueState, events: Sequence[AnyEvent], after: QueueState) -> list[str]:
    """A sentence for each invariant that the step from `before` to `after` breaks in what it touched."""
    numbers = sorted(touched(before, events))
    first_new, olds = before.next_number, [before.tasks.get(number) for number in numbers]
    found = [sentence for check in STEP_CHECKS if (sentence := check(before, events, after))]
    # From here on the state before is not read again.
    if sentence := conservation(after):
        found.append(sentence)
    if len(after.numbers) != len(after.tasks):
        found.append("I14: the ids and the tasks differ")
    leased = {event.number: event.token for event in events if isinstance(event, Leased)}
    gone = {event.number for event in events if isinstance(event, Acked | Deleted)}
    for number, old, new in zip(numbers, olds, [after.tasks.get(number) for number in numbers], strict=True):
        if new is not None and number in gone:
            found.append(f"I5: task {new.task_id!r} is gone and still there")
        if new is not None:
            found.extend(_odd_task(first_new, after, old, new, leased.get(number)))
        if old is not None:
            found.extend(_left_behind(after, old, new))
    return found


def _odd_task(first_new: int, after: QueueState, old: Task | None, task: Task, token: int | None) -> Iterable[str]:
    """What is wrong with a touched task that is there after the step."""
    name = task.task_id
    if sentence := _odd(task):
        yield sentence
    elif not _in_limbo(task):
        if place_of(task) not in after.order_of(task.state):
            yield f"I7: task {name!r} is {task.state}, but not in that order"
        if (ttl := ttl_place_of(task)) and ttl not in after.expiring:
            yield f"I7: the TTL of task {name!r} is not in the order of TTLs"
    if task.token > after.last_token or task.token != (token or (old.token if old else 0)):
        yield f"I3: task {name!r} has token {task.token}, the last one given is {after.last_token}"
    if old is None and task.number < first_new:
        yield f"I5: task {name!r} came back"
    if task.number >= after.next_number:
        yield "I5: a task has a number that was not given yet"
    if after.numbers.get(name) != task.number:
        yield f"I14: the id {name!r} does not lead to its task"
    if name in after.remembered:
        yield f"I14: {name!r} is here and remembered as gone"


def _left_behind(after: QueueState, old: Task, new: Task | None) -> Iterable[str]:
    """What is still there of a task as it was before the step, and should not be."""
    if new is None and after.numbers.get(old.task_id) == old.number:
        yield f"I14: the id {old.task_id!r} leads to a task that is gone"
    if not _in_limbo(old) and not _odd(old) and place_of(old) in after.order_of(old.state):
        stays = new is not None and new.state == old.state and not _odd(new) and place_of(new) == place_of(old)
        if not stays:
            yield f"I7: task {old.task_id!r} still stands in the order of {old.state} tasks"
    ttl = ttl_place_of(old)
    if ttl is not None and ttl in after.expiring and (new is None or ttl_place_of(new) != ttl):
        yield f"I7: the TTL of task {old.task_id!r} still stands in the order of TTLs"


def _odd(task: Task) -> str | None:
    """What makes a task one that has no place."""
    return odd_lease(task) or odd_death(task)


def _in_limbo(task: Task) -> bool:
    """Whether the task is between two events of one batch."""
    return task.state == EXPIRED or task.state == FAILED
