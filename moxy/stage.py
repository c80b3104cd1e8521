"""The stage of the demos, and how their cast comes and goes.

Lives here: what a terminal shows (headings, commands as typed, replies as redis-cli prints them), processes that are
gone when their `with` is left, a client, and `expect`, by which nothing is told that is not checked. Must not: a story.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Timer
from types import FrameType
from typing import Any, Final, final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 10.0  # for a process to start, or a reply to come
COLUMNS: Final = 80


class Astray(Exception):
    """Something did not go as the story tells it."""


def expect(holds: bool, claim: str, got: object) -> None:
    """Raises Astray unless what was told is what happened."""
    if not holds:
        raise Astray(f"{claim}; but got {got!r}")


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
            value: Any = execute(client, *words)
        except ResponseError as refusal:
            value = refusal
        self.reply(value, marks)
        return value

    def countdown(self, what: str, until: float, of_s: float) -> AbstractContextManager[object]:
        """On a terminal, `what` and the time left until then, of `of_s`; elsewhere, and in a picture, nothing."""
        if not sys.stdout.isatty() or self._console.is_dumb_terminal:
            return nullcontext()

        def left() -> Table:
            left_s = max(0.0, until - time.monotonic())
            row = Table.grid(padding=(0, 1))
            row.add_row(
                Text(f"  {what} {left_s:.1f} s", "yellow"),
                ProgressBar(of_s, left_s, width=24, complete_style="yellow", finished_style="yellow"),
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
def launched(*arguments: str, stop: Callable[[subprocess.Popen[str]], None]) -> Iterator[subprocess.Popen[str]]:
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


def first_line(process: subprocess.Popen[str], who: str) -> str:
    """The first line a process says, which must be JSON. One that stays silent for too long is killed."""
    assert process.stdout is not None
    watchdog = Timer(PATIENCE_S, process.kill)
    try:
        watchdog.start()  # in here: a signal may come before this returns, and nobody waits for a watchdog at the end
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    expect(line.startswith("{"), f"{who} starts", line.strip() or "silence")
    return line


def connected(port: int) -> Redis:
    return Redis(
        HOST,
        port,
        protocol=3,
        decode_responses=True,
        socket_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),  # what the story shows is sent once
    )


def execute(client: Redis, *words: str) -> Any:
    execute: Callable[..., Any] = client.execute_command  # which redis-py leaves untyped
    return execute(*words)


@contextmanager
def signals_as_exits() -> Iterator[None]:
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
