"""Tasks in short (`tasks.Entry`), and in full again. Those of a long backlog are bytes: half the memory, for a fraction
of a microsecond when their turn comes.

Lives here: the short forms, which never leave the process. Must not: where they are kept (heart).

Only a ready task to which nothing has happened yet, and that asks for nothing of its own, is packed: the task of
every backlog. Its four values are one msgpack array; a task of 100 bytes takes 176 instead of 400.
"""

from typing import Final

import msgspec

from moxy.core.events import Enqueued, Leased
from moxy.core.lifecycle import PROCESSING, READY
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, Entry, Lease, Tally, Task

FIRST_DELIVERY: Final = Tally(deliveries=1)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(tuple[str, bytes, int, int])


def pack(task_id: str, payload: bytes, priority: int, enqueued_ms: int) -> bytes:
    """The packed form of such a task; its number is known by where it is kept."""
    return _encoder.encode((task_id, payload, priority, enqueued_ms))


def unpack(number: int, packed: bytes) -> Task:
    """The task again."""
    task_id, payload, priority, enqueued_ms = _decoder.decode(packed)
    return Task(number, task_id, payload, priority, number, enqueued_ms, enqueued_ms, READY)


def unfold(number: int, entry: Entry) -> Task:
    """The task in full."""
    if isinstance(entry, Task):
        return entry
    if isinstance(entry, bytes):
        return unpack(number, entry)
    if isinstance(entry, Enqueued):
        at_ms = entry.at_ms
        return Task(number, entry.task_id, entry.payload, entry.priority, number, at_ms, at_ms, READY)
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
        token=entry.leased.token,
        lease=lease_of(entry.leased),
        tally=FIRST_DELIVERY,
    )


def lease_of(e: Leased) -> Lease:
    """The lease that begins with this event."""
    return Lease(e.lease_id, e.token, e.deadline_ms, e.at_ms, e.worker, e.bound)


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
