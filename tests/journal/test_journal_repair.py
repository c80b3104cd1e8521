"""Doubt and repair: every planted fault is found, and a repair says what it costs and keeps what it cuts."""

import re
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from msgspec.structs import replace

from moxy.core.events import Acked, AnyEvent, DeadLettered, Enqueued, Expired, Leased, Matured, Requeued
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.journal import codec, frames, recovery, segments, snapshots
from moxy.journal import verify as module
from moxy.journal.errors import DirectoryInUse, LogDamaged, LogFailed
from moxy.journal.frames import Head, Place
from moxy.journal.journal import Journal
from moxy.journal.repair import repair
from moxy.journal.verify import Report, digest, steps_of, verify
from spec.simdisk import FaultyDisk, SimDisk
from tests.core.oracle import persistent
from tests.core.support import real
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
        report, close = verify(disk), verify(disk, every_step=True)
        assert report.findings == close.findings == ()
        assert report.exit_code == close.exit_code == 0
        assert report.snapshots_checked == 2
        assert report.steps >= 60
        assert (report.last_sequence, report.events, report.folded_from) == (len(store.history), len(store.history), 1)
        assert report.digest == digest(store.states) == close.digest
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
    whim = DeadLettered("jobs", 2, T0_MS, 1, "a", "attempts", "no reason at all")
    on_time = Expired("jobs", 3, T0_MS + 100, 1, "a", "l1", 1)
    for every_step in (False, True):
        for batches, told in (
            ([[enqueued], [leased], [early, requeued]], "I6"),
            ([[enqueued, whim]], "I9"),
            ([[enqueued], [leased], [on_time]], "limbo"),
        ):
            assert told in " ".join(verify(forged(batches), every_step).findings)


def waiting(count: int) -> SimDisk:
    """A log that leaves so many tasks waiting, and has cycled as many through."""
    events: list[AnyEvent] = [Enqueued("jobs", n, T0_MS, n, f"t{n}", b"") for n in range(1, count + 1)]
    for n in range(count):
        seq, number, token = count + 3 * n, count + n + 1, n + 1
        lease_id = f"jobs:{number}:{token}:00"
        events += [
            Enqueued("jobs", seq + 1, T0_MS, number, f"t{number}", b"", 9),
            Leased("jobs", seq + 2, T0_MS, number, f"t{number}", lease_id, token, T0_MS + 100),
            Acked("jobs", seq + 3, T0_MS, number, f"t{number}", lease_id),
        ]
    return forged([events[at : at + 50] for at in range(0, len(events), 50)])


def lines_run(disk: SimDisk, every_step: bool = False) -> tuple[Report, int]:
    """A report, and how many lines of moxy's Python ran for it: a cost that is the same on every machine."""
    count = 0

    def local(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def trace(frame: FrameType, event: str, _: object) -> Any:
        return local if "moxy" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        report = verify(disk, every_step)
    finally:
        sys.settrace(before)
    return report, count


def test_verifying_twice_the_log_costs_twice_as_much() -> None:
    (small, small_lines), (large, large_lines) = (lines_run(waiting(count)) for count in (600, 1200))
    for report in (small, large):
        assert report.findings == ()
        assert report.steps == report.events == report.touched
        assert report.recounts > 1
        assert report.recounted <= 3 * report.events, "recounts look at more than came in between"
    assert large.events == 2 * small.events
    assert large_lines < 2.5 * small_lines


def test_recounting_at_every_step_is_what_it_says() -> None:
    """The other side of the test above: what it would look like if the cost were not linear."""
    (small, small_lines), (large, large_lines) = (lines_run(waiting(count), True) for count in (50, 100))
    assert small.recounts == small.steps + 1, "and at the end"
    assert large.recounted > 3.5 * small.recounted
    assert large_lines > 3 * small_lines


def test_a_task_that_an_event_changes_without_naming_it_is_found_by_the_next_recount(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What checks near the events cannot see; the recount after a thousand events names the record it ended with."""

    def apply_and_spoil(state: QueueState, event: AnyEvent) -> QueueState:
        after = apply(state, event)
        if after.seq == 300:
            truth = persistent(after)
            after = real(replace(truth, tasks=truth.tasks.set(7, replace(truth.tasks[7], priority=3))))
        return after

    monkeypatch.setattr(module, "apply", apply_and_spoil)
    findings = verify(waiting(1000)).findings
    assert re.match(rf"{1:020d}\.log, offset \d+, seq 1000, queue 'jobs': I7", findings[0])
    close = verify(waiting(200), every_step=True).findings
    assert re.match(rf"{1:020d}\.log, offset \d+, queue 'jobs', seq 300: I7", close[0])


def test_a_snapshot_that_its_server_dropped_meanwhile_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, _ = a_log(31, (30,))
    name = next(n for n in disk.names() if n.endswith(".snapshot"))
    load = snapshots.load

    def dropped(*words: Any) -> snapshots.Snapshot:
        disk.current.pop(name)
        return load(*words)

    monkeypatch.setattr(snapshots, "load", dropped)
    report = verify(disk)
    assert (report.findings, report.snapshots_checked) == ((), 0)
    assert report.notes == (f"{name} was dropped by its server in the meantime, and is not checked",)


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
