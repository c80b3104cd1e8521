"""Millions of events folded in place: how a start makes its queues out of the log.

Lives here: folds of which nobody wants the states in between, and a short cut from the bytes of plain events to their
effect. Must not: what an event does (effects), files, checksums, versions of the schema (journal).

It is what `Notes` and `Batch` are to a busy server, the other way round. A log is nearly all plain Enqueued, Leased and
Acked; compiled, they are read out of the record's bytes and take effect without having been objects. What is not quite
plain, or not quite right, is decoded by msgspec and goes the usual way, which also says what is wrong with it.
"""

from collections.abc import Iterable, Mapping
from typing import Final, final

import msgspec
from librt.strings import read_i64_be
from msgspec.structs import astuple
from mypy_extensions import i64

from moxy.core.effects import drop_held, happen_with, lease_first, put_fresh
from moxy.core.events import AnyEvent
from moxy.core.form import IS_COMPILED
from moxy.core.heart import Heart
from moxy.core.ids import raw_tells_number
from moxy.core.notes import PLAIN_TAIL, array_head, heads_of
from moxy.core.packing import Fresh, Held, unpack
from moxy.core.state import DEFAULT_POLICY, QueueState
from moxy.core.tasks import PRIORITY_MAX

_astuple: Final = astuple
_decoder: Final = msgspec.msgpack.Decoder(AnyEvent)
_list_decoder: Final = msgspec.msgpack.Decoder(list[AnyEvent])
_AFTER_PRIORITY: Final = PLAIN_TAIL[1:]
_NONE: Final = -1
_DEPTH_MAX: Final = 8


@final
class Unreadable(Exception):
    """The bytes are no events."""


