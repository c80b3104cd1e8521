"""The writer: rolling, reading back, snapshots and retention, one process at a time, a real directory."""

import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from moxy.core.events import AnyEvent, Enqueued
from moxy.journal import frames, segments
from moxy.journal.disk import OsDisk
from moxy.journal.errors import DirectoryInUse, HorizonPassed, LogDamaged, LogTooNew
from moxy.journal.frames import Head
from moxy.journal.journal import Journal
from moxy.journal.segments import Segment
from spec.simdisk import FaultyDisk, SimDisk
from tests.journal.storekeeper import LOG_ID, T0_MS, Store, Workload, differences, folded, images, random_batches


def flat(batches: list[list[AnyEvent]]) -> list[AnyEvent]:
    return [event for batch in batches for event in batch]


def write(journal: Journal, batches: list[list[AnyEvent]]) -> None:
    for batch in batches:
        journal.append(batch)
        journal.flush()


def test_a_log_in_a_real_directory_comes_back_after_a_close(tmp_path: Path) -> None:
    batches = random_batches(1, 60)
    journal, recovered = Journal.open(OsDisk(str(tmp_path / "new" / "data")), LOG_ID, T0_MS, 8192)
    assert (recovered.last_sequence, recovered.queues, recovered.warnings) == (0, 0, ())
    write(journal, batches[:40])
    assert journal.synced_sequence < journal.last_sequence
    journal.sync()
    assert journal.synced_sequence == journal.last_sequence == len(flat(batches[:40]))
    journal.close()
    journal, recovered = Journal.open(OsDisk(str(tmp_path / "new" / "data")), LOG_ID + 1, T0_MS, 8192)
    assert recovered.log_id == LOG_ID
    assert differences(recovered.states, folded(flat(batches[:40]))) == []
    write(journal, batches[40:])
    assert [event for _, event in journal.read(1)] == flat(batches)
    journal.close()
    journal.close()
    recovered = Journal.open(OsDisk(str(tmp_path / "new" / "data")), LOG_ID, T0_MS, 4096)[1]
    assert differences(recovered.states, folded(flat(batches))) == []
    assert len(recovered.segments) > 2


def test_batches_that_gather_become_one_record() -> None:
    batches = random_batches(2, 5)
    disk = FaultyDisk(SimDisk())
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 4096)
    before = len(disk.calls)
    for batch in batches:
        journal.append(batch)
    assert journal.last_sequence == 0
    assert journal.flush() == len(flat(batches))
    journal.sync()
    journal.sync()
    assert [call for call, _ in disk.calls[before:]] == ["write", "sync"]
    journal.flush()
    assert len(disk.calls) == before + 2


def test_segments_roll_chain_and_hold_a_batch_larger_than_themselves() -> None:
    big = [Enqueued("jobs", 1, T0_MS, 1, "big", b"b" * 9000)]
    small = [[Enqueued("jobs", n, T0_MS + n, n, f"t{n}", b"s" * 200)] for n in range(2, 40)]
    disk = SimDisk()
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 2048)
    write(journal, [big, *small])
    found = segments.segments_of(disk)
    assert len(found) > 4
    assert [s.name for s in found] == [f"{s.sequence:020d}.log" for s in found]
    assert found[1].sequence == 2
    assert found[1].head is not None
    assert found[1].head.created_ms == T0_MS + 2, "a segment is as old as its first event"
    recovered = Journal.open(disk.kill(), LOG_ID, T0_MS, 4096)[1]
    assert recovered.last_sequence == 39
    assert recovered.events == 39


def test_it_is_time_for_the_next_segment_when_a_sixteenth_of_one_is_used() -> None:
    store = Store(SimDisk(), segment_bytes=32768)
    assert not store.journal.is_filling
    filling = []
    for batch in random_batches(3, 20):
        write(store.journal, [batch])
        filling.append((store.journal._place.at_bytes >= 2048, store.journal.is_filling))
    assert {used for used, _ in filling} == {False, True}
    assert all(used == told for used, told in filling)


def test_a_prepared_segment_is_used_and_swept_up_when_it_was_not() -> None:
    disk = SimDisk()
    store = Store(disk, segment_bytes=1024)
    store.journal.prepare()
    store.journal.prepare()
    assert "spare.tmp" in disk.names()
    faulty_free = SimDisk(disk.files())
    Journal.open(faulty_free, LOG_ID, T0_MS, 1024)
    assert "spare.tmp" not in faulty_free.names()
    write(store.journal, random_batches(3, 20))
    assert "spare.tmp" not in disk.names()
    store.journal.prepare()
    store.journal.close()
    assert "spare.tmp" not in disk.names()


