"""The effect of every event on a heart, and how it is undone.

Lives here: effects and guards. Must not: policy. What happened was decided elsewhere; here it is only carried out,
or refused with IllegalEvent when it breaks the lifecycle table or an identity; then nothing has changed.

A task event puts one task in the place of another, and `Heart.swap` moves it between the orders. So the task that was
there before is all that it takes to undo one; the few events that change more leave a `Changes`.
"""

from collections.abc import Callable
from typing import Final, TypeAlias, final

from msgspec.structs import astuple, replace

from moxy.core.errors import IllegalEvent
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
    LeaseEvent,
    Matured,
    Purged,
    QueueConfigured,
    QueuePaused,
    QueueResumed,
    Redriven,
    Released,
    Requeued,
    TaskEvent,
)
from moxy.core.heart import (
    ACKED,
    DEAD_LETTERED,
    DELETED,
    ENQUEUED,
    EXPIRED_COUNT,
    EXTENDED,
    FAILED_COUNT,
    LEASED,
    MATURED,
    REDRIVEN,
    RELEASED,
    REQUEUED,
    Heart,
)
from moxy.core.lifecycle import NEW, PROCESSING, READY, TABLE
from moxy.core.order import Key, Order
from moxy.core.packing import FIRST_DELIVERY, lease_of, unfold, unpack
from moxy.core.policy import Policy
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, Death, Entry, Held, Lease, Options, Task

_FORGET_PER_EVENT: Final = 4
"""Lapsed ids dropped per event. Each event adds at most one (a purge aside), so the memory stays in step."""


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


def happen(h: Heart, e: AnyEvent) -> Undo:
    """Carry out the next event, and say what undoes it. Raises IllegalEvent, and then nothing has changed."""
    seq, at_ms = e.seq, e.at_ms
    if seq != h.seq + 1 or at_ms < h.at_ms or e.queue != h.name:
        raise _out_of_order(h, e)
    before: Undo = _EFFECTS[type(e)](h, e)
    h.seq = seq
    h.at_ms = at_ms
    if not h.born_ms:
        h.born_ms = at_ms
    return before


def undo(h: Heart, e: AnyEvent, before: Undo, at_ms: int, last_token: int) -> None:
    """Take back the event that came last. `at_ms` and `last_token` are those of before."""
    changes = before if isinstance(before, Changes) else None
    if changes is not None:
        _undo_changes(h, changes)
    if isinstance(e, TaskEvent):
        was = before.task if isinstance(before, Changes) else before
        h.swap(h.task(e.number), None if was is None else unfold(e.number, was))
        h.counts[_COUNT_OF[type(e)]] -= 1
        if isinstance(e, Enqueued):
            h.next_number = e.number
        elif isinstance(e, Redriven):
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


def _out_of_order(h: Heart, e: AnyEvent) -> IllegalEvent:
    queue = f"queue {h.name!r}"
    if e.seq != h.seq + 1:
        return IllegalEvent(f"I15: sequence {h.seq + 1} is next", e, queue)
    if e.at_ms < h.at_ms:
        return IllegalEvent(f"I15: time went back from {h.at_ms}", e, queue)
    return IllegalEvent("an event of another queue", e, queue)


def _undo_changes(h: Heart, changes: Changes) -> None:
    h.policy, h.paused = changes.policy, changes.paused
    for task_id in changes.remembered:
        h.forget(task_id)
    for task_id, until_ms, number in changes.forgot:
        h.remember(task_id, until_ms, number)


# What happens often


def _enqueued(h: Heart, e: Enqueued) -> Undo:
    number: int
    task_id: str
    at_ms: int
    priority: int
    # All fields at once: compiled, reading them one by one would cost more than all the rest.
    _, _, at_ms, number, task_id, payload, priority, due_ms, expires_ms, most, lease_ms, dedup_ms = astuple(e)
    if number != h.next_number:
        raise IllegalEvent(f"task number {h.next_number} is next", e, f"queue {h.name!r}")
    if (
        task_id in h.names
        or (h.unnamed and _is_known(h, number, task_id))
        or (h.remembered and h.knows(task_id, at_ms))
    ):
        raise IllegalEvent("I14: the id is known", e, f"queue {h.name!r}")
    before = _forget(h, None, at_ms, task_id) if h.remembered else None
    if due_ms or expires_ms or lease_ms or dedup_ms or most != -1:
        to = _moved(NEW, "enqueue_later" if due_ms else "enqueue", e)
        options = Options(most, lease_ms, dedup_ms)
        if options == NO_OPTIONS:
            options = NO_OPTIONS
        task = Task(number, task_id, payload, priority, number, at_ms, at_ms, to, due_ms, expires_ms, options=options)
        h.swap(None, task)
    else:
        put_fresh(h, e, number, task_id, payload, priority, at_ms)
        return before
    h.next_number = number + 1
    h.counts[ENQUEUED] += 1
    return before


