"""Doubt and repair: every planted fault is found, and a repair says what it costs and keeps what it cuts."""

from contextlib import suppress

import pytest

from moxy.core.events import AnyEvent, DeadLettered, Enqueued, Expired, Leased, Matured, Requeued
from moxy.journal import codec, frames, recovery, segments, snapshots
from moxy.journal.errors import DirectoryInUse, LogDamaged, LogFailed
from moxy.journal.frames import Head, Place
from moxy.journal.journal import Journal
from moxy.journal.repair import repair
from moxy.journal.verify import digest, steps_of, verify
from spec.simdisk import FaultyDisk, SimDisk
from tests.journal.storekeeper import LOG_ID, T0_MS, Store, Workload, differences, folded, images


def a_log(seed: int = 31, snapshot_turns: tuple[int, ...] = (), retain: bool = False) -> tuple[SimDisk, Store]:
    work = Workload(seed)
    disk = SimDisk()
    store = Store(disk, segment_bytes=2048)
    for turn in range(80):
        store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
        store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
        store.commit()
        if turn in snapshot_turns:
            store.snapshot(work.now_ms, 0 if retain else None)
    return SimDisk(disk.files()), store


def logs(disk: SimDisk) -> list[str]:
    return [name for name in disk.names() if name.endswith(".log")]


def flipped(disk: SimDisk, name: str, at_bytes: int) -> SimDisk:
    files = disk.files()
    data = bytearray(files[name])
    data[at_bytes] ^= 8
    files[name] = bytes(data)
    return SimDisk(files)


def test_a_sound_log_verifies_with_and_without_its_beginning() -> None:
    for seed in range(12):
        disk, store = a_log(seed, (20, 50))
        report = verify(disk)
        assert report.findings == ()
        assert report.exit_code == 0
        assert report.snapshots_checked == 2
        assert report.steps >= 60
        assert (report.last_sequence, report.events, report.folded_from) == (len(store.history), len(store.history), 1)
        assert report.digest == digest(store.states) == verify(disk, every_step=False).digest
    disk, store = a_log(31, (20, 40, 60), retain=True)
    report = verify(disk)
    assert report.horizon > 1
    assert report.findings == ()
    assert len(report.notes) == 1
    assert report.horizon < report.folded_from <= len(store.history)
    assert report.digest == digest(store.states)


def test_verifying_changes_nothing_and_reports_a_torn_tail_as_a_note() -> None:
    disk, _ = a_log()
    files = disk.files()
    last = logs(disk)[-1]
    files[last] = files[last].rstrip(b"\0")[:-1]
    torn = SimDisk(files)
    report = verify(torn)
    assert report.findings == ()
    assert "cut short" in report.notes[0]
    assert torn.files() == files


def test_verify_finds_a_flipped_bit_anywhere() -> None:
    disk, _ = a_log(31, (30,))
    for name in [*logs(disk), *[n for n in disk.names() if n.endswith(".snapshot")]]:
        size = len(disk.read(name).rstrip(b"\0"))
        for at_bytes in range(0, size, 37):
            report = verify(flipped(disk, name, at_bytes))
            assert report.exit_code == 3, (name, at_bytes)
            assert name in report.findings[0]


def forged(batches: list[list[AnyEvent]]) -> SimDisk:
    data = frames.encode_head(frames.LOG_MAGIC, Head(LOG_ID, 1, T0_MS, 0))
    place = Place(len(data), 1, 0)
    for batch in batches:
        record, place = frames.encode(codec.encode(batch), len(batch), place.sequence - 1, place, LOG_ID)
        data += record
    return SimDisk({f"{1:020d}.log": data})


