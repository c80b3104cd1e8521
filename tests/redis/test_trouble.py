"""Redis in trouble under live Moxy servers: killed, emptied, full, busy, loading, demoted, planted with foreign keys.

Lives here: what clients of `moxy serve` see of it. Must not: the link alone (test_link), or more than one Moxy for its
own sake (test_two_servers).
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from statistics import median
from time import monotonic
from typing import Any

import pytest
import redis as redis_py

from moxy.backends.redis.errors import NOTHING, PERHAPS
from moxy.backends.redis.scripts import KEY_NAMES, key_of
from tests.redis.live import Moxy, dump_of, entries, fetch, history, moxy, new_queue, pairs, show
from tests.redis.support import VALKEY, Cluster, Server, Watched, binaries, serving, until
from tests.server.history import NEVER, UNKNOWN, Op, Recorder, check
from tests.server.launch import moxy as command
from tests.server.load import QUEUE, Crew, check_books, crew_pool, work
from tests.server.support import Client, Failure

CLIENTS = 4
BACK_S = 2.0
"""How soon after Redis is back Moxy serves again."""
KEPT_S = 2.0
"""How long a call is kept back while Redis is in trouble, at most."""
SEED = os.environ.get("CRASH_SEED", "1")
ALWAYS = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(params=[VALKEY, *(pytest.param(kind, marks=pytest.mark.deep) for kind in binaries() if kind != VALKEY)])
def one_kind(request: pytest.FixtureRequest) -> str:
    """Valkey; in deep runs all kinds. For what takes seconds."""
    return str(request.param)


def is_down(reply: Any, text: str = "") -> bool:
    """Whether it was refused since Redis did not do it, in these words."""
    return isinstance(reply, Failure) and reply.code == "BACKEND" and text in reply


def served(client: Client, *words: Any) -> Any:
    """Ask until Redis does it."""
    return until(lambda: client(*words), lambda reply: not is_down(reply))


@pytest.fixture(scope="module", params=binaries())
def redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A Redis for the tests that leave it as they found it."""
    with serving(request.param, busy_reply_threshold="10") as server:
        yield server


@pytest.fixture(scope="module")
def server(redis: Server) -> Iterator[Moxy]:
    with moxy(redis.address) as server:
        yield server


@pytest.fixture
def client(server: Moxy) -> Iterator[Client]:
    with server.client() as client:
        yield client
    assert server.child.poll() is None


# At start


def test_a_redis_that_throws_tasks_away_is_refused_with_code_2(kind: str) -> None:
    with serving(kind, maxmemory="100mb", maxmemory_policy="allkeys-lru") as redis, Moxy(redis.address) as server:
        assert not server.is_up
        assert server.end()[0] == 2
        assert server.logs[-1].startswith(
            f"moxy: redis://{redis.address}: this Redis throws away any key when it is full"
        )
        assert "set maxmemory-policy noeviction" in server.logs[-1]
        assert not any("Traceback" in line for line in server.logs)
        assert redis.ask("DBSIZE") == 0


def test_a_replica_is_refused_with_code_2() -> None:
    with serving() as master, serving() as replica:
        replica.ask("REPLICAOF", "127.0.0.1", master.port)
        until(lambda: replica.ask("ROLE"), lambda role: role[0] == "slave" and role[3] == "connected")
        with Moxy(replica.address) as server:
            assert not server.is_up
            assert server.end()[0] == 2
            assert server.logs == [
                f"moxy: redis://{replica.address}: this Redis is a read-only replica: give the address of its master"
            ]


def test_a_redis_that_is_not_there_is_code_5() -> None:
    with serving() as redis:
        redis.kill()
        with Moxy(redis.address) as server:
            assert not server.is_up
            assert server.end()[0] == 5
            assert server.logs[-1].startswith(f"moxy: redis://{redis.address}: Redis cannot be reached")
            assert len(server.logs) == 1


# Without a loss


def test_a_script_flush_is_invisible(redis: Server, client: Client) -> None:
    queue = new_queue()
    for number in range(5):
        redis.ask("SCRIPT", "FLUSH")
        client("MOXY.ENQUEUE", queue, f"x{number}")
        redis.ask("SCRIPT", "FLUSH")
        (task,) = fetch(client, queue)
        redis.ask("SCRIPT", "FLUSH")
        assert client("MOXY.ACK", task["lease_id"]) == "OK"
    redis.ask("SCRIPT", "FLUSH")
    replies = client.pipeline(*[("MOXY.ENQUEUE", queue, str(number)) for number in range(50)])
    assert len({bytes(reply[1]) for reply in replies}) == 50
    info = client.map("MOXY.INFO", queue)
    assert (info["total_enqueued"], info["total_leased"], info["total_acked"]) == (55, 5, 5)


