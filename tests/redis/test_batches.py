"""How the commands of a turn go together: as few runs of the script as may be, none of them too long."""

import asyncio
import secrets
from collections.abc import Sequence

import pytest

from moxy.backends.base import Done
from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.backend import RedisBackend
from moxy.backends.redis.link import Link
from moxy.backends.redis.scripts import SCRIPT
from moxy.core.commands import AnyCommand, EnqueueMany, Fetch, Peek, Redrive, Stats
from moxy.sources import RandomIds, SystemClock
from tests.redis.support import Server

COMMANDS: dict[str, tuple[Sequence[AnyCommand], int]] = {
    "of one queue": ([Stats("a")] * 100, 1),
    "of two queues": ([Stats("a"), Stats("b")] * 50, 2),
    "that touch many tasks": ([EnqueueMany("a", [b"x"] * 300)] * 4, 4),
    "that may find many tasks": ([Fetch("a", 1_000, 300)] * 4, 4),
    "that revive many tasks": ([Redrive("a", 300)] * 4, 4),
    "that revive one task": ([Redrive("a", task_id="x")] * 4, 1),
    "that look at many tasks": ([Peek("a", "ready", 300)] * 4, 4),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(server: Server, name: str) -> None:
    """Redis does nothing else while a script runs, and what a run may write bounds how much its stream is too long."""
    commands, runs = COMMANDS[name]

    async def whole() -> None:
        link = Link(parse_redis_address(server.address), [SCRIPT])
        backend = RedisBackend(link, SystemClock(), RandomIds(), "one", prefix=f"batches-{secrets.token_hex(4)}")
        try:
            await backend.execute([Stats("warm-up")])
            before = runs_of(server)
            outcomes = await backend.execute(commands)
            assert runs_of(server) - before == runs
            is_done = name != "that revive one task"  # which is not there
            assert [isinstance(outcome, Done) for outcome in outcomes] == [is_done] * len(commands)
        finally:
            await link.close()

    asyncio.run(whole())


def runs_of(server: Server) -> int:
    """How many scripts the server has run."""
    counted = server.ask("INFO", "commandstats")
    return sum(stats["calls"] for name, stats in counted.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))
