"""A task ran twice. Why? The log knows: `python demo/time_travel.py [--fast]`.

Lives here: the story of a customer who was charged twice, and how its reason is found with the tools that read a log.
Must not: any queue rule, or a claim that is told and not checked. Real processes, real replies; whatever is not as told
ends the demo with exit code 1. The stage is that of `moxy demo` (moxy/stage.py).
"""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rich.console import Console
from rich.text import Text

from moxy.stage import (
    COLUMNS,
    HOST,
    PATIENCE_S,
    Astray,
    Stage,
    connected,
    execute,
    expect,
    launched,
    signals_as_exits,
)
from moxy.story import BLOCK_MS

QUEUE: Final = "payments"
TASK: Final = "order-4711"
PAYLOAD: Final = "charge 49.90"
LEASE_MS: Final = 1_000
WORK_S: Final = 1.5
"""How long the work takes: longer than the lease. That is the whole mistake."""
BETTER_LEASE_MS: Final = 5_000


def main() -> None:
    pause_s = 0.0 if "--fast" in sys.argv[1:] else 0.6
    console = Console(width=min(Console().width, COLUMNS), highlight=False)
    try:
        with signals_as_exits(), tempfile.TemporaryDirectory(prefix="moxy-") as directory:
            play(console, Stage(console, pause_s), directory)
    except (Astray, RedisError, OSError) as error:
        sys.stderr.write(f"time travel: this did not go as told: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def play(console: Console, stage: Stage, directory: str) -> None:
    stage.title("A customer was charged twice. Why?")
    with server(directory) as (process, port):
        stage.shell(f"moxy serve --data-dir {directory}", f"port {port}, process {process.pid}")
        charge_twice(stage, port)
        stage.shell(f"kill -9 {process.pid}", "the log is all that is left")
        process.kill()
        code = process.wait(PATIENCE_S)
        expect(code == -signal.SIGKILL, "the server dies of SIGKILL", code)
    investigate(console, stage, directory)
    stage.title("Found: the work takes 1.5 s, its lease was 1 s. EXTEND it, or lease for longer.")


# What happened


def charge_twice(stage: Stage, port: int) -> None:
    stage.step("1  A payment is queued, and two workers are there", "One of them is slower than its lease is long.")
    with connected(port) as producer, worker(port, "slow-worker") as slow, worker(port, "other-worker") as other:
        stage.ask("producer", producer, "MOXY.ENQUEUE", QUEUE, PAYLOAD, "ID", TASK)
        began = time.monotonic()
        first = stage.ask("slow-worker", slow, "MOXY.FETCH", QUEUE, str(LEASE_MS))
        expect(first["task_id"] == TASK, "the slow worker gets the task", first)
        stage.note("It charges the card: 49.90. That takes 1.5 seconds. Meanwhile:")
        words = ("MOXY.FETCH", QUEUE, str(BETTER_LEASE_MS), "BLOCK", str(BLOCK_MS))
        stage.command("other-worker", *words)
        again = execute(other, *words)
        expect(isinstance(again, list) and len(again) == 1, "the task is delivered again", again)
        stage.reply(again, only=("lease_id", "task_id", "deliveries"))
        second = again[0]
        expect((second["task_id"], second["deliveries"]) == (TASK, 2), "it is delivery 2 of the same task", second)
        leased = time.monotonic()
        stage.note("It charges the card: 49.90, again.")
        work_until(began + WORK_S)
        late = stage.ask("slow-worker", slow, "MOXY.ACK", first["lease_id"])
        expect(isinstance(late, ResponseError) and str(late).startswith("NOLEASE"), "the late ack is refused", late)
        work_until(leased + WORK_S)
        done = stage.ask("other-worker", other, "MOXY.ACK", second["lease_id"])
        expect(done == "OK", "the other ack is accepted", done)
    stage.pause()


def work_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


# How it is found out


def investigate(console: Console, stage: Stage, directory: str) -> None:
    stage.step("2  What happened to that task?", "A day later, all there is is the log.")
    stage.shell(f"cd {directory}", "no server is needed from here on")
    events = [json.loads(line) for line in moxy(directory, "events", ".", "--task", TASK, "--json").splitlines()]
    kinds = [event["event"] for event in events]
    expect(kinds == ["Enqueued", "Leased", "Expired", "Requeued", "Leased", "Acked"], "it ran twice", kinds)
    show(console, stage, directory, "events", ".", "--queue", QUEUE, "--task", TASK)

    stage.step("3  And why?", "The same as sentences, with who, when and how long.")
    told = show(console, stage, directory, "why", ".", QUEUE, TASK)
    expect("was delivered 2 times. It came back once because a lease expired" in told, "the log says why", told)
    expect("slow-worker had not acknowledged" in told, "and who was too slow", told)

    stage.step("4  What changed, exactly?", "The state after the first delivery, and after the second.")
    points = [str(event["seq"]) for event in events if event["event"] == "Leased"]
    told = show(console, stage, directory, "replay", ".", "--queue", QUEUE, "--diff", *points)
    expect("lease.worker: slow-worker -> other-worker" in told, "another worker holds it", told)
    expect("tally.expiries: 0 -> 1" in told, "after one expiry", told)

    stage.step("5  Would a longer lease have helped?", "The same log, under another policy.")
    told = show(console, stage, directory, "whatif", ".", "--queue", QUEUE, "--lease-ms", str(BETTER_LEASE_MS))
    spared = [line.split()[-1] for line in told.splitlines() if "would not have" in line]
    expect(spared == ["1"], "with a longer lease the task would have run once", told)
    stage.pause()


def show(console: Console, stage: Stage, directory: str, *words: str) -> str:
    """Type a command, and show what it prints on a terminal; the same text without its colours."""
    console.print(Text.assemble(("  $ ", "bright_black"), ("moxy " + " ".join(words), "bold")))
    lines = [Text.from_ansi(line) for line in on_a_terminal(directory, *words).splitlines()]
    for line in lines:
        for part in line.wrap(console, console.width - 2):
            part.rstrip()
            console.print(Text("  ") + part)
    stage.pause()
    return "\n".join(line.plain for line in lines)


# The cast


@contextmanager
def server(directory: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A durable server on a free port, which listens when this is entered, and is killed at the latest after it."""
    words = ("serve", "--addr", f"{HOST}:0", "--data-dir", directory, "--durability", "always")
    with launched("-m", "moxy", *words, stop=subprocess.Popen.kill) as process:
        assert process.stdout is not None
        said = ""
        watchdog = Timer(PATIENCE_S, process.kill)
        watchdog.start()
        for line in process.stdout:
            said += line
            if line.startswith("{") and (entry := json.loads(line))["event"] == "server.listening":
                watchdog.cancel()
                yield process, int(entry["port"])
                return
        raise Astray(f"the server starts; but got {said.strip() or 'silence'!r}")


@contextmanager
def worker(port: int, name: str) -> Iterator[Redis]:
    with connected(port) as client:
        reply: Any = execute(client, "CLIENT", "SETNAME", name)
        expect(reply == "OK", f"{name} may have that name", reply)
        yield client


def environment() -> dict[str, str]:
    """Nothing that configures moxy or widens what is printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MOXY_")}
    return env | {"COLUMNS": "160", "TERM": env.get("TERM", "xterm")}


def moxy(directory: str, *words: str) -> str:
    """What a command tells a program."""
    command = [sys.executable, "-m", "moxy", *words]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", cwd=directory, env=environment(), timeout=PATIENCE_S
    )
    expect(done.returncode == 0, f"moxy {words[0]} succeeds", done.stderr)
    return done.stdout


def on_a_terminal(directory: str, *words: str) -> str:
    """What a command shows to people."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "moxy", *words]
    shown = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=directory, env=environment()
    ) as child:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # how Linux says that nobody has the other end open any more
            pass
        finally:
            os.close(ours)
    text = shown.decode().replace("\r\n", "\n")
    expect(child.returncode == 0, f"moxy {words[0]} succeeds", text)
    return text


if __name__ == "__main__":
    main()
