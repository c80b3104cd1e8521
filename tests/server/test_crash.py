"""The real server on a real disk, killed, cut, flipped, filled up: what its clients saw is checked by `history`.

Lives here: processes and their exit codes. Must not: the log's format under faults, which is tests/journal.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from moxy.journal.disk import OsDisk
from moxy.journal.verify import verify
from tests.server.history import Recorder, check
from tests.server.launch import MOXY, Launched, broken, contents, moxy, serve
from tests.server.load import QUEUE, STATES, Crew, check_books, crew_pool, look
from tests.server.support import Client, Failure, Gone, Status, until

CLIENTS = 8
MODES = ("always", "everysec", "no")
KILLED = -signal.SIGKILL
SEED = os.environ.get("CRASH_SEED", "1")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with crew_pool(CLIENTS) as pool:
        yield pool


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A data directory that does not outlive its test, nor its copy `copy_of` does: a segment has 64 MiB."""
    yield tmp_path / "data"
    for path in (tmp_path / "data", tmp_path / "copy"):
        shutil.rmtree(path, ignore_errors=True)


def copy_of(directory: Path) -> Path:
    copy = directory.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(directory, copy))


def kill(server: Launched) -> None:
    server.child.kill()
    assert server.end()[0] == KILLED


def check_drained(crew: Crew, server: Launched) -> None:
    """Drain, judge all that was seen so far, and count: the server's own books must say the same (I1)."""
    left = crew.drain(server.address)
    findings = check(crew.ops, left)
    assert not findings, f"{len(findings)} findings, seed {crew.seed!r}: {findings[:10]}"
    with server.client() as client:
        check_books(client, left)


def check_log(directory: Path) -> None:
    """What `moxy verify` does; and no torn end."""
    disk = OsDisk(str(directory))
    report = verify(disk)
    disk.close()
    assert (report.findings, report.notes) == ((), ())


def crashes(directory: Path, pool: ProcessPoolExecutor, mode: str, cycles: int, before: Sequence[str] = MOXY) -> None:
    crew = Crew(pool, CLIENTS, f"{mode}-{SEED}")
    for _ in range(cycles):
        with serve(directory, mode, "--max-attempts", "0", before=before) as server:
            crew.until_killed(server.address, server.child.pid)
            assert server.end()[0] == KILLED
        with serve(directory, mode, "--max-attempts", "0", before=before) as server:
            check_drained(crew, server)
            assert server.stop() == 0
    assert any(op.is_unknown for op in crew.ops), "no kill hit a command"
    check_log(directory)


# kill -9 under load


@pytest.mark.parametrize("mode", MODES)
def test_kill_nine_under_load_loses_nothing_in_any_mode(mode: str, directory: Path, pool: ProcessPoolExecutor) -> None:
    crashes(directory, pool, mode, 3)


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", MODES)
def test_kill_nine_under_load_again_and_again(mode: str, directory: Path, pool: ProcessPoolExecutor) -> None:
    crashes(directory, pool, mode, int(os.environ.get("CRASH_CYCLES", "40")))


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_power_cuts_under_load_lose_nothing_in_mode_always(directory: Path, pool: ProcessPoolExecutor) -> None:
    """On a disk whose cache does not survive the process."""
    crashes(directory, pool, "always", 15, broken("volatile"))


def test_snapshots_beside_the_load_break_nothing(directory: Path, pool: ProcessPoolExecutor) -> None:
    crew = Crew(pool, 2, f"snapshots-{SEED}")
    flags = ("--max-attempts", "0", "--snapshot-every", "1000")
    with serve(directory, "everysec", *flags) as server:
        crew.begin(server.address)
        assert [server.wait_for("snapshot.written")["sequence"] > 0 for _ in range(2)] == [True, True]
        kill(server)
        crew.finish()
    with serve(directory, "everysec", *flags) as server:
        (recovered,) = server.said("log.recovered")
        assert recovered["snapshot_sequence"] > 0
        check_drained(crew, server)
        assert server.stop() == 0
    check_log(directory)


# Faults injected by strace. It counts calls thread by thread: the loop's thread makes the segments, another one syncs
# turns, a third one zeroes the next segment and writes snapshots.


