"""Queues in Redis for a Python program, without a server: the same scripts, keys, events and rules, beside servers.

Lives here: the calls that a program makes, and its waiting. Must not: rules of a queue; answers are `core.answers`.

    async with connect("redis://localhost:6379") as queues:
        await queues.enqueue("jobs", b"hello")
        for task in await queues.fetch("jobs", lease_ms=30_000, block_ms=5_000):
            work(task.payload)
            await queues.ack(task.lease_id)

While it is open, the program is one of the servers on that Redis: it beats, does due work and is told of new tasks
(`fellows`). What is refused raises `Refused`, whose `code` is one of docs/protocol.md.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, final

from moxy.backends.base import Done
from moxy.backends.redis import RETAIN_EVENTS, RETAIN_EVENTS_MAX, RETAIN_EVENTS_MIN
from moxy.backends.redis.address import parse_prefix, parse_redis_address
from moxy.backends.redis.backend import RedisBackend
from moxy.backends.redis.errors import Unreachable
from moxy.backends.redis.link import Link
from moxy.backends.redis.scripts import SCRIPT
from moxy.core.answers import Answer, Delivery, Fields, TaskView, deliveries_of
from moxy.core.commands import (
    UNSET,
    Ack,
    AnyCommand,
    Configure,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    Info,
    Nack,
    NackKind,
    Redrive,
    Show,
)
from moxy.core.errors import Refused
from moxy.core.ids import split_lease_id
from moxy.core.policy import Policy


@asynccontextmanager
async def opened(
    url: str, prefix: str = "moxy", retain_events: int = RETAIN_EVENTS, policy: Policy | None = None
) -> AsyncIterator["Queues"]:
    """See `connect`, which is the door to this."""
    address, prefix = parse_redis_address(url), parse_prefix(prefix)
    if not RETAIN_EVENTS_MIN <= retain_events <= RETAIN_EVENTS_MAX:
        raise ValueError(f"retain_events is {RETAIN_EVENTS_MIN:,} to {RETAIN_EVENTS_MAX:,}, not {retain_events:,}")
    link = Link(address, [SCRIPT])
    facts = await link.connect()
    if facts.refusal:
        await link.close()
        raise Unreachable(facts.refusal)
    backend = RedisBackend(link, _Clock(), _Chance(), server_name(), policy, prefix, retain_events)
    queues = Queues(backend)
    beside = [asyncio.create_task(queues.attend()), asyncio.create_task(backend.run(queues.wake))]
    try:
        yield queues
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await backend.close()


def server_name() -> str:
    """A name for this process among the servers on one Redis, for people; unique by its random end."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}".replace(":", "-")


