"""A program that leases from Redis without a server: the same rules as through one, and beside others."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import pytest

from moxy.backends.redis import connect
from moxy.backends.redis.errors import Unreachable
from moxy.backends.redis.library import Queues
from moxy.core.errors import Refused
from tests.redis.support import Server, free_port, serving

pytestmark = pytest.mark.timeout(60)


def run(server: Server, program: Callable[[Queues], Awaitable[None]]) -> str:
    """Run `program` under a prefix of its own; the prefix."""
    prefix = f"lib-{secrets.token_hex(4)}"

    async def whole() -> None:
        async with connect(server.address, prefix) as queues:
            await program(queues)

    asyncio.run(whole())
    return prefix


def test_a_task_is_enqueued_leased_extended_and_acked(server: Server) -> None:
    async def program(queues: Queues) -> None:
        task_id = await queues.enqueue("jobs", b"\x00hello", priority=3)
        (task,) = await queues.fetch("jobs", lease_ms=60_000, worker="me")
        assert (task.task_id, task.payload, task.priority, task.token) == (task_id, b"\x00hello", 3, 1)
        assert task.lease_id is not None
        assert task.deadline_ms is not None
        assert await queues.extend(task.lease_id, 120_000) >= task.deadline_ms + 60_000
        shown = await queues.show("jobs", task_id)
        assert shown is not None
        assert shown.worker == "me"
        await queues.ack(task.lease_id)
        assert await queues.show("jobs", task_id) is None
        with pytest.raises(Refused, match=r"NOLEASE .*completed"):
            await queues.ack(task.lease_id)

    prefix = run(server, program)
    stream = server.ask("XRANGE", f"{prefix}:{{jobs}}:events", "-", "+")
    assert [fields["type"] for _, fields in stream] == ["Enqueued", "Leased", "Extended", "Acked"]


def test_a_fetch_that_waits_has_what_another_program_enqueues(server: Server) -> None:
    prefix = f"lib-{secrets.token_hex(4)}"

    async def whole() -> None:
        async with connect(server.address, prefix) as one, connect(server.address, prefix) as other:
            waits = asyncio.create_task(one.fetch("jobs", block_ms=0))
            while not server.ask("EXISTS", f"{prefix}:{{jobs}}:waiting"):
                await asyncio.sleep(0.01)
            await other.enqueue("jobs", b"for you")
            (task,) = await waits
            assert task.payload == b"for you"

    asyncio.run(whole())


def test_a_wait_ends_empty_when_its_time_is_up_and_leaves_no_trace(server: Server) -> None:
    async def program(queues: Queues) -> None:
        assert await queues.fetch("jobs", block_ms=20) == []
        assert not queues._waiting

    run(server, program)


def test_a_lease_expires_while_the_program_does_something_else(server: Server) -> None:
    async def program(queues: Queues) -> None:
        await queues.configure("jobs", max_attempts=1)
        await queues.enqueue("jobs", b"slow")
        assert len(await queues.fetch("jobs", lease_ms=20)) == 1
        while (await queues.info("jobs"))["dead"] != 1:
            await asyncio.sleep(0.01)
        assert await queues.redrive("jobs") == 1
        (task,) = await queues.fetch("jobs")
        assert task.lease_id is not None
        await queues.nack(task.lease_id, "no good", kind="fatal")
        shown = await queues.show("jobs", task.task_id)
        assert shown is not None
        assert (shown.dead_cause, shown.dead_reason) == ("fatal", "no good")

    run(server, program)


@pytest.mark.parametrize(
    ("prefix", "retain_events", "why"),
    [
        ("{x}", 1_000, "a prefix is 1 to 64 letters"),
        ("x", 999, "retain_events is 1,000 to"),
        ("x", -1, "retain_events is"),
    ],
)
def test_what_cannot_be_is_refused_before_redis_is_asked(prefix: str, retain_events: int, why: str) -> None:
    async def whole() -> None:
        async with connect(f"127.0.0.1:{free_port()}", prefix, retain_events):
            raise AssertionError("it was let in")

    with pytest.raises(ValueError, match=why):
        asyncio.run(whole())


def test_a_redis_that_is_not_there_or_throws_keys_away_is_refused() -> None:
    async def whole(url: str) -> None:
        async with connect(url):
            raise AssertionError("it was let in")

    with pytest.raises(Unreachable, match="cannot be reached"):
        asyncio.run(whole(f"127.0.0.1:{free_port()}"))
    with (
        serving(maxmemory="50mb", maxmemory_policy="allkeys-lru") as server,
        pytest.raises(Unreachable, match="set maxmemory-policy noeviction"),
    ):
        asyncio.run(whole(server.address))