def test_segments_are_zeroed_ahead_and_work_without_when_space_is_short(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path))
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 1 << 16)
    name = f"{1:020d}.log"
    assert disk.size_bytes(name) == 1 << 16
    assert set(disk.read(name, frames.HEAD_BYTES)) == {0}
    journal.close()
    small = SimDisk(space_bytes=3000)
    journal, _ = Journal.open(small, LOG_ID, T0_MS, 1 << 16)
    write(journal, random_batches(3, 2))
    assert small.size_bytes(name) < 3000
    assert Journal.open(small.kill(), LOG_ID, T0_MS, 4096)[1].last_sequence == journal.last_sequence


def test_reading_from_anywhere_gives_the_rest_and_says_when_it_is_gone() -> None:
    work = Workload(4)
    store = Store(SimDisk(), segment_bytes=4096)
    for _ in range(150):
        store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
        store.commit()
    journal = store.journal
    for start in range(1, journal.last_sequence + 2):
        assert list(journal.read(start)) == list(enumerate(store.history, 1))[start - 1 :]
    store.snapshot(work.now_ms)
    store.do(work.command(), work.now_ms, 1, work.deliveries)
    store.do(Workload(5).command(), work.now_ms, 1, [])
    store.commit()
    slow = journal.read(1)
    assert next(slow) == (1, store.history[0])
    # Nothing goes while there is one snapshot only: a start must be able to do without it.
    assert journal.horizon == 1
    assert journal.retain(work.now_ms, 0, None) == []
    while journal.snapshot_sequence == journal.last_sequence:
        store.do(work.command(), work.now_ms, 2, work.deliveries)
        store.commit()
    store.snapshot(work.now_ms, retain_bytes=0)
    assert journal.horizon > 1
    with pytest.raises(HorizonPassed) as caught:
        journal.read(1)
    assert caught.value.horizon == journal.horizon
    with pytest.raises(HorizonPassed):
        list(slow)
    assert [e for _, e in journal.read(journal.horizon)] == store.history[journal.horizon - 1 :]


def test_a_record_larger_than_a_window_of_the_reader_is_read_whole() -> None:
    batch = [Enqueued("jobs", n, T0_MS, n, f"t{n}", bytes([n]) * 100_000) for n in range(1, 9)]
    journal, _ = Journal.open(SimDisk(), LOG_ID, T0_MS, 4096)
    write(journal, [batch[:1], batch[1:]])
    assert [event for _, event in journal.read(1)] == batch
    assert [number for number, _ in journal.read(5)] == [5, 6, 7, 8]


def segment(sequence: int, size_bytes: int, created_ms: int) -> Segment:
    return Segment(f"{sequence}", sequence, size_bytes, Head(LOG_ID, sequence, created_ms, 0))


def test_retention_drops_by_bytes_and_by_age_and_never_what_a_snapshot_needs() -> None:
    log = [segment(1 + 100 * n, 1000, T0_MS + 1000 * n) for n in range(5)]

    def gone(needed_from: int, retain_bytes: int | None, retain_ms: int | None) -> list[int]:
        return [s.sequence for s in segments.droppable(log, needed_from, T0_MS + 5000, retain_bytes, retain_ms)]

    assert gone(450, None, None) == []
    assert gone(450, 0, None) == [1, 101, 201, 301], "never the last"
    assert gone(450, 3000, None) == [1, 101]
    assert gone(450, 2999, None) == [1, 101, 201]
    assert gone(450, None, 3000) == [1], "a segment is as old as its last event"
    assert gone(450, None, 2999) == [1, 101]
    assert gone(450, 4000, 2999) == [1, 101], "either bound"
    assert gone(250, 0, 0) == [1, 101]
    assert gone(201, 0, 0) == [1, 101], "the snapshot covers 200: all before is not needed"
    assert gone(200, 0, 0) == [1]
    assert gone(1, 0, 0) == []


def test_retention_never_cuts_what_a_start_needs_even_without_the_newest_snapshot() -> None:
    for seed in range(30):
        work = Workload(seed)
        disk = SimDisk()
        store = Store(disk, segment_bytes=1024)
        for turn in range(60):
            store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
            store.commit()
            if turn % 9 == 8:
                store.snapshot(work.now_ms, retain_bytes=0)
                assert len([n for n in disk.names() if n.endswith(".snapshot")]) <= 2
        names = [n for n in disk.names() if n.endswith(".snapshot")]
        recovered = Journal.open(disk.kill(), LOG_ID, T0_MS, 4096)[1]
        assert differences(recovered.states, store.states) == []
        files = disk.files()
        files[names[-1]] = files[names[-1]][:-40]
        recovered = Journal.open(SimDisk(files), LOG_ID, T0_MS, 4096)[1]
        assert differences(recovered.states, store.states) == []
        assert len(recovered.warnings) == 1