def put_fresh(h: Heart, e: Enqueued, number: int, task_id: str, payload: bytes, priority: int, at_ms: int) -> None:
    """A new task that asks for nothing of its own and is ready: it is kept as its event, or packed."""
    if len(h.tasks) < h.pack_from:
        h.tasks[number] = e
        h.names[task_id] = number
    else:
        h.put_packed(number, task_id, payload, priority, at_ms)
    (h.lanes[priority] or h.lane(priority)).add(number)
    h.next_number = number + 1
    h.counts[ENQUEUED] += 1


def _is_known(h: Heart, number: int, task_id: str) -> bool:
    """Whether another task has the id without being named. What begins with its own number can be no other task's."""
    return not task_id.startswith(f"{number}-") and h.number_of(task_id) is not None


def _leased(h: Heart, e: Leased) -> Undo:
    number = e.number
    entry = h.tasks.get(number)
    if isinstance(entry, bytes):
        entry = unpack(number, entry)
    if isinstance(entry, Enqueued):
        if entry.task_id != e.task_id:
            raise _no_such_task(h, e)
        priority, place = entry.priority, number
        new: Entry = Held(entry, e)
    else:
        if isinstance(entry, Held):
            entry = unfold(number, entry)
        if entry is None or entry.task_id != e.task_id:
            raise _no_such_task(h, e)
        if entry.state != READY:
            _moved(entry.state, "lease", e)
        priority, place, tally = entry.priority, entry.place, entry.tally
        if tally is NO_TALLY and entry.options is NO_OPTIONS and not entry.expires_ms and place == number:
            new = Held(entry, e)
        else:
            tally = FIRST_DELIVERY if tally is NO_TALLY else replace(tally, deliveries=tally.deliveries + 1)
            new = replace(entry, state=PROCESSING, token=e.token, lease=lease_of(e), tally=tally)
    token, deadline_ms = e.token, e.deadline_ms
    if token <= h.last_token:
        raise IllegalEvent(f"I3: tokens go on above {h.last_token}", e, f"queue {h.name!r}")
    if isinstance(new, Task) and new.expires_ms:
        h.swap(h.task(number), new)
        h.last_token = token
        h.counts[LEASED] += 1
    else:
        lease_first(h, h.lanes[priority] or h.lane(priority), place, number, entry, new, token, deadline_ms)
    return _forget(h, entry, e.at_ms) if h.remembered else entry


def lease_first(
    h: Heart, lane: Order[int], place: int, number: int, old: Entry, new: Entry, token: int, deadline_ms: int
) -> None:
    """A task without a TTL leaves the lane of ready ones, as `new`."""
    lane.remove(place)
    h.processing.add((deadline_ms, token, number))
    if deadline_ms < h.soonest_ms:
        h.soonest_ms = deadline_ms
    if h.shadow is not None:
        h.shade(number, old)
    h.tasks[number] = new
    h.last_token = token
    h.counts[LEASED] += 1


def _acked(h: Heart, e: Acked) -> Undo:
    number = e.number
    entry = h.tasks.get(number)
    if isinstance(entry, Held):
        leased = entry.leased
        if leased.task_id != e.task_id:
            raise _no_such_task(h, e)
        if leased.lease_id != e.lease_id:
            raise _void(unfold(number, entry), e)
        key = (leased.deadline_ms, leased.token, number)
    else:
        entry, lease = _held(h, e)
        if entry.place != number or entry.options.dedup_ms:
            return _keep(h, e, entry, None, ACKED)
        key = (lease.deadline_ms, lease.token, number)
    drop_held(h, number, entry, e.task_id, key)
    return _forget(h, entry, e.at_ms) if h.remembered else entry


