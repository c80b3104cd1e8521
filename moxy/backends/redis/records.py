"""What the scripts write and tell, as Moxy's own values: events of a stream or of a reply, records of tasks.

Lives here: reading of text, and of MessagePack, into structs. Must not: rules, or a connection.

An event in a stream is its fields by name, `type Leased at_ms 1700000000000 number 3 ...`; its entry id is `SEQ-0`.
In a reply it is an array, as the structs of `core.events` are, but without a payload.
A task's record is a JSON object in which what is absent is 0, "" or false.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, Union

import msgspec

from moxy.core.events import EVENT_TYPES, AnyEvent, Enqueued, Event, QueueConfigured, TaskEvent
from moxy.core.policy import RANGES, Policy
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, Death, Lease, Options, Tally, Task

Reader: TypeAlias = Callable[[Any], object]


class Record(msgspec.Struct, frozen=True, gc=False):
    """A task as the scripts keep it (docs/redis.md)."""

    id: str
    place: int
    placed_ms: int
    enqueued_ms: int
    state: str
    named: bool = False
    priority: int = 0
    due_ms: int = 0
    expires_ms: int = 0
    token: int = 0
    lease_id: str = ""
    deadline_ms: int = 0
    leased_ms: int = 0
    worker: str = ""
    bound: str = ""
    cause: str = ""
    reason: str = ""
    died_ms: int = 0
    death_seq: int = 0
    max_attempts: int = -1
    lease_ms: int = 0
    dedup_ms: int = 0
    attempts: int = 0
    deliveries: int = 0
    expiries: int = 0
    failures: int = 0
    releases: int = 0
    disconnects: int = 0
    ended: str = ""
    nack_reason: str = ""
    last_reason: str = ""


_RECORDS: Final = msgspec.json.Decoder(Record)


def _text(raw: bytes) -> str:
    return raw.decode()


def _flag(raw: bytes) -> bool:
    return int(raw) == 1


def _bytes(raw: bytes) -> bytes:
    return raw


_READERS: Final[dict[type, Reader]] = {int: int, bytes: _bytes, bool: _flag}


def _readers(event: type[Event]) -> dict[bytes, tuple[str, Reader]]:
    """Field in the stream -> name and reader; everything that is no number, flag or payload is text."""
    fields = msgspec.structs.fields(event)
    return {field.name.encode(): (field.name, _READERS.get(field.type, _text)) for field in fields}


class Told(TaskEvent, frozen=True, gc=False, tag="Enqueued", array_like=True):
    """Enqueued, as a script tells it: without the payload."""

    priority: int
    due_ms: int
    expires_ms: int
    max_attempts: int
    lease_ms: int
    dedup_ms: int


_TOLD: Final[msgspec.msgpack.Decoder[list[Any]]] = msgspec.msgpack.Decoder(
    list[Union[(Told, *(kind for kind in EVENT_TYPES if kind is not Enqueued))]],  # type: ignore[misc]  # made at run time
    strict=False,
)
"""Not strict: a script has most of its numbers as text."""


def events_of(packed: bytes, payloads: Sequence[bytes]) -> list[AnyEvent]:
    """The events that a script tells, with these payloads in those that made a task. Raises msgspec.DecodeError."""
    if not packed:
        return []
    told: list[AnyEvent | Told] = _TOLD.decode(packed)
    if not payloads:
        return told  # type: ignore[return-value]  # nothing was made, so no Told is in it
    rest = iter(payloads)
    return [_enqueued(event, next(rest)) if isinstance(event, Told) else event for event in told]


def _enqueued(e: Told, payload: bytes) -> Enqueued:
    return Enqueued(
        e.queue,
        e.seq,
        e.at_ms,
        e.number,
        e.task_id,
        payload,
        e.priority,
        e.due_ms,
        e.expires_ms,
        e.max_attempts,
        e.lease_ms,
        e.dedup_ms,
    )


_KINDS: Final = {cls.__name__.encode(): (cls, _readers(cls)) for cls in EVENT_TYPES}


def event_of(queue: str, seq: int, fields: Sequence[Any]) -> AnyEvent:
    """The event whose fields are `type KIND at_ms N name value ...`. Raises ValueError for what is none."""
    if len(fields) < 4 or fields[0] != b"type" or fields[1] not in _KINDS or fields[2] != b"at_ms":
        raise ValueError(f"entry {seq} of the stream of queue {queue!r} is no event")
    cls, readers = _KINDS[fields[1]]
    at_ms = int(fields[3])
    if cls is QueueConfigured:
        pairs = zip(fields[4::2], fields[5::2], strict=True)
        return QueueConfigured(queue, seq, at_ms, Policy(**{name.decode(): int(value) for name, value in pairs}))
    values: dict[str, object] = {}
    for at in range(4, len(fields), 2):
        name, read = readers[fields[at]]
        values[name] = read(fields[at + 1])
    event: AnyEvent = cls(queue, seq, at_ms, **values)  # type: ignore[assignment]
    return event


def task_of(number: int, record: bytes, payload: bytes) -> Task:
    """A task from its record and payload. Raises msgspec.DecodeError for what is no record."""
    r = _RECORDS.decode(record)
    lease = Lease(r.lease_id, r.token, r.deadline_ms, r.leased_ms, r.worker, bool(r.bound)) if r.lease_id else None
    death = Death(r.cause, r.reason, r.died_ms, r.death_seq) if r.cause else None  # type: ignore[arg-type]
    options = Options(r.max_attempts, r.lease_ms, r.dedup_ms)
    tally = Tally(
        r.attempts,
        r.deliveries,
        r.expiries,
        r.failures,
        r.releases,
        r.disconnects,
        r.ended,
        r.nack_reason,
        r.last_reason,
    )
    return Task(
        number=number,
        task_id=r.id,
        payload=payload,
        priority=r.priority,
        place=r.place,
        placed_ms=r.placed_ms,
        enqueued_ms=r.enqueued_ms,
        state=r.state,
        due_ms=r.due_ms,
        expires_ms=r.expires_ms,
        token=r.token,
        lease=lease,
        death=death,
        options=NO_OPTIONS if options == NO_OPTIONS else options,
        tally=NO_TALLY if tally == NO_TALLY else tally,
    )


def policy_of(values: Sequence[int]) -> Policy:
    """A policy from its values in the order of its fields."""
    return Policy(**dict(zip(RANGES, values, strict=True)))