def test_the_counts_since_the_snapshot_say_what_a_start_would_fold() -> None:
    work = Workload(6)
    disk = SimDisk()
    store = Store(disk)
    for turn in range(40):
        store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
        store.commit()
        if turn == 20:
            mark, states = store.journal.mark(), dict(store.states)
    store.journal.write_snapshot(images(states), mark, work.now_ms)
    journal, recovered = Journal.open(disk.kill(), LOG_ID, T0_MS, 4096)
    assert recovered.events == store.journal.events_since_snapshot == journal.events_since_snapshot > 0
    assert recovered.bytes_folded == store.journal.bytes_since_snapshot == journal.bytes_since_snapshot > 0
    assert store.journal.write_snapshot(images(states), mark, work.now_ms) == "", "there is one already"


def test_a_second_journal_on_the_same_directory_is_locked_out(tmp_path: Path) -> None:
    journal, _ = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 4096)
    with pytest.raises(DirectoryInUse) as caught:
        Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 4096)
    assert caught.value.exit_code == 6
    code = (
        "import sys; from moxy.journal.disk import OsDisk; from moxy.journal.journal import Journal\n"
        "from moxy.journal.errors import JournalError\n"
        "try: Journal.open(OsDisk(sys.argv[1]), 1, 1, 4096)[0].close()\n"
        "except JournalError as e: print(e); sys.exit(e.exit_code)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert other.returncode == 6
    assert "is in use by process" in other.stdout
    journal.close()
    assert subprocess.run(argv, capture_output=True, text=True, check=False).returncode == 0


def test_a_thread_may_sync_and_snapshot_while_the_loop_writes(tmp_path: Path) -> None:
    batches = random_batches(9, 300, payload_bytes=300)
    disk = FaultyDisk(OsDisk(str(tmp_path)))
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 16_384)
    stop = threading.Event()
    problems: list[BaseException] = []
    synced: list[int] = []

    def syncer() -> None:
        try:
            while not stop.is_set():
                least = journal.last_sequence
                synced.append(journal.sync())
                assert synced[-1] >= least
                journal.prepare()
        except BaseException as e:
            problems.append(e)

    thread = threading.Thread(target=syncer)
    thread.start()
    try:
        states = folded([])
        for number, batch in enumerate(batches):
            journal.append(batch)
            journal.flush()
            states = folded(batch, states)
            if number % 100 == 50:
                journal.write_snapshot(images(states), journal.mark(), T0_MS)
                journal.retain(T0_MS, 0, None)
    finally:
        stop.set()
        thread.join()
    assert problems == []
    assert synced == sorted(synced)
    assert disk.syncs_at_once == 1, "the kernel tells a failure to one of two syncs only"
    journal.close()
    recovered = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 4096)[1]
    assert differences(recovered.states, states) == []


class _Meddling(FaultyDisk):
    """A disk on which somebody does something just before a segment gets its name."""

    meddle: Callable[[], None] | None = None

    def rename(self, old: str, new: str) -> None:
        if self.meddle is not None:
            self.meddle()
        super().rename(old, new)


@pytest.mark.parametrize("real", [False, True], ids=["simulated", "real"])
def test_no_spare_is_prepared_in_place_of_the_one_that_is_just_being_used(tmp_path: Path, real: bool) -> None:
    """Both have the same name until then, and `prepare` runs in a thread: it would empty the new segment."""
    batches = random_batches(12, 60, payload_bytes=300)
    disk = _Meddling(OsDisk(str(tmp_path)) if real else SimDisk())
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 4096)
    disk.meddle = journal.prepare
    for batch in batches:
        write(journal, [batch])
        journal.prepare()
    disk.meddle = None
    journal.close()
    recovered = Journal.open(disk.disk if not real else OsDisk(str(tmp_path)), LOG_ID, T0_MS, 4096)[1]
    assert len(recovered.segments) > 2
    assert differences(recovered.states, folded(flat(batches))) == []


def test_a_torn_tail_is_dropped_with_one_warning_and_a_copy_of_it_is_kept(tmp_path: Path) -> None:
    batches = random_batches(10, 20)
    journal, _ = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 1 << 16)
    write(journal, batches)
    journal.close()
    log = tmp_path / f"{1:020d}.log"
    whole = log.read_bytes().rstrip(b"\0")
    log.write_bytes(whole[:-2])
    journal, recovered = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 1 << 16)
    assert len(recovered.warnings) == 1
    assert "cut short" in recovered.warnings[0]
    assert differences(recovered.states, folded(flat(batches[:-1]))) == []
    kept = sorted(tmp_path.glob("*.torn"))
    at = recovered.place.at_bytes
    assert [path.name for path in kept] == [f"{log.name}-at-{at}-1.torn"]
    assert kept[0].read_bytes() == whole[at:-2]
    write(journal, batches[-1:])
    journal.close()
    recovered = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 4096)[1]
    assert recovered.warnings == ()
    assert differences(recovered.states, folded(flat(batches))) == []