def strace(inject: str) -> tuple[str, ...]:
    """With `--seccomp-bpf` the other calls are fast, but no signal reaches the first thread (seen with strace 6.1)."""
    calls, fault = inject.split(":")[:2]
    quick = () if fault.startswith("signal=") else ("--seccomp-bpf",)
    return ("strace", "-f", "-qq", *quick, "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={inject}", *MOXY)


def enqueue_until_gone(server: Launched, tasks: int = 900, limit: int = 100_000) -> Recorder:
    """Enqueue so many, one after the other, then change the policy to and fro, until the server is gone."""
    recorder = Recorder(server.address, "one")
    try:
        for number in range(limit):
            if number < tasks:
                recorder("MOXY.ENQUEUE", QUEUE, f"task-{number}")
            else:
                recorder("MOXY.CONFIG", QUEUE, "backoff_ms", str(number % 2))
    except Gone:
        pass
    finally:
        recorder.close()
    return recorder


def check_after(recorder: Recorder, directory: Path) -> int:
    """Start without faults: everything that was acknowledged is there, and whatever else is was at least asked for.

    How many tasks that are.
    """
    with serve(directory, "always") as server:
        with closing(Recorder(server.address, "after")) as after:
            left = look(after)
        assert check(recorder.ops, left) == []
        assert server.stop() == 0
    check_log(directory)
    return len(left)


@needs_strace
@pytest.mark.parametrize("number", [5, 9])  # a start takes one or two of them itself
def test_no_reply_after_a_failed_sync_and_exit_code_4(number: int, directory: Path) -> None:
    with serve(directory, "always", before=strace(f"fdatasync:error=EIO:when={number}")) as server:
        recorder = enqueue_until_gone(server, limit=1000)
        assert recorder.ops[-1].is_unknown
        assert server.end()[0] == 4
        assert "fsync failed" in server.logs[-1]
    answered = len(recorder.ops) - 1
    assert answered > 0
    assert [op.is_unknown for op in recorder.ops] == [False] * answered + [True]
    assert not any(op.is_refused for op in recorder.ops)
    assert check_after(recorder, directory) == answered + 1, "the last was written: it was its sync that failed"


@needs_strace
def test_a_failed_sync_beside_the_turns_ends_the_server_with_code_4(directory: Path) -> None:
    with serve(directory, "everysec") as server:
        assert server.stop() == 0
    with serve(directory, "everysec", before=strace("fdatasync:error=EIO:when=2")) as server:
        recorder = enqueue_until_gone(server)
        assert server.end()[0] == 4
    assert recorder.ops[-1].is_unknown
    check_after(recorder, directory)


def test_no_client_of_a_batch_is_answered_after_a_failed_sync(directory: Path, pool: ProcessPoolExecutor) -> None:
    """The batch is lost with the process: whoever had been told that it is done would miss it."""
    crew = Crew(pool, CLIENTS, f"eio-{SEED}")
    flags = ("--max-attempts", "0")
    with serve(directory, "always", *flags, before=broken("sync_fails")) as server:
        crew.begin(server.address)
        assert server.end()[0] == 4
        crew.finish()
    assert len({op.client for op in crew.ops}) > CLIENTS // 2
    with serve(directory, "always", *flags) as server:
        check_drained(crew, server)


# What a start does: its name into the lock, 64 writes of zeros, the head, then a write a turn.
KILLS = (
    "pwrite64:signal=KILL:when=1",
    "pwrite64:signal=KILL:when=65",
    "pwrite64:signal=KILL:when=66",
    "pwrite64:signal=KILL:when=80",
    "fdatasync:signal=KILL:when=1",
    "fdatasync:signal=KILL:when=2",
    "fdatasync:signal=KILL:when=9",
    "rename:signal=KILL:when=1",
    "fsync:signal=KILL:when=1",
)
MORE_KILLS = tuple(
    f"{call}:signal=KILL:when={number}"
    for call, numbers in {
        "pwrite64": (2, 30, 64, 67, 68, 69, 70, 75, 90, 110),
        "fdatasync": (3, 4, 5, 6, 7, 8, 15, 30),
        "ftruncate": (1,),
    }.items()
    for number in numbers
)


