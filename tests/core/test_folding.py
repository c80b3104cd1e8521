"""Folds in place against `apply`, event by event: from events, and from their bytes, by the short cut and without it.

Lives here: random logs of two queues, plain ones, and logs that are not right. Must not: files (tests/journal).
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from moxy.core import folding as room
from moxy.core.errors import IllegalEvent
from moxy.core.events import Acked, AnyEvent, Enqueued, Failed, Leased, QueuePaused, Requeued
from moxy.core.folding import Folding, Unreadable
from moxy.core.reducer import replay as replay_events
from moxy.core.state import QueueState
from tests.core.support import T0, dump
from tests.core.test_properties import World
from tests.forms import needs_source

SEEDS = st.integers(0, 2**32)
OTHER = "mäil:" + "x" * 40
"""A name that is longer than a short msgpack string, not ASCII, and has a colon."""

Fold = Callable[[Folding, Sequence[AnyEvent]], None]


def body(events: Sequence[AnyEvent]) -> bytes:
    return b"".join(map(msgspec.msgpack.encode, events))


def by_events(folding: Folding, events: Sequence[AnyEvent]) -> None:
    folding.fold(events)


def by_bytes(folding: Folding, events: Sequence[AnyEvent]) -> None:
    folding.fold_by_bytes(b"??" + body(events), 2, len(events))


def by_body(folding: Folding, events: Sequence[AnyEvent]) -> None:
    folding.fold_body(b"?" + body(events), 1, len(events))


WAYS = pytest.mark.parametrize("fold", [by_events, by_bytes, by_body])


def mixed(rng: random.Random, logs: list[list[AnyEvent]]) -> list[AnyEvent]:
    """Several logs as one, each in its order."""
    rest = [log[::-1] for log in logs]
    mix: list[AnyEvent] = []
    while any(rest):
        log = rng.choice([log for log in rest if log])
        mix += [log.pop() for _ in range(min(rng.randint(1, 5), len(log)))]
    return mix


@WAYS
@settings(max_examples=15)
@given(seed=SEEDS)
def test_a_fold_in_place_comes_to_the_same(fold: Fold, seed: int) -> None:
    rng = random.Random(seed)
    logs: dict[str, list[AnyEvent]] = {}
    for queue in ("jobs", OTHER):
        world = World(rng)
        for _ in range(60):
            world.step()
        logs[queue] = [replace(event, queue=queue) for event in world.log]
    mix = mixed(rng, list(logs.values()))
    states: dict[str, QueueState] = {}
    at = 0
    while at < len(mix):
        folding = Folding(states)  # a start goes on from a snapshot's states
        for _ in range(3):
            some = mix[at : at + rng.randint(1, 40)]
            fold(folding, some)
            at += len(some)
        states = folding.states()
    assert set(states) == {queue for queue, log in logs.items() if log}
    for queue, state in states.items():
        assert dump(state) == dump(replay_events(logs[queue], QueueState(queue)))


def plain(tasks: int, queue: str = "jobs") -> list[AnyEvent]:
    """Tasks enqueued, leased and acked, but for some; ids of all sorts, priorities, bound leases."""
    rng = random.Random(tasks)
    events: list[AnyEvent] = []
    for n in range(1, tasks + 1):
        made = f"{n}-{rng.getrandbits(64):016x}"
        odd = (f"chosen ü {n}", f"{n + 1}-{0:016x}", f"{n}-", f"0{n}-{0:016x}", f"{2**64 + n}-{0:016x}", f"-{n:016x}")
        task_id = rng.choice((made, made, made, *odd))
        lease_id = f"{queue}:{n}:{n}:{rng.getrandbits(64):016x}"
        now = T0 + 300 * n
        events.append(Enqueued(queue, len(events) + 1, now, n, task_id, b"x" * rng.choice((0, 9, 300)), n % 10))
        if n % 3:
            worker = rng.choice(("", "10.0.0.7:51234", "ein Arbeiter ü"))
            bound = n % 2 == 0
            events.append(Leased(queue, len(events) + 1, now, n, task_id, lease_id, n, now + 30_000, worker, bound))
            if n % 5:
                events.append(Acked(queue, len(events) + 1, now + 1, n, task_id, lease_id))
    return events


@WAYS
@pytest.mark.parametrize("pack_from", [0, 2, 5000])
def test_plain_events_come_to_the_same(fold: Fold, pack_from: int) -> None:
    start = QueueState("jobs")
    start.heart().pack_from = pack_from
    folding = Folding({"jobs": start})
    events = plain(400)
    fold(folding, events[:100])
    fold(folding, events[100:])
    [state] = folding.states().values()
    assert dump(state) == dump(replay_events(events, QueueState("jobs")))
    assert state.heart().names.keys() == replay_events(events, QueueState("jobs")).heart().names.keys()


@needs_source
def test_plain_events_take_the_short_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is said of it above would hold of one that declines everything."""
    usual: list[AnyEvent] = []
    happen_with = room.happen_with
    monkeypatch.setattr(room, "happen_with", lambda h, e, f: (usual.append(e), happen_with(h, e, f)))
    folding = Folding({})
    mix = mixed(random.Random(1), [plain(60), plain(60, OTHER)])
    by_bytes(folding, mix)
    assert [(event.queue, event.seq) for event in usual] == [(e.queue, 1) for e in mix if e.seq == 1], "queues are new"
    usual.clear()
    pause = QueuePaused("jobs", len(plain(60)) + 1, mix[-1].at_ms + 1)
    by_bytes(folding, [pause])
    assert usual == [pause]