def test_verify_finds_what_the_reducer_lets_pass() -> None:
    enqueued = Enqueued("jobs", 1, T0_MS, 1, "a", b"")
    leased = Leased("jobs", 2, T0_MS, 1, "a", "l1", 1, T0_MS + 100)
    early = Expired("jobs", 3, T0_MS + 50, 1, "a", "l1", 1)
    requeued = Requeued("jobs", 4, T0_MS + 50, 1, "a")
    assert "I6" in " ".join(verify(forged([[enqueued], [leased], [early, requeued]])).findings)
    whim = DeadLettered("jobs", 2, T0_MS, 1, "a", "attempts", "no reason at all")
    assert "I9" in " ".join(verify(forged([[enqueued, whim]])).findings)
    on_time = Expired("jobs", 3, T0_MS + 100, 1, "a", "l1", 1)
    half = verify(forged([[enqueued], [leased], [on_time]]))
    assert "limbo" in " ".join(half.findings)


def test_steps_end_where_a_command_may_have_ended() -> None:
    events: list[AnyEvent] = [
        Enqueued("jobs", 1, T0_MS, 1, "a", b"", due_ms=T0_MS + 1),
        Matured("jobs", 2, T0_MS + 1, 1, "a"),
        Leased("jobs", 3, T0_MS + 1, 1, "a", "l1", 1, T0_MS + 100),
        Expired("jobs", 4, T0_MS + 100, 1, "a", "l1", 1),
        DeadLettered("jobs", 5, T0_MS + 100, 1, "a", "attempts", "lease expired"),
    ]
    state = folded([])
    steps = steps_of(state.get("jobs") or type(folded(events)["jobs"])("jobs"), events)
    assert [[event.seq for event in step] for _, step, _ in steps] == [[1], [2], [3], [4, 5]]


def test_verify_finds_a_snapshot_that_differs_from_the_log() -> None:
    disk, store = a_log(31, (30,))
    name = next(n for n in disk.names() if n.endswith(".snapshot"))
    head = snapshots.load(disk, name, int(name.split(".")[0])).head
    snapshots.write(disk, images(folded(store.history[: head.sequence - 1])), head)
    report = verify(disk)
    assert any(finding.startswith(f"I10: {name} differs from the log in") for finding in report.findings)
    snapshots.write(disk, images(folded(store.history[: head.sequence])), Head(LOG_ID, head.sequence, T0_MS, 1))
    assert "not taken after" in verify(disk).findings[0]


def test_the_digest_does_not_depend_on_how_states_came_to_be() -> None:
    disk, store = a_log(33, (40,))
    assert digest(store.states) == digest(dict(reversed(store.states.items())))
    recovered = recovery.recover(disk.kill())
    assert recovered.snapshot_sequence > 0
    assert digest(recovered.states) == digest(store.states)
    assert digest(folded(store.history[:-1])) != digest(store.states)


# Repair


def test_a_log_that_is_not_damaged_is_not_repaired() -> None:
    disk, store = a_log(31, (30,))
    files = disk.files()
    result = repair(disk)
    assert result.done == ()
    assert result.last_sequence == len(store.history)
    assert disk.files() == files


def test_a_repair_cuts_at_the_damage_and_keeps_the_original() -> None:
    disk, store = a_log()
    names = logs(disk)
    assert len(names) > 3
    for at_bytes in (513, 700, 1500):
        hurt = flipped(disk, names[1], at_bytes)
        before = hurt.files()
        with pytest.raises(LogDamaged) as caught:
            Journal.open(hurt.kill(), LOG_ID, T0_MS, 4096)
        result = repair(hurt)
        assert result.last_sequence == caught.value.sequence - 1
        assert "not in the log any more" in result.done[0]
        after = hurt.files()
        originals = {content.rstrip(b"\0") for content in after.values()}
        for name in names[1:]:
            assert before[name].rstrip(b"\0") in originals, "nothing is deleted"
        recovered = Journal.open(hurt.crash(1), LOG_ID, T0_MS, 4096)[1]
        assert differences(recovered.states, folded(store.history[: result.last_sequence])) == []
        assert recovered.warnings == ()


