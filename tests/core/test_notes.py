"""Notes of plain events: the bytes are those that msgspec makes of the events, and the events come back.

Lives here: notes against msgspec, in the form that runs and, byte by byte, in both. Must not: batches (test_batch).
"""

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from librt.strings import BytesWriter

from moxy.core import ids, notes
from moxy.core.events import Acked, AnyEvent, Enqueued, Leased, QueuePaused
from moxy.core.notes import Notes, Written, array_head, body_of, events_of, put_bytes, put_number, put_text
from moxy.journal import codec

EDGES = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1]
SIZES = [0, 1, 31, 32, 255, 256, 65535, 65536]
NUMBERS = st.sampled_from(EDGES) | st.integers(0, 2**63 - 1)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
PAYLOADS = st.binary(max_size=300)


@pytest.mark.parametrize("number", EDGES)
def test_a_number_is_as_msgspec_writes_it(number: int) -> None:
    w = BytesWriter()
    put_number(w, number)
    assert w.getvalue() == msgspec.msgpack.encode(number)


@pytest.mark.parametrize("size", SIZES)
def test_text_and_bytes_are_as_msgspec_writes_them(size: int) -> None:
    w = BytesWriter()
    put_text(w, b"x" * size)
    put_bytes(w, b"y" * size)
    assert w.getvalue() == msgspec.msgpack.encode("x" * size) + msgspec.msgpack.encode(b"y" * size)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_an_array_s_head_is_as_msgspec_writes_it(count: int) -> None:
    assert array_head(count) + b"\0" * count == msgspec.msgpack.encode([0] * count)


@dataclass
class Noted:
    """Notes, and the events that they should be."""

    notes: Notes
    events: list[AnyEvent]

    def enqueue(self, seq: int, at_ms: int, number: int, task_id: str, payload: bytes) -> None:
        self.notes.enqueued(seq, at_ms, number, task_id.encode(), payload)
        self.events.append(Enqueued(self.notes.queue, seq, at_ms, number, task_id, payload))

    def lease(self, seq: int, at_ms: int, number: int, task_id: str, token: int, due_ms: int, worker: str) -> None:
        lease_id = f"{self.notes.queue}:{number}:{token}:{'0' * 16}"
        self.notes.leased(seq, at_ms, number, task_id.encode(), lease_id.encode(), token, due_ms, worker)
        self.events.append(Leased(self.notes.queue, seq, at_ms, number, task_id, lease_id, token, due_ms, worker))

    def ack(self, seq: int, at_ms: int, number: int, task_id: str, lease_id: str) -> None:
        self.notes.acked(seq, at_ms, number, task_id.encode(), lease_id.encode())
        self.events.append(Acked(self.notes.queue, seq, at_ms, number, task_id, lease_id))

    def check(self) -> None:
        parts = self.notes.parts()
        assert [event for part in parts for event in part.events()] == self.events == self.notes.events()
        assert b"".join(map(body_of, parts)) == b"".join(map(msgspec.msgpack.encode, self.events))
        assert codec.decode(codec.encode_all(parts)) == self.events
        assert codec.encode_all(parts) == codec.encode(self.events)
        assert sum(map(len, parts)) == len(self.events) == self.notes.count
        assert {part.queue for part in parts} <= {self.notes.queue}


FORMS = pytest.mark.parametrize("writes_bytes", [True, False])


@FORMS
@settings(max_examples=100)
@given(st.data())
def test_what_is_noted_is_what_would_have_been_made(writes_bytes: bool, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notes, "IS_COMPILED", writes_bytes)  # no effect on compiled code, which writes bytes in any case
        noted = Noted(Notes(data.draw(NAMES)), [])
        for _ in range(data.draw(st.integers(0, 6))):
            seq, at_ms, number, token, due_ms = (data.draw(NUMBERS) for _ in range(5))
            name, other = data.draw(NAMES), data.draw(NAMES)
            kind = data.draw(st.sampled_from("ELA"))
            if kind == "E":
                noted.enqueue(seq, at_ms, number, name, data.draw(PAYLOADS))
            elif kind == "L":
                noted.lease(seq, at_ms, number, name, token, due_ms, data.draw(st.sampled_from(("", "w", other))))
            else:
                noted.ack(seq, at_ms, number, name, other)
            if data.draw(st.booleans()):
                noted.check()  # somebody may ask between two notes
        noted.check()


@FORMS
def test_many_notes_come_in_handy_parts(writes_bytes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "IS_COMPILED", writes_bytes)
    noted = Noted(Notes("jobs"), [])
    for number in range(1, 2501):
        noted.enqueue(number, 1000 + number, number, str(number), b"x" * (number % 7))
    assert [len(part) for part in noted.notes.parts()] == [1000, 1000, 500]
    noted.check()


def test_notes_and_other_events_make_one_record() -> None:
    first, second = Noted(Notes("jobs"), []), Noted(Notes("mail"), [])
    first.enqueue(1, 1, 1, "a", b"")
    second.ack(9, 2, 1, "b", "l")
    paused: list[AnyEvent] = [QueuePaused("jobs", 2, 3), QueuePaused("other", 7, 3)]
    happened = [*first.notes.parts(), paused, *second.notes.parts()]
    assert codec.decode(codec.encode_all(happened)) == [*first.events, *paused, *second.events]
    assert [list(events_of(some)) for some in happened] == [first.events, paused, second.events]


def test_a_part_is_a_value() -> None:
    noted = Noted(Notes("jobs"), [])
    noted.enqueue(1, 5, 1, "a", b"x")
    [part] = noted.notes.parts()
    noted.enqueue(2, 6, 2, "b", b"y")
    assert isinstance(part, Written)
    assert (len(part), part.events()) == (1, noted.events[:1])
    noted.check()


@settings(max_examples=200)
@given(NUMBERS, NUMBERS, NAMES)
@example(999, 1000, "q")
@example(1_000_000, 1_000_001_000, "q:1")
def test_ids_as_bytes_are_the_ids(number: int, token: int, queue: str) -> None:
    nonce = ids.digits(number ^ token)
    for compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ids, "IS_COMPILED", compiled)
            assert ids.raw_task_id(number, nonce.encode()) == ids.task_id(number, nonce).encode()
            made = ids.raw_lease_id(queue.encode(), number, token, nonce.encode())
            assert made == ids.lease_id(queue, number, token, nonce).encode()
