"""The bytes of a log under cuts, flipped bits and torn writes: an exact prefix, or a refusal. Never a wrong answer."""

import random
import struct
from bisect import bisect_right
from itertools import pairwise

import pytest

from moxy.core.events import AnyEvent
from moxy.journal import codec, frames, recovery
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import Damaged, End, Head, Place, Record, Torn
from moxy.journal.recovery import Recovered
from spec.simdisk import SimDisk
from tests.journal.storekeeper import LOG_ID, T0_MS, differences, folded, random_batches

NAME = f"{1:020d}.log"


def a_log(
    batches: list[list[AnyEvent]], size_bytes: int = 0, in_flight: bool = False
) -> tuple[bytes, list[int], list[int]]:
    """A log file, the offsets at which its records end, and how many events there are up to each.

    `in_flight`: no sync returned while it was written.
    """
    data = frames.encode_head(frames.LOG_MAGIC, Head(LOG_ID, 1, T0_MS, 0))
    place = Place(len(data), 1, 0)
    ends, events = [place.at_bytes], [0]
    for batch in batches:
        synced = 0 if in_flight else place.sequence - 1
        record, place = frames.encode(codec.encode(batch), len(batch), synced, place, LOG_ID)
        data += record
        assert place.at_bytes == len(data)
        ends.append(place.at_bytes)
        events.append(place.sequence - 1)
    return data.ljust(size_bytes, b"\0"), ends, events


def read_back(data: bytes) -> Recovered:
    return recovery.recover(SimDisk({NAME: data}))


def eight_kilobytes(seed: int = 8) -> tuple[list[list[AnyEvent]], bytes, list[int], list[int]]:
    batches = random_batches(seed, 200)
    for count in range(len(batches)):
        data, ends, events = a_log(batches[:count])
        if len(data) > 7900:
            return batches[:count], data, ends, events
    raise AssertionError("the workload makes too small a log")


def wrong_when_cut(
    data: bytes, ends: list[int], events: list[int], batches: list[list[AnyEvent]], offsets: range
) -> int:
    flat = [event for batch in batches for event in batch]
    states = [folded(flat[:count]) for count in events] if len(events) < 500 else []
    wrong = 0
    for cut in offsets:
        whole = sum(end <= cut for end in ends[1:])
        recovered = read_back(data[:cut])
        assert recovered.last_sequence == events[whole], cut
        assert bool(recovered.torn) == (cut not in ends), cut
        assert bool(recovered.warnings) == bool(recovered.torn), cut
        if states and cut in (ends[whole], ends[whole] + 1):
            wrong += bool(differences(recovered.states, states[whole]))
    return wrong


def test_a_log_cut_at_any_byte_recovers_to_the_exact_prefix() -> None:
    batches, data, ends, events = eight_kilobytes()
    assert wrong_when_cut(data, ends, events, batches, range(len(data) + 1)) == 0


def test_a_log_written_up_to_any_byte_of_a_zeroed_file_recovers_to_the_exact_prefix() -> None:
    _, data, ends, _ = eight_kilobytes()
    for cut in range(frames.HEAD_BYTES, len(data) + 1):
        zeroed = data[:cut].ljust(16_384, b"\0")
        index = bisect_right(ends, cut) - 1
        recovered = frames.read(zeroed, _place_at(data, ends, index), LOG_ID)
        assert isinstance(recovered, Torn if any(data[ends[index] : cut]) else End), cut


@pytest.mark.deep
def test_a_long_log_cut_at_any_byte_recovers_to_the_exact_prefix() -> None:
    # Every offset of a megabyte: the frames alone judge it, the states at the ends of records only.
    batches = random_batches(1, 4500, payload_bytes=60)
    data, ends, events = a_log(batches)
    assert len(data) > 1 << 20
    for cut in range(frames.HEAD_BYTES, len(data) + 1):
        index = bisect_right(ends, cut) - 1
        place = _place_at(data, ends, index)
        outcome = frames.read(data[:cut], place, LOG_ID)
        assert isinstance(outcome, End if cut == ends[index] else Torn), cut
    assert wrong_when_cut(data, ends, events, batches, range(0, len(data), 50_021)) == 0