def test_every_command_is_refused_while_redis_is_away_and_nobody_dies_of_it(one_kind: str) -> None:
    """Each verb has an answer, waiters wait on or are told, and when Redis is back so is everything that was there."""
    with serving(one_kind, **ALWAYS) as redis, moxy(redis.address) as server, server.client() as client:
        client("MOXY.MENQUEUE", "jobs", "a", "b", "c")
        (held,) = fetch(client, "jobs", 600_000)
        (short,) = fetch(client, "jobs", 300)
        fetch(client, "jobs", 600_000)
        with server.client() as waiter, server.client() as reader, server.client() as bound:
            waiter.send("MOXY.FETCH", "jobs", 600_000, "BLOCK", 0)
            reader.send("MOXY.EVENTS", "jobs", 1000, "BLOCK", 0)
            client("MOXY.ENQUEUE", "other", "x")
            fetch(bound, "other", 600_000, "BOUND")
            redis.kill()
            bound.close()  # nobody can be told that its lease is free again; it is tried until it succeeds
            lease = held["lease_id"]
            commands: list[tuple[Any, ...]] = [
                ("MOXY.ENQUEUE", "jobs", "x"),
                ("MOXY.ENQUEUE", "new", "x", "ID", "x"),
                ("MOXY.MENQUEUE", "jobs", "x", "y"),
                ("MOXY.FETCH", "jobs", 1000),
                ("MOXY.FETCH", "jobs", 1000, "COUNT", 2, "WITH", "other"),
                ("MOXY.ACK", lease),
                ("MOXY.NACK", lease),
                ("MOXY.EXTEND", lease, 1000),
                ("MOXY.PEEK", "jobs"),
                ("MOXY.SHOW", "jobs", "x"),
                ("MOXY.HISTORY", "jobs", "x"),
                ("MOXY.WHY", "jobs", "x"),
                ("MOXY.EVENTS", "jobs", 1),
                ("MOXY.STATS", "jobs"),
                ("MOXY.INFO", "jobs"),
                ("MOXY.QUEUES",),
                ("MOXY.CONFIG", "jobs"),
                ("MOXY.CONFIG", "jobs", "max_attempts", 3),
                ("MOXY.REDRIVE", "jobs"),
                ("MOXY.DELETE", "jobs", "x"),
                ("MOXY.PURGE", "jobs", "ready"),
                ("MOXY.PAUSE", "jobs"),
                ("MOXY.RESUME", "jobs"),
            ]
            for words in commands:
                assert is_down(client(*words), "Redis cannot be reached"), words
            assert is_down(client("MOXY.MACK", lease)[0])
            assert client("PING") == "PONG"
            assert server.info()["backend"] == "redis"
            assert server.child.poll() is None
            redis.start()
            until(lambda: served(client, "MOXY.STATS", "other"), lambda stats: dict(pairs(stats))[b"ready"])
            told = waiter.read()
            if is_down(told):  # it was woken while Redis was away
                (again,) = until(lambda: fetch(client, "jobs"))
            else:
                (again,) = entries(told)
            assert again["task_id"] == short["task_id"]
            assert served(client, "MOXY.ACK", lease) == "OK"
            (task,) = entries(client("MOXY.PEEK", "other"))
            (released,) = history(client, "other", task["task_id"])[2:]
            assert (released["event"], released["cause"]) == ("Released", "disconnect")
            assert server.said("redis.rollback") == []
            assert server.stop() == 0


def test_a_busy_redis_is_waited_for(redis: Server, client: Client) -> None:
    queue = new_queue()
    client("MOXY.ENQUEUE", queue, "a")

    def spin() -> None:
        with suppress(redis_py.RedisError):
            redis.ask("EVAL", "while true do end", 0, timeout_s=60)

    def is_busy() -> bool:
        try:
            redis.ask("PING")
        except redis_py.ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        until(is_busy)
        sent_s = monotonic()
        client.send("MOXY.ENQUEUE", queue, "b")
    finally:
        redis.ask("SCRIPT", "KILL")
        thread.join()
    reply = client.read()
    if is_down(reply):  # it took longer than a call is kept back
        assert NOTHING in reply
        assert monotonic() - sent_s >= KEPT_S
    assert dict(pairs(served(client, "MOXY.STATS", queue)))[b"ready"] == 1 + (not is_down(reply))


