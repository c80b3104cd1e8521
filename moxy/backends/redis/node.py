"""One connection to one Redis server, held open: a batch goes out, its replies come back.

Lives here: sending, reading, the time-out, and opening a new connection when the old one is gone. Must not: try again,
or know what a reply means.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

import hiredis
import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from moxy.backends.redis.dial import Dial, cut, is_idle, send
from moxy.backends.redis.errors import Missed, is_loss

Word = str | bytes | int
Replies = list[object]
"""One for each command: its value, or the fault in its place, a RedisError (an error reply) or a Missed."""

_REPLIES_PER_TIMEOUT: Final = 256


class Script(msgspec.Struct, frozen=True):
    """A Lua script: its name for people, its text for Redis."""

    name: str
    text: str

    @property
    def sha1(self) -> str:
        """What EVALSHA calls it. Hash it once and keep it: this computes it every time."""
        return hashlib.sha1(self.text.encode()).hexdigest()


def pack(commands: Iterable[tuple[Word, ...]]) -> bytes:
    """Commands as bytes on the wire. hiredis packs one in about a microsecond, redis-py in five."""
    return b"".join([hiredis.pack_command(words) for words in commands])  # type: ignore[arg-type]  # any length


@final
class Node:
    """A server of Redis at the end of one connection.

    Every connection loads the scripts before anything else is sent on it. Batches of several callers go one after
    the other. `on_open` is told of each connection that is opened.
    """

    def __init__(self, dial: Dial, scripts: Sequence[Script], reply_s: float, on_open: Callable[[], None]) -> None:
        self._dial: Final = dial
        self._scripts: Final = scripts
        self._reply_s: Final = reply_s
        self._on_open: Final = on_open
        self._turn: Final = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._loaded = False
        self._stale = False

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return self._turn.locked()

    async def exchange(self, packed: bytes, count: int) -> Replies:
        """Send `count` commands in one go and give as many replies, in order. Raises nothing that Redis causes."""
        async with self._turn:
            try:
                connection = await self._ready()
            except (Missed, RedisError) as error:
                return [error] * count
            return await self._pipeline(connection, packed, count)

    async def ask(self, *words: Word) -> object:
        """One command without need for scripts, on whatever connection there is. A fault is given, not raised."""
        async with self._turn:
            try:
                connection = await self._open()
            except (Missed, RedisError) as error:
                return error
            return (await self._pipeline(connection, pack([words]), 1))[0]

    def forget_scripts(self) -> None:
        """The server has lost them: load them before the next batch."""
        self._loaded = False

    def renew(self) -> None:
        """The server is not what it was: open a new connection before the next batch."""
        self._stale = True

    def drop(self) -> None:
        """Let go of the connection; the next batch opens a new one."""
        if self._connection is not None:
            cut(self._connection)
            self._connection = None

    async def _ready(self) -> AbstractConnection:
        connection = await self._open()
        if not self._loaded:
            loading = pack(("SCRIPT", "LOAD", script.text) for script in self._scripts)
            for reply in await self._pipeline(connection, loading, len(self._scripts)):
                if isinstance(reply, Missed):
                    raise Missed(reply.reason, sent=False)  # the batch itself was not
                if isinstance(reply, RedisError):
                    raise reply
            self._loaded = True
        return connection

    async def _open(self) -> AbstractConnection:
        if self._connection is not None:
            if not self._stale and await is_idle(self._connection):
                return self._connection
            self.drop()
        self._loaded = self._stale = False
        self._connection = await self._dial()
        self._on_open()
        return self._connection

    async def _pipeline(self, connection: AbstractConnection, packed: bytes, count: int) -> Replies:
        replies: Replies = []
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._reply_s) as limit:
                await send(connection, packed)
                limit.reschedule(clock() + self._reply_s)
                while len(replies) < count:
                    try:
                        replies.append(await connection.read_response(disconnect_on_error=False))
                    except RedisError as error:
                        if is_loss(error):
                            raise
                        replies.append(error)
                    if not len(replies) % _REPLIES_PER_TIMEOUT:
                        limit.reschedule(clock() + self._reply_s)
        except TimeoutError:
            reason = f"no answer within {self._reply_s:g} s"
        except (RedisError, OSError) as error:
            reason = str(error)
        except BaseException:
            self.drop()  # replies are still to come, and nobody will read them
            raise
        else:
            return replies
        self.drop()
        return replies + [Missed(reason, sent=True)] * (count - len(replies))
