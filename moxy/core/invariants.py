"""The numbered invariants as predicates: each returns a sentence when it is broken, else None.

Lives here: what must be true of a state, and of one step from a state to the next. Must not: be needed by the
product to run; tests, `spec/` and `moxy verify` call it. Linear in the number of tasks, on purpose: it recounts.
`vicinity` checks the same of what one step touched, for whoever has many steps to check.

I4, I10, I11 and I13 are about more than one queue state (refusals, logs, disks): they are checked where those live.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec.structs import asdict

from moxy.core.commands import Command, Fetch
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
    Purged,
    Redriven,
    Released,
    Requeued,
    TaskEvent,
)
from moxy.core.heart import place_of, ttl_place_of
from moxy.core.lifecycle import DEAD, PROCESSING, READY, SCHEDULED
from moxy.core.order import Key
from moxy.core.reading import Keys, Readable
from moxy.core.tasks import Task, Totals
from moxy.core.views import max_attempts

Check = Callable[[Readable], str | None]
StepCheck = Callable[[Readable, Sequence[AnyEvent], Readable], str | None]


def conservation(s: Readable) -> str | None:
    """I1: enqueued = scheduled + ready + processing + dead + acked + deleted.

    There is no room in it for `expired` and `failed`: between two events of one batch it does not hold.
    """
    t = s.totals
    here = len(s.scheduled) + len(s.ready) + len(s.processing) + len(s.dead)
    if t.enqueued != here + t.acked + t.deleted:
        return f"I1: {t.enqueued} enqueued, but {here} here, {t.acked} acked and {t.deleted} deleted"
    if s.limbo:
        return f"I1: {s.limbo} tasks rest in expired or failed"
    if len(s.tasks) != here:
        return f"I1: {len(s.tasks)} tasks are kept, but the orders hold {here}"
    return None


def one_lease(s: Readable) -> str | None:
    """I2: at most one live lease per task, and one exactly while processing."""
    return next((sentence for task in s.tasks.values() if (sentence := odd_lease(task))), None)


def odd_lease(task: Task) -> str | None:
    """I2, of one task."""
    if (task.lease is not None) != (task.state == PROCESSING):
        return f"I2: task {task.task_id!r} is {task.state} and its lease is {task.lease}"
    return None


def tokens(s: Readable) -> str | None:
    """I3: no token above the last one given, and none twice."""
    seen = [task.token for task in s.tasks.values() if task.token]
    if len(seen) != len(set(seen)):
        return "I3: two tasks hold the same token"
    if seen and max(seen) > s.last_token:
        return f"I3: token {max(seen)} is above the last one, {s.last_token}"
    return None


def orders(s: Readable) -> str | None:
    """I7, its ground: every order holds exactly the tasks of its state, sorted."""
    if one_lease(s) or reasons(s):
        return None  # a task without what its place is made of: told there
    kept: dict[str, Keys] = {READY: s.ready, SCHEDULED: s.scheduled, PROCESSING: s.processing, DEAD: s.dead}
    for state, order in kept.items():
        expected = sorted(place_of(task) for task in s.tasks.values() if task.state == state)
        if list(order) != expected:
            return f"I7: the order of {state} tasks is not that of the tasks"
    ttls: list[Key] = sorted(key for task in s.tasks.values() if (key := ttl_place_of(task)))
    if list(s.expiring) != ttls:
        return "I7: the order of TTLs is not that of the tasks"
    return None


def reasons(s: Readable) -> str | None:
    """I9: a dead task has one of three causes, and a reason."""
    return next((sentence for task in s.tasks.values() if (sentence := odd_death(task))), None)


def odd_death(task: Task) -> str | None:
    """I9, of one task."""
    if (task.death is not None) != (task.state == DEAD):
        return f"I9: task {task.task_id!r} is {task.state} and its death is {task.death}"
    if task.death and (task.death.cause not in ("attempts", "fatal", "ttl") or not task.death.reason):
        return f"I9: task {task.task_id!r} died of {task.death}"
    return None


def identities(s: Readable) -> str | None:
    """I14: an id exists once; I5: no number from the future."""
    named = {task.task_id: number for number, task in s.tasks.items()}
    if len(named) != len(s.tasks) or named != dict(s.numbers.items()):
        return "I14: the ids and the tasks differ"
    if any(number >= s.next_number for number in s.tasks):
        return "I5: a task has a number that was not given yet"
    gone = [name for name in s.remembered if name in s.numbers]
    return f"I14: {gone} are here and remembered as gone" if gone else None


STATE_CHECKS: Final[dict[str, Check]] = {
    "I1": conservation,
    "I2": one_lease,
    "I3": tokens,
    "I7": orders,
    "I9": reasons,
    "I14": identities,
}


def sequence(before: Readable, events: Sequence[AnyEvent], after: Readable) -> str | None:
    """I15: no gap, and time never goes back."""
    seq, at_ms = before.seq, before.at_ms
    for event in events:
        if event.seq != seq + 1 or event.at_ms < at_ms:
            return f"I15: {event!r} follows sequence {seq} at {at_ms}"
        seq, at_ms = event.seq, event.at_ms
    if (after.seq, after.at_ms) != (seq, at_ms):
        return f"I15: the state is at {after.seq}, the events end at {seq}"
    return None


def rising_tokens(before: Readable, events: Sequence[AnyEvent], after: Readable) -> str | None:
    """I3: each lease has a token above all before it."""
    last = before.last_token
    for event in events:
        if isinstance(event, Leased):
            if event.token <= last:
                return f"I3: token {event.token} after {last}"
            last = event.token
    return None


def no_return(before: Readable, events: Sequence[AnyEvent], after: Readable) -> str | None:
    """I5: what was acked or deleted is gone, and stays so."""
    gone = {event.number for event in events if isinstance(event, Acked | Deleted)}
    back = [number for number in gone if number in after.tasks]
    old = [number for number in after.tasks if number < before.next_number and number not in before.tasks]
    return f"I5: tasks {back + old} came back" if back or old else None


def no_early_expiry(before: Readable, events: Sequence[AnyEvent], after: Readable) -> str | None:
    """I6: a lease that was live before the step expires at its deadline, not earlier."""
    for event in events:
        if isinstance(event, Expired) and (task := before.tasks.get(event.number)) and task.lease:
            extended = [e.deadline_ms for e in events if isinstance(e, Extended) and e.number == event.number]
            if event.at_ms < max([task.lease.deadline_ms, *extended]):
                return f"I6: {event!r} comes before the deadline of {task.lease!r}"
    return None


_TOTAL_OF: Final[dict[type[Event], str]] = {
    Enqueued: "enqueued",
    Matured: "matured",
    Leased: "leased",
    Extended: "extended",
    Acked: "acked",
    Expired: "expired",
    Failed: "failed",
    Released: "released",
    Requeued: "requeued",
    DeadLettered: "dead_lettered",
    Redriven: "redriven",
    Deleted: "deleted",
}


def count(totals: dict[str, int], events: Iterable[AnyEvent]) -> None:
    """Add each event to the total that it counts under; the names are those of `Totals`."""
    for event in events:
        if isinstance(event, Purged):
            totals["deleted"] += event.count
        elif isinstance(event, TaskEvent):
            totals[_TOTAL_OF[type(event)]] += 1


def counters(before: Readable, events: Sequence[AnyEvent], after: Readable) -> str | None:
    """I8: each total moved by the number of its events."""
    expected: dict[str, int] = asdict(before.totals)
    count(expected, events)
    if after.totals != Totals(**expected):
        return f"I8: totals are {after.totals}, the events make {expected}"
    return None


def told_attempts(before: Readable, events: Sequence[AnyEvent], after: Readable) -> str | None:
    """I8: the attempts that an event tells are those that the reducer counts."""
    counts: dict[int, int] = {}
    for event in events:
        if not isinstance(event, TaskEvent):
            continue
        if event.number not in counts:
            task = before.tasks.get(event.number)
            counts[event.number] = task.tally.attempts if task else 0
        if isinstance(event, Redriven):
            counts[event.number] = 0
        if _charges(event):
            counts[event.number] += 1
        if isinstance(event, Expired | Failed | Released | DeadLettered) and event.attempts != counts[event.number]:
            return f"I8: {event!r}, but {counts[event.number]} attempts are used up"
    return None


def buried_for_a_reason(before: Readable, events: Sequence[AnyEvent], after: Readable) -> str | None:
    """I9: attempts really used up, a fatal NACK just before, or a TTL that ran out; each of this very task."""
    previous: AnyEvent | None = None
    for event in events:
        if isinstance(event, DeadLettered):
            task = after.tasks.get(event.number)
            same = isinstance(previous, TaskEvent) and previous.number == event.number
            if event.cause == "fatal" and not (same and isinstance(previous, Failed)):
                return f"I9: {event!r} without a NACK"
            if event.cause == "ttl" and task and not 0 < task.expires_ms <= event.at_ms:
                return f"I9: {event!r}, but its TTL runs until {task.expires_ms}"
            if event.cause == "attempts" and not (same and _charges(previous)):
                return f"I9: {event!r} without a failed delivery"
            most = max_attempts(after.policy, task) if task else 0
            if event.cause == "attempts" and task and not 0 < most <= task.tally.attempts:
                return f"I9: {event!r}, but {task.tally.attempts} of {most} attempts are used up"
        previous = event
    return None


def _charges(event: AnyEvent | None) -> bool:
    """Whether a delivery ended in a way that costs an attempt."""
    return isinstance(event, Failed | Expired) or (isinstance(event, Released) and event.cause == "disconnect")


STEP_CHECKS: Final[dict[str, StepCheck]] = {
    "I3": rising_tokens,
    "I5": no_return,
    "I6": no_early_expiry,
    "I8": counters,
    "I8, attempts": told_attempts,
    "I9": buried_for_a_reason,
    "I15": sequence,
}


def first_eligible(before: Readable, command: Command, events: Sequence[AnyEvent]) -> str | None:
    """I7: what a FETCH leased is, each time, the best ready task: priority, then place. Recounted without the orders.

    Due work comes first inside a FETCH, so the comparison starts from the tasks as the events before the lease left
    them: `before` must be the state right before the first `Leased`.
    """
    if not isinstance(command, Fetch):
        return None
    ready: list[Task] = [task for task in before.tasks.values() if task.state == READY]
    for event in events:
        if isinstance(event, Leased):
            if before.paused:
                return f"I7: {event!r}, but the queue is paused"
            if not ready:
                return f"I7: {event!r}, but nothing is ready"
            best = min(ready, key=lambda task: (-task.priority, task.place))
            if best.number != event.number:
                return f"I7: {event!r}, but {best.task_id!r} was first"
            ready.remove(best)
    return None


def broken(state: Readable) -> list[str]:
    """A sentence for each state invariant that does not hold."""
    return [sentence for check in STATE_CHECKS.values() if (sentence := check(state))]


def broken_by(before: Readable, events: Sequence[AnyEvent], after: Readable) -> list[str]:
    """A sentence for each invariant that the step from `before` to `after` breaks, those of `after` included."""
    return [sentence for check in STEP_CHECKS.values() if (sentence := check(before, events, after))] + broken(after)
