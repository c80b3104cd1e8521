"""The plain events of a queue, noted down as the bytes that they are in a log.

Lives here: how a plain Enqueued, Leased and Acked are written, and how what was written is read again. Must not: the
schema version, checksums, files (journal); what an event means (effects).

Nearly every event of a busy queue goes into the log, or into the index of recent ones, and is never looked at again.
So a batch does not make it: compiled, it writes the bytes that msgspec would make of it (msgpack,
https://github.com/msgpack/msgpack/blob/master/spec.md), which takes half the time of making an object and encoding
that. For the interpreter it is the other way round, and the events are kept as they are until somebody wants bytes.
tests/core/test_notes.py holds the two against each other. Who asks for the events gets events in both forms.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias, final

import msgspec
from librt.strings import BytesWriter, write_i32_be, write_i64_be
from mypy_extensions import i32, i64, u8

from moxy.core.events import Acked, AnyEvent, Enqueued, Leased
from moxy.core.form import IS_COMPILED

# As constants of this module they are at hand; names of another one compiled code looks up each time.
_ENQUEUED: Final[type[Enqueued]] = Enqueued
_LEASED: Final[type[Leased]] = Leased
_ACKED: Final[type[Acked]] = Acked

_PART: Final = 1000
"""Most events of one `Written`: what takes it in takes all of it in one go."""
_KEPT_BYTES_MAX: Final = 1024 * 1024
"""A writer that held more is let go of, with the memory that it has."""
# An array's head is 0x90 and its length, a short string's 0xA0 and its.
_ENQUEUED_HEAD: Final = b"\x9d\xa8Enqueued"
_LEASED_HEAD: Final = b"\x9b\xa6Leased"
_ACKED_HEAD: Final = b"\x97\xa5Acked"
PLAIN_TAIL: Final = b"\0\0\0\xff\0\0"
"""`priority` 0, `due_ms` 0 and so on: the rest of a task that asks for nothing of its own."""

_SHORT_HEADS: Final[list[bytes]] = [bytes([0x90 + count]) for count in range(16)]
_SHORT_TEXTS: Final[list[bytes]] = [bytes([0xA0 + size]) for size in range(32)]

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[AnyEvent])


@final
class Written:
    """Events of one queue that happened one after the other, `len` of them: a value."""

    __slots__ = ("_count", "_events", "_raw", "queue")

    def __init__(self, queue: str, count: int, raw: bytes, events: list[AnyEvent]) -> None:
        """`raw`: as bytes; else, if that is empty, as they are."""
        self.queue: Final = queue
        self._count: Final = count
        self._raw: Final = raw
        self._events: Final = events

    def __len__(self) -> int:
        return self._count

    def events(self) -> list[AnyEvent]:
        """As events."""
        return _decoder.decode(array_head(self._count) + self._raw) if self._raw else self._events

    def body(self) -> bytes:
        """As bytes: an array of msgpack without its head."""
        return self._raw or _body(self._events)


Happened: TypeAlias = Written | Sequence[AnyEvent]
"""Events in a row, in whatever form they came."""


def events_of(happened: Happened) -> Sequence[AnyEvent]:
    """As events."""
    return happened.events() if isinstance(happened, Written) else happened


def body_of(happened: Happened) -> bytes:
    """As bytes: an array of msgpack without its head."""
    return happened.body() if isinstance(happened, Written) else _body(happened)


def array_head(count: int) -> bytes:
    """What stands before an array of so many elements."""
    if count < 16:
        return _SHORT_HEADS[count]
    return b"\xdc" + count.to_bytes(2) if count < 1 << 16 else b"\xdd" + count.to_bytes(4)


def _body(events: Sequence[AnyEvent]) -> bytes:
    return _encoder.encode(events)[len(array_head(len(events))) :]


@final
class Notes:
    """All that happens to one queue in a batch. `count` events so far."""

    __slots__ = (
        *("_acked", "_enqueued", "_events", "_full", "_leased", "_noted", "_parts", "_worker", "_worker_raw"),
        *("count", "queue", "raw_queue", "writer"),
    )

    def __init__(self, queue: str, writer: BytesWriter | None = None) -> None:
        """`writer`: one that was used before, so that it need not grow again. What is in it is lost."""
        self.queue: Final = queue
        self.raw_queue: Final = queue.encode()
        self.writer = BytesWriter() if writer is None else writer
        self.writer.truncate(0)
        """For the next notes, after `parts`."""
        self.count = 0
        self._parts: Final[list[Written]] = []
        self._noted = 0
        """How many of them are in the parts."""
        self._full = _PART
        """At how many the next part is full."""
        self._events: list[AnyEvent] = []
        # How each kind begins. Most batches are small, and have one kind only.
        self._enqueued = b""
        self._leased = b""
        self._acked = b""
        self._worker = ""
        self._worker_raw = b""
        """The worker of the event before, and its bytes."""

    def enqueued(self, seq: int, at_ms: int, number: int, task_id: bytes, payload: bytes) -> None:
        """Note an Enqueued without options."""
        if IS_COMPILED:
            w = self.writer
            if not self._enqueued:
                self._enqueued = _head(_ENQUEUED_HEAD, self.raw_queue)
            w.write(self._enqueued)
            put_number(w, seq)
            put_number(w, at_ms)
            put_number(w, number)
            put_text(w, task_id)
            put_bytes(w, payload)
            w.write(PLAIN_TAIL)
        else:
            self._events.append(_ENQUEUED(self.queue, seq, at_ms, number, task_id.decode(), payload))
        self.count += 1
        if self.count == self._full:
            self._end_part()

    def leased(
        self,
        seq: int,
        at_ms: int,
        number: int,
        task_id: bytes,
        lease_id: bytes,
        token: int,
        deadline_ms: int,
        worker: str,
    ) -> None:
        """Note a Leased that is not bound."""
        if IS_COMPILED:
            if worker != self._worker:
                self._worker, self._worker_raw = worker, worker.encode()
            w = self.writer
            if not self._leased:
                self._leased = _head(_LEASED_HEAD, self.raw_queue)
            w.write(self._leased)
            put_number(w, seq)
            put_number(w, at_ms)
            put_number(w, number)
            put_text(w, task_id)
            put_text(w, lease_id)
            put_number(w, token)
            put_number(w, deadline_ms)
            put_text(w, self._worker_raw)
            w.append(0xC2)  # false
        else:
            event = _LEASED(
                self.queue, seq, at_ms, number, task_id.decode(), lease_id.decode(), token, deadline_ms, worker
            )
            self._events.append(event)
        self.count += 1
        if self.count == self._full:
            self._end_part()

    def acked(self, seq: int, at_ms: int, number: int, task_id: bytes, lease_id: bytes) -> None:
        """Note an Acked."""
        if IS_COMPILED:
            w = self.writer
            if not self._acked:
                self._acked = _head(_ACKED_HEAD, self.raw_queue)
            w.write(self._acked)
            put_number(w, seq)
            put_number(w, at_ms)
            put_number(w, number)
            put_text(w, task_id)
            put_text(w, lease_id)
        else:
            self._events.append(_ACKED(self.queue, seq, at_ms, number, task_id.decode(), lease_id.decode()))
        self.count += 1
        if self.count == self._full:
            self._end_part()

    def parts(self) -> list[Written]:
        """What was noted so far, in handy pieces."""
        self._end_part()
        return self._parts

    def events(self) -> list[AnyEvent]:
        """What was noted so far, as events."""
        return [event for part in self.parts() for event in part.events()]

    def _end_part(self) -> None:
        count = self.count - self._noted
        if count:
            raw = self.writer.getvalue()
            self._parts.append(Written(self.queue, count, raw, self._events))
            if self._events:
                self._events = []
            self._noted, self._full = self.count, self.count + _PART
            if len(raw) <= _KEPT_BYTES_MAX:
                self.writer.truncate(0)
            else:
                self.writer = BytesWriter()


# Msgpack, in the shortest form of each value, as msgspec writes it


def put_number(w: BytesWriter, n: i64) -> None:
    """A number from 0 on."""
    if n < 1 << 7:
        w.append(u8(n))
    elif n < 1 << 8:
        w.append(0xCC)
        w.append(u8(n))
    elif n < 1 << 16:
        w.append(0xCD)
        w.append(u8(n >> 8))
        w.append(u8(n & 0xFF))
    elif n < 1 << 32:
        w.append(0xCE)
        w.append(u8(n >> 24))
        w.append(u8(n >> 16 & 0xFF))
        w.append(u8(n >> 8 & 0xFF))
        w.append(u8(n & 0xFF))
    else:
        w.append(0xCF)
        write_i64_be(w, n)


def put_text(w: BytesWriter, raw: bytes) -> None:
    """A string, given as UTF-8."""
    size: i64 = len(raw)
    if size < 32:
        w.append(u8(0xA0 + size))
    else:
        _put_size(w, size, 0xD9)
    w.write(raw)


def put_bytes(w: BytesWriter, raw: bytes) -> None:
    """Bytes."""
    _put_size(w, len(raw), 0xC4)
    w.write(raw)


def _put_size(w: BytesWriter, size: i64, kind: u8) -> None:
    """`kind` of one byte's size; the next two kinds are those of two and four."""
    if size < 1 << 8:
        w.append(kind)
        w.append(u8(size))
    elif size < 1 << 16:
        w.append(kind + 1)
        w.append(u8(size >> 8))
        w.append(u8(size & 0xFF))
    else:
        w.append(kind + 2)
        write_i32_be(w, i32(size))


def heads_of(queue: bytes) -> tuple[bytes, bytes, bytes]:
    """How an Enqueued, a Leased and an Acked of the queue of that name begin."""
    return _head(_ENQUEUED_HEAD, queue), _head(_LEASED_HEAD, queue), _head(_ACKED_HEAD, queue)


def _head(kind: bytes, queue: bytes) -> bytes:
    # Of queues that have one event in a turn each has its own: a writer would take twice as long.
    size = len(queue)
    if size < 32:
        return kind + _SHORT_TEXTS[size] + queue
    w = BytesWriter()
    w.write(kind)
    put_text(w, queue)
    return w.getvalue()
