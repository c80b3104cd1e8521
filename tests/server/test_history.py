"""The history checker, before anybody believes it: it finds every planted fault, and nothing in what is legal.

Lives here: histories made by hand, one for each rule and its nearest legal neighbour, and histories of real servers
with a fault planted in them (`broken`). Must not: the crashes of the real one, which are test_crash.py.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.server.history import NEVER, RULES, SLACK_MS, UNKNOWN, Op, check
from tests.server.launch import broken, serve
from tests.server.load import Crew, crew_pool
from tests.server.support import Failure, Status

OK = Status("OK")
NOLEASE = Failure("NOLEASE that lease is void")
LEASE_MS = 1000


class Story:
    """A history told op by op; the time is the number of the op, unless `start` and `end` say otherwise."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def say(self, *command: str, reply: Any = OK, start: int = 0, end: int = 0, end_ms: int = 0) -> "Story":
        start = start or 10 * (len(self.ops) + 1)
        end = NEVER if reply is UNKNOWN else end or start + 1
        self.ops.append(Op("c", command, start, end, end_ms, reply))
        return self

    def enqueue(self, payload: str, *, reply: Any = None, **times: int) -> "Story":
        return self.say("MOXY.ENQUEUE", "jobs", payload, reply=reply or f"id-{payload}", **times)

    def fetch(
        self, payload: str, token: int, *, leased_ms: int = 0, deliveries: int = 1, attempts: int = 0, **times: int
    ) -> "Story":
        entry = {
            "lease_id": lease(token),
            "payload": payload,
            "token": token,
            "deadline_ms": leased_ms + LEASE_MS,
            "deliveries": deliveries,
            "attempts": attempts,
        }
        return self.say("MOXY.FETCH", "jobs", str(LEASE_MS), "COUNT", "1", reply=[entry], **times)

    def fetch_plainly(self, payload: str, token: int, **times: int) -> "Story":
        entry = {"lease_id": lease(token), "task_id": f"id-{payload}", "payload": payload}
        return self.say("MOXY.FETCH", "jobs", str(LEASE_MS), reply=[entry], **times)

    def nothing(self, **times: int) -> "Story":
        return self.say("MOXY.FETCH", "jobs", str(LEASE_MS), "COUNT", "1", reply=None, **times)

    def ack(self, token: int, reply: Any = OK, **times: int) -> "Story":
        return self.say("MOXY.ACK", lease(token), reply=reply, **times)

    def nack(self, token: int, reply: Any = OK, **times: int) -> "Story":
        return self.say("MOXY.NACK", lease(token), reply=reply, **times)

    def extend(self, token: int, reply: Any, **times: int) -> "Story":
        return self.say("MOXY.EXTEND", lease(token), "5000", reply=reply, **times)


def lease(token: int, nonce: str = "0" * 16) -> str:
    return f"jobs:1:{token}:{nonce}"


def one() -> Story:
    return Story().enqueue("a").fetch("a", 1)


def rules(story: Story, left: dict[str, str] | None = None) -> set[str]:
    return {finding.rule for finding in check(story.ops, left)}


