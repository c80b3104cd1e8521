"""Links for tests, and the few scripts that tests send over them."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.link import Call, Link, Script
from moxy.core.errors import Refused
from tests.redis.support import WAIT_S

T = TypeVar("T")

PUSH = Script("push", "return redis.call('RPUSH', KEYS[1], ARGV[1])")
READ = Script("read", "return redis.call('LRANGE', KEYS[1], 0, -1)")
DROP = Script("drop", "return redis.call('DEL', KEYS[1])")
FAIL = Script("fail", "return redis.error_reply('NOLEASE ' .. ARGV[1])")
BREAK = Script("break", "redis.call('RPUSH', KEYS[1], ARGV[1]); return nowhere.to_be_found")
SCRIPTS = [PUSH, READ, DROP, FAIL, BREAK]

_names = itertools.count()


def new_queue() -> str:
    """A queue that no other test has, nor anybody else."""
    return f"moxy-test-{os.getpid()}-{next(_names)}"


def push(queue: str, value: str, *, more: str = "", idempotent: bool = False) -> Call:
    """Append to the list of a queue; `more` declares a second key that the script does not touch."""
    keys = [f"{{{queue}}}:list", *([f"{{{queue}}}:{more}"] if more else [])]
    return Call(PUSH, queue, keys, [value], idempotent)


def read(queue: str) -> Call:
    """The list of a queue."""
    return Call(READ, queue, [f"{{{queue}}}:list"], [], True)


def run(story: Coroutine[Any, Any, T], loop: Callable[[Coroutine[Any, Any, T]], T] = asyncio.run) -> T:
    """Run a story on a new loop of that kind; one that hangs is a failure."""

    async def bounded() -> T:
        async with asyncio.timeout(2 * WAIT_S):
            return await story

    return loop(bounded())


@asynccontextmanager
async def linked(address: str, *, retry_s: float = 2.0) -> AsyncIterator[Link]:
    """A link that is connected, and closed after."""
    link = Link(parse_redis_address(address), SCRIPTS, retry_s)
    try:
        await link.connect()
        yield link
    finally:
        await link.close()


async def served(link: Link, *calls: Call) -> list[object]:
    """Run them as a batch until the first is not refused, as a client would that tries again."""
    async with asyncio.timeout(WAIT_S):
        while True:
            replies = await link.run(calls)
            if not isinstance(replies[0], Refused):
                return replies


async def until_kept_back(link: Link, batch: "asyncio.Future[list[object]]") -> None:
    """Until Redis has turned the batch away once, and it waits for a better moment."""
    while not (link.in_trouble or batch.done()):
        await asyncio.sleep(0)
    assert not batch.done()


class Cutter:
    """A way to a server that can be cut, also while an answer is under way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self.address = ""
        self.lines_left: int | None = None
        """How many more lines of replies get through before the connection is cut, once; None: all."""
        self.takes_more = True
        """Whether anybody who comes is joined to the server; else the door is shut in his face."""
        self.asked = asyncio.Event()
        """Set when something is on its way to the server."""

    async def on_visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a visitor to the server until one of them leaves, or the cut."""
        if not self.takes_more:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, server_writer]
        there = asyncio.ensure_future(self._forward(reader, server_writer))
        try:
            while line := await server_reader.readline():
                if self.lines_left == 0:
                    self.lines_left = None
                    break
                if self.lines_left is not None:
                    self.lines_left -= 1
                writer.write(line)
        except OSError:
            pass
        finally:
            there.cancel()
            writer.close()
            server_writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65536):
            writer.write(some)
            self.asked.set()

    async def cut(self) -> None:
        """Cut all connections now."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # the loop closes them


@asynccontextmanager
async def cutting(port: int) -> AsyncIterator[Cutter]:
    """A way to the server on that port that can be cut."""
    cutter = Cutter(port)
    listener = await asyncio.start_server(cutter.on_visit, "127.0.0.1", 0)
    host, own_port = listener.sockets[0].getsockname()
    cutter.address = f"{host}:{own_port}"
    try:
        yield cutter
    finally:
        listener.close()
        await cutter.cut()


def text_of(reply: object) -> str:
    """The text of a refusal with the code BACKEND."""
    assert isinstance(reply, Refused), reply
    assert reply.code == "BACKEND"
    return reply.text


NOTHING = "nothing happened, try again"
UNKNOWN = "whether it happened, or still will, is unknown"
