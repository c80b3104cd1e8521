"""The effect of every event on a heart.

Lives here: effects and guards. Must not: policy. What happened was decided elsewhere; here it is only carried out,
or refused with IllegalEvent when it breaks the lifecycle table or an identity; then nothing has changed.

Each gives what it takes to undo it: see undoing.py.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

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
from moxy.core.ids import tells_number
from moxy.core.lifecycle import NEW, PROCESSING, READY, TABLE
from moxy.core.order import Order
from moxy.core.packing import FIRST_DELIVERY, Entry, Fresh, Held, pack, unfold, unpack
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, PRIORITY_MAX, Death, Lease, Options, Task
from moxy.core.undoing import Changes, Undo

Fields: TypeAlias = tuple[Any, ...]
"""What an event carries, in the order of its class."""

# As constants of this module they are at hand; names of another one compiled code looks up each time.
_ENQUEUED: Final[type[Event]] = Enqueued
_LEASED: Final[type[Event]] = Leased
_ACKED: Final[type[Event]] = Acked
_astuple: Final = astuple

_FORGET_PER_EVENT: Final = 4
"""Lapsed ids dropped per event. Each event adds at most one (a purge aside), so the memory stays in step."""


def happen(h: Heart, e: AnyEvent) -> Undo:
    """Carry out the next event, and say what undoes it. Raises IllegalEvent, and then nothing has changed."""
    # All fields at once: compiled, reading them one by one would cost more than all the rest.
    return happen_with(h, e, _astuple(e))


def happen_with(h: Heart, e: AnyEvent, fields: Fields) -> Undo:
    """`happen`, for whoever has the fields of the event at hand."""
    queue: str = fields[0]
    seq: int = fields[1]
    at_ms: int = fields[2]
    if seq != h.seq + 1 or at_ms < h.at_ms or queue != h.name:
        raise _out_of_order(h, e)
    kind = type(e)
    before: Undo
    # The three by name: compiled, a call of a function that is known costs a tenth of one that is looked up.
    if kind is _ENQUEUED:
        before = _enqueued(h, cast(Enqueued, e), fields)
    elif kind is _LEASED:
        before = _leased(h, cast(Leased, e), fields)
    elif kind is _ACKED:
        before = _acked(h, cast(Acked, e), fields)
    else:
        before = _EFFECTS[kind](h, e)
    h.seq = seq
    h.at_ms = at_ms
    if not h.born_ms:
        h.born_ms = at_ms
    return before


def _out_of_order(h: Heart, e: AnyEvent) -> IllegalEvent:
    queue = f"queue {h.name!r}"
    if e.seq != h.seq + 1:
        return IllegalEvent(f"I15: sequence {h.seq + 1} is next", e, queue)
    if e.at_ms < h.at_ms:
        return IllegalEvent(f"I15: time went back from {h.at_ms}", e, queue)
    return IllegalEvent("an event of another queue", e, queue)


# What happens often


def _enqueued(h: Heart, e: Enqueued, fields: Fields) -> Undo:
    number: int
    task_id: str
    at_ms: int
    priority: int
    payload: bytes
    _, _, at_ms, number, task_id, payload, priority, due_ms, expires_ms, most, lease_ms, dedup_ms = fields
    if number != h.next_number:
        raise IllegalEvent(f"task number {h.next_number} is next", e, f"queue {h.name!r}")
    if not 0 <= priority <= PRIORITY_MAX:
        raise IllegalEvent(f"priorities are 0 to {PRIORITY_MAX}", e, f"queue {h.name!r}")
    is_named = not tells_number(task_id, number)
    if (
        (h.names is not None and task_id in h.names)
        # An id that tells this number can be no other task's, unless that one is named.
        or (is_named and h.number_of(task_id) is not None)
        or (h.dedup is not None and h.knows(task_id, at_ms))
    ):
        raise IllegalEvent("I14: the id is known", e, f"queue {h.name!r}")
    before = None if h.dedup is None else _forget(h, None, at_ms, task_id)
    if due_ms or expires_ms or lease_ms or dedup_ms or most != -1:
        to = _moved(NEW, "enqueue_later" if due_ms else "enqueue", e)
        options = Options(most, lease_ms, dedup_ms)
        if options == NO_OPTIONS:
            options = NO_OPTIONS
        task = Task(number, task_id, payload, priority, number, at_ms, at_ms, to, due_ms, expires_ms, options=options)
        h.swap(None, task)
    else:
        if is_named:
            h.name_it(task_id, number)
        put_fresh(h, number, task_id.encode(), payload, priority, at_ms)
        return before
    h.next_number = number + 1
    h.enqueued += 1
    return before


def put_fresh(h: Heart, number: int, task_id: bytes, payload: bytes, priority: int, at_ms: int) -> None:
    """A new task that asks for nothing of its own and is ready, named already."""
    if len(h.tasks) < h.pack_from:
        h.tasks[number] = Fresh(task_id, payload, priority, at_ms)
    else:
        h.tasks[number] = pack(task_id, payload, priority, at_ms)
    h.lane(priority).add(number)
    h.next_number = number + 1
    h.enqueued += 1


def _leased(h: Heart, e: Leased, fields: Fields) -> Undo:
    at_ms: int
    number: int
    task_id: str
    lease_id: str
    token: int
    deadline_ms: int
    worker: str
    bound: bool
    _, _, at_ms, number, task_id, lease_id, token, deadline_ms, worker, bound = fields
    entry = h.tasks.get(number)
    if isinstance(entry, bytes):
        entry = unpack(entry)
    if isinstance(entry, Fresh):
        raw_id = task_id.encode()
        if entry.task_id != raw_id:
            raise _no_such_task(h, e)
        priority, place = entry.priority, number
        new: Entry = Held(entry, raw_id, lease_id.encode(), token, deadline_ms, at_ms, worker, bound)
    else:
        task = None if entry is None else unfold(number, entry)
        if task is None or task.task_id != task_id:
            raise _no_such_task(h, e)
        if task.state != READY:
            _moved(task.state, "lease", e)
        entry = task
        priority, place, tally = task.priority, task.place, task.tally
        if tally is NO_TALLY and task.options is NO_OPTIONS and not task.expires_ms and place == number:
            new = Held(task, task_id.encode(), lease_id.encode(), token, deadline_ms, at_ms, worker, bound)
        else:
            tally = FIRST_DELIVERY if tally is NO_TALLY else replace(tally, deliveries=tally.deliveries + 1)
            lease = Lease(lease_id, token, deadline_ms, at_ms, worker, bound)
            new = replace(task, state=PROCESSING, token=token, lease=lease, tally=tally)
            if new.expires_ms:
                _check_token(h, e, token)
                h.swap(task, new)
                h.last_token = token
                h.leased += 1
                return task if h.dedup is None else _forget(h, task, e.at_ms)
    _check_token(h, e, token)
    lease_first(h, h.lane(priority), place, number, entry, new, token, deadline_ms)
    return entry if h.dedup is None else _forget(h, entry, e.at_ms)


def _check_token(h: Heart, e: Leased, token: int) -> None:
    if token <= h.last_token:
        raise IllegalEvent(f"I3: tokens go on above {h.last_token}", e, f"queue {h.name!r}")


def lease_first(
    h: Heart, lane: Order[int], place: int, number: int, old: Entry, new: Entry, token: int, deadline_ms: int
) -> None:
    """A task without a TTL leaves the lane of ready ones, as `new`."""
    lane.remove(place)
    h.young.add(number)
    if deadline_ms < h.soonest_ms:
        h.soonest_ms = deadline_ms
    if h.shadow is not None:
        h.shade(number, old)
    h.tasks[number] = new
    h.last_token = token
    h.leased += 1


def _acked(h: Heart, e: Acked, fields: Fields) -> Undo:
    number: int
    task_id: str
    lease_id: str
    _, _, _, number, task_id, lease_id = fields
    entry = h.tasks.get(number)
    if isinstance(entry, Held):
        if entry.task_id != task_id.encode():
            raise _no_such_task(h, e)
        if entry.lease_id != lease_id.encode():
            raise _void(unfold(number, entry), e)
    else:
        task, _ = _held(h, e)
        if task.place != number or task.options.dedup_ms:
            h.swap(task, None)
            h.acked += 1
            return _remember(h, task, e.at_ms)
        entry = task
    if h.names is not None:
        h.unname(task_id)
    drop_held(h, number, entry)
    return entry if h.dedup is None else _forget(h, entry, e.at_ms)


def drop_held(h: Heart, number: int, old: Entry) -> None:
    """A task under a lease is done and gone; its name is already."""
    h.end_lease(number, old)
    if h.shadow is not None:
        h.shade(number, old)
    del h.tasks[number]
    h.acked += 1


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
    Matured: _matured,
    Extended: _extended,
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
    return old if h.dedup is None else _forget(h, old, e.at_ms)


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
        task_id = None if h.dedup is None else h.dedup.lapsed(at_ms)
        if task_id is None:
            break
        _forget_one(h, task_id, changes)


def _forget_one(h: Heart, task_id: str, changes: Changes) -> None:
    until_ms, number = h.remembered[task_id]
    h.forget(task_id)
    changes.forgot.append((task_id, until_ms, number))