LEGAL = {
    "done": (one().ack(1), {}),
    "still held": (one(), {"a": "processing"}),
    "an unknown enqueue happened": (Story().enqueue("a", reply=UNKNOWN).fetch("a", 1).ack(1), {}),
    "an unknown enqueue did not happen": (Story().enqueue("a", reply=UNKNOWN), {}),
    "an unknown ack happened": (one().ack(1, UNKNOWN), {}),
    "an unknown ack did not happen": (one().ack(1, UNKNOWN), {"a": "processing"}),
    "an unknown ack did not happen, and the task came again": (
        one().ack(1, UNKNOWN).fetch("a", 2, leased_ms=LEASE_MS, deliveries=2, attempts=1).ack(2),
        {},
    ),
    "a refused enqueue is not there": (Story().enqueue("a", reply=Failure("IOERR no space")), {}),
    "repeated with its id": (Story().enqueue("a", reply=UNKNOWN).enqueue("a").fetch("a", 1).ack(1), {}),
    "redelivered after its deadline": (one().fetch("a", 2, leased_ms=LEASE_MS, deliveries=2, attempts=1).ack(2), {}),
    "redelivered at once after a NACK": (one().nack(1).fetch("a", 2, deliveries=2, attempts=1).ack(2), {}),
    "redelivered after an unknown NACK": (one().nack(1, UNKNOWN).fetch("a", 2, deliveries=2, attempts=1).ack(2), {}),
    "the ack overlaps the fetch that came after it": (
        one().nack(1, start=50, end=90).fetch("a", 2, deliveries=2, attempts=1, start=60, end=80).ack(2),
        {},
    ),
    "a late ack before the expiry wins": (one().ack(1, end_ms=LEASE_MS * 9), {}),
    "a void lease is refused": (
        one().fetch("a", 2, leased_ms=LEASE_MS, deliveries=2, attempts=1).ack(1, NOLEASE, end_ms=LEASE_MS + 5).ack(2),
        {},
    ),
    "refused about when the deadline came": (one().ack(1, NOLEASE, end_ms=LEASE_MS - SLACK_MS), {"a": "ready"}),
    "the second of two acks is refused": (one().ack(1).ack(1, NOLEASE), {}),
    "extended, and redelivered after that": (
        one().extend(1, 5000).fetch("a", 2, leased_ms=5000, deliveries=2, attempts=1).ack(2),
        {},
    ),
    "tokens of fetches that overlap, in any order": (
        Story()
        .enqueue("a")
        .enqueue("b")
        .fetch("b", 2, start=100, end=200)
        .fetch("a", 1, start=110, end=190)
        .ack(1)
        .ack(2),
        {},
    ),
    "enqueues that overlap, in any order": (
        Story()
        .enqueue("a", start=10, end=50)
        .enqueue("b", start=20, end=40)
        .fetch("b", 1, start=60)
        .fetch("a", 2, start=70)
        .ack(1)
        .ack(2),
        {},
    ),
    "an earlier task that nobody saw leased before is later": (
        Story().enqueue("a").enqueue("b").fetch("b", 2).fetch("a", 3, deliveries=2, attempts=1).ack(2).ack(3),
        {},
    ),
    "nothing before the first enqueue": (Story().nothing().enqueue("a").fetch("a", 1).ack(1), {}),
    "nothing while the enqueue is under way": (
        Story().nothing(start=20, end=30).enqueue("a", start=10, end=25).fetch("a", 1, start=40).ack(1),
        {},
    ),
}