def test_a_damaged_log_refuses_to_start_and_is_left_as_it_is(tmp_path: Path) -> None:
    journal, _ = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 1 << 13)
    write(journal, random_batches(11, 40))
    journal.close()
    log = tmp_path / f"{1:020d}.log"
    data = bytearray(log.read_bytes())
    data[3000] ^= 4
    log.write_bytes(data)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    with pytest.raises(LogDamaged):
        Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 1 << 13)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"} == before


def rolled(seed: int = 12) -> tuple[SimDisk, list[str]]:
    disk = SimDisk()
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 2048)
    write(journal, random_batches(seed, 60))
    return SimDisk(disk.files()), [name for name in disk.names() if name.endswith(".log")]


def refusal(disk: SimDisk) -> LogDamaged:
    with pytest.raises(LogDamaged) as caught:
        Journal.open(disk, LOG_ID, T0_MS, 4096)
    return caught.value


def test_a_missing_renamed_or_foreign_segment_is_damage() -> None:
    disk, names = rolled()
    assert len(names) > 4
    missing = disk.files()
    del missing[names[2]]
    assert refusal(SimDisk(missing)).file == names[3]
    headless = disk.files()
    del headless[names[0]]
    assert "nothing says what was before" in str(refusal(SimDisk(headless)))
    renamed = disk.files()
    renamed[names[2]], renamed[names[3]] = renamed[names[3]], renamed[names[2]]
    assert "renamed" in str(refusal(SimDisk(renamed)))
    foreign = disk.files()
    head = frames.decode_head(frames.LOG_MAGIC, foreign[names[2]])
    assert isinstance(head, Head)
    other = Head(LOG_ID + 1, head.sequence, head.created_ms, head.chain)
    foreign[names[2]] = frames.encode_head(frames.LOG_MAGIC, other) + foreign[names[2]][512:]
    assert "of another log" in str(refusal(SimDisk(foreign)))


def test_a_segment_of_another_history_is_damage_although_its_sequence_fits() -> None:
    disk, names = rolled()
    files = disk.files()
    head = frames.decode_head(frames.LOG_MAGIC, files[names[2]])
    assert isinstance(head, Head)
    other = Head(head.log_id, head.sequence, head.created_ms, head.chain ^ 1)
    files[names[2]] = frames.encode_head(frames.LOG_MAGIC, other) + files[names[2]][512:]
    assert "does not go on from the segment before" in str(refusal(SimDisk(files)))


def test_a_cut_or_torn_record_anywhere_but_at_the_end_of_the_log_is_damage() -> None:
    disk, names = rolled()
    files = disk.files()
    files[names[1]] = files[names[1]].rstrip(b"\0")[:-3]
    error = refusal(SimDisk(files))
    assert error.file == names[1]
    assert "not the last segment" in str(error)
    files = disk.files()
    files[names[1]] = files[names[1]][:100]
    assert refusal(SimDisk(files)).file == names[1]


def test_a_format_of_the_future_is_not_called_damage() -> None:
    disk, names = rolled()
    files = disk.files()
    data = bytearray(files[names[-1]])
    data[8] = 2
    data[508:512] = zlib.crc32(bytes(data[:508])).to_bytes(4, "little")
    files[names[-1]] = bytes(data)
    with pytest.raises(LogTooNew) as caught:
        Journal.open(SimDisk(files), LOG_ID, T0_MS, 4096)
    assert caught.value.exit_code == 2


def test_progress_is_told_and_ends_with_everything() -> None:
    events = [Enqueued("jobs", n, T0_MS, n, f"t{n}", b"") for n in range(1, 45_001)]
    disk = SimDisk()
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 4096)
    write(journal, [events[n : n + 500] for n in range(0, len(events), 500)])
    told: list[tuple[int, int, int]] = []
    Journal.open(disk.kill(), LOG_ID, T0_MS, 4096, progress=lambda *numbers: told.append(numbers))
    assert [events for events, _, _ in told] == [20_000, 40_000, 45_000]
    assert told[-1][1] == told[-1][2]


@pytest.mark.parametrize("writes_zeros", [True, False])
def test_space_is_taken_ahead_and_reads_as_zeros(writes_zeros: bool, tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path), writes_zeros)
    file = disk.create("spare")
    file.allocate(100_000)
    assert disk.read("spare") == bytes(100_000)
    assert (tmp_path / "spare").stat().st_blocks * 512 >= 100_000, "no later write can fail for want of space"
    file.write(b"x", 50_000)
    file.allocate(100_000)
    assert disk.read("spare").strip(b"\0") == b"x", "what is there stays"
    file.close()
    disk.close()
