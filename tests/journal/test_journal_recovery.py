"""Recovery: every prefix of a log is a legal state, leases keep their deadlines, and nothing is guessed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core import invariants
from moxy.core.commands import Enqueue, Fetch
from moxy.core.events import Acked, AnyEvent, Deleted, Enqueued
from moxy.journal import codec, frames, recovery
from moxy.journal.errors import LogDamaged, LogFailed, LogTooNew
from moxy.journal.frames import Head, Place
from moxy.journal.journal import Journal
from spec.simdisk import FaultyDisk, SimDisk
from tests.journal.storekeeper import LOG_ID, T0_MS, Store, differences, folded, random_batches

NAME = f"{1:020d}.log"


def a_log(payloads: list[tuple[bytes, int]]) -> bytes:
    data = frames.encode_head(frames.LOG_MAGIC, Head(LOG_ID, 1, T0_MS, 0))
    place = Place(len(data), 1, 0)
    for payload, count in payloads:
        record, place = frames.encode(payload, count, place.sequence - 1, place, LOG_ID)
        data += record
    return data


@settings(max_examples=40)
@given(st.integers(0, 10**9), st.integers(1, 40), st.data())
def test_every_prefix_of_a_random_log_recovers_to_a_legal_state(seed: int, count: int, data: st.DataObject) -> None:
    """I11, and I5: what was acked or deleted in the prefix is not there."""
    batches = random_batches(seed, count)
    log = a_log([(codec.encode(batch), len(batch)) for batch in batches])
    cut = data.draw(st.integers(0, len(log)))
    recovered = recovery.recover(SimDisk({NAME: log[:cut]}))
    events = [event for batch in batches for event in batch][: recovered.last_sequence]
    assert differences(recovered.states, folded(events)) == []
    for state in recovered.states.values():
        assert invariants.broken(state) == []
        assert state.limbo == 0
        gone = {e.number for e in events if isinstance(e, Acked | Deleted) and e.queue == state.name}
        assert not gone & set(state.tasks.keys())


def test_a_restart_keeps_leases_with_their_ids_and_deadlines() -> None:
    disk = SimDisk()
    store = Store(disk)
    store.do(Enqueue("jobs", b"work"), T0_MS, 1, [])
    store.do(Fetch("jobs", 30_000, worker="w1"), T0_MS + 5, 2, [])
    store.commit()
    recovered = Journal.open(disk.crash(1), LOG_ID, T0_MS + 10**6, 4096)[1]
    lease = recovered.states["jobs"].tasks[1].lease
    assert lease is not None
    assert lease == store.states["jobs"].tasks[1].lease
    assert lease.deadline_ms == T0_MS + 30_005
    assert recovered.states["jobs"].next_due_ms() == T0_MS + 30_005


def test_recovery_changes_nothing_on_the_disk() -> None:
    batches = random_batches(3, 10)
    log = a_log([(codec.encode(batch), len(batch)) for batch in batches])[:-5]
    disk = SimDisk({NAME: log, "x.tmp": b"1"})
    recovered = recovery.recover(disk)
    assert recovered.torn
    assert disk.files() == {NAME: log, "x.tmp": b"1"}
    assert disk.pending == []


EVENT = Enqueued("jobs", 1, T0_MS, 1, "a", b"")


@pytest.mark.parametrize(
    ("payload", "count", "why"),
    [
        (codec.encode([Enqueued("jobs", 2, T0_MS, 1, "a", b"")]), 1, "cannot follow"),
        (codec.encode([EVENT]), 2, "says 2 events and holds 1"),
        (b"\x01\xc0", 1, "cannot be read"),
        (b"\x00\x90", 1, "cannot be read"),
    ],
)
def test_a_sound_record_that_makes_no_sense_is_refused_with_its_place(payload: bytes, count: int, why: str) -> None:
    first = codec.encode([EVENT])
    sequence = 2
    payloads = [(first, 1), (payload, count)]
    if why == "cannot follow":
        payloads = [(payload, count)]
        sequence = 1
    with pytest.raises(LogDamaged, match=why) as caught:
        recovery.recover(SimDisk({NAME: a_log(payloads)}))
    assert caught.value.sequence == sequence
    assert caught.value.at_bytes == 512 + (0 if sequence == 1 else frames.record_bytes(len(first)))


def test_events_of_a_later_version_are_not_called_damage() -> None:
    with pytest.raises(LogTooNew):
        recovery.recover(SimDisk({NAME: a_log([(b"\xfa\x90", 1)])}))


def test_an_empty_directory_and_a_fresh_log_are_an_empty_start() -> None:
    disk = SimDisk()
    journal, recovered = Journal.open(disk, LOG_ID, T0_MS, 4096)
    assert (recovered.last_sequence, journal.horizon, journal.last_sequence) == (0, 1, 0)
    recovered = Journal.open(disk.kill(), LOG_ID, T0_MS, 4096)[1]
    assert (recovered.last_sequence, recovered.warnings, recovered.torn) == (0, (), "")


def test_files_of_others_in_the_directory_are_left_alone() -> None:
    disk = SimDisk({"notes.txt": b"mine", "12.log": b"not a segment", "x.snapshot": b"no"})
    Journal.open(disk, LOG_ID, T0_MS, 4096)[0].close()
    assert disk.files().items() >= {"notes.txt": b"mine", "12.log": b"not a segment", "x.snapshot": b"no"}.items()


def test_everything_recovered_is_durable_before_anything_is_built_on_it() -> None:
    """A killed process may leave records in the kernel only; the next one must not acknowledge on top of them."""
    disk = SimDisk()
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 4096)
    batches: list[list[AnyEvent]] = random_batches(5, 8)
    for batch in batches:
        journal.append(batch)
        journal.flush()
    after = disk.kill()
    journal, recovered = Journal.open(after, LOG_ID, T0_MS, 4096)
    assert journal.synced_sequence == journal.last_sequence == recovered.last_sequence
    for seed in range(10):
        assert recovery.recover(after.crash(seed)).last_sequence == recovered.last_sequence


@pytest.mark.parametrize("durable_first", [False, True])
def test_what_a_failed_fsync_left_in_memory_is_written_again_by_the_next_start(durable_first: bool) -> None:
    """The kernel has marked the pages clean: a sync alone would say yes and write nothing."""
    disk = FaultyDisk(SimDisk(), only=("sync",))
    store = Store(disk, durable_first)
    for number in range(4):
        store.do(Enqueue("jobs", bytes([number]) * 700), T0_MS, number, [])
        if number == 3:
            disk.count, disk.fail_at = 0, 1
            with pytest.raises(LogFailed):
                _commit_and_sync(store)
        else:
            store.commit()
    survivor = disk.disk.kill()
    journal, recovered = Journal.open(survivor, LOG_ID, T0_MS, 4096)
    assert recovered.last_sequence == journal.synced_sequence == 4
    for seed in range(30):
        assert recovery.recover(survivor.crash(seed)).last_sequence == 4


def _commit_and_sync(store: Store) -> None:
    store.commit()
    store.journal.sync()


def test_a_start_writes_again_only_what_nothing_proves_to_be_durable() -> None:
    disk = SimDisk()
    store = Store(disk)
    for number in range(10):
        store.do(Enqueue("jobs", b"x"), T0_MS, number, [])
        store.durable_first = number < 6
        store.commit()
    watched = FaultyDisk(disk.kill())
    _, recovered = Journal.open(watched, LOG_ID, T0_MS, 4096)
    assert recovered.last_sequence == 10
    lengths = (recovered.place.at_bytes - recovered.unproven_at_bytes) / (recovered.place.at_bytes - 512)
    assert 0.35 < lengths < 0.45, "the seventh record says that six are durable"
    assert [call for call, name in watched.calls if name.endswith(".log")].count("write") == 1
