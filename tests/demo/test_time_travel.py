"""The demo of the log's tools, run as people run it: as a process, in a pipe.

Lives here: the facts of the story as printed, and how it ends, well, badly or interrupted. Must not: what the tools
print in general, which is tests/test_logtools.py and tests/test_replay.py.
"""

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.demo.test_recovery import ENV, ROOT, is_alive, run

SCRIPT = ROOT / "demo" / "time_travel.py"
DEMO = [sys.executable, str(SCRIPT), "--fast"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a demo prints that goes well, and that it leaves nothing behind."""
    place = tmp_path_factory.mktemp("demo")
    done = run(*DEMO, TMPDIR=str(place), MOXY_LOG_LEVEL="error", COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(place.iterdir()) == []
    return done.stdout


def unwrapped(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_the_task_runs_twice_and_the_late_ack_is_refused(told: str) -> None:
    first, second = re.findall(r'"lease_id" => "(.+)"', told)
    assert first != second
    assert f"slow-worker> MOXY.ACK {first}\n  (error) NOLEASE" in told
    assert f"other-worker> MOXY.ACK {second}\n  OK" in told
    assert told.index("(error) NOLEASE") < told.index(f"other-worker> MOXY.ACK {second}")


def test_the_log_tells_what_happened_and_why_after_the_server_is_gone(told: str) -> None:
    pid = re.findall(r"process (\d+)", told)[0]
    assert not is_alive(int(pid))
    after = unwrapped(told.split(f"kill -9 {pid}")[1])
    kinds = re.findall(r"payments #(\d) (\w+)", after)
    assert kinds == list(zip("123456", "Enqueued Leased Expired Requeued Leased Acked".split(), strict=True))  # noqa: SIM905
    assert "was delivered 2 times. It came back once because a lease expired; it is done." in after
    assert "lease.worker: slow-worker -> other-worker" in after
    assert re.search(r"would not have, with 5000 ms 1 ", after)
    assert told.rstrip().endswith("Found: the work takes 1.5 s, its lease was 1 s. EXTEND it, or lease for longer.")


def test_a_pipe_gets_plain_text_of_eighty_columns(told: str) -> None:
    assert not re.search(r"[^\n -~─]", told)
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and number == signal.SIGINT:
        pytest.skip("SIGINT is ignored here")
    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=ENV | {"TMPDIR": str(tmp_path)}
    ) as demo:
        assert demo.stdout is not None
        text = ""
        while "BLOCK" not in text:
            line = demo.stdout.readline()
            assert line
            text += line
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=10)
    assert demo.returncode == 128 + number
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    assert not is_alive(int(re.findall(r"process (\d+)", text)[0]))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("time_travel", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["time_travel.py", "--fast"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return module


def test_a_story_that_goes_otherwise_fails(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "LEASE_MS", 60_000)  # it never runs out
    monkeypatch.setattr(script, "BLOCK_MS", 50)
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 1
    said = capsys.readouterr()
    assert said.err == "time travel: this did not go as told: the task is delivered again; but got None\n"
    assert "Found" not in said.out
    assert list(tmp_path.iterdir()) == []


def test_a_tool_that_finds_something_else_fails_the_story(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "BETTER_LEASE_MS", 1_400)  # longer, and still too short
    monkeypatch.setattr(script, "WORK_S", 1.2)
    monkeypatch.setattr(script, "TASK", "order-4712")
    real = script.on_a_terminal
    monkeypatch.setattr(script, "on_a_terminal", lambda *words: real(*words).replace("a lease expired", "of magic"))
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 1
    assert "the log says why" in capsys.readouterr().err
