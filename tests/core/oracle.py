"""The oracle: a queue's state as truly persistent values, and `apply` on it. Slow, and easy to believe.

Lives here: the form that the state of a queue had before versions shared a heart: a hash trie for tasks, a persistent
B+ tree (ordered.py) for every order, all effects as plain replacement of fields. The tests hold the fast one against
it, and break it field by field to see the invariants turn red. Must not: anything taken from effects or heart.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import immutables
import msgspec
from msgspec.structs import replace

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
from moxy.core.lifecycle import DEAD, EXPIRED, FAILED, NEW, PROCESSING, READY, SCHEDULED, TABLE
from moxy.core.policy import Policy
from moxy.core.state import QueueState
from moxy.core.tasks import NO_OPTIONS, PRIORITY_MAX, Death, Lease, Options, Task, Totals
from tests.core import ordered
from tests.core.ordered import Key, Ordered

NO_TASKS: Final[immutables.Map[int, Task]] = immutables.Map()
NO_NUMBERS: Final[immutables.Map[str, int]] = immutables.Map()
NO_MEMORY: Final[immutables.Map[str, tuple[int, int]]] = immutables.Map()
NO_NAMES: Final[immutables.Map[int, str]] = immutables.Map()


class Persistent(msgspec.Struct, frozen=True, gc=False):
    """Everything about one queue after its event `seq`.

    `remembered` holds ids of tasks that are gone but inside their dedup window, as id -> (until_ms, number);
    `forgetting` is the order in which they leave. `limbo` counts tasks in `expired` and `failed`, between two
    events of one batch: 0 in every state that anybody can observe.
    """

    name: str
    policy: Policy = Policy()
    seq: int = 0
    at_ms: int = 0
    born_ms: int = 0
    paused: bool = False
    next_number: int = 1
    last_token: int = 0
    totals: Totals = Totals()
    tasks: immutables.Map[int, Task] = NO_TASKS
    numbers: immutables.Map[str, int] = NO_NUMBERS
    ready: Ordered = ordered.EMPTY
    scheduled: Ordered = ordered.EMPTY
    processing: Ordered = ordered.EMPTY
    dead: Ordered = ordered.EMPTY
    expiring: Ordered = ordered.EMPTY
    limbo: int = 0
    remembered: immutables.Map[str, tuple[int, int]] = NO_MEMORY
    forgetting: Ordered = ordered.EMPTY
    forgotten_names: immutables.Map[int, str] = NO_NAMES

    def named(self, task_id: str) -> Task | None:
        """The live or dead task with that id, or None."""
        number = self.numbers.get(task_id)
        return None if number is None else self.tasks[number]

    def knows(self, task_id: str, now_ms: int) -> bool:
        """Whether enqueueing this id would create nothing (I14)."""
        if task_id in self.numbers:
            return True
        memory = self.remembered.get(task_id)
        return memory is not None and now_ms < memory[0]

    def next_due_ms(self) -> int | None:
        """When time next causes an event here: a deadline, a TTL or a due time; None when nothing waits for time."""
        firsts = [key[0] for key in (self.processing.first(), self.expiring.first(), self.scheduled.first()) if key]
        return min(firsts) if firsts else None

    def in_state(self, state: str) -> Iterator[Task]:
        """The tasks of one observable state, in the order in which PEEK lists them."""
        for _, _, number in self.order_of(state):
            yield self.tasks[number]

    def order_of(self, state: str) -> Ordered:
        """The order that the tasks of one observable state are kept in."""
        if state == READY:
            return self.ready
        if state == SCHEDULED:
            return self.scheduled
        if state == PROCESSING:
            return self.processing
        assert state == DEAD, state
        return self.dead


def place_of(task: Task) -> Key:
    """Where the task stands in the order of its state (docs/semantics.md, Order)."""
    if task.state == READY:
        return (PRIORITY_MAX - task.priority, task.place, task.number)
    if task.state == SCHEDULED:
        return (task.due_ms, task.place, task.number)
    if task.lease is not None:
        return (task.lease.deadline_ms, task.lease.token, task.number)
    assert task.death is not None, task
    return (task.death.at_ms, task.death.seq, task.number)


def ttl_place_of(task: Task) -> Key | None:
    """Where the task stands in the order in which TTLs run out; None when it has none, or is not waiting."""
    if task.expires_ms and (task.state == READY or task.state == SCHEDULED):
        return (task.expires_ms, task.place, task.number)
    return None


def in_limbo(task: Task) -> bool:
    """Whether the task is between two events of one batch."""
    return task.state == EXPIRED or task.state == FAILED


_FORGET_PER_EVENT: Final = 4
"""Lapsed ids dropped per event. Each event adds at most one (a purge aside), so the memory stays in step."""


def apply(state: Persistent, event: AnyEvent) -> Persistent:
    """The state after `event`. `state` stays valid. Raises IllegalEvent when the event cannot follow it."""
    if event.seq != state.seq + 1:
        raise IllegalEvent(f"I15: sequence {state.seq + 1} is next", event, f"queue {state.name!r}")
    if event.at_ms < state.at_ms:
        raise IllegalEvent(f"I15: time went back from {state.at_ms}", event, f"queue {state.name!r}")
    if event.queue != state.name:
        raise IllegalEvent("an event of another queue", event, f"queue {state.name!r}")
    return _EFFECTS[type(event)](state, event)


def replay(events: Iterable[AnyEvent], state: Persistent) -> Persistent:
    """Fold events onto `state` (I10)."""
    for event in events:
        state = apply(state, event)
    return state


def _enqueued(s: Persistent, e: Enqueued) -> Persistent:
    state = _moved(NEW, "enqueue_later" if e.due_ms else "enqueue", e)
    if e.number != s.next_number:
        raise IllegalEvent(f"task number {s.next_number} is next", e, f"queue {s.name!r}")
    if s.knows(e.task_id, e.at_ms):
        raise IllegalEvent("I14: the id is known", e, f"queue {s.name!r}")
    plain = e.max_attempts == -1 and not e.lease_ms and not e.dedup_ms
    task = Task(
        e.number,
        e.task_id,
        e.payload,
        e.priority,
        e.number,
        e.at_ms,
        e.at_ms,
        state,
        e.due_ms,
        e.expires_ms,
        options=NO_OPTIONS if plain else Options(e.max_attempts, e.lease_ms, e.dedup_ms),
    )
    return _keep(
        _without_memory_of(s, e.task_id),
        e,
        None,
        task,
        replace(s.totals, enqueued=s.totals.enqueued + 1),
        next_number=e.number + 1,
    )


def _matured(s: Persistent, e: Matured) -> Persistent:
    old = _task(s, e)
    new = replace(old, state=_moved(old.state, "mature", e), due_ms=0)
    return _keep(s, e, old, new, replace(s.totals, matured=s.totals.matured + 1))


def _leased(s: Persistent, e: Leased) -> Persistent:
    old = _task(s, e)
    if e.token <= s.last_token:
        raise IllegalEvent(f"I3: tokens go on above {s.last_token}", e, f"queue {s.name!r}")
    tally = old.tally
    new = replace(
        old,
        state=_moved(old.state, "lease", e),
        token=e.token,
        lease=Lease(e.lease_id, e.token, e.deadline_ms, e.at_ms, e.worker, e.bound),
        tally=replace(tally, deliveries=tally.deliveries + 1),
    )
    return _keep(s, e, old, new, replace(s.totals, leased=s.totals.leased + 1), last_token=e.token)


def _extended(s: Persistent, e: Extended) -> Persistent:
    old, lease = _held(s, e)
    new = replace(old, state=_moved(old.state, "extend", e), lease=replace(lease, deadline_ms=e.deadline_ms))
    return _keep(s, e, old, new, replace(s.totals, extended=s.totals.extended + 1))


def _acked(s: Persistent, e: Acked) -> Persistent:
    old, _ = _held(s, e)
    _moved(old.state, "ack", e)
    return _keep(s, e, old, None, replace(s.totals, acked=s.totals.acked + 1))


def _expired(s: Persistent, e: Expired) -> Persistent:
    old, lease = _held(s, e)
    if e.at_ms < lease.deadline_ms:
        raise IllegalEvent(f"I6: the deadline is {lease.deadline_ms}", e, f"task {old.task_id!r}")
    t = old.tally
    tally = replace(t, attempts=t.attempts + 1, expiries=t.expiries + 1, ended="expired", reason="")
    new = replace(old, state=_moved(old.state, "expire", e), lease=None, tally=tally)
    return _keep(s, e, old, new, replace(s.totals, expired=s.totals.expired + 1))


def _failed(s: Persistent, e: Failed) -> Persistent:
    old, _ = _held(s, e)
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
    return _keep(s, e, old, new, replace(s.totals, failed=s.totals.failed + 1))


def _released(s: Persistent, e: Released) -> Persistent:
    old, _ = _held(s, e)
    t = old.tally
    if e.cause == "disconnect":
        tally = replace(t, attempts=t.attempts + 1, disconnects=t.disconnects + 1, ended="disconnected", reason="")
    else:
        tally = replace(t, releases=t.releases + 1, ended="released", reason="")
    new = replace(old, state=_moved(old.state, "release", e), lease=None, tally=tally)
    return _keep(s, e, old, new, replace(s.totals, released=s.totals.released + 1))


def _requeued(s: Persistent, e: Requeued) -> Persistent:
    old = _task(s, e)
    new = replace(old, state=_moved(old.state, "requeue_later" if e.due_ms else "requeue", e), due_ms=e.due_ms)
    return _keep(s, e, old, new, replace(s.totals, requeued=s.totals.requeued + 1))


def _dead_lettered(s: Persistent, e: DeadLettered) -> Persistent:
    old = _task(s, e)
    if not e.reason:
        raise IllegalEvent("I9: a dead letter has a reason", e, f"task {old.task_id!r}")
    death = Death(e.cause, e.reason, e.at_ms, e.seq)
    new = replace(old, state=_moved(old.state, "bury", e), due_ms=0, death=death)
    return _keep(s, e, old, new, replace(s.totals, dead_lettered=s.totals.dead_lettered + 1))


def _redriven(s: Persistent, e: Redriven) -> Persistent:
    old = _task(s, e)
    if e.place != s.next_number:
        raise IllegalEvent(f"place {s.next_number} is next", e, f"queue {s.name!r}")
    new = replace(
        old,
        state=_moved(old.state, "redrive", e),
        place=e.place,
        placed_ms=e.at_ms,
        expires_ms=e.expires_ms,
        death=None,
        tally=replace(old.tally, attempts=0),
    )
    return _keep(s, e, old, new, replace(s.totals, redriven=s.totals.redriven + 1), next_number=e.place + 1)


def _deleted(s: Persistent, e: Deleted) -> Persistent:
    old = _task(s, e)
    _moved(old.state, "delete", e)
    return _keep(s, e, old, None, replace(s.totals, deleted=s.totals.deleted + 1))


def _purged(s: Persistent, e: Purged) -> Persistent:
    gone = list(s.in_state(e.state))
    if len(gone) != e.count:
        raise IllegalEvent(f"I1: {len(gone)} tasks are {e.state}", e, f"queue {s.name!r}")
    for task in gone:
        _moved(task.state, "delete", e)
        s = _keep(s, e, task, None, replace(s.totals, deleted=s.totals.deleted + 1))
    return _at(s, e)


def _configured(s: Persistent, e: QueueConfigured) -> Persistent:
    return replace(_at(s, e), policy=e.policy)


def _paused(s: Persistent, e: QueuePaused) -> Persistent:
    return replace(_at(s, e), paused=True)


def _resumed(s: Persistent, e: QueueResumed) -> Persistent:
    return replace(_at(s, e), paused=False)


_EFFECTS: Final[dict[type[Event], Callable[..., Persistent]]] = {
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


def _moved(state: str, move: str, event: Event) -> str:
    """The state that `move` leads to, by the lifecycle table."""
    to = TABLE.get((state, move))
    if to is None:
        raise IllegalEvent(f"lifecycle: no move {move!r} from {state!r}", event, f"a task that is {state}")
    return to


def _task(s: Persistent, e: TaskEvent) -> Task:
    task = s.tasks.get(e.number)
    if task is None or task.task_id != e.task_id:
        raise IllegalEvent("I5: no such task", e, f"queue {s.name!r}")
    return task


def _held(s: Persistent, e: LeaseEvent) -> tuple[Task, Lease]:
    task = _task(s, e)
    lease = task.lease
    if lease is None or lease.lease_id != e.lease_id:
        raise IllegalEvent("I4: the lease is void", e, f"task {task.task_id!r}, {task.state}")
    return task, lease


def _at(s: Persistent, e: Event) -> Persistent:
    return replace(s, seq=e.seq, at_ms=e.at_ms, born_ms=s.born_ms or e.at_ms)


def _keep(
    s: Persistent,
    e: Event,
    old: Task | None,
    new: Task | None,
    totals: Totals,
    next_number: int = 0,
    last_token: int = 0,
) -> Persistent:
    """The queue with `old` replaced by `new` (None: not there) in every order, after event `e`."""
    ready, scheduled, processing, dead = s.ready, s.scheduled, s.processing, s.dead
    expiring, limbo, tasks, numbers = s.expiring, s.limbo, s.tasks, s.numbers
    if old is not None:
        if old.state == READY:
            ready = ready.remove(place_of(old))
        elif old.state == SCHEDULED:
            scheduled = scheduled.remove(place_of(old))
        elif old.lease is not None:
            processing = processing.remove(place_of(old))
        elif old.death is not None:
            dead = dead.remove(place_of(old))
        else:
            limbo -= 1
        expiring = _without(expiring, old)
    if new is not None:
        if new.state == READY:
            ready = ready.add(place_of(new))
        elif new.state == SCHEDULED:
            scheduled = scheduled.add(place_of(new))
        elif new.lease is not None:
            processing = processing.add(place_of(new))
        elif in_limbo(new):
            limbo += 1
        else:
            dead = dead.add(place_of(new))
        ttl = ttl_place_of(new)
        if ttl is not None:
            expiring = expiring.add(ttl)
        tasks = tasks.set(new.number, new)
        if old is None:
            numbers = numbers.set(new.task_id, new.number)
    elif old is not None:
        tasks = tasks.delete(old.number)
        numbers = numbers.delete(old.task_id)
        s = _remember(s, old, e.at_ms)
    if s.remembered:
        s = _forget_lapsed(s, e.at_ms)
    return replace(
        s,
        seq=e.seq,
        at_ms=e.at_ms,
        born_ms=s.born_ms or e.at_ms,
        next_number=next_number or s.next_number,
        last_token=last_token or s.last_token,
        totals=totals,
        tasks=tasks,
        numbers=numbers,
        ready=ready,
        scheduled=scheduled,
        processing=processing,
        dead=dead,
        expiring=expiring,
        limbo=limbo,
    )


def _without(expiring: Ordered, task: Task) -> Ordered:
    ttl = ttl_place_of(task)
    return expiring if ttl is None else expiring.remove(ttl)


def _remember(s: Persistent, task: Task, at_ms: int) -> Persistent:
    """Keep the id of a task that is gone, for its dedup window."""
    if not task.options.dedup_ms:
        return s
    until_ms = at_ms + task.options.dedup_ms
    return replace(
        s,
        remembered=s.remembered.set(task.task_id, (until_ms, task.number)),
        forgetting=s.forgetting.add((until_ms, 0, task.number)),
        forgotten_names=s.forgotten_names.set(task.number, task.task_id),
    )


def _without_memory_of(s: Persistent, task_id: str) -> Persistent:
    memory = s.remembered.get(task_id) if s.remembered else None
    if memory is None:
        return s
    until_ms, number = memory
    return replace(
        s,
        remembered=s.remembered.delete(task_id),
        forgetting=s.forgetting.remove((until_ms, 0, number)),
        forgotten_names=s.forgotten_names.delete(number),
    )


def _forget_lapsed(s: Persistent, at_ms: int) -> Persistent:
    """Drop a few ids whose window has passed: by the event's time, so that a replay does the same."""
    for _ in range(_FORGET_PER_EVENT):
        key = s.forgetting.first()
        if key is None or key[0] > at_ms:
            break
        s = _without_memory_of(s, s.forgotten_names[key[2]])
    return s


def persistent(state: QueueState) -> Persistent:
    """The same state in this form."""
    image = state.image()
    tasks = {task.number: task for task in image.tasks}

    def places(which: str) -> Ordered:
        return ordered.ordered(place_of(task) for task in image.tasks if task.state == which)

    ttls = [key for task in image.tasks if (key := ttl_place_of(task)) is not None]
    memories = image.remembered
    return Persistent(
        image.name,
        image.policy,
        image.seq,
        image.at_ms,
        image.born_ms,
        image.paused,
        image.next_number,
        image.last_token,
        image.totals,
        immutables.Map(tasks),
        immutables.Map({task.task_id: number for number, task in tasks.items()}),
        places(READY),
        places(SCHEDULED),
        places(PROCESSING),
        places(DEAD),
        ordered.ordered(ttls),
        sum(in_limbo(task) for task in image.tasks),
        immutables.Map(memories),
        ordered.ordered((until_ms, 0, number) for until_ms, number in memories.values()),
        immutables.Map({number: task_id for task_id, (_, number) in memories.items()}),
    )
