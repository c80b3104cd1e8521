"""Links for tests, and the few scripts that tests send over them."""

import asyncio
import itertools
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
    """A queue that no other test has."""
    return f"q{next(_names)}"


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


def text_of(reply: object) -> str:
    """The text of a refusal with the code BACKEND."""
    assert isinstance(reply, Refused), reply
    assert reply.code == "BACKEND"
    return reply.text


NOTHING = "nothing happened, try again"
UNKNOWN = "whether it happened, or still will, is unknown"