def test_a_loading_redis_is_waited_for(one_kind: str) -> None:
    options = {"key_load_delay": "3000", "loading_process_events_interval_bytes": "1024"}
    with serving(one_kind, **options) as redis, moxy(redis.address) as server, server.client() as client:
        (first,) = client("MOXY.MENQUEUE", "jobs", "x")
        redis.ask("EVAL", "for i = 1, 500 do redis.call('SET', 'other:' .. i, string.rep('x', 100)) end", 0)
        redis.ask("SAVE")
        redis.kill()
        redis.start(ready=False)
        until(lambda: is_loading(redis))
        sent_s = monotonic()
        reply = client("MOXY.ENQUEUE", "jobs", "y")
        if is_down(reply):  # it took longer than a call is kept back
            assert NOTHING in reply
            assert monotonic() - sent_s >= KEPT_S
        with suppress(redis_py.RedisError):
            redis.ask("CONFIG", "SET", "key-load-delay", "0")
        served(client, "MOXY.ENQUEUE", "jobs", "z")
        assert first in [entry["task_id"].encode() for entry in entries(client("MOXY.PEEK", "jobs"))]
        assert server.said("redis.rollback") == []


def is_loading(redis: Server) -> bool:
    try:
        redis.ask("PING")
    except redis_py.exceptions.BusyLoadingError:
        return True
    return False


def test_a_redis_that_takes_no_writes_refuses_them_and_changes_nothing(redis: Server, client: Client) -> None:
    queue = new_queue()
    client("MOXY.MENQUEUE", queue, "a", "b")
    (task,) = fetch(client, queue)
    before = dump_of(redis, queue)
    redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        for words in (("MOXY.ENQUEUE", queue, "x"), ("MOXY.FETCH", queue, 1000), ("MOXY.ACK", task["lease_id"])):
            assert is_down(client(*words), "fewer replicas than its min-replicas-to-write"), words
            assert dump_of(redis, queue) == before
        assert client.map("MOXY.STATS", queue)["ready"] == 1
    finally:
        redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
    assert client("MOXY.ACK", task["lease_id"]) == "OK"


@pytest.mark.parametrize("verb", ["MOXY.ENQUEUE", "MOXY.MENQUEUE"])
def test_a_redis_that_answers_nothing_leaves_the_outcome_unknown(verb: str) -> None:
    """And what may have happened is not sent again, so it happens once at most.

    If the connection was busy with something else at that moment, nothing has happened, and that is what is said.
    """
    with (
        serving() as redis,
        moxy(f"redis://{redis.address}?socket_timeout=0.3&socket_connect_timeout=0.3") as server,
        server.client() as client,
    ):
        client("MOXY.CONFIG", "jobs", "max_attempts", 3)  # what comes next is one call, with nothing before it
        certain, unknown = [], []
        while not unknown and len(certain) < 5:
            payload = f"x{len(certain)}"
            until(lambda: server.server_id in redis.ask("ZRANGE", "moxy:servers", 0, -1))
            served(client, "MOXY.STATS", "jobs")
            redis.pause()
            reply = client(verb, "jobs", payload)
            redis.resume()
            assert is_down(reply, PERHAPS) or is_down(reply, NOTHING)
            (unknown if PERHAPS in reply else certain).append(payload)
        assert unknown
        served(client, "MOXY.ENQUEUE", "jobs", "after")
        left = [entry["payload"] for entry in entries(client("MOXY.PEEK", "jobs"))]
        assert sorted(left) in (["after"], ["after", *unknown])
        assert client.map("MOXY.INFO", "jobs")["total_enqueued"] == len(left)


# Foreign keys


def test_a_record_that_somebody_wrote_into_is_refused_and_the_server_goes_on(redis: Server, client: Client) -> None:
    queue, other = new_queue(), new_queue()
    client("MOXY.ENQUEUE", queue, "x")
    client("MOXY.ENQUEUE", other, "y")
    tasks = key_of("moxy", queue, "tasks")
    record = json.loads(redis.ask("HGET", tasks, "1"))
    redis.ask("HSET", tasks, "1", json.dumps(record | {"id": 5}))
    assert is_down(client("MOXY.FETCH", queue, 1000), "not Moxy's")
    assert client("MOXY.FETCH", other, 1000)