def killed_at(fault: str, directory: Path) -> None:
    with serve(directory, "always", before=strace(fault), up=False) as server:
        recorder = enqueue_until_gone(server, 60, 60) if server.is_up else None
        assert server.end()[0] == KILLED
    if recorder is not None:
        check_after(recorder, directory)
    else:
        with serve(directory, "always") as server:
            assert server.stop() == 0
        check_log(directory)


@needs_strace
@pytest.mark.parametrize("fault", KILLS)
def test_a_kill_at_any_call_of_the_disk_recovers(fault: str, directory: Path) -> None:
    killed_at(fault, directory)


@needs_strace
@pytest.mark.deep
@pytest.mark.parametrize("fault", MORE_KILLS)
def test_a_kill_at_many_more_calls_of_the_disk_recovers(fault: str, directory: Path) -> None:
    killed_at(fault, directory)


@needs_strace
@pytest.mark.parametrize("call", ["rename", "unlink"])
def test_a_kill_in_the_midst_of_a_snapshot_recovers(call: str, directory: Path, pool: ProcessPoolExecutor) -> None:
    """The segment is there already, so the first rename is a snapshot's, and the first unlink an old snapshot's."""
    flags = ("--max-attempts", "0", "--snapshot-every", "1000")
    with serve(directory, "no", *flags) as server:
        assert server.stop() == 0
    crew = Crew(pool, 2, f"snapshot-{call}-{SEED}")
    with serve(directory, "no", *flags, before=strace(f"{call}:signal=KILL:when=1")) as server:
        crew.begin(server.address)
        assert server.end()[0] == KILLED
        crew.finish()
        written = len(server.said("snapshot.written"))
        assert written == {"rename": 0, "unlink": 2}[call]
    with serve(directory, "no", *flags) as server:
        check_drained(crew, server)
        assert server.stop() == 0
    check_log(directory)


# A log that is not what was written


def segment_of(directory: Path) -> Path:
    (segment,) = directory.glob("*.log")
    return segment


@pytest.fixture
def killed(directory: Path) -> Recorder:
    """A directory whose server was killed after a hundred tasks; what its client saw."""
    with serve(directory, "always") as server:
        recorder = enqueue_until_gone(server, 100, 100)
        kill(server)
    return recorder


def test_a_flipped_bit_in_the_middle_is_refused_and_nothing_is_changed(directory: Path, killed: Recorder) -> None:
    segment = segment_of(directory)
    data = bytearray(segment.read_bytes())
    at = len(data.rstrip(b"\0")) // 2
    data[at] ^= 1
    segment.write_bytes(data)
    before = contents(directory)
    with serve(directory, "always", up=False) as server:
        assert not server.is_up
        assert server.end()[0] == 3
        said = re.search(r"(\S+\.log), offset (\d+), sequence (\d+): ", "\n".join(server.logs))
        assert not any("Traceback" in line for line in server.logs)
    assert said is not None
    assert said[1] == segment.name
    assert int(said[2]) <= at < int(said[2]) + 512
    assert contents(directory) == before
    assert moxy("verify", str(directory)).returncode == 3
    assert contents(directory) == before
    repaired = moxy("repair", str(directory))
    assert repaired.returncode == 0
    assert f"the log now ends with sequence {int(said[3]) - 1}\n" in repaired.stdout
    originals = [content for name, content in contents(directory).items() if name.endswith(".damaged")]
    assert originals == [bytes(data).rstrip(b"\0")]
    with serve(directory, "always") as server, server.client() as client:
        assert client.map("MOXY.STATS", QUEUE)["ready"] == int(said[3]) - 1


def test_a_cut_tail_starts_with_one_warning_and_keeps_a_copy(directory: Path, killed: Recorder) -> None:
    segment = segment_of(directory)
    whole = segment.read_bytes().rstrip(b"\0")
    segment.write_bytes(whole[:-9])
    with serve(directory, "always") as server:
        (warning,) = server.said("log.warning")
        assert segment.name in warning["text"]
        assert [entry["level"] for entry in map(json.loads, server.logs)].count("warning") == 1
        with server.client() as client:
            assert client.map("MOXY.STATS", QUEUE)["ready"] == len(killed.ops) - 1
        assert server.stop() == 0
    (copy,) = directory.glob("*.torn")
    assert whole[:-9].rstrip(b"\0").endswith(copy.read_bytes())
    with serve(directory, "always") as server:
        assert server.said("log.warning") == []


