"""The Redis backend as a system under test: real scripts on a real server, with the machine's time.

What lives here: how a backend over Redis is built, driven on a loop of its own, and looked into. What must not live
here: a rule of a queue. Keys are under a prefix of the system's own, and are deleted when it closes.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Mapping
from typing import TypeVar, final

from moxy.backends.base import Backend
from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.backend import RedisBackend
from moxy.backends.redis.dump import read_dump
from moxy.backends.redis.link import Link
from moxy.backends.redis.scripts import SCRIPT
from moxy.core.commands import ListQueues
from moxy.core.state import QueueState
from spec.adapters import ServiceSystem, SettableClock, ZeroIds

T = TypeVar("T")


@final
class OnRedis:
    """One server on one Redis."""

    def __init__(self, addr: str) -> None:
        self._addr = addr
        self._prefix = f"moxy-check-{secrets.token_hex(6)}"
        self.loop = asyncio.new_event_loop()

    def backend(self, clock: SettableClock, ids: ZeroIds) -> Backend:
        self._link = Link(parse_redis_address(self._addr), [SCRIPT])
        self._backend = RedisBackend(self._link, clock, ids, "one", prefix=self._prefix, inject_clock=True)
        return self._backend

    def run(self, work: Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return self.loop.run_until_complete(done())

    def states(self) -> Mapping[str, QueueState]:
        return self.run(self._states())

    async def _states(self) -> dict[str, QueueState]:
        names = await self._backend.names(ListQueues("*", 1000, ""))
        states = {}
        for name in names.names:
            dump = await read_dump(self._link, self._prefix, name)
            assert not dump.contradictions, dump.contradictions
            states[name] = dump.state
        return states

    def close(self) -> None:
        self.run(self._delete())
        self.loop.close()

    async def _delete(self) -> None:
        link = Link(parse_redis_address(self._addr), [])
        cursor: object = b"0"
        while True:
            cursor, keys = await link.command("SCAN", cursor, "MATCH", f"{self._prefix}:*", "COUNT", 1000)  # type: ignore
            if keys:
                await link.command("DEL", *keys)
            if int(cursor) == 0:
                break
        await link.close()


class RedisSystem(ServiceSystem):
    """The service over Redis. Here a turn may suspend, so it runs on a loop."""

    def __init__(self, addr: str) -> None:
        super().__init__(lambda: OnRedis(addr))

    def drive(self, work):  # type: ignore
        return self.deployment.run(work)  # type: ignore