@pytest.mark.parametrize("name", KEY_NAMES)
def test_a_foreign_value_in_a_key_of_a_queue_changes_nothing_else(redis: Server, client: Client, name: str) -> None:
    queue = new_queue()
    lease = furnish(client, queue)
    key, aside = key_of("moxy", queue, name), key_of("moxy", queue, "aside")
    had = redis.ask("EXISTS", key)
    if had:
        redis.ask("RENAME", key, aside)
    redis.ask("SET", key, "foreign")
    before = dump_of(redis, queue)
    for words in writes(queue, lease):
        reply = client(*words)
        assert is_down(reply, f"the key {key} holds a string") or is_down(reply, "not Moxy's"), (words, reply)
        assert dump_of(redis, queue) == before
    for words in (("MOXY.STATS", queue), ("MOXY.INFO", queue), ("MOXY.PEEK", queue), ("MOXY.EVENTS", queue, 1)):
        reply = client(*words)
        assert not isinstance(reply, Failure) or is_down(reply), (words, reply)
    assert queue.encode() in client("MOXY.QUEUES", "MATCH", queue)[1], "one bad queue hides no other, nor itself"
    redis.ask("DEL", key)
    if had:
        redis.ask("RENAME", aside, key)
    assert client("MOXY.ACK", lease) == "OK"
    assert client.map("MOXY.INFO", queue)["total_acked"] == 1


@pytest.mark.parametrize(
    "entry", [("foo", "bar"), ("type", "Acked", "at_ms", "now"), ("type", "Acked", "at_ms", "1", "x", "1")]
)
def test_a_foreign_entry_among_the_events_is_told_and_not_died_of(
    redis: Server, client: Client, entry: tuple[str, ...]
) -> None:
    queue = new_queue()
    client("MOXY.ENQUEUE", queue, "x", "ID", "x")
    redis.ask("XADD", key_of("moxy", queue, "events"), "9-0", *entry)
    before = dump_of(redis, queue)
    for verb, word in (("MOXY.EVENTS", 1), ("MOXY.HISTORY", "x"), ("MOXY.WHY", "x")):
        assert is_down(client(verb, queue, word), "an entry that is not Moxy's"), verb
    for words in (("MOXY.ENQUEUE", queue, "y"), ("MOXY.FETCH", queue, 1000), ("MOXY.PURGE", queue, "ready")):
        assert is_down(client(*words)), words
        assert dump_of(redis, queue) == before, words
    assert client.map("MOXY.STATS", queue)["ready"] == 1


def test_a_foreign_record_of_a_task_is_told_and_not_died_of(redis: Server, client: Client) -> None:
    queue = new_queue()
    client("MOXY.ENQUEUE", queue, "x", "ID", "x")
    redis.ask("HSET", key_of("moxy", queue, "tasks"), "1", "garbage")
    for words in (("MOXY.SHOW", queue, "x"), ("MOXY.PEEK", queue)):
        assert is_down(client(*words), "a task of queue"), words
    for words in (("MOXY.FETCH", queue, 1000), ("MOXY.DELETE", queue, "x")):
        assert is_down(client(*words)), words
    assert client.map("MOXY.STATS", queue)["ready"] == 1


def furnish(client: Client, queue: str) -> str:
    """A task in each state, an id that is remembered; the lease that is held."""
    client("MOXY.CONFIG", queue, "max_attempts", 5)
    client("MOXY.ENQUEUE", queue, "dead", "ID", "dead")
    (dead,) = fetch(client, queue)
    client("MOXY.NACK", dead["lease_id"], "FATAL")
    client("MOXY.ENQUEUE", queue, "known", "ID", "known", "DEDUP", 3_600_000)
    client("MOXY.DELETE", queue, "known")
    client("MOXY.ENQUEUE", queue, "held", "ID", "held")
    (held,) = fetch(client, queue, 600_000, "BOUND")
    client("MOXY.ENQUEUE", queue, "later", "ID", "later", "DELAY", 600_000, "TTL", 900_000)
    client("MOXY.ENQUEUE", queue, "ready", "ID", "ready")
    return str(held["lease_id"])


def writes(queue: str, lease: str) -> list[tuple[Any, ...]]:
    """One of every verb that may change something, and here would."""
    return [
        ("MOXY.ENQUEUE", queue, "x"),
        ("MOXY.ENQUEUE", queue, "x", "ID", "x"),
        ("MOXY.MENQUEUE", queue, "x", "y"),
        ("MOXY.FETCH", queue, 1000),
        ("MOXY.FETCH", queue, 1000, "BOUND"),
        ("MOXY.ACK", lease),
        ("MOXY.NACK", lease),
        ("MOXY.EXTEND", lease, 900_000),
        ("MOXY.REDRIVE", queue),
        ("MOXY.DELETE", queue, "ready"),
        ("MOXY.PURGE", queue, "scheduled"),
        ("MOXY.CONFIG", queue, "lease_ms", 7),
        ("MOXY.PAUSE", queue),
    ]


