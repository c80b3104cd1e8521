"""The commands that read a log, on a log whose answers are known: what they print, in a pipe and on a terminal.

Lives here: events, why, verify, repair, and what all of them share. Must not: replay and whatif, which are
test_replay.py.
"""

import base64
import json
import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.journal.disk import OsDisk
from moxy.journal.frames import HEAD_BYTES
from moxy.journal.journal import Journal
from tests.logs import LAST, PAYLOADS, T0, Author, author, run, seqs, write
from tests.server.launch import MOXY, clean_environment, contents, serve
from tests.server.support import Client

SHOWN = 256
SLOW = [1, 3, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def story() -> Author:
    return author()


@pytest.fixture(scope="module")
def log(story: Author, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("log") / "data", story.batches)


@pytest.fixture
def copy(log: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(log, tmp_path / "copy"))


def objects(*words: object) -> list[dict[str, Any]]:
    ran = run("events", *words)
    assert (ran.code, ran.err) == (0, "")
    return [json.loads(line) for line in ran.lines]


# events


def test_every_event_is_a_json_line_in_a_pipe(story: Author, log: Path) -> None:
    told = objects(log)
    assert [entry["log_sequence"] for entry in told] == list(range(1, LAST + 1))
    events = [event for batch in story.batches for event in batch]
    assert [(e["event"], e["queue"], e["seq"], e["at_ms"]) for e in told] == [
        (type(e).__name__, e.queue, e.seq, e.at_ms) for e in events
    ]
    assert told[2]["worker"] == "worker-1"
    assert told[2]["deadline_ms"] == T0 + 1100
    assert told[15]["reason"] == "boom"
    assert run("events", log, "--json").out == run("events", log).out


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (("--queue", "jobs"), list(range(1, 17))),
        (("--queue", "mail"), [1, 2, 3, 4]),
        (("--queue", "nobody"), []),
        (("--task", "slow"), SLOW),
        (("--type", "Leased"), [3, 4, 8, 11, 14]),
        (("--type", "deadlettered"), [16]),
        (("--task", "slow", "--type", "Leased"), [3, 8]),
        (("--queue", "mail", "--task", "slow"), []),
        (("--queue", "jobs", "--since", 14), [14, 15, 16]),
        (("--queue", "jobs", "--until", 3), [1, 2, 3]),
        (("--queue", "jobs", "--since", 6, "--until", 8), [6, 7, 8]),
        (("--since", 5, "--until", 4), []),
        (("--since", "2026-11-24T03:00:05"), [1, 2, 3, 4]),
        (("--since", "2026-11-24T04:00:05+01:00"), [1, 2, 3, 4]),
        (("--until", "2026-11-24T03:00:00.100"), [1, 2, 3]),
        (("--until", "2026-11-24T03:00:00.099"), [1, 2]),
        (("--since", "2026-11-24T03:00:00.500", "--until", "2026-11-24T03:00:01.1"), [5, 6, 7]),
    ],
)
def test_filters(log: Path, filters: tuple[object, ...], found: list[int]) -> None:
    assert seqs(run("events", log, *filters)) == found


@pytest.mark.parametrize("task_id", PAYLOADS)
def test_a_payload_is_text_or_base64_and_cut(log: Path, task_id: str) -> None:
    (told,) = objects(log, "--task", task_id)
    payload = PAYLOADS[task_id]
    assert told["payload_bytes"] == len(payload)
    if task_id == "bytes":
        assert base64.b64decode(told["payload_base64"]) == payload[:SHOWN]
        assert "payload" not in told
    else:
        shown = told["payload"].encode()
        assert payload.startswith(shown)
        assert min(len(payload), SHOWN - 1) <= len(shown) <= SHOWN, "whole characters, as many as there is room for"
        assert "payload_base64" not in told


def test_a_torn_end_is_where_the_events_end(copy: Path) -> None:
    (segment,) = copy.glob("*.log")
    segment.write_bytes(segment.read_bytes().rstrip(b"\0")[:-5])
    assert [entry["log_sequence"] for entry in objects(copy)] == list(range(1, LAST))


def test_events_go_on_over_segments(story: Author, tmp_path: Path) -> None:
    directory = write(tmp_path / "data", story.batches, segment_bytes=1024)
    assert len(list(directory.glob("*.log"))) > 2
    assert [entry["log_sequence"] for entry in objects(directory)] == list(range(1, LAST + 1))