def test_a_repair_prefers_a_snapshot_that_covers_more() -> None:
    disk, store = a_log(31, (60,))
    name = next(n for n in disk.names() if n.endswith(".snapshot"))
    covered = int(name.split(".")[0])
    tail = max(n for n in logs(disk) if int(n.split(".")[0]) <= covered + 1)
    hurt = flipped(disk, tail, 530)
    with pytest.raises(LogDamaged):
        Journal.open(hurt.kill(), LOG_ID, T0_MS, 4096)
    result = repair(hurt)
    assert result.last_sequence == covered
    assert all(f"{n}-1.damaged" in hurt.names() for n in logs(disk))
    journal, recovered = Journal.open(hurt.crash(2), LOG_ID, T0_MS, 4096)
    assert journal.horizon == covered + 1
    assert differences(recovered.states, folded(store.history[:covered])) == []
    assert verify(hurt).findings == ()


def test_damage_in_history_that_a_snapshot_covers_costs_no_state() -> None:
    disk, store = a_log(31, (60,))
    names = logs(disk)
    hurt = flipped(disk, names[1], 3)  # the head: a start looks at every head
    with pytest.raises(LogDamaged):
        Journal.open(hurt.kill(), LOG_ID, T0_MS, 4096)
    result = repair(hurt)
    assert result.last_sequence == len(store.history)
    assert "No state is lost" in result.done[0]
    recovered = Journal.open(hurt.crash(3), LOG_ID, T0_MS, 4096)[1]
    assert differences(recovered.states, store.states) == []


def test_a_repair_never_makes_an_empty_start() -> None:
    disk, _ = a_log()
    names = logs(disk)
    for hurt in (flipped(disk, names[0], 0), flipped(disk, names[0], 520)):
        files = hurt.files()
        with pytest.raises(LogDamaged):
            repair(hurt)
        assert hurt.files() == files
    headless = disk.files()
    del headless[names[0]]
    with pytest.raises(LogDamaged):
        repair(SimDisk(headless))


def test_a_snapshot_of_another_history_is_set_aside_when_the_log_is_whole() -> None:
    disk, store = a_log(31, (30,))
    name = next(n for n in disk.names() if n.endswith(".snapshot"))
    sequence = int(name.split(".")[0])
    snapshots.write(disk, images(store.states), Head(LOG_ID, sequence, T0_MS, 1))
    result = repair(disk)
    assert result.last_sequence == len(store.history)
    assert name not in disk.names()
    assert f"{name}-1.damaged" in disk.names()


def test_a_second_repair_does_not_overwrite_what_the_first_set_aside() -> None:
    disk, _ = a_log()
    names = logs(disk)
    hurt = flipped(disk, names[2], 1700)
    repair(hurt)
    again = flipped(hurt, names[2], 1100)
    repair(again)
    aside = {name: content for name, content in hurt.files().items() if name.endswith(".damaged")}
    assert len(aside) >= 3
    assert again.files().items() >= aside.items()
    assert len([name for name in again.names() if name.endswith(".damaged")]) > len(aside)


def test_a_repair_needs_the_directory_for_itself_and_survives_a_failing_disk() -> None:
    disk, store = a_log()
    disk.lock()
    with pytest.raises(DirectoryInUse):
        repair(disk)
    hurt = flipped(disk, logs(disk)[2], 700)
    expected = repair(SimDisk(hurt.files())).last_sequence
    at = 0
    while True:
        at += 1
        real = SimDisk(hurt.files())
        faulty = FaultyDisk(real, at, "ENOSPC")
        with suppress(OSError, LogFailed):
            repair(faulty)
        if faulty.count < at:
            break
        after = real.crash(at)
        last = repair(after).last_sequence
        assert last == expected, at
        assert differences(recovery.recover(after).states, folded(store.history[:last])) == []
    assert at > 20


def test_segments_that_overlap_are_found() -> None:
    disk, _ = a_log()
    names = logs(disk)
    files = disk.files()
    head = frames.decode_head(frames.LOG_MAGIC, files[names[2]])
    assert isinstance(head, Head)
    early = Head(LOG_ID, head.sequence - 1, T0_MS, head.chain)
    files[segments.name_of(head.sequence - 1, ".log")] = frames.encode_head(frames.LOG_MAGIC, early)
    assert verify(SimDisk(files)).exit_code == 3
