"""Channels of Redis, heard for as long as the server runs.

Lives here: one subscribed connection, and a new one whenever it is lost. Must not: know what a message means.

Messages published while there is no connection are gone: `on_reconnect` says that some may have been missed. In a
Cluster any node hears what is published on any other.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from moxy.backends.redis.address import Address
from moxy.backends.redis.dial import Dial, cut, dialler, reach_any
from moxy.backends.redis.errors import Missed, down

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0


@final
class Listener:
    """Calls `on_message(channel, data)` for each message on `channels`, in order, from the loop that runs it.

    `on_reconnect()` is called each time a lost connection has been replaced and hears again; `on_trouble(sentence)`,
    if given, once per loss. After `quiet_s` of silence the server is asked whether it is still there. `dial`
    may lead elsewhere than the address does.
    """

    def __init__(
        self,
        address: Address,
        channels: Sequence[str],
        on_message: Callable[[str, bytes], None],
        on_reconnect: Callable[[], None],
        on_trouble: Callable[[str], None] | None = None,
        quiet_s: float = 15.0,
        dial: Dial | None = None,
    ) -> None:
        self._reply_s: Final = address.reply_s
        cluster = address.form == "cluster"
        self._dial: Final = dial or ((lambda: reach_any(address)) if cluster else dialler(address))
        self._channels: Final = tuple(channels)
        self._on_message: Final = on_message
        self._on_reconnect: Final = on_reconnect
        self._on_trouble: Final = on_trouble
        self._quiet_s: Final = quiet_s
        self._listening: Final = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen, in a task of its own."""
        self._task = asyncio.ensure_future(self.run())

    async def listening(self) -> None:
        """Return once every channel is subscribed. After a loss, once it is again."""
        await self._listening.wait()

    async def close(self) -> None:
        """Stop, and let go of the connection. Raises what a callback raised, if that had stopped it before."""
        if self._task is None:
            return
        self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise  # it is the caller who is being cancelled
        finally:
            self._task = None

    async def run(self) -> None:
        """Listen for ever. `start` and `close` do this in a task; raises what a callback raises."""
        pause_s = _FIRST_PAUSE_S
        heard = told = False
        while True:
            try:
                connection = await self._dial()
                try:
                    await self._subscribe(connection)
                    pause_s = _FIRST_PAUSE_S
                    self._listening.set()
                    if heard:
                        self._on_reconnect()
                    heard, told = True, False
                    await self._hear(connection)
                finally:
                    cut(connection)
            except (Missed, RedisError, OSError) as error:
                if self._on_trouble is not None and not told:
                    self._on_trouble(str(error) if isinstance(error, OSError) else down(error).sentence)
                    told = True
                self._listening.clear()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _subscribe(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(self._reply_s):
                await connection.send_command("SUBSCRIBE", *self._channels, check_health=False)
                for _ in self._channels:
                    await connection.read_response(disconnect_on_error=False)
        except TimeoutError:
            raise Missed(f"no answer within {self._reply_s:g} s", sent=True) from None

    async def _hear(self, connection: AbstractConnection) -> None:
        """Read until the connection is lost. Raises Missed or RedisError."""
        asked = False
        while True:
            wait_s = self._reply_s if asked else self._quiet_s
            reply = await connection.read_response(timeout=wait_s, disconnect_on_error=False)
            if reply is None:
                if asked:
                    raise Missed(f"no answer within {self._reply_s:g} s", sent=True)
                await connection.send_command("PING", check_health=False)
                asked = True
            else:
                asked = False
                if reply[0] == b"message":
                    self._on_message(reply[1].decode(), reply[2])
