"""What one server knows of a queue, when another says something at the same time, and when Redis has lost something.

Lives here: two backends in this process on one real Redis, one step at a time. Must not: servers (test_two_servers).
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from moxy.backends.base import Done
from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.backend import RedisBackend
from moxy.backends.redis.link import Link
from moxy.backends.redis.scripts import SCRIPT
from moxy.core.answers import Delivery, deliveries_of
from moxy.core.commands import Ack, EnqueueMany, Extend, Fetch, Stats
from moxy.core.errors import NOLEASE, Refused
from moxy.core.ids import split_lease_id
from moxy.sources import RandomIds, SystemClock
from tests.redis.support import Server

Story = Callable[[RedisBackend, RedisBackend], Awaitable[None]]


def told(server: Server, story: Story) -> None:
    """Tell a story of two servers, under a prefix of its own."""

    async def whole() -> None:
        link = Link(parse_redis_address(server.address), [SCRIPT])
        prefix = f"epoch-{secrets.token_hex(4)}"
        clock = SystemClock()
        try:
            await story(*(RedisBackend(link, clock, RandomIds(), name, prefix=prefix) for name in ("one", "other")))
        finally:
            await link.close()

    asyncio.run(whole())


async def fetch(backend: RedisBackend, count: int) -> list[Delivery]:
    (outcome,) = await backend.execute([Fetch("jobs", 60_000, count)])
    assert isinstance(outcome, Done)
    return deliveries_of(outcome.answer)


def lease_of(task: Delivery) -> tuple[str, str, int, int]:
    assert task.lease_id is not None
    queue, number, token = split_lease_id(task.lease_id)
    return queue, task.lease_id, number, token


def test_a_reply_does_not_unsay_what_another_server_told_of_a_due_time(server: Server) -> None:
    """The notice of a lease can overtake the reply to what ran before that lease."""

    async def story(one: RedisBackend, other: RedisBackend) -> None:
        one.look_at("jobs", 50)
        due_ms = one.next_due_ms()
        await one.execute([Stats("jobs")])
        assert one.next_due_ms() == due_ms is not None

    told(server, story)


def test_a_look_that_was_too_soon_takes_its_time_away(server: Server) -> None:
    async def story(one: RedisBackend, other: RedisBackend) -> None:
        one.look_at("jobs", 0)
        assert await one.expire() == []
        assert one.next_due_ms() is None

    told(server, story)


def test_a_new_epoch_voids_the_old_leases_however_many_and_no_new_one(server: Server) -> None:
    """More than one run of the script releases; and what another server leases in between is of the new epoch."""

    async def story(one: RedisBackend, other: RedisBackend) -> None:
        await one.execute([EnqueueMany("jobs", (b"x",) * 1100)])
        old = [*await fetch(one, 1000), *await fetch(one, 50)]
        assert len(old) == 1050
        one._seen["jobs"].seq += 7  # as if Redis had lost the last seven events
        was = one._seen["jobs"]
        call = one._call_of(
            "jobs", [*one._head("jobs")[:5], 0, 0, 0, 0, "rollback", 3, was.epoch, was.seq, was.token], True
        )
        (reply,) = await one._link.run([call])
        assert isinstance(reply, list)
        assert reply[7][0][1] == 1, "there are more"
        (new,) = await fetch(other, 1)
        assert new.token > max(task.token for task in old) + 2**20
        await one.begin_epochs()
        assert one.rollbacks == 1
        (kept,) = await other.execute([Extend(*lease_of(new), 120_000)])
        assert isinstance(kept, Done), kept
        for outcome in await one.execute([Ack(*lease_of(task)) for task in old]):
            assert isinstance(outcome, Refused)
            assert outcome.code == NOLEASE
        (stats,) = await other.execute([Stats("jobs")])
        assert isinstance(stats, Done)
        assert stats.answer.ready == 1099  # type: ignore[union-attr]

    told(server, story)


def test_a_loss_that_two_notice_at_the_same_time_is_told_once(server: Server) -> None:
    """The look after a reconnect, and a turn that found something lost: the second reply comes while the first writes
    the queue's name again."""

    async def story(one: RedisBackend, other: RedisBackend) -> None:
        await one.execute([EnqueueMany("jobs", (b"x",) * 3)])
        one._seen["jobs"].seq += 7
        await asyncio.gather(one.begin_epochs(), one.begin_epochs())
        assert one.rollbacks == 1
        assert (one._seen["jobs"].epoch, one.seq_of("jobs")) == (1, 3)

    told(server, story)