def test_a_second_server_is_refused_with_code_6_and_the_first_goes_on(directory: Path) -> None:
    with serve(directory, "always") as first, first.client() as client:
        with serve(directory, "always", up=False) as second:
            assert not second.is_up
            assert second.end()[0] == 6
            assert f"process {first.child.pid}" in second.logs[-1]
        assert isinstance(client("MOXY.ENQUEUE", QUEUE, "x"), list)
        assert moxy("repair", str(directory)).returncode == 6


# A restart


def furnish(client: Client) -> None:
    """A bit of everything that a queue can hold."""
    for number in range(20):
        client("MOXY.ENQUEUE", QUEUE, f"plain {number}", "ID", f"plain-{number}")
    client("MOXY.ENQUEUE", QUEUE, "urgent", "ID", "urgent", "PRIORITY", 9)
    client("MOXY.ENQUEUE", QUEUE, "later", "ID", "later", "DELAY", 3_600_000)
    client("MOXY.ENQUEUE", QUEUE, "poison", "ID", "poison", "PRIORITY", 8, "MAXATTEMPTS", 1)
    client("MOXY.CONFIG", QUEUE, "backoff_ms", 7_000, "max_ready", 500)
    leases = [bytes(entry[1]) for entry in client("MOXY.FETCH", QUEUE, 600_000, "COUNT", 9)]
    client("MOXY.ACK", leases[2])
    client("MOXY.NACK", leases[1], "REASON", "no good")
    client("MOXY.NACK", leases[3], "DELAY", 3_600_000)
    client("MOXY.NACK", leases[4], "RELEASE")
    client("MOXY.EXTEND", leases[5], 900_000)


def everything(client: Client) -> dict[str, Any]:
    """All that can be asked about a queue and does not depend on the time of asking."""
    seen: dict[str, Any] = {state: client("MOXY.PEEK", QUEUE, "STATE", state, "COUNT", 1000) for state in STATES}
    info = client.map("MOXY.INFO", QUEUE)
    seen["totals"] = {name: value for name, value in info.items() if "age" not in name and "since" not in name}
    seen["stats"] = client.map("MOXY.STATS", QUEUE)
    seen["tasks"] = [client("MOXY.SHOW", QUEUE, bytes(task[3])) for state in STATES for task in seen[state]]
    return seen


def test_a_restart_keeps_leases_deadlines_order_and_counters(directory: Path) -> None:
    with serve(directory, "no") as server, server.client() as client:
        furnish(client)
        before = everything(client)
        kill(server)
    assert [len(before[state]) for state in STATES] == [14, 2, 5, 1]
    replayed = moxy("replay", str(copy_of(directory)), "--queue", QUEUE).stdout
    with serve(directory, "no") as server, server.client() as client:
        assert everything(client) == before
        assert moxy("replay", str(directory), "--queue", QUEUE).stdout == replayed
        lease_id = before["processing"][0][1]
        assert client("MOXY.ACK", lease_id) == Status("OK")
        assert client("MOXY.FETCH", QUEUE, 1000, "COUNT", 1)[0][13] == before["totals"]["last_token"] + 1
    told, _, *rows = replayed.splitlines()
    stats = before["stats"]
    assert f"{stats['ready']} ready, 2 scheduled, {stats['processing']} processing, {stats['dead']} dead" in told
    assert f"{before['totals']['total_acked']} acked" in told
    assert [row.split()[:2] for row in rows] == [
        [state, task[3].decode()] for state in ("processing", "ready", "scheduled", "dead") for task in before[state]
    ]


