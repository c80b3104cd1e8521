"""Snapshots: exact, whole or not there, and never the only way back."""

import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from moxy.core import invariants
from moxy.core.events import Enqueued
from moxy.core.lifecycle import READY
from moxy.core.policy import Policy
from moxy.core.reading import FIELDS, different
from moxy.core.tasks import NO_OPTIONS, NO_TALLY
from moxy.journal import frames, snapshots
from moxy.journal.disk import OsDisk
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import Head, Place
from moxy.journal.journal import Journal
from moxy.journal.rows import EndRow, QueueRow, Row, TaskRow
from spec.simdisk import FaultyDisk, SimDisk
from tests.core.support import altered
from tests.journal.storekeeper import LOG_ID, T0_MS, Store, Workload, differences, folded, images, random_batches

HEAD = Head(LOG_ID, 7, T0_MS, 99)


@settings(max_examples=60)
@given(st.integers(0, 10**9), st.integers(1, 60), st.integers(0, 40))
def test_a_snapshot_and_the_tail_are_the_full_replay(seed: int, before: int, after: int) -> None:
    batches = random_batches(seed, before + after)
    states = folded(event for batch in batches[:before] for event in batch)
    disk = SimDisk()
    name = snapshots.write(disk, images(states), HEAD)
    loaded = snapshots.load(disk, name, 7)
    assert loaded.head == HEAD
    assert differences(loaded.states, states) == []
    assert loaded.tasks == sum(len(state.tasks) for state in states.values())
    tail = [event for batch in batches[before:] for event in batch]
    assert differences(folded(tail, loaded.states), folded(tail, states)) == []


def test_the_equality_sees_every_field() -> None:
    events = [event for batch in random_batches(3, 60) for event in batch]
    whole = folded(events)
    state = whole["jobs"]
    assert different(state, state) == []
    seen: set[str] = set()
    for other in [folded(events[:count]).get("jobs") for count in range(len(events))]:
        if other is not None:
            seen |= set(different(state, other))
    held = next(task for task in state.tasks.values() if task.state == READY)
    seen |= set(different(state, altered(state, replace(held, state="expired"), name="other", paused=not state.paused)))
    seen |= set(different(state, type(state)("jobs", Policy(max_ready=77))))
    assert seen == set(FIELDS)


def test_what_most_tasks_share_is_shared_again() -> None:
    states = folded([Enqueued("jobs", 1, T0_MS, 1, "a", b"")])
    disk = SimDisk()
    task = snapshots.load(disk, snapshots.write(disk, images(states), HEAD), 7).states["jobs"].tasks[1]
    assert task.options is NO_OPTIONS
    assert task.tally is NO_TALLY


def test_many_tasks_and_large_payloads_go_in_many_small_writes() -> None:
    events = [Enqueued("jobs", n, T0_MS, n, f"t{n}", bytes(200_000 if n < 5 else 10)) for n in range(1, 3001)]
    disk = FaultyDisk(SimDisk())
    states = folded(events)
    breaths: list[int] = []
    name = snapshots.write(disk, images(states), HEAD, lambda: breaths.append(1))
    writes = sum(call == "write" for call, _ in disk.calls)
    assert len(breaths) == writes - 1 > 12
    assert differences(snapshots.load(disk, name, 7).states, states) == []


