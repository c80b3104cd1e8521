"""The tools on a log, on a Redis: what people see, and what `moxy verify` finds in keys that somebody touched."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator

import pytest

from moxy.backends.redis import connect, dump
from moxy.backends.redis.library import Queues
from moxy.backends.redis.link import Link
from tests.logs import Ran, run
from tests.redis.support import Server, free_port

pytestmark = pytest.mark.timeout(60)


class Story:
    """A queue `jobs` with a task in every state, under a prefix of its own."""

    def __init__(self, server: Server, retain_events: int = 100_000) -> None:
        self.server = server
        self.prefix = f"tools-{secrets.token_hex(4)}"
        self.url = f"redis://{server.address}"
        self._retain_events = retain_events

    def tell(self, program: Callable[[Queues], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with connect(self.url, self.prefix, self._retain_events) as queues:
                await program(queues)

        asyncio.run(whole())

    def key(self, name: str) -> str:
        return f"{self.prefix}:{{jobs}}:{name}"

    def run(self, tool: str, *words: str) -> Ran:
        return run(tool, self.url, "--redis-prefix", self.prefix, *words)


async def many_fates(queues: Queues) -> None:
    await queues.configure("jobs", max_attempts=2)
    for name in ("done", "held", "fatal", "ready", "later", "gone"):
        await queues.enqueue(
            "jobs", name.encode(), task_id=name, delay_ms=60_000 if name == "later" else 0, dedup_ms=90_000
        )
    for lease in await queues.fetch("jobs", lease_ms=60_000, count=3):
        assert lease.lease_id is not None
        if lease.task_id == "done":
            await queues.ack(lease.lease_id)
        elif lease.task_id == "fatal":
            await queues.nack(lease.lease_id, "no good", kind="fatal")
    await queues.enqueue("other", b"x")


@pytest.fixture
def story(server: Server) -> Iterator[Story]:
    story = Story(server)
    story.tell(many_fates)
    yield story
    for key in server.ask("KEYS", f"{story.prefix}:*"):
        server.ask("DEL", key)


def test_events_are_json_lines_queue_by_queue_in_order(story: Story) -> None:
    told = [json.loads(line) for line in story.run("events", "--queue", "jobs").lines]
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert told[0]["event"] == "QueueConfigured"
    assert {event["queue"] for event in map(json.loads, story.run("events").lines)} == {"jobs", "other"}
    assert [
        json.loads(line)["payload"] for line in story.run("events", "--task", "held", "--type", "enqueued").lines
    ] == ["held"]


def test_replay_shows_the_state_and_why_tells_the_story(story: Story) -> None:
    shown = story.run("replay", "--queue", "jobs")
    assert shown.lines[0].endswith("2 ready, 1 scheduled, 1 processing, 1 dead, 1 acked, 0 deleted")
    why = story.run("why", "jobs", "fatal")
    assert why.lines[0].startswith("Task fatal was delivered once.")
    nobody = story.run("why", "jobs", "nobody")
    assert (nobody.code, nobody.out) == (2, "")


def test_a_sound_queue_verifies(story: Story) -> None:
    ran = story.run("verify")
    assert ran.code == 0, ran.out
    assert ran.lines[-1].startswith("sound: 2 queues, ")
    assert "queue jobs: 13 events up to #13 folded from its birth; 5 of 5 tasks compared, equal" in ran.lines


@pytest.mark.parametrize(
    ("words", "finding"),
    [
        (("ZREM", "ready", "4"), "the sorted set :ready differs from the records"),
        (("ZADD", "processing", "1", "0000000000000002:2"), "the sorted set :processing differs from the records"),
        (("HDEL", "payloads", "4"), "task 4 has a record and no payload"),
        (("HDEL", "tasks", "4"), "the fold and the keys differ in tasks"),
        (("HINCRBY", "meta", "acked", "1"), "I1: "),
        (("HSET", "meta", "last_token", "9"), "the fold and the keys differ in last_token"),
        (("HSET", "policy", "max_attempts", "7"), "the fold and the keys differ in policy"),
        (("ZREM", "remembered", "done"), "I14: the fold and the keys remember different ids"),
        (("HSET", "ids", "ready", "2"), "the id 'ready' leads to task 2, which is not that one"),
        (("XDEL", "events", "5-0"), "I15: event 6 follows 4 in the stream"),
        (("HINCRBY", "meta", "seq", "-1"), "I10: "),
    ],
)
def test_a_key_that_somebody_touched_is_found(story: Story, words: tuple[str, ...], finding: str) -> None:
    verb, name, *rest = words
    story.server.ask(verb, story.key(name), *rest)
    ran = story.run("verify")
    assert ran.code == 3
    assert any(line.startswith("wrong: ") and finding in line for line in ran.lines), ran.out
    assert ran.lines[-1].startswith("not sound: ")


def trim(story: Story, seq: int) -> None:
    story.server.ask("XTRIM", story.key("events"), "MINID", f"{seq}-0")


def test_a_trimmed_stream_is_followed_task_by_task(story: Story) -> None:
    trim(story, 6)
    ran = story.run("verify")
    assert ran.code == 0, ran.out
    assert any("followed from #6 on, where the stream begins" in line for line in ran.lines)
    story.server.ask("HDEL", story.key("tasks"), "2")
    ran = story.run("verify")
    assert ran.code == 3
    assert any("task 2 is gone, its last event leaves it processing" in line for line in ran.lines), ran.out


def test_what_needs_the_beginning_says_so_when_it_was_trimmed(story: Story) -> None:
    trim(story, 6)
    ran = story.run("replay")
    assert ran.code == 2
    assert "begins with event 6" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_redis_that_is_not_there_is_exit_code_5_and_a_bad_url_2() -> None:
    away = run("verify", f"redis://127.0.0.1:{free_port()}")
    assert (away.code, away.out, len(away.err.splitlines())) == (5, "", 1)
    wrong = run("events", "redis://")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)


def changing(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a task comes each time after a queue's sequence number was read, and before its tasks are."""
    real = dump._hash

    async def after_a_change(link: Link, prefix: str, queue: str, name: str) -> dict[bytes, bytes]:
        if queue == "jobs" and name == "tasks":
            task = secrets.token_hex(4)
            await asyncio.to_thread(story.tell, lambda queues: queues.enqueue("jobs", b"new", task_id=task))
        return await real(link, prefix, queue, name)

    monkeypatch.setattr(dump, "_hash", after_a_change)


def test_a_queue_that_never_rests_is_compared_as_far_as_nothing_touched_it(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing(story, monkeypatch)
    ran = story.run("verify")
    assert ran.code == 0, ran.out
    record = json.loads(story.server.ask("HGET", story.key("tasks"), "5"))
    story.server.ask("HSET", story.key("tasks"), "5", json.dumps(record | {"priority": 7}))
    ran = story.run("verify")
    assert ran.code == 3
    assert any("I10: the fold and the keys differ in task 5" in line for line in ran.lines), ran.out
