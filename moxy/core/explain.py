"""Events told to people: one event as fields, one task's life as sentences.

Lives here: wording. Must not: read a log or know where the events come from; whoever has them passes them in.
Times are shown in UTC with milliseconds, computed from the events alone.
"""

from collections.abc import Sequence

import msgspec

from moxy.core.events import (
    Acked,
    AnyEvent,
    DeadLettered,
    Deleted,
    Enqueued,
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
from moxy.core.policy import Policy

Field = str | int | bool | bytes


def fields(event: AnyEvent) -> dict[str, Field]:
    """The event's kind under `event`, then its own fields; a policy is spread out."""
    told: dict[str, Field] = {"event": type(event).__name__}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, Policy):
            told.update(msgspec.structs.asdict(value))
        else:
            told[name] = value
    return told


def concerns(event: AnyEvent, number: int) -> bool:
    """Whether the event is one of that task. A purge is not: it names no task."""
    return isinstance(event, TaskEvent) and event.number == number


def why(task_id: str, events: Sequence[AnyEvent], cut: bool) -> list[str]:
    """Why a task was delivered as often as it was: a summary first, then what happened, in order.

    `events` are those of one task, oldest first; `cut` says that the log no longer reaches back to its beginning.
    """
    sentences = [_summary(task_id, events)]
    if cut:
        sentences.append("The log no longer reaches back to the beginning of this task: what came before is not told.")
    held: Leased | None = None
    deadline_ms = 0
    deliveries = 0
    for event in events:
        if isinstance(event, Leased):
            held, deadline_ms = event, event.deadline_ms
            deliveries += 1
        sentences.append(f"{clock(event.at_ms)} #{event.seq} {_sentence(event, held, deadline_ms, deliveries)}")
        if isinstance(event, Extended):
            deadline_ms = event.deadline_ms
    return sentences


def _summary(task_id: str, events: Sequence[AnyEvent]) -> str:
    deliveries = sum(isinstance(event, Leased) for event in events)
    ends = [_end(event) for event in events if isinstance(event, Expired | Failed | Released)]
    last = _now(events[-1]) if events else "is not known"
    if deliveries == 0:
        return f"Task {task_id} was never delivered, and {last}."
    if deliveries == 1 and not ends:
        return f"Task {task_id} was delivered once, and {last}."
    times = "once" if deliveries == 1 else f"{deliveries} times"
    counted = [f"{n} of them because {end}" if n > 1 else f"once because {end}" for end, n in _count(ends)]
    again = f"It came back {' and '.join(counted)}; it" if counted else "It"
    return f"Task {task_id} was delivered {times}. {again} {last}."


def _count(ends: Sequence[str]) -> list[tuple[str, int]]:
    return [(end, ends.count(end)) for end in dict.fromkeys(ends)]


def _end(event: Expired | Failed | Released) -> str:
    if isinstance(event, Expired):
        return "a lease expired"
    if isinstance(event, Failed):
        return "a worker gave up" + (f" ({event.reason})" if event.reason else "")
    return {
        "worker": "a worker released it",
        "undelivered": "the reply could not be delivered",
        "rollback": "Redis had lost events, and no lease from before counts any more",
        "disconnect": "a worker's connection closed",
    }[event.cause]


def _now(event: AnyEvent) -> str:
    if isinstance(event, Acked):
        return "is done"
    if isinstance(event, Deleted):
        return "was deleted"
    if isinstance(event, DeadLettered):
        return f"is a dead letter ({event.cause}: {event.reason})"
    if isinstance(event, Leased | Extended):
        return "is being worked on"
    if isinstance(event, Enqueued | Requeued) and event.due_ms:
        return f"waits until {clock(event.due_ms)}"
    return "is ready"


def _sentence(event: AnyEvent, held: Leased | None, deadline_ms: int, deliveries: int) -> str:
    """What one event says. `held` is the latest lease before or at it."""
    if isinstance(event, Enqueued):
        later = f", not before {clock(event.due_ms)}" if event.due_ms else ""
        return f"It was enqueued with {len(event.payload)} bytes and priority {event.priority}{later}."
    if isinstance(event, Matured):
        return "Its time came: it was ready."
    if isinstance(event, Leased):
        who = event.worker or "a worker without a name"
        return f"Delivery {deliveries}: {who} leased it until {clock(event.deadline_ms)} with token {event.token}."
    if isinstance(event, Extended):
        return f"The worker extended its lease from {clock(deadline_ms)} to {clock(event.deadline_ms)}."
    if isinstance(event, Acked):
        return f"{_holder(held)} acknowledged it, {_after(event.at_ms, held)}. It is done."
    if isinstance(event, Expired):
        return (
            f"The lease expired, {event.at_ms - deadline_ms} ms after its deadline: {_holder(held)} had not "
            f"acknowledged, given up or extended it. That is attempt {event.attempts}. An ACK with that lease is "
            "refused from here on."
        )
    if isinstance(event, Failed):
        said = f", saying {event.reason!r}" if event.reason else ""
        return f"{_holder(held)} gave up{said}, {_after(event.at_ms, held)}. That is attempt {event.attempts}."
    if isinstance(event, Released):
        charged = f"That is attempt {event.attempts}." if event.cause == "disconnect" else "No attempt was charged."
        return f"It went back to its place because {_end(event).replace('a worker', _holder(held))}. {charged}"
    if isinstance(event, Requeued):
        return f"It waits until {clock(event.due_ms)} (backoff)." if event.due_ms else "It was ready again."
    if isinstance(event, DeadLettered):
        return f"It was set aside after {event.attempts} attempts: {event.cause}, {event.reason}."
    if isinstance(event, Redriven):
        return "An operator redrove it: ready at the end of the queue, attempts at 0."
    if isinstance(event, Deleted | Purged):
        return "An operator deleted it."
    return f"{type(event).__name__}."


def _holder(held: Leased | None) -> str:
    return held.worker if held is not None and held.worker else "the worker"


def _after(at_ms: int, held: Leased | None) -> str:
    return "under its lease" if held is None else f"{at_ms - held.at_ms} ms after leasing it"


def clock(at_ms: int) -> str:
    """Milliseconds since 1970 as `YYYY-MM-DD HH:MM:SS.mmm` UTC.

    By arithmetic (Howard Hinnant's civil_from_days), because the core may not import a clock, nor what holds one.
    """
    days, ms = divmod(at_ms, 86_400_000)
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    seconds, ms = divmod(ms, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}"