def test_on_a_terminal_events_are_lines_for_people(log: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([*MOXY, "events", str(log), "--task", "poison"], stdout=theirs, stdin=theirs) as child:
        os.close(theirs)
        shown = "".join(read_all(ours))
        assert child.wait(30) == 0
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(plain) == 7
    assert re.match(r"2026-11-24 03:00:04\.000 jobs #10 Enqueued +task_id=poison", plain[0])
    assert "reason=boom" in plain[-1]
    assert not any(line.startswith("{") for line in plain)


def read_all(fd: int) -> Iterator[str]:
    """What a terminal shows until nobody has it open any more."""
    try:
        while data := os.read(fd, 65536):
            yield data.decode()
    except OSError:
        pass
    finally:
        os.close(fd)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A server's data directory, which does not outlive its test: a segment has 64 MiB."""
    yield tmp_path / "live"
    shutil.rmtree(tmp_path / "live", ignore_errors=True)


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="SIGINT is ignored here")
def test_following_a_live_server_shows_what_comes_and_ends_without_a_traceback(directory: Path) -> None:
    with serve(directory, "always") as server, server.client() as client:
        enqueue(client, 0)
        follower = subprocess.Popen(
            [*MOXY, "events", str(directory), "--follow"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
        )
        with follower, ending(follower):
            assert follower.stdout is not None
            seen = [json.loads(follower.stdout.readline())]
            files = open_files(follower.pid)
            for number in range(1, 6):
                enqueue(client, number)
                seen.append(json.loads(follower.stdout.readline()))
            assert [entry["payload"] for entry in seen] == [f"task {number}" for number in range(6)]
            assert open_files(follower.pid) <= files, "each look keeps a file open"
            follower.send_signal(signal.SIGINT)
            rest, errors = follower.communicate(timeout=30)
        assert rest == b""
        assert b"Traceback" not in errors
        assert follower.returncode == 130
        assert server.stop() == 0


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


def enqueue(client: Client, number: int) -> None:
    assert isinstance(client("MOXY.ENQUEUE", "jobs", f"task {number}"), list)


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_the_tools_read_a_live_directory_and_change_nothing(directory: Path) -> None:
    with serve(directory, "always") as server, server.client() as client:
        client("MOXY.ENQUEUE", "jobs", "a", "ID", "a")
        client("MOXY.FETCH", "jobs", 60_000)
        before = contents(directory)
        assert seqs(run("events", directory)) == [1, 2]
        assert run("why", directory, "jobs", "a").lines[0] == "Task a was delivered once, and is being worked on."
        assert "1 processing" in run("replay", directory).out
        assert run("verify", directory).code == 0
        assert run("whatif", directory, "--queue", "jobs", "--lease-ms", "5").code == 0
        assert {name: data for name, data in contents(directory).items() if not name.startswith("spare")} == {
            name: data for name, data in before.items() if not name.startswith("spare")
        }
        told = [sentence.decode() for sentence in client("MOXY.WHY", "jobs", "a")]
        assert run("why", directory, "jobs", "a").lines == told
        assert server.stop() == 0


# A live directory whose oldest segments go while they are read


@pytest.fixture
def shrinking(story: Author, tmp_path: Path) -> Path:
    """A log of several segments that has two snapshots, so that its first segment may go."""
    directory = tmp_path / "data"
    journal, recovered = Journal.open(OsDisk(str(directory)), 7, T0, segment_bytes=1024)
    states = dict(recovered.states)
    for number, batch in enumerate(story.batches):
        journal.append(batch)
        journal.flush()
        for event in batch:
            states[event.queue] = apply(states.get(event.queue) or QueueState(event.queue), event)
        if number in (8, 12):
            journal.write_snapshot([state.image() for state in states.values()], journal.mark(), T0)
    journal.close()
    return directory


def drop_when_read(patch: pytest.MonkeyPatch, times: int) -> None:
    """The next `times` reads of the oldest segment that is not the last find that it is just gone."""
    read = OsDisk.read
    dropped: set[str] = set()

    def racing(disk: OsDisk, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        logs = sorted(name for name in disk.names() if name.endswith(".log"))
        if name == logs[0] and len(logs) > 1 and len(dropped) < times and length_bytes != HEAD_BYTES:
            dropped.add(name)
            disk.remove(name)
        return read(disk, name, at_bytes, length_bytes)

    patch.setattr(OsDisk, "read", racing)


def test_events_go_on_from_the_new_horizon_and_say_what_they_missed(
    shrinking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = int(sorted(shrinking.glob("*.log"))[1].stem)
    drop_when_read(monkeypatch, 1)
    ran = run("events", shrinking)
    assert (ran.code, ran.err) == (0, "")
    assert [json.loads(line)["log_sequence"] for line in ran.lines] == list(range(second, LAST + 1))


def test_events_that_are_dropped_in_the_midst_are_told_on_stderr(
    shrinking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second, third, *_ = (int(path.stem) for path in sorted(shrinking.glob("*.log")))
    read = OsDisk.read

    def racing(disk: OsDisk, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        if name == f"{second:020d}.log" and name in disk.names():
            disk.remove(f"{1:020d}.log")
            disk.remove(name)
        return read(disk, name, at_bytes, length_bytes)

    monkeypatch.setattr(OsDisk, "read", racing)
    ran = run("events", shrinking)
    assert ran.err == f"events {second} to {third - 1} of the log were dropped before they could be read\n"
    told = [json.loads(line)["log_sequence"] for line in ran.lines]
    assert told == [*range(1, second), *range(third, LAST + 1)]


@pytest.mark.parametrize(
    "words", [("replay",), ("replay", "--diff", 18, 20), ("whatif", "--queue", "jobs", "--lease-ms", 5)]
)
def test_a_fold_begins_again_where_the_log_begins_now(
    shrinking: Path, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    later = Path(shutil.copytree(shrinking, tmp_path / "later"))
    min(later.glob("*.log")).unlink()
    drop_when_read(monkeypatch, 1)
    ran = run(words[0], shrinking, *words[1:])
    assert not (shrinking / f"{1:020d}.log").exists()
    monkeypatch.undo()
    assert (ran.code, ran.err) == (0, "")
    assert ran == run(words[0], later, *words[1:])


def test_verify_begins_again_where_the_log_begins_now(shrinking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_when_read(monkeypatch, 1)
    ran = run("verify", shrinking)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0].startswith("note: the log begins with sequence")


@pytest.mark.parametrize("words", [("replay", "--step"), ("replay",), ("verify",), ("why", "jobs", "slow")], ids=str)
def test_a_log_that_shrinks_faster_than_it_is_read_is_one_sentence(
    shrinking: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(disk: OsDisk, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        raise FileNotFoundError(name)

    monkeypatch.setattr(OsDisk, "read", gone)
    ran = run(words[0], shrinking, *words[1:])
    assert ran.code == 6
    assert re.fullmatch(r"moxy: [^\n]+ its server drops the oldest segments while they are read[^\n]+\n", ran.err)


# why


def test_why_tells_why_a_task_ran_twice(log: Path) -> None:
    summary, *sentences = run("why", log, "jobs", "slow").lines
    assert summary == "Task slow was delivered 2 times. It came back once because a lease expired; it is done."
    assert [int(re.search(r"#(\d+)", sentence)[1]) for sentence in sentences] == SLOW  # type: ignore[index]
    assert "Delivery 1: worker-1 leased it until 2026-11-24 03:00:01.100 with token 1." in sentences[1]
    assert "worker-1 had not acknowledged" in sentences[2]
    assert "worker-3 acknowledged it, 2500 ms after leasing it" in sentences[-1]


def test_why_of_a_dead_letter_names_cause_and_reason(log: Path) -> None:
    summary, *_ = run("why", log, "jobs", "poison").lines
    assert "once because a lease expired and once because a worker gave up (boom)" in summary
    assert "is a dead letter (attempts: boom)" in summary


def test_why_of_nobody_is_a_sentence(log: Path) -> None:
    ran = run("why", log, "jobs", "nobody")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "moxy: no event of the log concerns task 'nobody' of queue 'jobs'\n"


# verify and repair


def test_a_sound_log_is_verified(log: Path) -> None:
    ran = run("verify", log)
    assert ran.code == 0
    assert re.match(rf"last sequence {LAST}, digest [0-9a-f]{{64}}; {LAST} events in 17 records", ran.lines[0])
    assert ran.lines[1].startswith("sound: ")
    assert "at every one of 17 steps in the tasks that it touched" in ran.lines[1]
    assert "in all tasks of a queue 2 times: at the end" in ran.lines[1]
    assert run("verify", log).out == ran.out
    close = run("verify", log, "--every-step")
    assert (close.code, close.lines[0]) == (0, ran.lines[0])
    assert "in all tasks of a queue 19 times: at every step, at every snapshot, at the end" in close.lines[1]


def flip(directory: Path, share: float = 0.5) -> None:
    (segment,) = directory.glob("*.log")
    data = bytearray(segment.read_bytes())
    data[512 + int((len(data.rstrip(b"\0")) - 512) * share)] ^= 16
    segment.write_bytes(data)


def test_a_damaged_log_is_not_verified_and_not_changed(copy: Path) -> None:
    flip(copy)
    before = contents(copy)
    ran = run("verify", copy)
    assert ran.code == 3
    assert re.match(r"wrong: 0{19}1\.log, offset \d+, sequence \d+: ", ran.lines[0])
    assert ran.lines[-1] == "not sound: 1 findings"
    assert contents(copy) == before


@pytest.mark.parametrize("command", ["events", "replay"])
def test_reading_a_damaged_log_ends_with_code_3_where_the_damage_is(copy: Path, command: str) -> None:
    flip(copy)
    ran = run(command, copy)
    assert ran.code == 3
    assert re.fullmatch(r"moxy: 0{19}1\.log, offset \d+, sequence \d+: .*\n", ran.err)


def test_repair_of_a_sound_log_does_nothing(copy: Path) -> None:
    before = contents(copy)
    ran = run("repair", copy)
    assert ran.lines == ["nothing is damaged, and nothing was done", f"the log now ends with sequence {LAST}"]
    assert contents(copy) == before


def test_repair_cuts_before_the_damage_says_so_and_keeps_the_original(copy: Path) -> None:
    flip(copy)
    (segment,) = copy.glob("*.log")
    original = segment.read_bytes()
    first_bad = int(re.search(r"sequence (\d+)", run("verify", copy).out)[1])  # type: ignore[index]
    ran = run("repair", copy)
    assert ran.code == 0
    assert f"Events from sequence {first_bad} on" in ran.out
    assert ran.lines[-1] == f"the log now ends with sequence {first_bad - 1}"
    (kept,) = copy.glob("*.damaged")
    assert kept.read_bytes() == original.rstrip(b"\0")
    assert run("verify", copy).code == 0
    assert [entry["log_sequence"] for entry in objects(copy)] == list(range(1, first_bad))


# What all share


def mistakes(log: Path, empty: Path) -> list[tuple[object, ...]]:
    return [
        ("events",),
        ("events", empty),
        ("events", log / "nowhere"),
        ("events", next(log.glob("*.log"))),
        ("events", log, "--type", "Exploded"),
        ("events", log, "--since", "yesterday"),
        ("events", log, "--until", "-5"),
        ("events", log, "--colour"),
        ("events", log, "extra"),
        ("replay", empty),
        ("replay", log, "--at", "2026-13-01"),
        ("replay", log, "--diff", "5"),
        ("why", log),
        ("why", log, "jobs"),
        ("why", log, "nowhere", "slow"),
        ("whatif", log, "--queue", "jobs"),
        ("whatif", log, "--lease-ms", "5"),
        ("whatif", log, "--queue", "jobs", "--lease-ms", "0"),
        ("whatif", log, "--queue", "jobs", "--lease-ms", "5", "--max-attempts", "-1"),
        ("whatif", log, "--queue", "jobs", "--lease-ms", "5", "--backoff-ms", "x"),
        ("verify",),
        ("repair", log / "nowhere"),
        ("explain", log),
    ]


@pytest.mark.parametrize("number", range(23))
def test_a_mistake_is_one_sentence_and_code_2(log: Path, tmp_path: Path, number: int) -> None:
    cases = mistakes(log, tmp_path)
    assert len(cases) == 23
    ran = run(*cases[number])
    assert (ran.code, ran.out) == (2, "")
    assert re.fullmatch(r"moxy: [^\n]+\n", ran.err), ran.err


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("events",),
    ("replay",),
    ("replay", "--step"),
    ("replay", "--diff", "3", "9"),
    ("why", "jobs", "slow"),
    ("verify",),
    ("whatif", "--queue", "jobs", "--lease-ms", "3000"),
)


def command_line(words: tuple[str, ...], directory: Path) -> list[str]:
    return [*MOXY, words[0], str(directory), *words[1:]]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_pipe_gets_plain_text(log: Path, words: tuple[str, ...]) -> None:
    ran = subprocess.run(command_line(words, log), capture_output=True, env=clean_environment({"TERM": "xterm"}))
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout
    assert b"\x1b" not in ran.stdout


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More to tell than a pipe holds."""
    from moxy.core.commands import Enqueue

    one = Author()
    for number in range(1500):
        one.do(number, Enqueue("jobs", b"x" * 100, "a-rather-long-name-of-a-task-" * 3 + str(number)))
    return write(tmp_path_factory.mktemp("long") / "data", one.batches, 1 << 20)


@pytest.mark.parametrize("words", [("events",), ("replay",), ("replay", "--step")], ids=" ".join)
def test_a_reader_who_leaves_early_gets_no_traceback(long_log: Path, words: tuple[str, ...]) -> None:
    with subprocess.Popen(
        command_line(words, long_log), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) in (0, 1, -signal.SIGPIPE)