def _place_at(data: bytes, ends: list[int], index: int) -> Place:
    """The place after record number `index`: its checksum is in its header."""
    if index == 0:
        return Place(ends[0], 1, 0)
    _, _, sequence, count, _, _, chain = struct.unpack_from("<4sIQIIQI", data, ends[index - 1])
    return Place(ends[index], sequence + count, chain)


@pytest.mark.parametrize("zero_tail", [False, True])
def test_no_flipped_bit_is_accepted_silently(zero_tail: bool) -> None:
    _, data, ends, _ = eight_kilobytes()
    data = data[: ends[-1]].ljust(8192 + 512, b"\0") if zero_tail else data
    silent, dropped = [], []
    # With the zero tail only what the tail adds is new: the last record, and the zeros after it.
    for bit in range(ends[-2] * 8 if zero_tail else 0, len(data) * 8):
        changed = bytearray(data)
        changed[bit >> 3] ^= 1 << (bit & 7)
        outcome = _judge(bytes(changed))
        if outcome == "accepted":
            silent.append(bit)
        elif outcome == "torn" and bit < ends[-1] * 8:
            dropped.append(bit)
    assert silent == []
    assert dropped == [], "a flipped bit in a record is damage, never a torn tail"


def _judge(data: bytes) -> str:
    head = frames.decode_head(frames.LOG_MAGIC, data)
    if not isinstance(head, Head):
        return "damaged"
    if head.sequence != 1 or head.chain != 0:
        return "damaged"
    place = Place(frames.HEAD_BYTES, 1, head.chain)
    while True:
        outcome = frames.read(data, place, head.log_id)
        if not isinstance(outcome, Record):
            return {End: "accepted", Torn: "torn", Damaged: "damaged"}[type(outcome)]
        place = outcome.next