# No memory


def test_a_full_redis_takes_no_tasks_and_lets_go_of_those_it_has(redis: Server, client: Client) -> None:
    queue = new_queue()
    lease = furnish(client, queue)
    client("MOXY.ENQUEUE", queue, "short", "ID", "short", "PRIORITY", 9)
    (short,) = fetch(client, queue, 50)
    redis.ask("CONFIG", "SET", "maxmemory", "1mb")
    try:
        until(
            lambda: client("MOXY.STATS", queue)[1], lambda ready: ready == 2
        )  # the short lease expired: due work is done
        assert [event["event"] for event in history(client, queue, "short")[-2:]] == ["Expired", "Requeued"]
        before = dump_of(redis, queue)
        for words in (
            ("MOXY.ENQUEUE", queue, "x"),
            ("MOXY.ENQUEUE", queue, "x", "ID", "x", "DELAY", 5),
            ("MOXY.MENQUEUE", queue, "x", "y"),
            ("MOXY.ENQUEUE", new_queue(), "x"),
        ):
            assert is_down(client(*words), "Redis is full"), words
            assert dump_of(redis, queue) == before
        assert client("MOXY.ENQUEUE", queue, "x", "ID", "ready")[1] == b"ready", "an id that is known is no new task"
        assert client("MOXY.EXTEND", lease, 900_000) > 0
        (again,) = fetch(client, queue)
        assert (again["task_id"], again["token"] > short["token"]) == ("short", True)
        assert client("MOXY.NACK", again["lease_id"], "DELAY", 0) == "OK"
        assert client("MOXY.ACK", lease) == "OK"
        assert client("MOXY.REDRIVE", queue) == 1
        first, refused, second = client.pipeline(
            ("MOXY.FETCH", queue, 1000), ("MOXY.ENQUEUE", queue, "x"), ("MOXY.FETCH", queue, 1000)
        )
        assert first is not None
        assert second is not None
        assert is_down(refused, "Redis is full"), "of a batch only what needs memory is refused"
        drained = fetch(client, queue, 60_000, "COUNT", 100)
        leases = [first[1], second[1], *(task["lease_id"] for task in drained)]
        assert set(client("MOXY.MACK", *leases)) == {"OK"}
        assert client("MOXY.PURGE", queue, "scheduled") == 1
        assert client("MOXY.STATS", queue)[1::2] == [0, 0, 0, 0, 0]
    finally:
        redis.ask("CONFIG", "SET", "maxmemory", "0")
    client("MOXY.ENQUEUE", queue, "x", "ID", "x")
    assert show(client, queue, "x")["state"] == "ready"


def test_a_redis_that_was_filled_up_serves_again_when_it_is_drained(one_kind: str) -> None:
    """History gives way: what makes room in a full Redis lets old events go, and with them their payloads."""
    with (
        serving(one_kind, maxmemory="9mb", maxmemory_policy="noeviction") as redis,
        moxy(redis.address) as server,
        server.client() as client,
    ):
        payload, fills = "x" * 4000, []
        for _ in range(4):
            accepted, acked, reply = 0, 0, None
            while not is_down(reply := client("MOXY.MENQUEUE", "jobs", *[payload] * 20)):
                accepted += 20
                assert accepted < 10_000
            assert "Redis is full" in reply
            assert client.map("MOXY.STATS", "jobs")["ready"] == accepted
            while tasks := fetch(client, "jobs", 60_000, "COUNT", 50):
                assert set(client("MOXY.MACK", *(task["lease_id"] for task in tasks))) == {"OK"}
                acked += len(tasks)
            assert acked == accepted
            fills.append(accepted)
        assert min(fills) > fills[0] / 2, fills
        assert client.map("MOXY.INFO", "jobs")["total_enqueued"] == sum(fills)


# Killed


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with crew_pool(CLIENTS) as pool:
        yield pool


def settled(ops: Iterable[Op]) -> list[Op]:
    """What was refused with an unknown outcome, made one: it may have happened, or may yet."""

    def one(reply: Any) -> Any:
        if isinstance(reply, list):
            return [one(part) for part in reply]
        return UNKNOWN if is_down(reply, PERHAPS) else reply

    found = []
    for op in ops:
        reply = one(op.reply)
        unknown = reply == UNKNOWN or (isinstance(reply, list) and UNKNOWN in reply)
        found.append(replace(op, reply=reply, end=NEVER, end_ms=NEVER) if unknown else op)
    return found