ILLEGAL = {
    "an acknowledged enqueue is lost": ("lost", Story().enqueue("a"), {}),
    "delivered, never acked, and gone": ("lost", one(), {}),
    "one of a batch is lost": (
        "lost",
        Story().say("MOXY.MENQUEUE", "jobs", "a", "b", reply=["id-a", "id-b"]).fetch("a", 1).ack(1),
        {},
    ),
    "acked under another task's lease": ("lost", one().ack(1).enqueue("b").fetch("b", 2).ack(2, NOLEASE), {}),
    "acked and delivered again": ("resurrected", one().ack(1).fetch("a", 2, leased_ms=5000, deliveries=2), {}),
    "acked in a batch and delivered again": (
        "resurrected",
        one().say("MOXY.MACK", lease(1), reply=["OK"]).fetch("a", 2, leased_ms=5000, deliveries=2),
        None,
    ),
    "acked and still there": ("resurrected", one().ack(1), {"a": "ready"}),
    "two live leases": ("double lease", one().fetch("a", 2, leased_ms=LEASE_MS - 1, deliveries=2), {"a": "processing"}),
    "two live leases, the first one extended": (
        "double lease",
        one().extend(1, 5000).fetch("a", 2, leased_ms=4999, deliveries=2),
        {"a": "processing"},
    ),
    "a NACK that came too late for it": (
        "double lease",
        one().fetch("a", 2, deliveries=2).nack(1, NOLEASE, end_ms=LEASE_MS),
        {"a": "processing"},
    ),
    "acked after it was delivered to somebody else": (
        "void lease accepted",
        one().fetch("a", 2, leased_ms=LEASE_MS, deliveries=2, attempts=1).ack(1),
        {},
    ),
    "acked twice": ("void lease accepted", one().ack(1).ack(1), {}),
    "extended after it was given back": ("void lease accepted", one().nack(1).extend(1, 5000), {"a": "ready"}),
    "a lease with another random part": (
        "void lease accepted",
        one().say("MOXY.ACK", lease(1, "f" * 16)),
        {"a": "processing"},
    ),
    "a lease nobody was given": ("void lease accepted", one().ack(1).ack(7), {}),
    "a lease is gone before its deadline": (
        "lease lost",
        one().ack(1, NOLEASE, end_ms=LEASE_MS - SLACK_MS - 1),
        {"a": "ready"},
    ),
    "a payload nobody enqueued": ("invented", one().ack(1).fetch("b", 2).ack(2), {}),
    "a payload nobody enqueued is left": ("invented", one().ack(1), {"b": "ready"}),
    "a refused enqueue is there": ("invented", Story().enqueue("a", reply=Failure("IOERR")), {"a": "ready"}),
    "delivered before it was enqueued": ("invented", Story().fetch("a", 1).enqueue("a").ack(1), {}),
    "one enqueue, two tasks": (
        "duplicate",
        Story().enqueue("a").enqueue("a", reply="another").fetch("a", 1).ack(1),
        {},
    ),
    "a token twice": ("token", one().ack(1).enqueue("b").fetch("b", 1), {"b": "processing"}),
    "a token below one that was known": (
        "token",
        Story().enqueue("a").enqueue("b").fetch("a", 2).fetch("b", 1).ack(1).ack(2),
        {},
    ),
    "deliveries do not increase": (
        "counters",
        one().nack(1).fetch("a", 2, deliveries=1, attempts=1).ack(2),
        {},
    ),
    "attempts decrease": (
        "counters",
        Story().enqueue("a").fetch("a", 1, attempts=3).nack(1).fetch("a", 2, deliveries=2).ack(2),
        {},
    ),
    "overtaken": (
        "order",
        Story().enqueue("a").enqueue("b").fetch("b", 1).fetch("a", 2).ack(1).ack(2),
        {},
    ),
    "nothing although there was a task": ("empty", Story().enqueue("a").nothing().fetch("a", 1).ack(1), {}),
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_history_is_accepted(name: str) -> None:
    story, left = LEGAL[name]
    assert check(story.ops, left) == []


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_history_is_found_out(name: str) -> None:
    rule, story, left = ILLEGAL[name]
    assert rule in rules(story, left)


def test_every_rule_has_been_seen_to_find_something() -> None:
    assert {rule for rule, _, _ in ILLEGAL.values()} == set(RULES)


def test_a_history_that_was_never_looked_at_afterwards_loses_nothing() -> None:
    assert check(one().ops) == []


def test_queues_are_judged_apart() -> None:
    story = one().ack(1).say("MOXY.ENQUEUE", "mail", "b", reply="id-b").say("MOXY.FETCH", "mail", "9", reply=None)
    assert check(story.ops, {"b": "ready"}) == []


# Real servers with planted faults


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with crew_pool(4) as pool:
        yield pool


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A data directory that does not outlive its test: a segment has 64 MiB."""
    yield tmp_path / "data"
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


def crash_of(
    fault: str, directory: Path, pool: ProcessPoolExecutor, damage: bool = False, mode: str = "always"
) -> set[str]:
    """The rules that a server with a fault breaks in a life of load, one kill and a drain."""
    crew = Crew(pool, 4, "planted")
    with serve(directory, mode, before=broken(fault)) as server:
        crew.until_killed(server.address, server.child.pid)
        server.child.wait(30)
    if damage:
        flip_in_the_middle(directory)
    with serve(directory, mode, before=broken(fault)) as server:
        return {finding.rule for finding in check(crew.ops, crew.drain(server.address))}


def flip_in_the_middle(directory: Path) -> None:
    """Flip one bit in the middle of what the first segment holds."""
    segment = directory / "00000000000000000001.log"
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 4
    segment.write_bytes(data)


def test_a_sound_server_on_a_disk_with_a_volatile_cache_loses_nothing(
    directory: Path, pool: ProcessPoolExecutor
) -> None:
    """The control of the test after it: a power cut alone is no fault."""
    assert crash_of("volatile", directory, pool) == set()


@pytest.mark.parametrize(
    ("fault", "found", "damage"),
    [
        ("reply_before_fsync", {"lost"}, False),
        ("ack_ignores_its_lease", {"void lease accepted"}, False),
        ("truncation_at_a_bad_checksum", {"lost"}, True),
        ("double_lease", {"double lease"}, False),
        ("resurrection", {"resurrected"}, False),
    ],
)
def test_a_planted_fault_is_found_in_the_history_of_a_real_server(
    fault: str, found: set[str], damage: bool, directory: Path, pool: ProcessPoolExecutor
) -> None:
    assert found <= crash_of(fault, directory, pool, damage)


def test_replies_before_the_sync_lose_work_in_a_power_cut_and_are_allowed_to(
    directory: Path, pool: ProcessPoolExecutor
) -> None:
    """Mode `everysec` promises no more, and the checker sees the difference."""
    assert "lost" in crash_of("volatile", directory, pool, mode="everysec")


def test_plain_deliveries_overlap_when_they_must_have_and_not_when_they_may_not() -> None:
    """Their replies tell no times: what is known of them is when they were asked for and had."""

    def held_until(again_ms: int) -> Story:
        return Story().enqueue("a").fetch_plainly("a", 1).fetch_plainly("a", 2, end_ms=again_ms)

    assert rules(held_until(LEASE_MS - 2 * SLACK_MS - 1)) == {"double lease"}
    assert rules(held_until(LEASE_MS - 2 * SLACK_MS)) == set()
    assert rules(Story().enqueue("a").fetch_plainly("a", 1).ack(1).fetch_plainly("a", 2, end_ms=5000)) == {
        "resurrected"
    }