def test_no_cut_and_no_flipped_bit_of_a_snapshot_is_accepted() -> None:
    states = folded(event for batch in random_batches(2, 12) for event in batch)
    disk = SimDisk()
    name = snapshots.write(disk, images(states), HEAD)
    data = disk.read(name)
    for cut in range(len(data)):
        with pytest.raises(LogDamaged):
            snapshots.load(SimDisk({name: data[:cut]}), name, 7)
    for bit in [*range(0, 512 * 8, 3), *range(512 * 8, len(data) * 8, 5)]:
        changed = bytearray(data)
        changed[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(LogDamaged):
            snapshots.load(SimDisk({name: bytes(changed)}), name, 7)
    for more in (b"\0", b"\0" * 600, data[512:], b"x"):
        with pytest.raises(LogDamaged):
            snapshots.load(SimDisk({name: data + more}), name, 7)


def test_a_snapshot_without_its_last_row_or_with_more_after_it_is_none() -> None:
    states = folded(event for batch in random_batches(2, 30) for event in batch)
    rows = list(snapshots.rows_of(images(states)))
    queue = next(row for row in rows if isinstance(row, QueueRow))

    def refusal(rows: list[Row]) -> str:
        record, _ = frames.encode(msgspec.msgpack.encode(rows), len(rows), 0, Place(512, 1, HEAD.chain), LOG_ID)
        disk = SimDisk({"s": frames.encode_head(frames.SNAPSHOT_MAGIC, HEAD) + record})
        with pytest.raises(LogDamaged) as caught:
            snapshots.load(disk, "s", 7)
        return caught.value.text

    assert "last row is missing" in refusal(rows[:-1])
    assert "something follows its last row" in refusal([*rows, rows[-1]])
    assert "should hold" in refusal([*rows[:-2], rows[-1]])
    assert "before the first queue" in refusal(rows[1:])
    assert "there twice" in refusal([queue, *rows])
    assert "not a sound snapshot" in refusal([queue, rows[1], EndRow(1, 2)][1:])
    task = next(row for row in rows if isinstance(row, TaskRow))
    assert "is nowhere" in refusal([queue, msgspec.structs.replace(task, state="nowhere"), EndRow(1, 1)])


def a_log_with_two_snapshots() -> tuple[SimDisk, Store, list[str]]:
    work = Workload(21)
    disk = SimDisk()
    store = Store(disk, segment_bytes=2048)
    for turn in range(90):
        store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
        store.commit()
        if turn in (30, 60):
            store.snapshot(work.now_ms)
    return disk, store, [name for name in disk.names() if name.endswith(".snapshot")]


def test_a_bad_newest_snapshot_falls_back_to_the_one_before_and_is_kept() -> None:
    disk, store, names = a_log_with_two_snapshots()
    files = disk.files()
    files[names[1]] = files[names[1]][:700]
    hurt = SimDisk(files)
    journal, recovered = Journal.open(hurt, LOG_ID, T0_MS, 4096)
    assert recovered.snapshot_sequence == int(names[0].split(".")[0])
    assert differences(recovered.states, store.states) == []
    assert len(recovered.warnings) == 1
    assert names[1] in recovered.warnings[0]
    assert hurt.files()[names[1] + "-1.damaged"] == files[names[1]]
    assert names[1] not in hurt.names()
    # Another snapshot may take the place of the bad one.
    journal.write_snapshot(images(recovered.states), journal.mark(), T0_MS)
    assert Journal.open(hurt.kill(), LOG_ID, T0_MS, 4096)[1].warnings == ()


def test_two_bad_snapshots_fall_back_to_the_log_or_refuse_but_never_start_empty() -> None:
    disk, store, names = a_log_with_two_snapshots()
    files = disk.files()
    for name in names:
        files[name] = files[name][:-1]
    recovered = Journal.open(SimDisk(files), LOG_ID, T0_MS, 4096)[1]
    assert differences(recovered.states, store.states) == []
    assert len(recovered.warnings) == 2
    first = min(name for name in files if name.endswith(".log"))
    del files[first]
    with pytest.raises(LogDamaged, match="no sound snapshot reaches it"):
        Journal.open(SimDisk(files), LOG_ID, T0_MS, 4096)
    logs = [name for name in files if name.endswith(".log")]
    for name in logs:
        del files[name]
    with pytest.raises(LogDamaged, match="no log"):
        Journal.open(SimDisk(files), LOG_ID, T0_MS, 4096)


def test_a_log_that_ends_before_its_snapshot_is_damage() -> None:
    disk, _, names = a_log_with_two_snapshots()
    files = disk.files()
    covered = int(names[1].split(".")[0])
    logs = [name for name in sorted(files) if name.endswith(".log")]
    for name in logs:
        if int(name.split(".")[0]) > covered:
            del files[name]
    last = max(name for name in files if name.endswith(".log"))
    files[last] = files[last][:600]
    with pytest.raises(LogDamaged, match="a snapshot covers sequence"):
        Journal.open(SimDisk(files), LOG_ID, T0_MS, 4096)


def test_a_snapshot_of_another_log_or_another_history_is_not_used() -> None:
    disk, store, names = a_log_with_two_snapshots()
    sound = snapshots.load(disk, names[1], int(names[1].split(".")[0]))
    for head in (
        Head(LOG_ID + 1, sound.head.sequence, T0_MS, sound.head.chain),
        Head(LOG_ID, sound.head.sequence, T0_MS, sound.head.chain ^ 1),
        Head(LOG_ID, sound.head.sequence - 1, T0_MS, sound.head.chain),
    ):
        other = SimDisk(disk.files())
        other.remove(names[1])
        snapshots.write(other, images(store.states), head)
        with pytest.raises(LogDamaged):
            Journal.open(other, LOG_ID, T0_MS, 4096)


def test_the_log_is_durable_before_a_snapshot_of_it_is() -> None:
    disk = FaultyDisk(SimDisk())
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, 4096)
    batch = random_batches(4, 1)[0]
    journal.append(batch)
    with pytest.raises(AssertionError):
        journal.mark()
    journal.flush()
    before = len(disk.calls)
    name = journal.write_snapshot(images(folded(batch)), journal.mark(), T0_MS)
    calls = [call for call, _ in disk.calls[before:]]
    assert calls[:2] == ["sync", "create"]
    assert calls[-3:] == ["sync", "rename", "sync_names"]
    assert name == f"{len(batch):020d}.snapshot"


def test_a_thread_writes_a_snapshot_while_the_states_move_on(tmp_path: Path) -> None:
    events = [Enqueued("jobs", n, T0_MS, n, f"t{n}", b"p" * 20) for n in range(1, 6001)]
    journal, _ = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 1 << 20)
    journal.append(events[:3000])
    journal.flush()
    states = folded(events[:3000])
    mark = journal.mark()
    thread = threading.Thread(
        target=journal.write_snapshot, args=([state.frozen() for state in states.values()], mark, T0_MS)
    )
    thread.start()
    for event in events[3000:]:
        states = folded([event], states)
        journal.append([event])
        journal.flush()
    thread.join()
    journal.close()
    recovered = Journal.open(OsDisk(str(tmp_path)), LOG_ID, T0_MS, 4096)[1]
    assert recovered.snapshot_sequence == 3000
    assert recovered.events == 3000
    assert differences(recovered.states, states) == []
    assert invariants.broken(recovered.states["jobs"]) == []