def put_to_work(crew: Crew, addresses: Sequence[tuple[str, int]]) -> None:
    """All clients load the servers, shared out among them, until those are gone."""
    crew.rounds += 1
    crew.working = [
        crew.pool.submit(
            work, addresses[at % len(addresses)], f"{at}.{crew.rounds}", f"{crew.seed}/{at}/{crew.rounds}", held, None
        )
        for at, held in enumerate(crew.held)
    ]


def judge(crew: Crew, server: Moxy) -> None:
    """Drain what is left, and search all that was seen; Moxy's own books must say the same (I1)."""
    crew.ops = settled(crew.ops)
    left = crew.drain(server.address)
    crew.ops = settled(crew.ops)
    findings = check(crew.ops, left)
    assert not findings, f"{len(findings)} findings, seed {crew.seed!r}: {findings[:10]}"
    with server.client() as client:
        books = check_books(client, left)
    assert [info["epoch"] for info in books] == [0, 0]


def check_keys(address: str, *flags: str) -> None:
    """`moxy verify`: every stream, folded by the reducer, is what the keys say."""
    verified = command("verify", address, *flags)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def killed_under_load(kind: str, pool: ProcessPoolExecutor, cycles: int) -> None:
    crew = Crew(pool, CLIENTS, f"redis-{kind}-{SEED}")
    flags = ("--max-attempts", "0")
    took_s = []
    with serving(kind, **ALWAYS) as redis:
        with moxy(redis.address, *flags) as first, moxy(redis.address, *flags) as second:
            put_to_work(crew, [first.address, second.address])
            with first.client() as one, second.client() as two:
                for cycle in range(cycles):
                    target = int(one.map("MOXY.INFO", QUEUE)["last_seq"]) + crew.rng.randrange(50, 600)
                    until(lambda target=target: one.map("MOXY.INFO", QUEUE)["last_seq"], lambda seq, t=target: seq > t)
                    redis.kill()
                    if cycle == 0:
                        until(lambda: one("MOXY.STATS", QUEUE), is_down)
                    redis.start()
                    for client in (one, two):
                        began_s = monotonic()
                        served(client, "MOXY.STATS", QUEUE)
                        took_s.append(monotonic() - began_s)
            for server in (first, second):
                assert server.child.poll() is None
                assert server.said("redis.rollback") == []
                assert int(server.info()["redis_reconnects"]) >= cycles
                server.kill()
            crew.finish()
        with moxy(redis.address, *flags) as third:
            judge(crew, third)
        check_keys(f"redis://{redis.address}")
    assert any(op.is_unknown for op in crew.ops), "no kill hit a command"
    assert sum(is_down(op.reply) for op in crew.ops) > 0, "no client noticed"
    assert median(took_s) < BACK_S, took_s


def test_redis_killed_under_load_loses_nothing_that_was_answered(pool: ProcessPoolExecutor) -> None:
    """Two servers, clients on both; the append-only file is synced before each answer."""
    killed_under_load(VALKEY, pool, 3)


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_redis_killed_under_load_again_and_again(kind: str, pool: ProcessPoolExecutor) -> None:
    killed_under_load(kind, pool, int(os.environ.get("CRASH_CYCLES", "20")))


def test_a_killed_redis_that_syncs_every_second_has_all_that_it_wrote(one_kind: str) -> None:
    """Redis writes before it answers, unless a sync is under way just then: so its word is awaited."""
    with (
        serving(one_kind, appendonly="yes", appendfsync="everysec") as redis,
        moxy(redis.address) as server,
        server.client() as client,
    ):
        client.pipeline(*[("MOXY.ENQUEUE", "jobs", str(number), "ID", str(number)) for number in range(200)])
        leases = [task["lease_id"] for task in fetch(client, "jobs", 600_000, "COUNT", 100)]
        client("MOXY.MACK", *leases[:50])
        until(lambda: persistence(redis), lambda told: told["aof_buffer_length"] == told["aof_pending_bio_fsync"] == 0)
        redis.kill()
        redis.start()
        served(client, "MOXY.STATS", "jobs")
        assert client.map("MOXY.INFO", "jobs")["total_acked"] == 50
        assert client.map("MOXY.STATS", "jobs")["ready"] == 100
        assert set(client("MOXY.MACK", *leases[50:])) == {"OK"}
        assert server.said("redis.rollback") == []