def drop_held(h: Heart, number: int, old: Entry, task_id: str, key: Key) -> None:
    """A task under a lease is done and gone. `key` is its place among the leases."""
    h.processing.remove(key)
    if h.shadow is not None:
        h.shade(number, old)
    del h.tasks[number]
    h.names.pop(task_id, None)
    h.counts[ACKED] += 1


# What happens to a task besides


def _matured(h: Heart, e: Matured) -> Undo:
    old = _task(h, e)
    return _keep(h, e, old, replace(old, state=_moved(old.state, "mature", e), due_ms=0), MATURED)


def _extended(h: Heart, e: Extended) -> Undo:
    old, lease = _held(h, e)
    new = replace(old, state=_moved(old.state, "extend", e), lease=replace(lease, deadline_ms=e.deadline_ms))
    return _keep(h, e, old, new, EXTENDED)


def _expired(h: Heart, e: Expired) -> Undo:
    old, lease = _held(h, e)
    if e.at_ms < lease.deadline_ms:
        raise IllegalEvent(f"I6: the deadline is {lease.deadline_ms}", e, f"task {old.task_id!r}")
    t = old.tally
    tally = replace(t, attempts=t.attempts + 1, expiries=t.expiries + 1, ended="expired", reason="")
    new = replace(old, state=_moved(old.state, "expire", e), lease=None, tally=tally)
    return _keep(h, e, old, new, EXPIRED_COUNT)


def _failed(h: Heart, e: Failed) -> Undo:
    old, _ = _held(h, e)
    t = old.tally
    tally = replace(
        t,
        attempts=t.attempts + 1,
        failures=t.failures + 1,
        ended="failed",
        reason=e.reason,
        last_reason=e.reason or t.last_reason,
    )
    new = replace(old, state=_moved(old.state, "fail", e), lease=None, tally=tally)
    return _keep(h, e, old, new, FAILED_COUNT)


def _released(h: Heart, e: Released) -> Undo:
    old, _ = _held(h, e)
    t = old.tally
    if e.cause == "disconnect":
        tally = replace(t, attempts=t.attempts + 1, disconnects=t.disconnects + 1, ended="disconnected", reason="")
    else:
        tally = replace(t, releases=t.releases + 1, ended="released", reason="")
    new = replace(old, state=_moved(old.state, "release", e), lease=None, tally=tally)
    return _keep(h, e, old, new, RELEASED)


def _requeued(h: Heart, e: Requeued) -> Undo:
    old = _task(h, e)
    new = replace(old, state=_moved(old.state, "requeue_later" if e.due_ms else "requeue", e), due_ms=e.due_ms)
    return _keep(h, e, old, new, REQUEUED)


def _dead_lettered(h: Heart, e: DeadLettered) -> Undo:
    old = _task(h, e)
    if not e.reason:
        raise IllegalEvent("I9: a dead letter has a reason", e, f"task {old.task_id!r}")
    death = Death(e.cause, e.reason, e.at_ms, e.seq)
    new = replace(old, state=_moved(old.state, "bury", e), due_ms=0, death=death)
    return _keep(h, e, old, new, DEAD_LETTERED)


def _redriven(h: Heart, e: Redriven) -> Undo:
    old = _task(h, e)
    if e.place != h.next_number:
        raise IllegalEvent(f"place {h.next_number} is next", e, f"queue {h.name!r}")
    new = replace(
        old,
        state=_moved(old.state, "redrive", e),
        place=e.place,
        placed_ms=e.at_ms,
        expires_ms=e.expires_ms,
        death=None,
        tally=replace(old.tally, attempts=0),
    )
    h.next_number = e.place + 1
    return _keep(h, e, old, new, REDRIVEN)


def _deleted(h: Heart, e: Deleted) -> Undo:
    old = _task(h, e)
    _moved(old.state, "delete", e)
    return _keep(h, e, old, None, DELETED)


# What happens to the queue


def _purged(h: Heart, e: Purged) -> Undo:
    gone = [h.the_task(key[2]) for key in h.following(e.state, None, h.count(e.state))]
    if len(gone) != e.count:
        raise IllegalEvent(f"I1: {len(gone)} tasks are {e.state}", e, f"queue {h.name!r}")
    for task in gone:
        _moved(task.state, "delete", e)
    changes = Changes(h, None)
    for task in gone:
        h.swap(task, None)
        h.counts[DELETED] += 1
        _remember(h, task, e.at_ms, changes)
    changes.gone.extend(gone)
    return changes


