"""The fifteen-second story of `moxy demo`: a worker dies, its task comes back.

Lives here: the story, its stage (what a terminal shows) and its cast: a real server process, and a real worker process
that is killed with SIGKILL in mid-task. Must not: any queue rule, or a claim that is told and not checked. Every reply
shown is the server's own; one that is not as told ends the demo with exit code 1.

`python -m moxy.story HOST PORT LEASE_MS` is the worker that dies.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import Any, Final, final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HOST: Final = "127.0.0.1"
QUEUE: Final = "jobs"
PAYLOAD: Final = "resize cat.jpg"
LEASE_MS: Final = 3_000
BLOCK_MS: Final = 8_000  # how long the second worker would wait: the demo cannot hang
PATIENCE_S: Final = 10.0  # for a process to start, or a reply to come; more than BLOCK_MS
COLUMNS: Final = 80


class Astray(Exception):
    """Something did not go as the story tells it."""


def expect(holds: bool, claim: str, got: object) -> None:
    """Raises Astray unless what was told is what happened."""
    if not holds:
        raise Astray(f"{claim}; but got {got!r}")


def tell(svg: str | None, pause_s: float) -> None:
    """Run the demo; draw it to the file `svg` if given. Exits with 1 if any step does not go as told."""
    width = COLUMNS if svg else min(Console().width, COLUMNS)
    console = Console(width=width, record=svg is not None, highlight=False)
    try:
        with _signals_as_exits():
            _play(Stage(console, pause_s))
            if svg:
                Path(svg).write_text(_picture(console), encoding="utf-8")
    except (Astray, RedisError, OSError) as error:
        sys.stderr.write(f"moxy demo: this did not go as told: {error}\n")
        raise SystemExit(1) from None


# The story


def _play(stage: "Stage") -> None:
    with _server() as (server, port):
        stage.title("A worker dies. Its task does not.")
        stage.shell(f"moxy serve --addr {HOST}:0", f"a real server: port {port}, process {server.pid}")
        stage.shell(f"redis-cli -3 -p {port}", "everything below can be typed there")
        with _client(port) as client:
            task_id = _enqueue(stage, client)
            old_lease, until = _die(stage, client, port, task_id)
            new_lease = _come_back(stage, client, task_id, old_lease, until)
            _finish(stage, client, old_lease, new_lease)
    stage.title("Nothing was lost: one task, two deliveries, one ack, an empty queue.")


def _enqueue(stage: "Stage", client: Redis) -> str:
    stage.step("1  A producer queues a task", "Where you would RPUSH to a list.")
    reply = stage.ask("producer", client, "MOXY.ENQUEUE", QUEUE, PAYLOAD, marks={"task_id": "bold yellow"})
    expect(isinstance(reply, Mapping) and bool(reply.get("task_id")), "ENQUEUE answers with a task id", reply)
    stage.pause()
    return str(reply["task_id"])


def _die(stage: "Stage", client: Redis, port: int, task_id: str) -> tuple[str, float]:
    """Let the first worker fetch and die. Its lease id, and when that runs out on our monotonic clock."""
    stage.step(
        f"2  A worker fetches it, under a lease of {LEASE_MS // 1000} seconds",
        "Where you would LPOP. But the task stays in the queue until it is acked.",
    )
    stage.command("worker 1", "MOXY.FETCH", QUEUE, str(LEASE_MS))
    with _worker(port) as worker:
        reply = json.loads(_first_line(worker, "the worker"))
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


def _come_back(stage: "Stage", client: Redis, task_id: str, old_lease: str, until: float) -> str:
    """Wait for the dead worker's lease to run out. The lease id of the redelivery."""
    stage.step(
        "4  The lease runs out, and the task comes back", "Another worker, blocked until there is work, gets it."
    )
    words = ("MOXY.FETCH", QUEUE, str(LEASE_MS), "BLOCK", str(BLOCK_MS))
    stage.command("worker 2", *words)
    with stage.countdown(until):
        reply = _execute(client, *words)
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


def _finish(stage: "Stage", client: Redis, old_lease: str, new_lease: str) -> None:
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


# The stage