def test_bound_leases_are_released_by_a_restart(directory: Path) -> None:
    with serve(directory, "always") as server, server.client() as client:
        client("MOXY.ENQUEUE", QUEUE, "x", "ID", "task")
        (entry,) = client("MOXY.FETCH", QUEUE, 600_000, "BOUND")
        kill(server)
    with serve(directory, "always") as server, server.client() as client:
        until(lambda: client.map("MOXY.STATS", QUEUE)["ready"], lambda ready: ready == 1)
        task = client.map("MOXY.SHOW", QUEUE, "task")
        assert (task["disconnects"], task["attempts"], task["lease_id"]) == (1, 1, None)
        refused = client("MOXY.ACK", entry[1])
        assert isinstance(refused, Failure)
        assert refused.code == "NOLEASE"


def test_a_lease_that_lapsed_while_the_server_was_down_expires_at_once(directory: Path) -> None:
    with serve(directory, "always") as server, server.client() as client:
        client("MOXY.ENQUEUE", QUEUE, "x", "ID", "task")
        (entry,) = client("MOXY.FETCH", QUEUE, 2_000, "COUNT", 1)
        kill(server)
    deadline_ms = entry[15]
    while time.time_ns() // 1_000_000 <= deadline_ms:
        assert "1 processing" in moxy("replay", str(directory)).stdout
    with serve(directory, "always") as server, server.client() as client:
        until(lambda: client.map("MOXY.STATS", QUEUE)["ready"], lambda ready: ready == 1)
        task = client.map("MOXY.SHOW", QUEUE, "task")
        assert (task["expiries"], task["attempts"], task["deliveries"]) == (1, 1, 1)
        expired = [client.as_map(event) for event in client("MOXY.HISTORY", QUEUE, "task")][2]
        assert expired["event"] == b"Expired"
        assert expired["at_ms"] >= deadline_ms


def test_a_clean_end_writes_a_snapshot_and_the_next_start_folds_nothing(directory: Path) -> None:
    with serve(directory, "everysec") as server, server.client() as client:
        furnish(client)
        before = everything(client)
        assert server.stop() == 0
    (snapshot,) = directory.glob("*.snapshot")
    with serve(directory, "everysec") as server, server.client() as client:
        (recovered,) = server.said("log.recovered")
        assert recovered["events_folded"] == 0
        assert snapshot.name == f"{recovered['snapshot_sequence']:020d}.snapshot"
        assert everything(client) == before


# A disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes what space is left."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.mark.parametrize("mode", MODES)
def test_a_full_disk_refuses_changes_answers_reads_and_recovers_with_space(mode: str, small_disk: Path) -> None:
    directory = small_disk / "data"
    names = (f"task-{number}{'.' * 10_000}" for number in itertools.count())  # more than a page has left
    with serve(directory, mode) as server, server.client() as client, closing(Recorder(server.address, "one")) as one:
        for _ in range(5):
            one("MOXY.ENQUEUE", QUEUE, next(names))
        (held,) = one("MOXY.FETCH", QUEUE, "600000", "COUNT", "1")
        for _ in range(3):
            # More than once, since the next segment may just have taken space, and given it back.
            refused = until(lambda: fill(small_disk) and one("MOXY.ENQUEUE", QUEUE, next(names)), is_refused)
            assert refused.code == "IOERR"
            there = len(client("MOXY.PEEK", QUEUE, "COUNT", 1000))
            assert client.map("MOXY.STATS", QUEUE)["ready"] == there >= 4
        assert server.child.poll() is None
        (small_disk / "filler").unlink()
        until(lambda: one("MOXY.EXTEND", held["lease_id"], "900000"), lambda reply: not is_refused(reply))
        check_log(directory)  # behind this small record nothing is left of the big ones that did not fit
        assert not is_refused(one("MOXY.ENQUEUE", QUEUE, next(names)))
        assert client.map("MOXY.STATS", QUEUE)["ready"] == there + 1
        assert one("MOXY.ACK", held["lease_id"]) == Status("OK")
        assert all(server.wait_for("log.refused")["text"] for _ in range(3))
        kill(server)
    with serve(directory, mode) as server, closing(Recorder(server.address, "after")) as after:
        left = look(after)
        assert len(left) == there + 1
        assert check(one.ops, left) == []
        assert server.stop() == 0
    check_log(directory)


def is_refused(reply: Any) -> bool:
    return isinstance(reply, Failure)