WRONG: dict[str, Callable[[AnyEvent], AnyEvent]] = {
    "sequence": lambda e: replace(e, seq=e.seq + 1),
    "time": lambda e: replace(e, at_ms=1),
    "number": lambda e: replace(e, number=e.number + 1),
    "task": lambda e: replace(e, task_id="1-0000000000000001"),
    "lease": lambda e: replace(e, lease_id=e.lease_id + "0") if isinstance(e, Acked) else replace(e, seq=0),
    "token": lambda e: replace(e, token=1) if isinstance(e, Leased) else replace(e, seq=2**40),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("kind", [Enqueued, Leased, Acked])
def test_an_event_that_cannot_follow_is_refused_in_the_same_words(what: str, kind: type[AnyEvent]) -> None:
    events = plain(20)
    at = [at for at, event in enumerate(events) if isinstance(event, kind)][5]
    texts = []
    for fold in (by_events, by_bytes, by_body):
        folding = Folding({})
        fold(folding, events[:at])
        if what == "task" and kind is Enqueued:
            fold(folding, [replace(events[at], task_id="1-0000000000000001")])  # a new task may have any new name
            wrong = replace(events[at], seq=at + 2, number=events[at].number + 1, task_id="1-0000000000000001")
        else:
            wrong = WRONG[what](events[at])
        with pytest.raises(IllegalEvent) as refusal:
            fold(folding, [wrong])
        texts.append(str(refusal.value))
    assert len(set(texts)) == 1, texts


def lease(**changes: Any) -> Leased:
    return replace(Leased("jobs", 2, T0, 1, "1-0000000000000001", "jobs:1:1:00", 1, T0 + 10), **changes)


BIG = 2**63 + 5
ODD: dict[str, list[AnyEvent]] = {
    "a queue that begins at 0": [
        Enqueued("jobs", 1, 0, 1, "a", b""),
        Enqueued("jobs", 2, 0, 2, "b", b""),
        Leased("jobs", 3, 0, 1, "a", "l", 1, 9),
        Acked("jobs", 4, 5, 1, "a", "l"),
    ],
    "a deadline before 1970": [Enqueued("jobs", 1, T0, 1, "1-0000000000000001", b""), lease(deadline_ms=-9)],
    "a time that fits no number of the machine": [
        Enqueued("jobs", 1, T0, 1, "a", b""),
        Enqueued("jobs", 2, BIG, 2, "b", b""),
        Enqueued("jobs", 3, BIG, 3, "c", b""),
    ],
    "a token that fits none": [
        Enqueued("jobs", 1, T0, 1, "1-0000000000000001", b""),
        Enqueued("jobs", 2, T0, 2, "b", b""),
        lease(seq=3, token=BIG),
        lease(seq=4, number=2, task_id="b", token=BIG + 1),
    ],
}


@pytest.mark.parametrize("what", ODD)
@WAYS
def test_what_is_odd_but_legal_goes_the_usual_way(fold: Fold, what: str) -> None:
    folding = Folding({})
    fold(folding, ODD[what])
    assert dump(folding.states()["jobs"]) == dump(replay_events(ODD[what], QueueState("jobs")))


@WAYS
def test_an_id_that_only_looks_like_an_automatic_one_is_still_known(fold: Fold) -> None:
    """Its digits are those of number 2 for whoever counts modulo 2**64 (I14)."""
    wraps = f"{2**64 + 2}-0123456789abcdef"
    events = [Enqueued("jobs", 1, T0, 1, "a", b""), Enqueued("jobs", 2, T0, 2, wraps, b"")]
    folding = Folding({})
    fold(folding, events)
    assert folding.states()["jobs"].knows(wraps, T0)


@WAYS
def test_a_priority_that_does_not_exist_is_refused_and_nothing_happens(fold: Fold) -> None:
    for priority in (-1, 10, 200):
        folding = Folding({})
        fold(folding, plain(3))
        bad = Enqueued("jobs", len(plain(3)) + 1, T0 + 2000, 4, "x", b"", priority)
        with pytest.raises(IllegalEvent, match="priorities are 0 to 9"):
            fold(folding, [bad])
        assert dump(folding.states()["jobs"]) == dump(replay_events(plain(3), QueueState("jobs")))


def test_a_second_lease_and_what_comes_of_it_goes_the_usual_way() -> None:
    task, first, second = "1-0000000000000001", "jobs:1:1:00", "jobs:1:2:00"
    events: list[AnyEvent] = [
        Enqueued("jobs", 1, T0, 1, task, b"x"),
        Leased("jobs", 2, T0, 1, task, first, 1, T0 + 10),
        Failed("jobs", 3, T0, 1, task, first, "why"),
        Requeued("jobs", 4, T0, 1, task),
        Leased("jobs", 5, T0, 1, task, second, 2, T0 + 10),
        Acked("jobs", 6, T0, 1, task, second),
    ]
    for end in range(1, len(events) + 1):
        folding = Folding({})
        by_bytes(folding, events[:end])
        assert dump(folding.states()["jobs"]) == dump(replay_events(events[:end], QueueState("jobs")))


@pytest.mark.parametrize("fold_body", [Folding.fold_body, Folding.fold_by_bytes])
def test_bytes_that_end_too_early_or_too_late_are_no_events(
    fold_body: Callable[[Folding, bytes, int, int], None],
) -> None:
    events = plain(12)
    raw = body(events)
    for end in range(len(raw)):
        with pytest.raises((Unreadable, IllegalEvent, IndexError, msgspec.DecodeError, UnicodeDecodeError)):
            fold_body(Folding({}), raw[:end], 0, len(events))
    for tail in (b"\0", raw[:20]):
        with pytest.raises((Unreadable, msgspec.DecodeError)):
            fold_body(Folding({}), raw + tail, 0, len(events))


def test_bytes_that_are_no_events_are_found_out() -> None:
    good = body(plain(2))
    cut = b"\x9d\xa8Enqueued\xa4jobs"
    for junk in (b"\xc1", b"\xd9", b"\x90", b"\x80", b"\xff", cut, b"\x97\xa5Acked\x01", b"\xcb" * 9):
        with pytest.raises(Unreadable):
            Folding({}).fold_body(good + junk, 0, len(plain(2)) + 1)


def test_ids_that_are_no_text_are_found_out() -> None:
    good = plain(1, "jobs")
    task = msgspec.msgpack.encode(Enqueued("jobs", 4, T0 + 999, 2, "2-0123456789abcdef", b""))
    lease_of_it = msgspec.msgpack.encode(lease(seq=5, at_ms=T0 + 999, number=2, task_id="2-0123456789abcdef", token=9))
    for bad in (task.replace(b"def", b"de\xff"), task + lease_of_it.replace(b"jobs:1:1:00", b"jobs:1:1:0\xff")):
        with pytest.raises(Unreadable):
            Folding({}).fold_body(body(good) + bad, 0, len(good) + bad.count(b"\xa4jobs"))


def test_bytes_that_are_nested_without_end_are_found_out() -> None:
    with pytest.raises(Unreadable):
        Folding({}).fold_body(b"\x91" * 2_000_000, 0, 1)