@final
class Queues:
    """All queues under one prefix of one Redis. Times are in milliseconds; every method may raise `Refused`."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend: Final = backend
        self._waiting: Final[dict[str, list[asyncio.Event]]] = {}
        self._woken: Final = asyncio.Event()

    async def enqueue(
        self,
        queue: str,
        payload: bytes,
        task_id: str = "",
        priority: int = 0,
        delay_ms: int = 0,
        ttl_ms: int = UNSET,
        max_attempts: int = UNSET,
        lease_ms: int = 0,
        dedup_ms: int = 0,
    ) -> str:
        """One task; its id. With a `task_id` of its own it may be called again after an unknown outcome."""
        options = (task_id, priority, delay_ms, ttl_ms, max_attempts, lease_ms, dedup_ms)
        ids = await self._do(Enqueue(queue, payload, *options))
        assert isinstance(ids, list)
        return str(ids[0])

    async def enqueue_many(self, queue: str, payloads: Sequence[bytes]) -> list[str]:
        """Several tasks, all or none; their ids."""
        ids = await self._do(EnqueueMany(queue, tuple(payloads)))
        assert isinstance(ids, list)
        return [str(task_id) for task_id in ids]

    async def fetch(
        self, queue: str, lease_ms: int = 0, count: int = 1, block_ms: int | None = None, worker: str = ""
    ) -> list[Delivery]:
        """Lease up to `count` tasks for `lease_ms` (0: the task's own, else the policy's).

        `block_ms`: how long to wait when there is none; None: not at all, 0: for ever.
        """
        end_s = time.monotonic() + block_ms / 1000 if block_ms else None
        arrived = asyncio.Event()
        try:
            while True:
                tasks = deliveries_of(await self._do(Fetch(queue, lease_ms, count, worker)))
                if tasks or block_ms is None or (end_s is not None and time.monotonic() >= end_s):
                    return tasks
                line = self._waiting.setdefault(queue, [])
                if arrived not in line:
                    line.append(arrived)
                arrived.clear()
                self._backend.watch(self._waiting, ())
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if end_s is None else end_s - time.monotonic()):
                        await arrived.wait()
        finally:
            self._leave(queue, arrived)

    async def ack(self, lease_id: str) -> None:
        """Done."""
        await self._do(Ack(*_lease(lease_id)))

    async def nack(
        self, lease_id: str, reason: str = "", delay_ms: int | None = None, kind: NackKind = "retry"
    ) -> None:
        """Not done: again ("retry", after `delay_ms`; None: the backoff), "fatal", or "release" uncharged."""
        await self._do(Nack(*_lease(lease_id), kind, UNSET if delay_ms is None else delay_ms, reason))

    async def extend(self, lease_id: str, lease_ms: int) -> int:
        """Hold it until `lease_ms` from now; the deadline."""
        deadline_ms = await self._do(Extend(*_lease(lease_id), lease_ms))
        assert isinstance(deadline_ms, int)
        return deadline_ms

    async def show(self, queue: str, task_id: str) -> TaskView | None:
        """Everything about one task."""
        view = await self._do(Show(queue, task_id))
        assert view is None or isinstance(view, TaskView)
        return view

    async def info(self, queue: str) -> Fields:
        """Everything about a queue."""
        fields = await self._do(Info(queue))
        assert isinstance(fields, dict)
        return fields

    async def configure(self, queue: str, **changes: int) -> None:
        """Set fields of the policy, together."""
        await self._do(Configure(queue, tuple(changes.items())))

    async def redrive(self, queue: str, count: int = 1000) -> int:
        """Dead tasks become ready again, the oldest deaths first; how many."""
        done = await self._do(Redrive(queue, count))
        assert isinstance(done, int)
        return done

    # Beside the calls

    def wake(self) -> None:
        """There is news, or something is due."""
        self._woken.set()

    async def attend(self) -> None:
        """Do due work and tell those who wait, until cancelled."""
        while True:
            due_ms = self._backend.next_due_ms()
            pause_s = None if due_ms is None else max(due_ms - _Clock().now_ms(), 0) / 1000
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):  # wait_for can swallow a cancellation (before Python 3.12)
                    await self._woken.wait()
            self._woken.clear()
            events = await self._backend.expire()
            for queue in {*self._backend.news(), *(event.queue for event in events)}:
                for arrived in self._waiting.get(queue, ()):
                    arrived.set()
            self._backend.watch(self._waiting, ())

    def _leave(self, queue: str, arrived: asyncio.Event) -> None:
        line = self._waiting.get(queue)
        if line is not None and arrived in line:
            line.remove(arrived)
            if not line:
                del self._waiting[queue]

    async def _do(self, command: AnyCommand) -> Answer:
        (outcome,) = await self._backend.execute([command])
        if isinstance(outcome, Refused):
            raise outcome
        assert isinstance(outcome, Done)
        self._woken.set()  # when it is next due may have changed
        return outcome.answer


def _lease(lease_id: str) -> tuple[str, str, int, int]:
    queue, number, token = split_lease_id(lease_id)
    return queue, lease_id, number, token


@final
class _Clock:
    """This process's own: leases live by Redis's, this one only times waits."""

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


@final
class _Chance:
    def seed(self) -> int:
        return secrets.randbits(64)

    def digits(self, count: int) -> bytes:
        return secrets.token_hex(count // 2).encode()
