"""The Redis backend as a system under test: real scripts on a real server, with the machine's time.

What lives here: `OnRedis`, how a backend over Redis is built, driven and looked into; `RedisSystem`, one Moxy server
that is killed and started again; `TwoOnRedis`, two servers on one Redis, of which either is killed. What must not live
here: a rule of a queue. Keys are under a prefix of the system's own, and are deleted when it closes.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, TypeVar, final

from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.backend import RedisBackend
from moxy.backends.redis.dump import read_dump
from moxy.backends.redis.link import Link
from moxy.backends.redis.scripts import SCRIPT
from moxy.core.answers import Names
from moxy.core.commands import ListQueues
from moxy.core.state import QueueState, state_of
from moxy.service import Service
from spec.adapters.service import ServiceSystem, SettableClock, ZeroIds
from spec.system import Durable, Ending, Plain

T = TypeVar("T")


@final
class OnRedis:
    """Backends over one Redis, one for each server that is started."""

    def __init__(self, addr: str) -> None:
        self._loop: Final = asyncio.new_event_loop()
        self._prefix: Final = f"moxy-check-{secrets.token_hex(8)}"
        self._link: Final = Link(parse_redis_address(addr), [SCRIPT])
        self._started = 0

    def backend(self, clock: SettableClock, ids: ZeroIds) -> RedisBackend:
        self._started += 1
        server_id = f"server-{self._started}"
        return RedisBackend(self._link, clock, ids, server_id, prefix=self._prefix, inject_clock=True)

    def drive(self, work: Awaitable[T]) -> T:
        async def whole() -> T:
            return await work

        return self._loop.run_until_complete(whole())

    def states(self) -> Mapping[str, QueueState]:
        return self.drive(self._states())

    def close(self) -> None:
        self.drive(self._delete())
        self._loop.close()

    async def _states(self) -> dict[str, QueueState]:
        """From the keys, which must agree with each other. A server of its own asks, so nobody's view is changed."""
        asker = RedisBackend(self._link, SettableClock(), ZeroIds(), "looker", prefix=self._prefix, inject_clock=True)
        states: dict[str, QueueState] = {}
        page = await asker.names(ListQueues("*", 1000, ""))
        assert isinstance(page, Names), page
        for name in page.names:
            dump = await read_dump(self._link, self._prefix, name)
            assert not dump.contradictions, dump.contradictions
            states[name] = state_of(dump.image)
        return states

    async def _delete(self) -> None:
        cursor = b"0"
        while True:
            reply = await self._link.command("SCAN", cursor, "MATCH", f"{self._prefix}:*", "COUNT", 1000)
            assert isinstance(reply, list), reply
            cursor, keys = reply
            if keys:
                await self._link.command("DEL", *keys)
            if cursor == b"0":
                break
        await self._link.close()


class RedisSystem(ServiceSystem):
    """The service over Redis. When its server ends, another finds its bound leases, and releases them."""

    def __init__(self, addr: str) -> None:
        self._on_redis: Final = OnRedis(addr)
        super().__init__(lambda: self._on_redis)
        self.durable: Durable | None = self

    def restart(self, how: Ending, chance: int, now_ms: int) -> None:
        """Redis itself goes on, so it is all one whether the server stopped, was killed, or lost its power."""
        for person in self.clients.values():
            person.closed = True
        self.clients.clear()
        self.answers.clear()
        self.clock.ms = now_ms
        gone = self.backend
        self.backend = self._on_redis.backend(self.clock, ZeroIds())
        self.service = Service(self.backend, self.clock)
        self.take_over(gone)
        self.settle()

    def take_over(self, gone: object) -> None:
        """Do what a server does when it misses the heartbeats of another, and look after all queues."""
        assert isinstance(gone, RedisBackend)
        assert isinstance(self.backend, RedisBackend)
        self.deployment.drive(self.backend.fellows.take_over(gone.server_id))

    def tear(self, client: str, argv: Sequence[bytes], chance: int, now_ms: int) -> None:
        """A command whose reply is never read, as the server ends with it."""
        self.execute(client, argv, now_ms)
        self.restart("power", chance, now_ms)

    def snapshot(self, now_ms: int) -> None:
        """Redis's own affair."""
        self.clock.ms = now_ms


@final
class TwoOnRedis(RedisSystem):
    """Two servers on one Redis. What waits, or is bound to its connection, is on the first; everything else on either.

    The second is killed now and then, with all leases that it granted alive.
    """

    def __init__(self, addr: str) -> None:
        super().__init__(addr)
        self._other = _Other(self._on_redis, self.clock)
        self._turns = 0

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        self._turns += 1
        words = {word.upper() for word in argv}
        if self._turns % 2 or words & {b"BLOCK", b"BOUND"} or client in self.waiting_clients():
            return super().execute(client, argv, now_ms)
        if self._turns % 16 == 0:
            self._other = _Other(self._on_redis, self.clock)
        self.clock.ms = now_ms
        reply = self._other.execute(client, argv, now_ms)
        self._hear_of_it()
        return reply

    def tick(self, now_ms: int) -> None:
        self.clock.ms = now_ms
        self._other.tick(now_ms)
        self._hear_of_it()

    def waiting_clients(self) -> set[str]:
        """Those who must not speak."""
        return {name for name, person in self.clients.items() if self.service.is_waiting(person)}

    def _hear_of_it(self) -> None:
        """What the channels say to the first server, said here at once: look at all queues."""
        assert isinstance(self.backend, RedisBackend)
        self.deployment.drive(self.backend.fellows.look_around())
        self.settle()

    def settle(self) -> None:
        """Also with news from the other server."""
        super().settle()
        assert isinstance(self.backend, RedisBackend)
        while self.backend.fellows.has_news:
            self.heard(self.deployment.drive(self.service.turn()))
            super().settle()


class _Other(ServiceSystem):
    """The second server."""

    def __init__(self, on_redis: OnRedis, clock: SettableClock) -> None:
        super().__init__(lambda: on_redis)
        self.clock = clock
        self.backend = on_redis.backend(clock, ZeroIds())
        self.service = Service(self.backend, clock)
