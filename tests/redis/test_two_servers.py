"""Several Moxy servers on one Redis: what one does the others see, and one that dies leaves nothing behind.

Lives here: `moxy serve` as processes, killed and stopped on purpose. Must not: Redis in trouble (test_trouble).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import pytest

from moxy.backends.redis.fellows import BEAT_S, DEAD_MS
from moxy.backends.redis.scripts import key_of
from tests.redis.live import (
    Moxy,
    Witness,
    entries,
    fetch,
    has_answer,
    history,
    moxy,
    new_queue,
    show,
    until_standing,
)
from tests.redis.support import VALKEY, Server, binaries, serving, until
from tests.server.support import Client, until_blocked

LATE_MS = 400
"""How late a due lease may be redelivered: 100 ms, and what a busy machine adds; far below the poll of a second."""


class House(NamedTuple):
    """Two servers that live as long as the module, and their Redis."""

    redis: Server
    a: Moxy
    b: Moxy


@pytest.fixture(
    scope="module",
    params=[VALKEY, *(pytest.param(kind, marks=pytest.mark.deep) for kind in binaries() if kind != VALKEY)],
)
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    with ExitStack() as stack:
        redis = stack.enter_context(serving(request.param))
        yield House(redis, *(stack.enter_context(moxy(redis.address)) for _ in range(2)))


@pytest.fixture
def a(house: House) -> Iterator[Client]:
    with house.a.client() as client:
        yield client


@pytest.fixture
def b(house: House) -> Iterator[Client]:
    with house.b.client() as client:
        yield client


# One queue, whichever server is asked


def test_a_lease_that_one_granted_is_ended_and_extended_by_the_other(a: Client, b: Client) -> None:
    queue = new_queue()
    for name in ("acked", "failed", "extended"):
        a("MOXY.ENQUEUE", queue, name, "ID", name)
    leases = {task["task_id"]: task for task in fetch(b, queue, 5000, "COUNT", 3)}
    assert a("MOXY.ACK", leases["acked"]["lease_id"]) == "OK"
    assert a("MOXY.NACK", leases["failed"]["lease_id"], "REASON", "elsewhere") == "OK"
    assert a("MOXY.EXTEND", leases["extended"]["lease_id"], 60_000) > leases["extended"]["deadline_ms"]
    assert b("MOXY.ACK", leases["acked"]["lease_id"]).code == "NOLEASE"
    assert show(b, queue, "acked") == {}
    assert show(b, queue, "failed")["last_reason"] == "elsewhere"
    assert show(a, queue, "extended") == show(b, queue, "extended")
    assert [task["task_id"] for task in fetch(a, queue, 1000, "COUNT", 9)] == ["failed"]
    assert history(a, queue, "failed") == history(b, queue, "failed")
    assert a("MOXY.WHY", queue, "failed") == b("MOXY.WHY", queue, "failed")


def test_policies_and_names_are_the_same_everywhere(a: Client, b: Client) -> None:
    queue = new_queue()
    a("MOXY.CONFIG", queue, "max_attempts", 3)
    assert b.map("MOXY.CONFIG", queue)["max_attempts"] == 3
    assert queue.encode() in b("MOXY.QUEUES", "MATCH", queue)[1]


# Waiting on one, work on the other


ENDS = {
    "enqueue": lambda client, queue, lease: client("MOXY.ENQUEUE", queue, "x"),
    "nack": lambda client, queue, lease: client("MOXY.NACK", lease, "DELAY", 0),
    "resume": lambda client, queue, lease: client("MOXY.RESUME", queue),
    "redrive": lambda client, queue, lease: client("MOXY.REDRIVE", queue),
}


@pytest.mark.parametrize("verb", ENDS)
def test_a_wake_up_goes_over_the_channel_and_not_by_the_poll(house: House, a: Client, b: Client, verb: str) -> None:
    """MONITOR gives the order: after what one server did comes a fetch by the other, and no look in between."""
    with Witness(house.redis) as witness:
        by_channel = 0
        for _ in range(4):
            queue = new_queue()
            lease = ""
            if verb in ("nack", "redrive"):
                b("MOXY.ENQUEUE", queue, "x")
                lease = fetch(b, queue)[0]["lease_id"]
            if verb == "redrive":
                b("MOXY.NACK", lease, "FATAL")
            if verb == "resume":
                b("MOXY.PAUSE", queue)
                b("MOXY.ENQUEUE", queue, "x")
            a.send("MOXY.FETCH", queue, 60_000, "BLOCK", 0)
            until_standing(house.redis, queue)
            began = witness.mark()
            ENDS[verb](b, queue, lease)
            assert len(entries(a.read())) == 1
            witness.mark()
            verbs = [asked.verb for asked in witness.verbs(queue, began)]
            verbs = verbs[verbs.index(verb) :]
            assert verbs[1:2] in (["fetch"], ["watch"]), verbs
            by_channel += verbs[1] == "fetch"
    assert by_channel >= 2, "once a second a look may come first; every time it cannot"


def test_one_task_wakes_one_server(house: House, a: Client, b: Client) -> None:
    """No herd: of three servers that wait, the one that has waited longest is told, and nobody else asks Redis."""
    queue = new_queue()
    with ExitStack() as stack:
        third, fourth = (stack.enter_context(moxy(house.redis.address)) for _ in range(2))
        waiting = [a, b, stack.enter_context(third.client())]
        others = [stack.enter_context(server.client()) for server in (house.a, house.b, third)]
        enqueuer = stack.enter_context(fourth.client())
        witness = stack.enter_context(Witness(house.redis))
        for client in waiting:
            client.send("MOXY.FETCH", queue, 60_000, "BLOCK", 0)
        alone = 0
        for _ in range(6):
            until_standing(house.redis, queue, 3)
            began = witness.mark()
            enqueuer("MOXY.ENQUEUE", queue, "x")
            (first,) = until(lambda: [client for client in waiting if has_answer(client)])
            assert len(entries(first.read())) == 1
            for other in others * 2:  # whoever was told has had the time to ask
                other("MOXY.STATS", queue)
            witness.mark()
            verbs = [asked.verb for asked in witness.verbs(queue, began)]
            verbs = verbs[verbs.index("enqueue") + 1 :]
            assert verbs.count("fetch") <= 1 + verbs.count("watch"), verbs
            alone += verbs.count("fetch") == 1 and "watch" not in verbs
            assert not any(has_answer(client) for client in waiting)
            first.send("MOXY.FETCH", queue, 60_000, "BLOCK", 0)
        assert alone >= 3, "a look that is due once a second may come in between, but not every time"


def test_a_waiter_is_served_though_the_message_was_lost(house: House, a: Client, b: Client) -> None:
    queue = new_queue()
    a.send("MOXY.FETCH", queue, 60_000, "BLOCK", 0)
    until_standing(house.redis, queue)
    house.redis.ask("CLIENT", "PAUSE", 200, "WRITE")  # nobody can subscribe again before the enqueue is in
    house.redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    b("MOXY.ENQUEUE", queue, "x")
    assert len(entries(a.read())) == 1


def test_delayed_work_wakes_the_waiter_after_the_server_that_took_it_died(house: House, a: Client) -> None:
    queue = new_queue()
    a.send("MOXY.FETCH", queue, 60_000, "BLOCK", 0)
    until_standing(house.redis, queue)
    with moxy(house.redis.address) as third, third.client() as c:
        c("MOXY.ENQUEUE", queue, "later", "ID", "later", "DELAY", 500)
        third.kill()
    (task,) = entries(a.read())
    assert task["task_id"] == "later"
    enqueued, matured, leased = history(a, queue, "later")
    assert (matured["event"], leased["event"]) == ("Matured", "Leased")
    assert matured["at_ms"] >= enqueued["due_ms"] == enqueued["at_ms"] + 500


def test_pause_holds_the_waiters_of_all_servers_and_resume_lets_them_go(house: House, a: Client, b: Client) -> None:
    queue = new_queue()
    b("MOXY.PAUSE", queue)
    a.send("MOXY.FETCH", queue, 60_000, "BLOCK", 0)
    until_standing(house.redis, queue)
    b("MOXY.MENQUEUE", queue, "x", "y")
    with house.a.client() as asking:
        assert asking.map("MOXY.STATS", queue)["ready"] == 2
        until_blocked(asking, 1)
        assert not has_answer(a)
        assert fetch(b, queue) == []
        b("MOXY.RESUME", queue)
        (task,) = entries(a.read())
        assert task["payload"] == "x"
        asking("MOXY.PAUSE", queue)
        assert fetch(b, queue) == []


def test_a_reader_of_events_hears_what_happens_on_another_server(house: House, a: Client, b: Client) -> None:
    queue = new_queue()
    a.send("MOXY.EVENTS", queue, 1, "BLOCK", 0)
    with house.a.client() as asking:
        until_blocked(asking, 1)
    b("MOXY.ENQUEUE", queue, "x", "ID", "x")
    (event,) = entries(a.read())
    assert (event["event"], event["seq"], event["payload"]) == ("Enqueued", 1, "x")
    a.send("MOXY.EVENTS", queue, 2, "BLOCK", 0)
    (lease,) = fetch(b, queue)
    assert [event["event"] for event in entries(a.read())] == ["Leased"]
    a.send("MOXY.EVENTS", queue, 3, "BLOCK", 0)
    b("MOXY.ACK", lease["lease_id"])
    assert [event["event"] for event in entries(a.read())] == ["Acked"]


# One of them dies, or stops


def test_plain_leases_of_a_killed_server_come_back_at_their_deadline_exactly_once(house: House, a: Client) -> None:
    queue = new_queue()
    tasks = [f"t{number}" for number in range(5)]
    deadlines: dict[str, int] = {}
    with moxy(house.redis.address) as third, third.client() as c:
        for number, task in enumerate(tasks):
            c("MOXY.ENQUEUE", queue, task, "ID", task)
            (leased,) = fetch(c, queue, 800 + 60 * number)
            deadlines[task] = leased["deadline_ms"]
        acked = fetch(c, queue, 60_000)
        assert acked == []
        third.kill()
    again = [entries(a("MOXY.FETCH", queue, 60_000, "BLOCK", 0))[0] for _ in tasks]
    assert [task["task_id"] for task in again] == tasks
    assert all((task["deliveries"], task["attempts"]) == (2, 1) for task in again)
    late_ms = []
    for task in tasks:
        expired = [event for event in history(a, queue, task) if event["event"] == "Expired"]
        assert len(expired) == 1
        late_ms.append(expired[0]["at_ms"] - deadlines[task])
    assert min(late_ms) >= 0
    assert median(late_ms) < LATE_MS, late_ms
    info = a.map("MOXY.INFO", queue)
    assert (info["total_leased"], info["total_expired"], info["processing"]) == (10, 5, 5)


def test_due_work_of_a_dead_server_is_done_by_one_that_never_had_to_do_with_the_queue(house: House) -> None:
    """Seen in Redis itself: nobody asks Moxy, lest it looks at the queue because of that."""
    queue = new_queue()
    with moxy(house.redis.address) as third, third.client() as c:
        c("MOXY.MENQUEUE", queue, *"abcde")
        leases = [fetch(c, queue, 600 + 50 * number)[0] for number in range(5)]
        third.kill()
    events = until(lambda: expired_in(house.redis, queue), lambda found: len(found) == 5)
    late_ms = [at_ms - lease["deadline_ms"] for at_ms, lease in zip(events, leases, strict=True)]
    assert min(late_ms) >= 0
    assert median(late_ms) < LATE_MS, late_ms


def expired_in(redis: Server, queue: str) -> list[int]:
    """When leases of that queue expired, going by its stream."""
    found = [dict(fields) for _, fields in redis.ask("XRANGE", key_of("moxy", queue, "events"), "-", "+")]
    return [int(event["at_ms"]) for event in found if event["type"] == "Expired"]


def test_a_lease_of_a_killed_server_is_acked_through_another(house: House, a: Client) -> None:
    queue = new_queue()
    a("MOXY.MENQUEUE", queue, "x", "y")
    with moxy(house.redis.address) as third, third.client() as c:
        first, second = fetch(c, queue, 60_000, "COUNT", 2)
        third.kill()
    assert a("MOXY.MACK", first["lease_id"], second["lease_id"]) == ["OK", "OK"]
    assert a.map("MOXY.INFO", queue)["total_acked"] == 2


def test_bound_leases_of_the_dead_are_released_and_those_of_the_living_are_not(
    house: House, a: Client, b: Client
) -> None:
    """A server that is stopped for long is taken for dead, too; but plain leases stay, whoever granted them."""
    queue, broken = new_queue(), new_queue()
    for name in ("killed", "killed-plain", "frozen", "frozen-plain", "living"):
        a("MOXY.ENQUEUE", queue, name, "ID", name)
    with moxy(house.redis.address) as killed, moxy(house.redis.address) as frozen:
        leases = {}
        with killed.client() as c, frozen.client() as d:
            for client, name in ((c, "killed"), (c, "killed-plain"), (d, "frozen"), (d, "frozen-plain"), (b, "living")):
                options = () if name.endswith("plain") else ("BOUND",)
                (leases[name],) = fetch(client, queue, 600_000, "COUNT", 1, *options)
                assert leases[name]["task_id"] == name
            c("MOXY.ENQUEUE", broken, "x")
            fetch(c, broken, 600_000, "BOUND")
            house.redis.ask("SET", key_of("moxy", broken, "policy"), "foreign")
            killed.kill()
            frozen.freeze()
            try:
                back = {entries(a("MOXY.FETCH", queue, 600_000, "BLOCK", 0))[0]["task_id"] for _ in range(2)}
                assert back == {"killed", "frozen"}
                for name in back:
                    released = [event for event in history(a, queue, name) if event["event"] == "Released"]
                    assert [(event["cause"], event["attempts"]) for event in released] == [("disconnect", 1)]
                    waited_ms = released[0]["at_ms"] - history(a, queue, name)[1]["at_ms"]
                    assert DEAD_MS - 1000 * BEAT_S <= waited_ms <= 3 * DEAD_MS
                for name in ("killed-plain", "frozen-plain", "living"):
                    assert show(b, queue, name)["lease_id"] == leases[name]["lease_id"]
            finally:
                frozen.thaw()
            assert d("MOXY.ACK", leases["frozen-plain"]["lease_id"]) == "OK"
            assert d("MOXY.ACK", leases["frozen"]["lease_id"]).code == "NOLEASE"
            alive = house.redis.ask("ZRANGE", "moxy:servers", 0, -1)
            assert killed.child.poll() is not None
            until(lambda: frozen.server_id in house.redis.ask("ZRANGE", "moxy:servers", 0, -1))
            assert {house.a.server_id, house.b.server_id} <= set(alive)
    check_rest(house.redis, broken)
    check_others_are_buried(house)
    house.redis.ask("DEL", key_of("moxy", broken, "policy"))
    until(lambda: house.redis.ask("ZCARD", key_of("moxy", broken, "bound")), lambda held: held == 0)
    living = {house.a.server_id, house.b.server_id}
    until(lambda: set(house.redis.ask("ZRANGE", "moxy:servers", 0, -1)), lambda ids: ids == living)
    until(lambda: {moxy.info()["redis_servers"] for moxy in (house.a, house.b)}, lambda found: found == {"2"})
    assert house.redis.ask("ZCARD", key_of("moxy", queue, "bound")) == 1
    assert b("MOXY.ACK", leases["living"]["lease_id"]) == "OK"
    gone = {entry["server_id"] for entry in [*house.a.said("redis.server_gone"), *house.b.said("redis.server_gone")]}
    assert len(gone) >= 2
    assert not gone & {house.a.server_id, house.b.server_id}


def check_rest(redis: Server, queue: str) -> None:
    """A queue that cannot be searched for the leases of the dead is tried again, but not as fast as can be."""
    with Witness(redis) as witness:
        began = witness.mark()

        def tries() -> list[float]:
            witness.mark()
            asked = [asked for asked in witness.verbs(queue, began) if asked.verb == "orphans"]
            return sorted({one.at_s for one in asked if one.peer == asked[0].peer})  # a batch may name it twice

        at_s = until(tries, lambda found: len(found) > 4)
    assert median(later - earlier for earlier, later in pairwise(at_s)) > 0.05


def check_others_are_buried(house: House) -> None:
    """Nor does such a queue keep a server from burying those that die later."""
    names = [f"phantom-{number}" for number in range(40)]
    for name in names:
        house.redis.ask("ZADD", "moxy:servers", 1, name)
        until(lambda name=name: buriers(house, [name]))
        if len(buriers(house, names)) == 2:
            return
    raise AssertionError(f"only {buriers(house, names)} buried anybody")


def buriers(house: House, names: list[str]) -> set[int]:
    """Which of the two servers that stay said that one of these is gone."""
    return {
        moxy.child.pid
        for moxy in (house.a, house.b)
        for said in moxy.said("redis.server_gone")
        if said["server_id"] in names
    }


def test_bound_leases_of_a_server_that_is_told_to_stop_are_released_at_once(house: House, a: Client) -> None:
    queue = new_queue()
    a("MOXY.ENQUEUE", queue, "x", "ID", "x")
    with moxy(house.redis.address) as third, third.client() as c:
        fetch(c, queue, 600_000, "BOUND")
        a.send("MOXY.FETCH", queue, 60_000, "BLOCK", 0)
        assert third.stop() == 0
    (task,) = entries(a.read())
    assert task["task_id"] == "x"
    assert house.redis.ask("ZCARD", key_of("moxy", queue, "bound")) == 0


@pytest.mark.deep
def test_who_dies_while_it_buries_another_is_succeeded() -> None:
    """Thousands of queues are searched for the leases of the dead; whoever dies half-way leaves the rest to others."""
    with ExitStack() as stack:
        redis = stack.enter_context(serving())
        living = [stack.enter_context(moxy(redis.address)) for _ in range(2)]
        killed = stack.enter_context(moxy(redis.address))
        client = stack.enter_context(killed.client())
        queues = [f"q{number:05}" for number in range(8_000)]
        for at in range(0, len(queues), 500):
            client.pipeline(*(("MOXY.ENQUEUE", queue, "x", "ID", "x") for queue in queues[at : at + 500]))
        (lease,) = fetch(client, queues[-1], 600_000, "BOUND")
        killed.kill()
        first = until(lambda: next((moxy for moxy in living if moxy.said("redis.server_gone")), None))
        assert first is not None
        first.kill()
        (second,) = (moxy for moxy in living if moxy is not first)
        with second.client() as other:
            assert show(other, queues[-1], "x")["lease_id"] == lease["lease_id"], "the search was over already"
            until(lambda: show(other, queues[-1], "x"), lambda task: task["state"] == "ready")
            assert show(other, queues[-1], "x")["disconnects"] == 1
        until(lambda: redis.ask("ZRANGE", "moxy:servers", 0, -1), lambda ids: ids == [second.server_id])
