"""The recovery demo, run as people run it: as a process, in a pipe.

What lives here: the facts of the story as printed, how it ends (well, badly, interrupted), and that the committed
picture shows the same story. What must not live here: the rules of a queue, which have tests of their own.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from xml.etree import ElementTree

import pytest
from redis.exceptions import ResponseError

from moxy import stage, story
from moxy.stage import as_redis_cli

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "assets" / "recovery.svg"
SVG = "{http://www.w3.org/2000/svg}"
DEMO = [sys.executable, "-m", "moxy", "demo", "--fast"]
# What would colour or widen the output of any rich program, or configure any moxy.
ENV = {
    name: value
    for name, value in os.environ.items()
    if name not in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS") and not name.startswith("MOXY_")
} | {"PYTHONIOENCODING": "utf-8"}


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=ENV | env, timeout=30)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_gone_within(pid: int, seconds: float) -> bool:
    """Whether a process ends in time. One that its parent left to init is gone when that has reaped it."""
    until = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_alive(pid)


def cast(text: str) -> list[int]:
    """The pids of the server and of the worker, as far as the story has told them."""
    return [int(pid) for pid in re.findall(r"process (\d+)|kill -9 (\d+)", text) for pid in pid if pid]


@pytest.fixture(scope="module")
def told() -> str:
    """What a demo prints that goes well. It is slow, so the tests share one."""
    done = run(*DEMO)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_same_task_is_delivered_twice_under_two_leases(told: str) -> None:
    created, first, second = re.findall(r'"task_id" => "(.+)"', told)
    assert created == first == second
    old, new = re.findall(r'"lease_id" => "(.+)"', told)
    assert old != new
    assert '"attempts" => (integer) 1' in told
    assert '"deliveries" => (integer) 2' in told
    assert told.count('=> "resize cat.jpg"') == 2


def test_the_old_lease_is_refused_and_the_new_one_acked(told: str) -> None:
    old, new = re.findall(r'"lease_id" => "(.+)"', told)
    assert f"worker 1> MOXY.ACK {old}\n  (error) NOLEASE" in told
    assert f"worker 2> MOXY.ACK {new}\n  OK" in told


def test_the_task_is_held_while_its_worker_is_dead_and_nothing_is_left_at_the_end(told: str) -> None:
    after_death, at_end = (dict(stats) for stats in (stats_of(told)[:5], stats_of(told)[5:]))
    assert after_death == {"ready": "0", "processing": "1", "dead": "0", "active_leases": "1", "heap": "1"}
    assert at_end == dict.fromkeys(after_death, "0")
    assert told.rstrip().endswith("Nothing was lost: one task, two deliveries, one ack, an empty queue.")


def stats_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r'^  \d# "(\w+)" => \(integer\) (\d+)$', text, re.MULTILINE)


def test_a_pipe_gets_plain_text_of_eighty_columns(told: str) -> None:
    assert not re.search(r"[^\n -~─]", told)
    assert max(map(len, told.splitlines())) <= 80


def test_no_process_is_left(told: str) -> None:
    server, worker = cast(told)
    assert not is_alive(server)
    assert not is_alive(worker)


def test_the_script_in_the_clone_is_the_same_demo_whatever_the_environment_says(told: str) -> None:
    done = run(
        sys.executable, str(ROOT / "demo" / "recovery.py"), "--fast", MOXY_REQUIREPASS="x", MOXY_LOG_LEVEL="error"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert masked(done.stdout) == masked(told)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(
            signal.SIGINT,
            130,
            marks=pytest.mark.skipif(
                signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="SIGINT is ignored here"
            ),
        ),
        (signal.SIGTERM, 128 + signal.SIGTERM),
    ],
)
@pytest.mark.parametrize("moment", ["MOXY.FETCH jobs 3000\n", "BLOCK"])
def test_an_interrupted_demo_leaves_no_process(number: signal.Signals, code: int, moment: str) -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=ENV) as demo:
        assert demo.stdout is not None
        text = ""
        while moment not in text:
            line = demo.stdout.readline()
            assert line
            text += line
        demo.send_signal(number)
        rest, errors = demo.communicate(timeout=10)
    assert demo.returncode == code
    assert "Traceback" not in errors
    pids = cast(text + rest)
    assert pids
    assert all(is_gone_within(pid, 5) for pid in pids)


def test_a_signal_while_a_watchdog_starts_leaves_no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep the interrupted demo from ending until its time is up."""
    watchdogs: list[Timer] = []

    class Interrupted(Timer):
        def start(self) -> None:
            super().start()
            watchdogs.append(self)
            raise SystemExit(143)

    monkeypatch.setattr(stage, "Timer", Interrupted)
    silent = [sys.executable, "-c", ""]
    with subprocess.Popen(silent, stdout=subprocess.PIPE, text=True) as process, pytest.raises(SystemExit):
        stage.first_line(process, "nobody")
    (watchdog,) = watchdogs
    assert watchdog.finished.is_set()
    watchdog.cancel()
    watchdog.join()


