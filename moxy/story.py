"""The fifteen-second story of `moxy demo`: a worker dies, its task comes back.

Lives here: the story and its cast: a real server process, and a real worker process that is killed with SIGKILL in
mid-task. Must not: the stage (`stage`), any queue rule, or a claim that is told and not checked. Every reply shown is
the server's own; one that is not as told ends the demo with exit code 1.

`python -m moxy.story HOST PORT LEASE_MS` is the worker that dies.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from moxy.stage import (
    COLUMNS,
    HOST,
    PATIENCE_S,
    Astray,
    Stage,
    connected,
    execute,
    expect,
    first_line,
    launched,
    signals_as_exits,
)

QUEUE: Final = "jobs"
PAYLOAD: Final = "resize cat.jpg"
LEASE_MS: Final = 3_000
BLOCK_MS: Final = 8_000  # how long the second worker would wait: the demo cannot hang


def tell(svg: str | None, pause_s: float) -> None:
    """Run the demo; draw it to the file `svg` if given. Exits with 1 if any step does not go as told."""
    width = COLUMNS if svg else min(Console().width, COLUMNS)
    console = Console(width=width, record=svg is not None, highlight=False)
    try:
        with signals_as_exits():
            _play(Stage(console, pause_s))
            if svg:
                Path(svg).write_text(_picture(console), encoding="utf-8")
    except (Astray, RedisError, OSError) as error:
        sys.stderr.write(f"moxy demo: this did not go as told: {error}\n")
        raise SystemExit(1) from None


# The story


def _play(stage: Stage) -> None:
    with _server() as (server, port):
        stage.title("A worker dies. Its task does not.")
        stage.shell(f"moxy serve --addr {HOST}:0", f"a real server: port {port}, process {server.pid}")
        stage.shell(f"redis-cli -3 -p {port}", "everything below can be typed there")
        with connected(port) as client:
            task_id = _enqueue(stage, client)
            old_lease, until = _die(stage, client, port, task_id)
            new_lease = _come_back(stage, client, task_id, old_lease, until)
            _finish(stage, client, old_lease, new_lease)
    stage.title("Nothing was lost: one task, two deliveries, one ack, an empty queue.")


def _enqueue(stage: Stage, client: Redis) -> str:
    stage.step("1  A producer queues a task", "Where you would RPUSH to a list.")
    reply = stage.ask("producer", client, "MOXY.ENQUEUE", QUEUE, PAYLOAD, marks={"task_id": "bold yellow"})
    expect(isinstance(reply, Mapping) and bool(reply.get("task_id")), "ENQUEUE answers with a task id", reply)
    stage.pause()
    return str(reply["task_id"])


def _die(stage: Stage, client: Redis, port: int, task_id: str) -> tuple[str, float]:
    """Let the first worker fetch and die. Its lease id, and when that runs out on our monotonic clock."""
    stage.step(
        f"2  A worker fetches it, under a lease of {LEASE_MS // 1000} seconds",
        "Where you would LPOP. But the task stays in the queue until it is acked.",
    )
    stage.command("worker 1", "MOXY.FETCH", QUEUE, str(LEASE_MS))
    with _worker(port) as worker:
        reply = json.loads(first_line(worker, "the worker"))
        until = time.monotonic() + LEASE_MS / 1000
        stage.reply(reply, marks={"lease_id": "bold red"})
        expect(reply["task_id"] == task_id and reply["payload"] == PAYLOAD, f"worker 1 gets task {task_id}", reply)
        stage.pause()
        stage.step("3  The worker dies in mid-task", "A crash, the OOM killer, a lost machine.")
        stage.shell(f"kill -9 {worker.pid}", "worker 1, a real process")
        worker.kill()
        code = worker.wait(PATIENCE_S)
        expect(code == -signal.SIGKILL, "the worker dies of SIGKILL", code)
    stats = stage.ask("you", client, "MOXY.STATS", QUEUE, marks={"processing": "bold yellow"})
    expect(_counts(stats) == (0, 1, 0), "the task is still there, as processing 1", stats)
    stage.note("With plain LPOP the task would be gone now. Here the server still holds it.")
    return str(reply["lease_id"]), until


def _come_back(stage: Stage, client: Redis, task_id: str, old_lease: str, until: float) -> str:
    """Wait for the dead worker's lease to run out. The lease id of the redelivery."""
    stage.step(
        "4  The lease runs out, and the task comes back", "Another worker, blocked until there is work, gets it."
    )
    words = ("MOXY.FETCH", QUEUE, str(LEASE_MS), "BLOCK", str(BLOCK_MS))
    stage.command("worker 2", *words)
    with stage.countdown("the dead worker's lease runs out in", until, LEASE_MS / 1000):
        reply = execute(client, *words)
    expect(isinstance(reply, list) and len(reply) == 1, "the task is delivered again", reply)
    task = reply[0]
    stage.reply(
        reply,
        marks={"lease_id": "bold green", "attempts": "bold", "deliveries": "bold"},
        only=("lease_id", "task_id", "payload", "attempts", "deliveries"),
    )
    expect(task["task_id"] == task_id and task["payload"] == PAYLOAD, f"it is the same task, {task_id}", task)
    expect((task["deliveries"], task["attempts"]) == (2, 1), "that is delivery 2, after 1 failed attempt", task)
    expect(task["lease_id"] != old_lease, "its lease is a new one", task)
    leased_ms = task["deadline_ms"] - LEASE_MS
    expect(leased_ms - task["enqueued_ms"] >= LEASE_MS, "no lease runs out before its deadline", task)
    stage.note("The same task: its second delivery, after one failed attempt.")
    stage.pause()
    return str(task["lease_id"])