@final
class Folding:
    """Many queues folded in place: no state exists until `states` hands them all over, and then the folding is over."""

    __slots__ = (
        *("_acked", "_at", "_enqueued", "_heads", "_heart", "_hearts", "_leased", "_raw", "_worker", "_worker_raw"),
    )

    def __init__(self, states: Mapping[str, QueueState]) -> None:
        """From `states` on, which are used up: nobody can read them any more."""
        self._hearts: dict[str, Heart] = {queue: state.give_up() for queue, state in states.items()}
        self._heart: Heart | None = None
        """The queue of the event before, and how its plain events begin."""
        self._enqueued = self._leased = self._acked = b"-"
        self._heads: Final[dict[bytes, tuple[Heart, bytes, bytes, bytes]]] = {}
        self._raw = b""
        self._at: i64 = 0
        self._worker = ""
        self._worker_raw = b""
        """The worker of the lease before, and its bytes."""

    def fold(self, events: Iterable[AnyEvent]) -> None:
        """Take events in. Raises IllegalEvent."""
        heart: Heart | None = None
        for event in events:
            fields = _astuple(event)
            queue: str = fields[0]
            if heart is None or queue != heart.name:
                heart = self._heart_of(queue)
            happen_with(heart, event, fields)

    def fold_body(self, raw: bytes, at: int, count: int) -> None:
        """Take in `count` events from `at` to the end of `raw`. Raises IllegalEvent, Unreadable."""
        try:
            if IS_COMPILED:
                self.fold_by_bytes(raw, at, count)
            else:
                self.fold(_list_decoder.decode(array_head(count) + raw[at:]))
        except (msgspec.DecodeError, IndexError, UnicodeDecodeError) as e:
            raise Unreadable(str(e)) from None

    def fold_by_bytes(self, raw: bytes, at: int, count: int) -> None:
        """`fold_body` for a compiler."""
        self._raw, self._at = raw, at
        for _ in range(count):
            start = self._at
            try:
                is_plain = self._fold_plain()
            except (IndexError, ValueError):  # it is none, or a number is too large; nothing has happened
                is_plain = False
            if not is_plain:
                self._at = start
                self._skip(_DEPTH_MAX)
                self.fold((_decoder.decode(raw[start : self._at]),))
        if self._at != len(raw):
            raise Unreadable("it does not end where its events do")

    def states(self) -> dict[str, QueueState]:
        """What it comes to."""
        hearts, self._hearts = self._hearts, {}
        self._heart = None
        self._heads.clear()
        return {queue: QueueState("", DEFAULT_POLICY, heart) for queue, heart in hearts.items()}

    def _heart_of(self, queue: str) -> Heart:
        heart = self._hearts.get(queue)
        if heart is None:
            heart = self._hearts[queue] = Heart(queue, DEFAULT_POLICY)
        return heart

    # Plain events

    def _fold_plain(self) -> bool:
        """Fold the event there, unless it is unusual: then nothing has happened."""
        kind: i64 = self._raw[self._at]
        if kind == 0x9D:
            return (self._begins(self._enqueued) or (self._turn() and self._begins(self._enqueued))) and self._enqueue()
        if kind == 0x9B:
            return (self._begins(self._leased) or (self._turn() and self._begins(self._leased))) and self._lease()
        if kind == 0x97:
            return (self._begins(self._acked) or (self._turn() and self._begins(self._acked))) and self._ack()
        return False

    def _enqueue(self) -> bool:
        h = self._heart
        assert h is not None
        seq, at_ms, number = self._number(), self._number(), self._number()
        task_id = self._text()
        payload = self._bytes()
        priority: i64 = self._raw[self._at]
        end = self._at + len(PLAIN_TAIL)
        if (
            not _follows(h, seq, at_ms)
            or number != h.next_number
            or priority > PRIORITY_MAX
            or self._raw[self._at + 1 : end] != _AFTER_PRIORITY
        ):
            return False
        if not task_id.isascii():
            task_id.decode()
        if not raw_tells_number(task_id, number):
            name = task_id.decode()
            if h.number_of(name) is not None:
                return False
            h.name_it(name, number)
        elif h.names is not None and task_id.decode() in h.names:
            return False
        self._at = end
        put_fresh(h, number, task_id, payload, priority, at_ms)
        h.seq, h.at_ms = seq, at_ms
        return True

    def _lease(self) -> bool:
        h = self._heart
        assert h is not None
        seq, at_ms, number = self._number(), self._number(), self._number()
        task_id, lease_id = self._text(), self._text()
        token, deadline_ms = self._number(), self._number()
        worker_raw = self._text()
        bound: i64 = self._raw[self._at] - 0xC2
        fresh = h.tasks.get(number)
        if isinstance(fresh, bytes):
            fresh = unpack(fresh)
        if not isinstance(fresh, Fresh):
            return False
        lane = h.lane(fresh.priority)
        if (
            fresh.task_id != task_id
            or not _follows(h, seq, at_ms)
            or token <= h.last_token
            or deadline_ms < 0
            or not 0 <= bound <= 1
        ):
            return False
        if not lease_id.isascii():
            lease_id.decode()
        if worker_raw != self._worker_raw:
            self._worker, self._worker_raw = worker_raw.decode(), worker_raw
        self._at += 1
        held = Held(fresh, fresh.task_id, lease_id, token, deadline_ms, at_ms, self._worker, bound == 1)
        lease_first(h, lane, number, number, fresh, held, token, deadline_ms)
        h.seq, h.at_ms = seq, at_ms
        return True

    def _ack(self) -> bool:
        h = self._heart
        assert h is not None
        seq, at_ms, number = self._number(), self._number(), self._number()
        task_id, lease_id = self._text(), self._text()
        held = h.tasks.get(number)
        if (
            not isinstance(held, Held)
            or held.task_id != task_id
            or held.lease_id != lease_id
            or not _follows(h, seq, at_ms)
        ):
            return False
        if h.names is not None:
            h.unname(task_id.decode())
        drop_held(h, number, held)
        h.seq, h.at_ms = seq, at_ms
        return True

    def _begins(self, head: bytes) -> bool:
        """Whether the event there begins like that, and is thus one of the same queue as before; go on behind it."""
        end = self._at + len(head)
        if self._raw[self._at : end] != head:
            return False
        self._at = end
        return True

    def _turn(self) -> bool:
        """Turn to the queue of the event there, if it is known."""
        start = self._at
        self._at += 1
        self._text()  # its kind
        raw_queue = self._text()
        self._at = start
        known = self._heads.get(raw_queue)
        if known is None:
            heart = self._hearts.get(raw_queue.decode())
            if heart is None:
                return False
            enqueued, leased, acked = heads_of(raw_queue)
            known = self._heads[raw_queue] = (heart, enqueued, leased, acked)
        self._heart, self._enqueued, self._leased, self._acked = known
        return True

    # Msgpack

    def _number(self) -> i64:
        """A number from 0 on; `_NONE`: it is something else."""
        raw, at = self._raw, self._at
        first: i64 = raw[at]
        n: i64
        if first < 0x80:
            self._at = at + 1
            return first
        if first == 0xCC:
            self._at = at + 2
            n = raw[at + 1]
            return n
        if first == 0xCD:
            self._at = at + 3
            return _big_endian(raw, at + 1, 2)
        if first == 0xCE:
            self._at = at + 5
            return _big_endian(raw, at + 1, 4)
        if first == 0xCF:
            self._at = at + 9
            return read_i64_be(raw, at + 1)
        return _NONE

    def _text(self) -> bytes:
        """A string, as UTF-8."""
        raw, at = self._raw, self._at
        first: i64 = raw[at]
        if 0xA0 <= first < 0xC0:
            return self._take(at + 1, first - 0xA0)
        return self._sized(first - 0xD9)

    def _bytes(self) -> bytes:
        """Bytes."""
        return self._sized(self._raw[self._at] - 0xC4)

    def _sized(self, kind: i64) -> bytes:
        """What has its size before it in 1, 2 or 4 bytes: kinds 0, 1 and 2."""
        if not 0 <= kind <= 2:
            raise IndexError("a string or bytes should be there")
        width: i64 = 1
        if kind > 0:
            width = 2 * kind
        at = self._at + 1
        return self._take(at + width, _big_endian(self._raw, at, width))

    def _take(self, at: i64, size: i64) -> bytes:
        self._at = at + size
        return self._raw[at : at + size]

    def _skip(self, depth: i64) -> None:
        """Go on behind whatever is there, of what events are made of, if it is no deeper than that."""
        first: i64 = self._raw[self._at]
        if first < 0x80 or first >= 0xE0 or first == 0xC0 or first == 0xC2 or first == 0xC3:
            self._at += 1
        elif first < 0x90:
            self._skip_many(2 * (first - 0x80), depth)
        elif first < 0xA0:
            self._skip_many(first - 0x90, depth)
        elif first < 0xC0 or 0xD9 <= first <= 0xDB:
            self._text()
        elif 0xC4 <= first <= 0xC6:
            self._bytes()
        elif 0xCC <= first <= 0xCF:
            self._at += 1 + (1 << (first - 0xCC))
        elif 0xD0 <= first <= 0xD3:
            self._at += 1 + (1 << (first - 0xD0))
        else:
            raise IndexError("what is there is of no kind that events are made of")

    def _skip_many(self, count: i64, depth: i64) -> None:
        if not depth:
            raise IndexError("what is there is deeper than any event")
        self._at += 1
        while count > 0:
            self._skip(depth - 1)
            count -= 1


def _follows(h: Heart, seq: i64, at_ms: i64) -> bool:
    """Whether a plain event of that sequence and time is next, and the queue has nothing unusual to do with it."""
    return seq == h.seq + 1 and at_ms >= h.at_ms and h.dedup is None and h.born_ms != 0


def _big_endian(raw: bytes, at: i64, width: i64) -> i64:
    n: i64 = 0
    end = at + width
    while at < end:
        n = n << 8 | raw[at]
        at += 1
    return n