@final
class Stage:
    """What people see: headings, commands as typed, replies as redis-cli prints them. An id keeps its colour."""

    def __init__(self, console: Console, pause_s: float) -> None:
        self._console: Final = console
        self._pause_s: Final = pause_s
        self._styles: Final[dict[str, str]] = {}

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, "bold green"))

    def step(self, title: str, text: str) -> None:
        self._console.print()
        self._console.print(Rule(Text(title, "bold cyan"), align="left", style="bright_black"))
        self.note(text)

    def note(self, text: str) -> None:
        self._console.print(Text(text, "italic"))

    def shell(self, command: str, remark: str) -> None:
        self._console.print(
            Text.assemble(("  $ ", "bright_black"), (command, "bold"), (f"  # {remark}", "bright_black"))
        )

    def command(self, who: str, *words: str) -> None:
        typed = " ".join(f'"{word}"' if " " in word else word for word in words)
        self._print(Text.assemble(f"  {who}> ", (typed, "bold")), style_all_but=len(who) + 3)

    def reply(self, value: object, marks: Mapping[str, str] | None = None, only: Sequence[str] = ()) -> None:
        """Show a reply, or `only` those fields of it; `marks` gives fields a colour, which their ids keep."""
        self._learn(value, marks or {})
        lines = as_redis_cli(value)
        shown = [line for line in lines if not only or any(f'"{field}" =>' in line for field in only)]
        for line in shown:
            text = Text(f"  {line}", "red" if isinstance(value, ResponseError) else "")
            for field, style in (marks or {}).items():
                text.highlight_regex(rf'(?<="{field}" => ")[^"]+|(?<="{field}" => )[^"]+', style)
            self._print(text)
        if len(shown) < len(lines):
            self._console.print(Text(f"      ... and {len(lines) - len(shown)} fields more", "bright_black"))

    def ask(self, who: str, client: Redis, *words: str, marks: Mapping[str, str] | None = None) -> Any:
        """Show a command, carry it out, show the reply. A refusal is a reply too."""
        self.command(who, *words)
        try:
            value: Any = _execute(client, *words)
        except ResponseError as refusal:
            value = refusal
        self.reply(value, marks)
        return value

    def countdown(self, until: float) -> AbstractContextManager[object]:
        """On a terminal, the time left until then; elsewhere, and in the picture, nothing."""
        if not sys.stdout.isatty() or self._console.is_dumb_terminal:
            return nullcontext()

        def left() -> Table:
            left_s = max(0.0, until - time.monotonic())
            row = Table.grid(padding=(0, 1))
            row.add_row(
                Text(f"  the dead worker's lease runs out in {left_s:.1f} s", "yellow"),
                ProgressBar(LEASE_MS / 1000, left_s, width=24, complete_style="yellow", finished_style="yellow"),
            )
            return row

        return Live(get_renderable=left, console=Console(width=self._console.width), transient=True)

    def pause(self) -> None:
        """Let people read."""
        time.sleep(self._pause_s)

    def _learn(self, value: object, marks: Mapping[str, str]) -> None:
        fields = value[0] if isinstance(value, list) else value
        if isinstance(fields, Mapping):
            self._styles.update({fields[name]: style for name, style in marks.items() if name.endswith("_id")})

    def _print(self, text: Text, style_all_but: int = 0) -> None:
        for word, style in self._styles.items():
            text.highlight_words([word], style)
        text.stylize("blue", 0, style_all_but)
        self._console.print(text)


def as_redis_cli(value: object) -> list[str]:
    """The lines in which `redis-cli -3` prints a reply; of arrays, those of fewer than ten."""
    if isinstance(value, Mapping):
        width = len(str(len(value)))
        return [f'{n:>{width}}# "{key}" => {_scalar(value[key])}' for n, key in enumerate(value, 1)]
    if isinstance(value, list):
        lines = []
        for n, item in enumerate(value, 1):
            first, *others = as_redis_cli(item)
            lines += [f"{n}) {first}", *(f"   {line}" for line in others)]
        return lines
    return [_scalar(value)]


def _scalar(value: object) -> str:
    match value:
        case None:
            return "(nil)"
        case int():
            return f"(integer) {value}"
        case ResponseError():
            return f"(error) {value}"
        case "OK":
            return "OK"
        case _:
            return f'"{value}"'


# The cast. Each is gone when its `with` is left, however that happens.


@contextmanager
def _server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server on a free port. It listens when this is entered."""
    with _process("-m", "moxy", "serve", "--addr", f"{HOST}:0", stop=subprocess.Popen.terminate) as server:
        line = json.loads(_first_line(server, "the server"))
        expect(line.get("event") == "server.listening", "the server says where it listens", line)
        yield server, int(line["port"])


def _worker(port: int) -> AbstractContextManager[subprocess.Popen[str]]:
    return _process("-m", "moxy.story", HOST, str(port), str(LEASE_MS), stop=subprocess.Popen.kill)


@contextmanager
def _process(*arguments: str, stop: Callable[[subprocess.Popen[str]], None]) -> Iterator[subprocess.Popen[str]]:
    """A Python process that speaks to us on one pipe. Its own session: Ctrl-C reaches us alone, and we stop it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MOXY_")}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
    ) as process:
        try:
            yield process
            stop(process)
            process.wait(PATIENCE_S)
        finally:
            process.kill()


def _first_line(process: subprocess.Popen[str], who: str) -> str:
    """The first line a process says, which must be JSON. One that stays silent for too long is killed."""
    assert process.stdout is not None
    watchdog = Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    expect(line.startswith("{"), f"{who} starts", line.strip() or "silence")
    return line


def _client(port: int) -> Redis:
    return Redis(
        HOST,
        port,
        protocol=3,
        decode_responses=True,
        socket_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),  # what the story shows is sent once
    )


def _execute(client: Redis, *words: str) -> Any:
    execute: Callable[..., Any] = client.execute_command  # which redis-py leaves untyped
    return execute(*words)


def _work(port: int, lease_ms: str) -> None:
    """The worker that dies: takes a task, says so on stdout, and works on it until it is killed."""
    with _client(port) as client:
        reply = _execute(client, "MOXY.FETCH", QUEUE, lease_ms)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
        sys.stdin.read()  # "working"; ends only if the demo itself is gone


@contextmanager
def _signals_as_exits() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, so that every `with` cleans up."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


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