def _finish(stage: Stage, client: Redis, old_lease: str, new_lease: str) -> None:
    stage.step("5  The old lease is void", "Had worker 1 only been slow, its late ack could do no harm.")
    reply = stage.ask("worker 1", client, "MOXY.ACK", old_lease)
    expect(isinstance(reply, ResponseError) and str(reply).startswith("NOLEASE"), "the old lease is refused", reply)
    stage.pause()
    stage.step("6  The second worker finishes", "Only an ack under the live lease removes the task.")
    reply = stage.ask("worker 2", client, "MOXY.ACK", new_lease)
    expect(reply == "OK", "the new lease is acked", reply)
    stats = stage.ask("you", client, "MOXY.STATS", QUEUE)
    expect(set(stats.values()) == {0}, "all counts are zero", stats)
    stage.pause()


def _counts(stats: Mapping[str, int]) -> tuple[int, int, int]:
    return stats["ready"], stats["processing"], stats["dead"]


# The cast. Each is gone when its `with` is left, however that happens.


@contextmanager
def _server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server on a free port. It listens when this is entered."""
    with launched("-m", "moxy", "serve", "--addr", f"{HOST}:0", stop=subprocess.Popen.terminate) as server:
        line = json.loads(first_line(server, "the server"))
        expect(line.get("event") == "server.listening", "the server says where it listens", line)
        yield server, int(line["port"])


def _worker(port: int) -> AbstractContextManager[subprocess.Popen[str]]:
    return launched("-m", "moxy.story", HOST, str(port), str(LEASE_MS), stop=subprocess.Popen.kill)


def _work(port: int, lease_ms: str) -> None:
    """The worker that dies: takes a task, says so on stdout, and works on it until it is killed."""
    with connected(port) as client:
        reply = execute(client, "MOXY.FETCH", QUEUE, lease_ms)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
        sys.stdin.read()  # "working"; ends only if the demo itself is gone


# The picture

_BACKGROUND: Final = (22, 27, 34)
_FOREGROUND: Final = (214, 221, 230)
_GREY: Final = (139, 148, 158)
_RED: Final = (255, 123, 114)
_GREEN: Final = (86, 211, 100)
_YELLOW: Final = (240, 200, 80)
_BLUE: Final = (121, 184, 255)
_MAGENTA: Final = (210, 168, 255)
_CYAN: Final = (86, 212, 221)
_THEME: Final = TerminalTheme(
    _BACKGROUND, _FOREGROUND, [_GREY, _RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN, _FOREGROUND]
)

# Rich's own frame, without its web font: the file needs nothing but itself.
_FRAME: Final = """\
<svg viewBox="0 0 {width} {height}" role="img" aria-label="moxy demo" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", "Liberation Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


def _picture(console: Console) -> str:
    svg = console.export_svg(
        title="moxy demo", theme=_THEME, code_format=_FRAME, font_aspect_ratio=0.602, unique_id="recovery"
    )
    return svg.replace("</text><text", "</text>\n<text")  # a diff by lines


if __name__ == "__main__":
    _work(int(sys.argv[2]), sys.argv[3])
