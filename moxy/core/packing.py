"""Tasks in short, and in full again: the forms in which a queue keeps those to which nothing unusual happened.

Lives here: the short forms, which never leave the process. Must not: where they are kept (heart).

A task that asks for nothing of its own is `Fresh` until it is leased, and `Held` under its first lease: native objects,
which compiled code makes and reads several times as fast as structs, and with ids as bytes, as clients send them and
get them. Those of a long backlog are packed: one msgpack array, 171 bytes for a task of 100 instead of 400, for a
fraction of a microsecond when their turn comes.
"""

from typing import Final, TypeAlias, final

import msgspec

from moxy.core.lifecycle import PROCESSING, READY
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, Lease, Tally, Task

_SMALL_BYTES: Final = 512
"""CPython keeps objects up to that size close together (its `pymalloc`)."""

FIRST_DELIVERY: Final = Tally(deliveries=1)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes, int, int])


@final
class Fresh:
    """A ready task that asks for nothing of its own and to which nothing has happened: a value."""

    __slots__ = ("enqueued_ms", "payload", "priority", "task_id")

    def __init__(self, task_id: bytes, payload: bytes, priority: int, enqueued_ms: int) -> None:
        self.task_id: Final = task_id
        self.payload: Final = payload
        self.priority: Final = priority
        self.enqueued_ms: Final = enqueued_ms


@final
class Held:
    """A task under its first lease, that asks for nothing of its own: what it was before, and the lease. A value."""

    __slots__ = ("bound", "deadline_ms", "fresh", "lease_id", "leased_ms", "task_id", "token", "worker")

    def __init__(
        self,
        fresh: Fresh | Task,
        task_id: bytes,
        lease_id: bytes,
        token: int,
        deadline_ms: int,
        leased_ms: int,
        worker: str,
        bound: bool,
    ) -> None:
        self.fresh: Final = fresh
        self.task_id: Final = task_id
        self.lease_id: Final = lease_id
        self.token: Final = token
        self.deadline_ms: Final = deadline_ms
        self.leased_ms: Final = leased_ms
        self.worker: Final = worker
        self.bound: Final = bound


Entry: TypeAlias = Task | Fresh | Held | bytes
"""How a queue keeps a task: in full, or in short. `unfold` tells any."""


def pack(task_id: bytes, payload: bytes, priority: int, enqueued_ms: int) -> bytes:
    """The packed form of a fresh task; its number is known by where it is kept."""
    packed = _encoder.encode((task_id, payload, priority, enqueued_ms))
    # The encoder cuts its result out of a block of 512 bytes or more; what is left of that is of no use to anybody.
    return packed if len(packed) > _SMALL_BYTES else bytes(memoryview(packed))


def unpack(packed: bytes) -> Fresh:
    """The task again."""
    task_id, payload, priority, enqueued_ms = _decoder.decode(packed)
    return Fresh(task_id, payload, priority, enqueued_ms)


def unfold(number: int, entry: Entry) -> Task:
    """The task in full."""
    if isinstance(entry, Task):
        return entry
    if isinstance(entry, bytes):
        entry = unpack(entry)
    if isinstance(entry, Fresh):
        at_ms = entry.enqueued_ms
        return Task(number, entry.task_id.decode(), entry.payload, entry.priority, number, at_ms, at_ms, READY)
    task = unfold(number, entry.fresh)
    return Task(
        number,
        task.task_id,
        task.payload,
        task.priority,
        number,
        task.placed_ms,
        task.enqueued_ms,
        PROCESSING,
        token=entry.token,
        lease=Lease(
            entry.lease_id.decode(), entry.token, entry.deadline_ms, entry.leased_ms, entry.worker, entry.bound
        ),
        tally=FIRST_DELIVERY,
    )


def can_be_packed(task: Task) -> bool:
    """Whether nothing would be lost."""
    return (
        task.state == READY
        and task.place == task.number
        and task.tally == NO_TALLY
        and task.options == NO_OPTIONS
        and not task.expires_ms
        and not task.token
        and task.placed_ms == task.enqueued_ms
    )