def _configured(h: Heart, e: QueueConfigured) -> Undo:
    before = Changes(h, None)
    h.policy = e.policy
    return before


def _paused(h: Heart, e: QueuePaused) -> Undo:
    before = Changes(h, None)
    h.paused = True
    return before


def _resumed(h: Heart, e: QueueResumed) -> Undo:
    before = Changes(h, None)
    h.paused = False
    return before


_EFFECTS: Final[dict[type[Event], Callable[..., Undo]]] = {
    Enqueued: _enqueued,
    Matured: _matured,
    Leased: _leased,
    Extended: _extended,
    Acked: _acked,
    Expired: _expired,
    Failed: _failed,
    Released: _released,
    Requeued: _requeued,
    DeadLettered: _dead_lettered,
    Redriven: _redriven,
    Deleted: _deleted,
    Purged: _purged,
    QueueConfigured: _configured,
    QueuePaused: _paused,
    QueueResumed: _resumed,
}

_COUNT_OF: Final[dict[type[Event], int]] = {
    Enqueued: ENQUEUED,
    Matured: MATURED,
    Leased: LEASED,
    Extended: EXTENDED,
    Acked: ACKED,
    Expired: EXPIRED_COUNT,
    Failed: FAILED_COUNT,
    Released: RELEASED,
    Requeued: REQUEUED,
    DeadLettered: DEAD_LETTERED,
    Redriven: REDRIVEN,
    Deleted: DELETED,
}


def _moved(state: str, move: str, event: Event) -> str:
    """The state that `move` leads to, by the lifecycle table."""
    to = TABLE.get((state, move))
    if to is None:
        raise IllegalEvent(f"lifecycle: no move {move!r} from {state!r}", event, f"a task that is {state}")
    return to


def _task(h: Heart, e: TaskEvent) -> Task:
    task = h.task(e.number)
    if task is None or task.task_id != e.task_id:
        raise _no_such_task(h, e)
    return task


def _held(h: Heart, e: LeaseEvent) -> tuple[Task, Lease]:
    task = _task(h, e)
    lease = task.lease
    if lease is None or lease.lease_id != e.lease_id:
        raise _void(task, e)
    return task, lease


def _no_such_task(h: Heart, e: TaskEvent) -> IllegalEvent:
    return IllegalEvent("I5: no such task", e, f"queue {h.name!r}")


def _void(task: Task, e: LeaseEvent) -> IllegalEvent:
    return IllegalEvent("I4: the lease is void", e, f"task {task.task_id!r}, {task.state}")


def _keep(h: Heart, e: TaskEvent, old: Task, new: Task | None, count: int) -> Undo:
    """Put `new` in the place of `old` (None: it is gone), and count it."""
    h.swap(old, new)
    h.counts[count] += 1
    if new is None and old.options.dedup_ms:
        return _remember(h, old, e.at_ms)
    return _forget(h, old, e.at_ms) if h.remembered else old


def _remember(h: Heart, task: Task, at_ms: int, changes: Changes | None = None) -> Changes:
    """Keep the id of a task that is gone, for its dedup window, if it has one; and forget what lapsed."""
    changes = changes or Changes(h, task)
    if task.options.dedup_ms:
        h.remember(task.task_id, at_ms + task.options.dedup_ms, task.number)
        changes.remembered.append(task.task_id)
    _forget_lapsed(h, at_ms, changes)
    return changes


def _forget(h: Heart, old: Entry | None, at_ms: int, task_id: str = "") -> Undo:
    """Forget that id, and a few whose window has passed. What undoes an event that changes `old` and this."""
    changes = Changes(h, old)
    if task_id in h.remembered:
        _forget_one(h, task_id, changes)
    _forget_lapsed(h, at_ms, changes)
    return changes if changes.forgot else old


def _forget_lapsed(h: Heart, at_ms: int, changes: Changes) -> None:
    """By the event's time, so that a replay does the same."""
    for _ in range(_FORGET_PER_EVENT):
        key = h.forgetting.first()
        if key is None or key[0] > at_ms:
            break
        _forget_one(h, h.forgotten[key[2]], changes)


def _forget_one(h: Heart, task_id: str, changes: Changes) -> None:
    until_ms, number = h.remembered[task_id]
    h.forget(task_id)
    changes.forgot.append((task_id, until_ms, number))