def test_a_reader_who_leaves_early_leaves_no_process() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=ENV) as demo:
        assert demo.stdout is not None
        text = "".join(demo.stdout.readline() for _ in range(4))
        demo.stdout.close()
        assert demo.wait(10) == 1
    (server,) = cast(text)
    assert is_gone_within(server, 5)


def test_a_server_that_does_not_start_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_python = shutil.which("false")
    assert no_python
    monkeypatch.setattr(sys, "executable", no_python)
    with pytest.raises(SystemExit) as end:
        story.tell(None, pause_s=0)
    assert end.value.code == 1
    assert capsys.readouterr().err == "moxy demo: this did not go as told: the server starts; but got 'silence'\n"


def test_a_story_that_goes_otherwise_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(story, "LEASE_MS", 50)  # runs out before the death, in the pause
    with pytest.raises(SystemExit) as end:
        story.tell(None, pause_s=0.5)
    assert end.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith(
        "moxy demo: this did not go as told: the task is still there, as processing 1; but got {"
    )
    assert "Nothing was lost" not in said.out
    assert not any(is_alive(pid) for pid in cast(said.out))


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        ("OK", ["OK"]),
        ("hello", ['"hello"']),
        (7, ["(integer) 7"]),
        (None, ["(nil)"]),
        (ResponseError("NOLEASE no"), ["(error) NOLEASE no"]),
        ({"a": 1, "b": "x"}, ['1# "a" => (integer) 1', '2# "b" => "x"']),
        ([{"a": 1, "b": 2}, "x"], ['1) 1# "a" => (integer) 1', '   2# "b" => (integer) 2', '2) "x"']),
    ],
)
def test_replies_look_as_in_redis_cli(reply: object, lines: list[str]) -> None:
    assert as_redis_cli(reply) == lines


# The picture


def masked(text: str) -> str:
    """A telling without what differs from run to run: ids, ports, pids; and without white space and rules."""
    text = re.sub(r"\b[0-9a-f]{16}\b", "NONCE", text)
    text = re.sub(r"\bport \d+|-p \d+", "PORT", text)
    text = re.sub(r"process \d+|kill -9 \d+", "PID", text)
    return re.sub(r"[\s─]+", "", text)


def drawn(svg: str) -> str:
    """The lines of the terminal in a picture."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for text in ElementTree.fromstring(svg).iterfind(f".//{SVG}text[@textLength]"):
        lines.setdefault(float(text.attrib["y"]), []).append((float(text.attrib["x"]), text.text or ""))
    spans = ["".join(span for _, span in sorted(line)) for _, line in sorted(lines.items())]
    return "\n".join(spans).replace("\N{NO-BREAK SPACE}", " ")


def needs_nothing_but_itself(svg: str) -> bool:
    urls: Callable[[str], list[str]] = re.compile(r"""(?i)https?://[^\s"'<)]+""").findall
    outside = re.search(r"(?i)@import|@font-face|<script|<image|href|url\((?!#)", svg)
    return not outside and set(urls(svg)) == {"http://www.w3.org/2000/svg"}


def test_the_committed_picture_shows_the_story_of_today(told: str) -> None:
    assert masked(drawn(PICTURE.read_text("utf-8"))) == masked(told), "stale: moxy demo --svg docs/assets/recovery.svg"


def test_the_committed_picture_needs_nothing_but_itself() -> None:
    assert needs_nothing_but_itself(PICTURE.read_text("utf-8"))


def test_a_picture_shows_what_was_printed(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    done = run(*DEMO, "--svg", str(picture), COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    svg = picture.read_text("utf-8")
    ids: Callable[[str], list[str]] = re.compile(r"\b[0-9a-f]{16}\b").findall
    assert ids(drawn(svg)) == ids(done.stdout)
    assert masked(drawn(svg)) == masked(done.stdout)
    assert needs_nothing_but_itself(svg)