def persistence(redis: Server) -> dict[str, Any]:
    told = redis.ask("INFO", "persistence")
    return dict(told)


# Lost


def check_new_epoch(client: Client, old: Sequence[dict[str, Any]], token_seen: int, queue: str = "jobs") -> None:
    """Old lease ids are void, and tokens go on above all that anybody was given."""
    for lease in old:
        for words in (("MOXY.ACK", lease["lease_id"]), ("MOXY.EXTEND", lease["lease_id"], 1000)):
            assert client(*words).code == "NOLEASE", words
    client("MOXY.ENQUEUE", queue, "after", "PRIORITY", 9)
    (task,) = fetch(client, queue, 600_000)
    assert task["token"] > token_seen
    assert client("MOXY.ACK", task["lease_id"]) == "OK"
    assert client.map("MOXY.INFO", queue)["epoch"] == 1
    assert queue.encode() in client("MOXY.QUEUES")[1]


def check_said(*servers: Moxy, queue: str = "jobs") -> None:
    """As an error, once, by whoever noticed; who hears of the new epoch from another has nothing to add."""
    until(lambda: [said for server in servers for said in server.said("redis.rollback") if said["queue"] == queue])
    for server in servers:
        every = server.said("redis.rollback")
        assert server.info()["redis_rollbacks"] == str(len(every))
        said = [one for one in every if one["queue"] == queue]
        assert len(said) <= 1
        for one in said:
            assert (one["level"], one["epoch"]) == ("error", 1)
            assert one["seq_found"] < one["seq_seen"]


def test_a_restart_without_a_disk_is_a_new_epoch(one_kind: str) -> None:
    with (
        serving(one_kind) as redis,
        moxy(redis.address) as server,
        moxy(redis.address) as other,
        server.client() as client,
        other.client() as elsewhere,
    ):
        client("MOXY.MENQUEUE", "jobs", *"abcdef")
        old = fetch(client, "jobs", 600_000, "COUNT", 2) + fetch(elsewhere, "jobs", 600_000, "COUNT", 2)
        redis.kill()
        redis.start()
        served(client, "MOXY.STATS", "jobs")
        check_new_epoch(client, old, 4)
        check_new_epoch(elsewhere, old, 4)
        check_said(server, other)
        assert client.map("MOXY.STATS", "jobs")["ready"] == 0, "what is lost is lost, and nothing is made up"


@pytest.mark.parametrize(
    "first", ["MOXY.ENQUEUE {queue} x", "MOXY.ACK {lease}", "MOXY.STATS {queue}", "MOXY.FETCH {queue} 10"]
)
def test_flushall_is_noticed_by_whatever_comes_next(redis: Server, server: Moxy, client: Client, first: str) -> None:
    queue = new_queue()
    client("MOXY.MENQUEUE", queue, *"abc")
    old = fetch(client, queue, 600_000, "COUNT", 2)
    redis.ask("FLUSHALL")
    client(*first.format(queue=queue, lease=old[0]["lease_id"]).split())
    assert redis.ask("HGET", key_of("moxy", queue, "meta"), "epoch") == "1", "it was noticed by this one"
    check_new_epoch(client, old, 2, queue)
    check_said(server, queue=queue)


def test_leases_that_come_back_from_a_snapshot_are_void_and_their_tasks_ready(one_kind: str) -> None:
    with serving(one_kind, save="3600 1000000") as redis, moxy(redis.address) as server, server.client() as client:
        client("MOXY.CONFIG", "jobs", "max_attempts", 3)
        for name in ("held", "acked", "ready"):
            client("MOXY.ENQUEUE", "jobs", name, "ID", name)
        old = fetch(client, "jobs", 600_000, "COUNT", 2)
        redis.ask("SAVE")
        assert client("MOXY.ACK", old[1]["lease_id"]) == "OK"
        old += fetch(client, "jobs", 600_000)
        redis.kill()
        redis.start()
        served(client, "MOXY.STATS", "jobs")
        assert client("MOXY.ACK", old[0]["lease_id"]).code == "NOLEASE", "it is in the snapshot, but of the old epoch"
        released = [event for event in history(client, "jobs", "held") if event["event"] == "Released"]
        assert [(event["cause"], event["attempts"]) for event in released] == [("rollback", 0)]
        assert client.map("MOXY.STATS", "jobs")["ready"] == 3, "the one that was acked after the snapshot is back"
        check_new_epoch(client, old, 3)
        check_said(server)
        again = fetch(client, "jobs", 600_000, "COUNT", 9)
        assert [task["task_id"] for task in again] == ["held", "acked", "ready"]
        check_keys(f"redis://{redis.address}")
        assert min(task["token"] for task in again) > 3


