"""The `moxy` command: flags, exit codes, what goes to which stream. Each test is a process of its own,
unless it asks the same of every flag."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner

from moxy import __version__, form
from moxy.cli import cli
from moxy.config import ConfigError
from tests.server.support import Process, clean_environment

WAIT_S = 30
FLAGS = (
    *("--addr", "--backend", "--redis-addr", "--data-dir", "--durability", "--max-attempts", "--requirepass"),
    *("--max-clients", "--log-level", "--log-format", "--snapshot-every", "--retain-bytes", "--retain-hours"),
    *("--event-loop", "--busy-poll-us"),
)


def moxy(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moxy", *words],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=clean_environment(environment),
        check=False,
    )


def test_the_version() -> None:
    assert moxy("--version").stdout == f"moxy {__version__} ({form()})\n"
    assert form() in ("compiled", "pure Python")


def test_the_console_script_is_the_same_command() -> None:
    script = Path(sys.executable).with_name("moxy")
    shown = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert shown.stdout == moxy("--version").stdout


def test_help_names_every_flag_and_its_variable() -> None:
    shown = moxy("serve", "--help").stdout
    assert [flag for flag in FLAGS if flag not in shown] == []
    assert "MOXY_ADDR" in shown


def test_without_a_command_it_shows_what_there_is() -> None:
    result = moxy()
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: ")


WRONG: dict[str, tuple[str, ...]] = {
    "an unknown command": ("frob",),
    "an unknown flag": ("serve", "--frob"),
    "no port": ("serve", "--addr", "localhost"),
    "a port too high": ("serve", "--addr", "localhost:65536"),
    "a port of many digits": ("serve", "--addr", "localhost:" + "9" * 5000),
    "an unknown backend": ("serve", "--backend", "mongodb"),
    "no address of Redis": ("serve", "--backend", "redis", "--redis-addr", "http://localhost:6379"),
    "the address of another backend": ("serve", "--redis-addr", "localhost:6379"),
    "an unknown durability": ("serve", "--durability", "mostly", "--data-dir", "x"),
    "durability of nothing": ("serve", "--durability", "always"),
    "a data directory that is a file": ("serve", "--data-dir", "/dev/null"),
    "a data directory that cannot be": ("serve", "--data-dir", "/dev/null/x"),
    "retention of nothing": ("serve", "--retain-bytes", "1"),
    "attempts below zero": ("serve", "--max-attempts", "-1"),
    "attempts that are no number": ("serve", "--max-attempts", "many"),
    "no clients": ("serve", "--max-clients", "0"),
    "an unknown loop": ("serve", "--event-loop", "libuv"),
    "to poll for a minute": ("serve", "--busy-poll-us", "60000000"),
    "to poll without an epoll": ("serve", "--busy-poll-us", "50", "--event-loop", "asyncio"),
    "an unknown level": ("serve", "--log-level", "loud"),
    "an unknown format": ("serve", "--log-format", "xml"),
    "an argument too many": ("serve", "now"),
    "a log that is not there": ("events", "/nonexistent"),
    "a directory without a log": ("verify", "."),
    "a point that is none": ("replay", ".", "--at", "noon"),
    "what-if without a policy": ("whatif", ".", "--queue", "jobs"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_one_sentence_and_exit_code_2(what: str, tmp_path: Path) -> None:
    words = [str(tmp_path) if word == "." else word for word in WRONG[what]]
    result = moxy(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("moxy: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = moxy("serve", "--addr", f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("moxy: cannot listen on 127.0.0.1:")


def test_a_redis_that_is_not_there_is_one_sentence_and_exit_code_5() -> None:
    result = moxy("serve", "--backend", "redis", "--redis-addr", "127.0.0.1:1")
    assert (result.returncode, result.stdout) == (5, "")
    assert "Redis cannot be reached" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_variables_mirror_flags() -> None:
    result = moxy("serve", environment={"MOXY_ADDR": "nowhere"})
    assert (result.returncode, "nowhere" in result.stderr) == (2, True)
    others = {name: None for name in os.environ if name.startswith("MOXY_")}
    for flag in FLAGS:
        name = "MOXY_" + flag.removeprefix("--").replace("-", "_").upper()
        runner = CliRunner(env={**others, name: "never such a value"})
        refusal = runner.invoke(cli, ["serve", "--addr", "nowhere"], standalone_mode=False).exception
        text_flags = ("--addr", "--redis-addr", "--data-dir", "--requirepass")
        assert isinstance(refusal, ClickException | ConfigError), flag  # which end a process with code 2, as above
        if flag not in text_flags:
            said = refusal.format_message() if isinstance(refusal, ClickException) else str(refusal)
            assert "never such a value" in said, f"{name} is not read"


def test_a_flag_wins_over_its_variable() -> None:
    assert "flagged" in moxy("serve", "--addr", "flagged", environment={"MOXY_ADDR": "variable"}).stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_says_where_it_listens_and_stops_cleanly(number: signal.Signals) -> None:
    with Process() as server:
        with server.client() as client:
            assert client("PING") == "PONG"
        server.signal(number)
        code, stdout = server.end()
        assert (code, stdout) == (0, b"")
        events = [json.loads(line)["event"] for line in server.logs]
    assert events[0] == "server.listening"
    assert events[-1] == "server.stopped"
    assert "server.volatile" in events


def test_a_server_answers_what_arrived_before_it_was_told_to_stop() -> None:
    with Process() as server, server.client() as client:
        client.send_raw(b"*3\r\n$12\r\nMOXY.ENQUEUE\r\n$4\r\njobs\r\n$1\r\nx\r\n" * 200)
        for _ in range(200):
            assert client.read()[0] == b"task_id"
        server.signal(signal.SIGTERM)
        assert client.is_closed_by_server()
        assert server.end()[0] == 0


def test_debug_logs_every_event_and_never_a_payload() -> None:
    with Process("--log-level", "debug") as server:
        with server.client() as client:
            client("MOXY.ENQUEUE", "jobs", "top secret", "ID", 'a"\\b')
            lease_id = client.map("MOXY.FETCH", "jobs", 5000)["lease_id"]
            client("MOXY.NACK", lease_id, "REASON", 'line one\nline two "quoted"')
        failed = server.wait_for("task.Failed")
        server.signal(signal.SIGTERM)
        server.end()
        lines = [json.loads(line) for line in server.logs]
    assert "top secret" not in "".join(server.logs)
    assert failed["reason"] == 'line one\nline two "quoted"'
    assert (failed["queue"], failed["task_id"], failed["attempts"]) == ("jobs", 'a"\\b', 1)
    names = [line["event"] for line in lines]
    assert [name for name in names if name.startswith("task.")] == [
        "task.Enqueued",
        "task.Leased",
        "task.Failed",
        "task.Requeued",
    ]


def test_max_attempts_is_what_new_queues_are_born_with() -> None:
    with Process("--max-attempts", "1") as server, server.client() as client:
        client("MOXY.ENQUEUE", "jobs", "x")
        client("MOXY.NACK", client.map("MOXY.FETCH", "jobs", 5000)["lease_id"])
        assert client.map("MOXY.STATS", "jobs")["dead"] == 1


def test_it_runs_without_uvloop() -> None:
    """Where no wheel of it installs, asyncio's own loop does the same."""
    code = (
        "import sys; sys.modules['uvloop'] = None\n"
        "from moxy import cli\n"
        "import asyncio\n"
        "assert cli.run_loop is asyncio.run\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert result.returncode == 0, result.stderr
