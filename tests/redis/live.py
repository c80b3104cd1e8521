"""Moxy servers on a real Redis, as processes, and what Redis itself saw of them.

Lives here: starting `moxy serve --backend redis`, a witness of all that Redis is asked, small questions. Must not:
start a Redis (`support`), or say what ought to happen.
"""

import itertools
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from moxy.backends.redis.scripts import KEY_NAMES, key_of
from tests.redis.support import WAIT_S, Server, until
from tests.server.launch import MOXY, Launched
from tests.server.support import Client

_names = itertools.count(1)


def new_queue() -> str:
    """A queue that no other test of this process has."""
    return f"live-{next(_names)}"


class Moxy(Launched):
    """A Moxy server on a Redis. `address` is None when it did not come up."""

    def __init__(self, redis_addr: str, *flags: str) -> None:
        super().__init__(
            [*MOXY, "serve", "--addr", "127.0.0.1:0", "--backend", "redis", "--redis-addr", redis_addr, *flags]
        )

    def kill(self) -> None:
        """kill -9."""
        self.child.kill()
        self.child.wait(WAIT_S)

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and does nothing."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def info(self) -> dict[str, str]:
        """What INFO says."""
        with self.client() as client:
            lines = client("INFO").decode().split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line)

    @property
    def server_id(self) -> str:
        """Its name among those on one Redis."""
        return self.info()["redis_server_id"]


@contextmanager
def moxy(redis_addr: str, *flags: str) -> Iterator[Moxy]:
    """One server, which must come up; it is gone after."""
    with Moxy(redis_addr, *flags) as server:
        assert server.is_up, server.logs
        yield server


def entries(reply: Any) -> list[dict[str, Any]]:
    """A reply of FETCH with options, PEEK, HISTORY or EVENTS, as dicts with text for bytes."""
    if reply is None:
        return []
    assert isinstance(reply, list), reply
    return [
        {key.decode(): value.decode() if isinstance(value, bytes) else value for key, value in pairs(entry)}
        for entry in reply
    ]


def pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    """Name and value."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def fetch(client: Client, queue: str, timeout_ms: int = 60_000, *options: Any) -> list[dict[str, Any]]:
    """A FETCH with options, at least COUNT."""
    return entries(client("MOXY.FETCH", queue, timeout_ms, *(options or ("COUNT", 1))))


def show(client: Client, queue: str, task_id: str) -> dict[str, Any]:
    """SHOW, with text for bytes; empty when the queue does not know the task."""
    reply = client("MOXY.SHOW", queue, task_id)
    return entries([reply])[0] if reply else {}


def history(client: Client, queue: str, task_id: str) -> list[dict[str, Any]]:
    """HISTORY."""
    return entries(client("MOXY.HISTORY", queue, task_id))


def has_answer(client: Client, wait_s: float = 0.0) -> bool:
    """Whether something was said to a client that waits."""
    return bool(select.select([client.socket], [], [], wait_s)[0])


def standing(redis: Server, queue: str, prefix: str = "moxy") -> list[str]:
    """The ids of servers that stand in line for a queue."""
    found = redis.ask("ZRANGE", key_of(prefix, queue, "waiting"), 0, -1)
    assert isinstance(found, list)
    return found


def until_standing(redis: Server, queue: str, count: int = 1) -> None:
    """Until so many servers stand in line, so that a wake-up has somebody to go to."""
    until(lambda: standing(redis, queue), lambda found: len(found) == count)


def keys_in(redis: Server, pattern: str = "*") -> set[str]:
    """The names of keys."""
    return set(redis.ask("KEYS", pattern))


def dump_of(redis: Server, queue: str, prefix: str = "moxy") -> dict[str, Any]:
    """Every key of a queue, value for value, whatever its type; but for who waits, as that is no part of the queue."""
    with Client(("127.0.0.1", redis.port)) as client:
        return {name: client("DUMP", key_of(prefix, queue, name)) for name in KEY_NAMES if name != "waiting"}


class Asked(NamedTuple):
    """One verb that a script was asked to do: when, by whom (a connection)."""

    at_s: float
    peer: str
    verb: str


class Witness:
    """MONITOR: every command that Redis carries out, in order. Commands inside scripts are marked `lua`."""

    def __init__(self, redis: Server) -> None:
        self._redis = redis
        self._client = Client(("127.0.0.1", redis.port))
        self.lines: list[str] = []
        assert self._client("MONITOR") == "OK"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def mark(self) -> int:
        """Where we are now: how many lines were there, this mark not counted."""
        word = f"mark-{next(_names)}"
        self._redis.ask("ECHO", word)
        while True:
            line = str(self._client.read())
            if word in line:
                return len(self.lines)
            self.lines.append(line)

    def verbs(self, queue: str, since: int) -> list[Asked]:
        """Each verb that a script was asked to do on a queue, since a mark."""
        found = []
        for line in self.lines[since:]:
            match = re.match(r'([\d.]+) \[\d+ (\S+)\] "(?:EVALSHA|evalsha)" (.*)', line)
            if match is None or f':{{{queue}}}:meta"' not in match[3]:
                continue
            words = re.findall(r'"((?:[^"\\]|\\.)*)"', match[3])
            at = 2 + int(words[1]) + 9  # the sha1, the number of keys, the keys, the head
            while at < len(words):
                found.append(Asked(float(match[1]), match[2], words[at]))
                at += 2 + int(words[at + 1])
        return found


def eventually(ask: Callable[[], Any], within_s: float = WAIT_S) -> Any:
    """Ask until it is true; for conditions that are looked at from outside and have no wake-up."""
    deadline = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


__all__ = [
    "Moxy",
    "Witness",
    "dump_of",
    "entries",
    "eventually",
    "fetch",
    "has_answer",
    "history",
    "keys_in",
    "moxy",
    "new_queue",
    "pairs",
    "show",
    "standing",
    "until_standing",
]