# Sentinel and Cluster


def test_a_failover_is_survived(watched: Watched) -> None:
    """What the replica has, nobody loses; waiters wait on, and are woken over the new master's channels."""
    queue = new_queue()
    with (
        moxy(watched.address, "--redis-prefix", "failover") as server,
        moxy(watched.address, "--redis-prefix", "failover") as other,
        server.client() as client,
        server.client() as waiter,
        other.client() as elsewhere,
    ):
        client("MOXY.MENQUEUE", queue, "a", "b")
        first, second = fetch(client, queue, 600_000, "COUNT", 2)
        waiter.send("MOXY.FETCH", queue, 600_000, "BLOCK", 0)
        master = watched.master
        until(lambda: master.ask("WAIT", 1, 1000), lambda replicas: replicas == 1)
        watched.fail_over()
        assert served(client, "MOXY.ACK", first["lease_id"]) == "OK"
        assert served(elsewhere, "MOXY.ACK", second["lease_id"]) == "OK"
        assert not isinstance(served(elsewhere, "MOXY.ENQUEUE", queue, "c"), Failure)
        told = waiter.read()
        task = entries(told)[0] if not is_down(told) else served(client, "MOXY.FETCH", queue, 1000, "COUNT", 1)
        assert task
        for each in (server, other):
            assert each.said("redis.rollback") == []
            assert each.child.poll() is None


def test_a_cluster_serves_fifty_queues_while_a_slot_moves(cluster: Cluster) -> None:
    """Clients on two servers; every task is done, and the histories of all queues are checked."""
    with (
        moxy(cluster.address, "--redis-prefix", "moving") as first,
        moxy(cluster.address, "--redis-prefix", "moving") as second,
    ):
        queues = [new_queue() for _ in range(50)]
        owners = {cluster.owner(key_of("moving", queue, "meta")).port for queue in queues}
        assert len(owners) == 3
        workers = [Worker(server.address, f"w{at}", queues) for at, server in enumerate((first, second) * 2)]
        threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for moved, queue in enumerate(queues[:3], 1):
            until(lambda: min(len(worker.recorder.ops) for worker in workers), lambda ops, n=100 * moved: ops > n)
            cluster.move(key_of("moving", queue, "meta"))
        for worker in workers:
            worker.enqueuing = False
        for thread in threads:
            thread.join()
        failures = [worker.failure for worker in workers if worker.failure is not None]
        assert not failures, failures
        ops = settled(op for worker in workers for op in worker.recorder.ops)
        assert len(ops) > 400
        with second.client() as client:
            left = {
                entry["payload"]: state
                for queue in queues
                for state in ("ready", "scheduled", "processing", "dead")
                for entry in entries(client("MOXY.PEEK", queue, "STATE", state, "COUNT", 1000))
            }
        findings = check(ops, left)
        assert not findings, findings[:10]
        held = {payload for payload, state in left.items() if state != "processing"}
        assert not held, "all that could be fetched was"
        for server in (first, second):
            assert server.said("redis.rollback") == []
        check_keys(cluster.address, "--redis-prefix", "moving")


class Worker:
    """One client over many queues: enqueues and works until it is told to stop enqueuing, then until all is done."""

    def __init__(self, address: tuple[str, int], name: str, queues: Sequence[str]) -> None:
        self.recorder = Recorder(address, name)
        self.enqueuing = True
        self.failure: BaseException | None = None
        self._queues = queues
        self._number = 0

    def run(self) -> None:
        try:
            while self.enqueuing:
                for queue in self._queues:
                    self._number += 1
                    self.recorder("MOXY.ENQUEUE", queue, f"{self.recorder.name}/{self._number}")
                    self._work(self._queues[(self._number * 7) % len(self._queues)])
            for queue in self._queues:
                while self._work(queue):
                    pass
        except BaseException as failure:
            self.failure = failure
        finally:
            self.recorder.close()

    def _work(self, queue: str) -> bool:
        """Fetch and ack one; whether there was something, or may be."""
        tasks = self.recorder("MOXY.FETCH", queue, "600000", "COUNT", "2")
        if isinstance(tasks, list):
            self.recorder("MOXY.MACK", *(task["lease_id"] for task in tasks))
        return tasks is not None