def test_a_flipped_bit_in_the_middle_refuses_and_says_where() -> None:
    _, data, ends, events = eight_kilobytes()
    rng = random.Random(3)
    for bit in rng.sample(range(ends[0] * 8, ends[-1] * 8), 400):
        changed = bytearray(data)
        changed[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(LogDamaged) as caught:
            read_back(bytes(changed))
        index = sum(end <= bit >> 3 for end in ends[1:])
        error = caught.value
        assert (error.file, error.at_bytes, error.sequence) == (NAME, ends[index], events[index] + 1)
        assert str(error).startswith(f"{NAME}, offset {ends[index]}, sequence {events[index] + 1}: ")
        assert error.exit_code == 3


@pytest.mark.deep
def test_no_random_damage_is_accepted_silently() -> None:
    _, data, ends, _ = eight_kilobytes()
    data = data.ljust(10_240, b"\0")
    rng = random.Random(4)
    for round_ in range(100_000):
        changed = bytearray(data)
        if round_ % 2:
            for _ in range(rng.randrange(2, 9)):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            size = rng.choice([8, 40, 512, 1024])
            a, b = rng.randrange(0, ends[-1] - size), rng.randrange(0, ends[-1] - size)
            if rng.random() < 0.5:
                a, b = a - a % size, b - b % size
            changed[a : a + size], changed[b : b + size] = data[b : b + size], data[a : a + size]
        if bytes(changed) != data:
            assert _judge(bytes(changed)) != "accepted", round_


def test_swapped_repeated_and_missing_records_are_damage() -> None:
    _, data, ends, _ = eight_kilobytes()
    pieces = [data[a:b] for a, b in pairwise(ends)]
    head = data[: ends[0]]
    for i in range(len(pieces) - 1):
        swapped = [*pieces[:i], pieces[i + 1], pieces[i], *pieces[i + 2 :]]
        repeated = [*pieces[: i + 1], *pieces[i:]]
        missing = [*pieces[:i], *pieces[i + 1 :]]
        for bad in (swapped, repeated, missing):
            assert _judge(head + b"".join(bad)) == "damaged"


def test_a_sound_record_of_another_log_is_damage() -> None:
    batches = random_batches(5, 4)
    data, ends, _ = a_log(batches)
    other = frames.encode_head(frames.LOG_MAGIC, Head(LOG_ID + 1, 1, T0_MS, 0)) + data[ends[0] :]
    assert _judge(other) == "damaged"


@pytest.mark.parametrize("size_bytes", [0, 16_384])
def test_every_way_to_tear_a_record_is_read_as_torn(size_bytes: int) -> None:
    """Any subset of the sectors of the last record may not have been written."""
    torn = refused = 0
    for seed in range(12):
        batches = random_batches(seed, 14, payload_bytes=400)
        for count in range(1, len(batches) + 1):
            data, ends, _ = a_log(batches[:count])
            start, end = ends[-2], ends[-1]
            cuts = sorted({start, end, *range(start - start % 512 + 512, end, 512)})
            pieces = list(pairwise(cuts))
            for mask in range(1, 1 << len(pieces)):
                changed = bytearray(data.ljust(size_bytes, b"\0"))
                for i, (a, b) in enumerate(pieces):
                    if mask >> i & 1:
                        changed[a:b] = bytes(b - a)
                if bytes(changed) == data.ljust(size_bytes, b"\0"):
                    continue
                torn += _judge(bytes(changed)) == "torn" or (not any(changed[start:]) and not size_bytes)
                refused += _judge(bytes(changed)) == "damaged"
                if any(changed[start:]):
                    assert _judge(bytes(changed)) == "torn"
                else:
                    assert _judge(bytes(changed)) == "accepted"  # nothing of it was written at all
    assert torn > 100
    assert refused == 0


def test_a_record_full_of_zero_sectors_is_not_taken_for_a_torn_one() -> None:
    payload = bytes([1]) + bytes(5000) + b"x"
    head = frames.encode_head(frames.LOG_MAGIC, Head(LOG_ID, 1, T0_MS, 0))
    record, place = frames.encode(payload, 1, 0, Place(len(head), 1, 0), LOG_ID)
    assert isinstance(frames.read(head + record, Place(len(head), 1, 0), LOG_ID), Record)
    flipped = bytearray(head + record)
    flipped[-9] ^= 1
    assert isinstance(frames.read(bytes(flipped), Place(len(head), 1, 0), LOG_ID), Damaged)
    torn = (head + record)[: place.at_bytes - 300].ljust(place.at_bytes, b"\0")
    assert isinstance(frames.read(torn[:-20] + bytes(20), Place(len(head), 1, 0), LOG_ID), Torn)


def test_a_hole_before_later_records_is_torn_only_if_no_later_one_proves_it_was_durable() -> None:
    batches = random_batches(7, 6, payload_bytes=900)
    for in_flight, expected in ((True, "torn"), (False, "damaged")):
        data, ends, _ = a_log(batches, 65_536, in_flight)
        hole = bytearray(data)
        start = ends[2] - ends[2] % 512 + 512
        hole[start : start + 512] = bytes(512)
        assert _judge(bytes(hole)) == expected
        # Bits that changed are not sectors that were never written: damage, whoever was in flight.
        flipped = bytearray(data)
        flipped[start] ^= 1
        assert _judge(bytes(flipped)) == "damaged"


def test_a_payload_that_looks_like_a_record_does_not_fool_the_reader() -> None:
    """A client may send the bytes of a log, but it does not know the log's id."""
    foreign, _ = frames.encode(b"\x01\x90", 5, 10**6, Place(0, 10**6, 0), LOG_ID ^ 1)
    place = Place(512, 1, 0)
    record, _ = frames.encode(b"z" * 600 + foreign * 8, 1, 0, place, LOG_ID)
    data = bytearray(bytes(512) + record)
    data[512:1024] = bytes(512)
    assert isinstance(frames.read(bytes(data), place, LOG_ID), Torn)


def test_records_of_every_length_come_back_as_they_were() -> None:
    for length in [*range(0, 40), 500, 511, 512, 513, 4096]:
        for at in (512, 512 + 8, 1024 - 16, 1024 - 8):
            payload = random.Random(length).randbytes(length)
            place = Place(at, 7, 99)
            record, following = frames.encode(payload, 3, 6, place, LOG_ID)
            assert len(record) == frames.record_bytes(length) == following.at_bytes - at
            assert len(record) % 8 == 0
            assert frames.read(bytes(at) + record, place, LOG_ID) == Record(7, 3, 6, payload, following)
            assert isinstance(frames.read(bytes(at) + record, Place(at, 7, 98), LOG_ID), Damaged)
            for sequence in (6, 8):
                assert isinstance(frames.read(bytes(at) + record, Place(at, sequence, 99), LOG_ID), Damaged)
