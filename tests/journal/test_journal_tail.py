"""Following a log that somebody writes: each event once, whatever is rolled, torn or dropped meanwhile."""

import random

import pytest

from moxy.journal import codec, frames, segments
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import Head, Place
from moxy.journal.tail import PEEK_BYTES, Tail
from spec.simdisk import SimDisk
from tests.journal.storekeeper import LOG_ID, T0_MS, Store, Workload, random_batches


class CountingDisk(SimDisk):
    """Counts the bytes that are read."""

    read_bytes = 0

    def read(self, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        data = super().read(name, at_bytes, length_bytes)
        self.read_bytes += len(data)
        return data


def numbers(tail: Tail) -> list[int]:
    return [number for number, _ in tail.look()]


def turns(store: Store, work: Workload, count: int) -> None:
    for _ in range(count):
        for _ in range(3):
            store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
        store.commit()


@pytest.mark.parametrize("seed", range(5))
def test_each_event_is_seen_once_and_in_order_over_segments(seed: int) -> None:
    disk, work, rng = SimDisk(), Workload(seed, payload_bytes=200), random.Random(seed)
    store, tail = Store(disk), Tail(disk)
    seen = []
    for _ in range(40):
        turns(store, work, rng.randrange(4))
        seen += list(tail.look())
        assert [event for _, event in seen] == store.history
    assert [number for number, _ in seen] == list(range(1, len(store.history) + 1))
    assert len(segments.named(disk, ".log")) > 3
    assert (tail.missed, tail.doubt) == ([], None)
    assert list(Tail(disk).look()) == seen
    middle = len(seen) // 2
    assert list(Tail(disk, middle).look()) == seen[middle - 1 :]


def test_a_look_that_finds_nothing_reads_a_page_not_the_segment() -> None:
    disk, work = CountingDisk(), Workload(1, payload_bytes=500)
    store, tail = Store(disk, segment_bytes=1 << 20), Tail(disk)
    turns(store, work, 200)
    assert len(numbers(tail)) == len(store.history)
    for _ in range(10):
        before = disk.read_bytes
        assert numbers(tail) == []
        assert disk.read_bytes - before <= PEEK_BYTES
    before = disk.read_bytes
    turns(store, work, 1)
    assert numbers(tail)
    assert disk.read_bytes - before <= 1 << 18, "what came, not what was there"


def test_records_larger_than_a_window_are_read() -> None:
    disk = SimDisk()
    store, tail = Store(disk, segment_bytes=1 << 21), Tail(disk)
    big = Workload(1, payload_bytes=300_000)
    turns(store, big, 6)
    assert len(numbers(tail)) == len(store.history)


def test_a_record_that_is_half_written_is_waited_for() -> None:
    """Any prefix of a record, in a file that is zeroed ahead: nothing is told, then all of it; damage is doubt."""
    batches = random_batches(3, 3)
    data = frames.encode_head(frames.LOG_MAGIC, Head(LOG_ID, 1, T0_MS, 0))
    place, ends = Place(len(data), 1, 0), []
    for batch in batches:
        record, place = frames.encode(codec.encode(batch), len(batch), 0, place, LOG_ID)
        data += record
        ends.append(len(data))
    whole = data.ljust(8192, b"\0")
    for cut in range(ends[1], ends[2]):
        disk = SimDisk({f"{1:020d}.log": data[:cut].ljust(8192, b"\0")})
        tail = Tail(disk)
        assert numbers(tail)[-1] == len(batches[0]) + len(batches[1])
        assert tail.doubt is None
        disk.current[f"{1:020d}.log"].content[:] = whole
        assert [event for _, event in tail.look()] == batches[2]


def test_what_looks_damaged_for_a_moment_is_only_a_doubt() -> None:
    disk = SimDisk()
    store, tail = Store(disk), Tail(disk)
    turns(store, Workload(2), 2)
    name = segments.named(disk, ".log")[0][1]
    content = disk.current[name].content
    at = len(bytes(content).rstrip(b"\0")) - 20
    content[at] ^= 1
    seen = numbers(tail)
    assert isinstance(tail.doubt, LogDamaged)
    content[at] ^= 1
    seen += numbers(tail)
    assert tail.doubt is None
    assert seen == list(range(1, len(store.history) + 1))


def test_a_torn_end_that_another_segment_follows_is_damage() -> None:
    disk, work = SimDisk(), Workload(3)
    store = Store(disk, segment_bytes=2048)
    turns(store, work, 60)
    (_, first), *_ = segments.named(disk, ".log")
    content = disk.current[first].content
    end = len(bytes(content).rstrip(b"\0"))
    content[end - 5 :] = bytes(len(content) - end + 5)
    tail = Tail(disk)
    assert numbers(tail)
    assert isinstance(tail.doubt, LogDamaged)
    assert tail.doubt.file == first


@pytest.mark.parametrize("chain", [True, False])
def test_a_segment_that_does_not_go_on_is_damage(chain: bool) -> None:
    disk, work = SimDisk(), Workload(3)
    store = Store(disk, segment_bytes=2048)
    turns(store, work, 60)
    sequence, name = segments.named(disk, ".log")[1]
    head = segments.read_head(disk, name, frames.LOG_MAGIC, sequence)
    other = Head(LOG_ID, sequence, T0_MS, head.chain ^ 1) if chain else Head(1, sequence, T0_MS, head.chain)
    disk.current[name].content[: frames.HEAD_BYTES] = frames.encode_head(frames.LOG_MAGIC, other)
    with pytest.raises(LogDamaged, match="does not go on"):
        numbers(Tail(disk))


def test_what_is_dropped_before_it_was_read_is_told_and_the_rest_is_read() -> None:
    disk, work = SimDisk(), Workload(4)
    store, tail = Store(disk, segment_bytes=2048), Tail(disk)
    turns(store, work, 3)
    seen = numbers(tail)
    turns(store, work, 40)
    store.snapshot(work.now_ms)
    turns(store, work, 1)
    store.snapshot(work.now_ms, 0)
    horizon = store.journal.horizon
    assert horizon > seen[-1] + 1
    after = numbers(tail)
    assert tail.missed == [(seen[-1] + 1, horizon - 1)]
    assert after == list(range(horizon, len(store.history) + 1))


def test_a_segment_dropped_between_two_records_is_no_crash() -> None:
    disk, work = SimDisk(), Workload(5)
    store, tail = Store(disk, segment_bytes=2048), Tail(disk)
    turns(store, work, 40)
    looking = tail.look()
    seen = [next(looking)[0]]
    for _ in range(2):
        turns(store, work, 1)
        store.snapshot(work.now_ms, 0)
    seen += [number for number, _ in looking]
    (first, last), *more = tail.missed
    assert not more
    assert seen == [*range(1, first), *range(last + 1, len(store.history) + 1)]


def test_an_empty_directory_and_less_than_a_head_are_nothing_yet() -> None:
    disk = SimDisk()
    tail = Tail(disk)
    assert numbers(tail) == []
    disk.create(segments.name_of(1, ".log"))
    assert numbers(tail) == []
    disk.remove(segments.name_of(1, ".log"))
    store = Store(disk)
    turns(store, Workload(6), 3)
    assert numbers(tail) == list(range(1, len(store.history) + 1))
