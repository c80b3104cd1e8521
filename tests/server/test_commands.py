"""Every queue command over a real socket, in RESP2 and RESP3: what it answers, what it refuses, and that a refusal
changes nothing. Time is the test's own, and so are the ids: the nonces are zeros."""

from collections.abc import Iterator
from typing import Any

import pytest

from moxy.core.policy import Policy
from moxy.wire.table import ROWS, Row
from tests.server.support import (
    DAYS_30_MS,
    ENTRY,
    MIB,
    NONCE,
    NOT_INTEGERS,
    NOT_QUEUES,
    T0,
    Client,
    Failure,
    House,
    Status,
    Word,
    options,
    required,
    serving,
)

QUEUE_ROWS = [row for row in ROWS if row.parse is not None]


@pytest.fixture
def moxy() -> Iterator[House]:
    with serving() as house:
        yield house


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(moxy: House, request: pytest.FixtureRequest) -> Iterator[Client]:
    with moxy.client(request.param) as client:
        yield client


@pytest.fixture
def resp2(moxy: House) -> Iterator[Client]:
    with moxy.client() as client:
        yield client


def named(row: Row) -> str:
    return row.name


def lease(client: Client, queue: str = "jobs", timeout_ms: Word = 30_000) -> str:
    """Lease the next task without ceremony: the lease id."""
    found: bytes = client.map("MOXY.FETCH", queue, timeout_ms)["lease_id"]
    return found.decode()


def entries(client: Client, *words: Word) -> list[dict[str, Any]]:
    reply = client(*words)
    assert isinstance(reply, list), reply
    return [client.as_map(entry) for entry in reply]


def state(client: Client, task_id: str, queue: str = "jobs") -> str:
    shown: bytes = client.map("MOXY.SHOW", queue, task_id)["state"]
    return shown.decode()


# The shapes that were there first, byte for byte


def test_the_first_conversation_byte_for_byte(resp2: Client) -> None:
    assert resp2.raw("PING") == b"+PONG\r\n"
    assert resp2.raw("MOXY.ENQUEUE", "jobs", "hello") == b"*2\r\n$7\r\ntask_id\r\n$18\r\n1-0000000000000000\r\n"
    assert resp2.raw("MOXY.FETCH", "jobs", 30000) == (
        b"*6\r\n$8\r\nlease_id\r\n$25\r\njobs:1:1:0000000000000000\r\n"
        b"$7\r\ntask_id\r\n$18\r\n1-0000000000000000\r\n$7\r\npayload\r\n$5\r\nhello\r\n"
    )
    assert resp2.raw("MOXY.STATS", "jobs") == (
        b"*10\r\n$5\r\nready\r\n:0\r\n$10\r\nprocessing\r\n:1\r\n$4\r\ndead\r\n:0\r\n"
        b"$13\r\nactive_leases\r\n:1\r\n$4\r\nheap\r\n:1\r\n"
    )
    assert resp2.raw("MOXY.ACK", f"jobs:1:1:{NONCE}") == b"+OK\r\n"
    assert resp2.raw("MOXY.FETCH", "jobs", 30000) == b"$-1\r\n"
    assert resp2.raw("MOXY.STATS", "jobs") == (
        b"*10\r\n$5\r\nready\r\n:0\r\n$10\r\nprocessing\r\n:0\r\n$4\r\ndead\r\n:0\r\n"
        b"$13\r\nactive_leases\r\n:0\r\n$4\r\nheap\r\n:0\r\n"
    )
    assert resp2.raw("PING", "hello") == b"$5\r\nhello\r\n"
    assert resp2.raw("NOPE", "a") == b"-ERR unknown command 'NOPE', with args beginning with: 'a'\r\n"


def test_the_same_in_resp3(moxy: House) -> None:
    with moxy.client(3) as client:
        assert client.raw("PING") == b"+PONG\r\n"
        assert client.raw("MOXY.ENQUEUE", "jobs", "hello") == b"%1\r\n$7\r\ntask_id\r\n$18\r\n1-0000000000000000\r\n"
        assert client.raw("MOXY.FETCH", "jobs", 30000) == (
            b"%3\r\n$8\r\nlease_id\r\n$25\r\njobs:1:1:0000000000000000\r\n"
            b"$7\r\ntask_id\r\n$18\r\n1-0000000000000000\r\n$7\r\npayload\r\n$5\r\nhello\r\n"
        )
        assert client.raw("MOXY.FETCH", "jobs", 30000) == b"_\r\n"
        assert client.raw("MOXY.FETCH", "jobs", 30000, "COUNT", 2) == b"_\r\n"
        assert client.raw("MOXY.SHOW", "jobs", "nobody") == b"_\r\n"


def test_nulls_in_resp2(resp2: Client) -> None:
    assert resp2.raw("MOXY.FETCH", "jobs", 30000) == b"$-1\r\n"
    for option in ("COUNT", 1), ("BOUND",), ("WITH", "others"):
        assert resp2.raw("MOXY.FETCH", "jobs", 30000, *option) == b"*-1\r\n"
    assert resp2.raw("MOXY.SHOW", "jobs", "nobody") == b"$-1\r\n"


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"$4\r\nPING\r\n", b"-ERR Protocol error: expected array, got '$'\r\n"),
        (b":1\r\n", b"-ERR Protocol error: expected array, got ':'\r\n"),
        (
            b"*1\r\n+PING\r\n",
            b"-ERR Protocol error: expected '$', got '+': every element of a command must be a bulk string\r\n",
        ),
    ],
)
def test_faults_byte_for_byte(resp2: Client, sent: bytes, error: bytes) -> None:
    assert resp2.send_raw(sent).read_raw() == error
    assert resp2.is_closed_by_server()


# Every command


def test_enqueue_with_every_option(client: Client) -> None:
    words = ("ID", "a", "PRIORITY", 9, "DELAY", 1000, "TTL", 5000, "MAXATTEMPTS", 3, "LEASE", 4000, "DEDUP", 7000)
    assert client.map("MOXY.ENQUEUE", "jobs", b"\x00\r\n\xff", *words) == {"task_id": b"a"}
    shown = client.map("MOXY.SHOW", "jobs", "a")
    assert shown["state"] == b"scheduled"
    assert shown["payload"] == b"\x00\r\n\xff"
    facts = {name: shown[name] for name in ("priority", "due_ms", "expires_ms", "max_attempts", "attempts")}
    assert facts == {"priority": 9, "due_ms": T0 + 1000, "expires_ms": T0 + 5000, "max_attempts": 3, "attempts": 0}
    assert client.map("MOXY.ENQUEUE", "jobs", "other", "ID", "a") == {"task_id": b"a"}
    assert client.map("MOXY.INFO", "jobs")["last_seq"] == 1


def test_the_tasks_own_lease_is_the_default(client: Client) -> None:
    client("MOXY.ENQUEUE", "jobs", "x", "LEASE", 4000)
    client("MOXY.ENQUEUE", "jobs", "y")
    first, second = entries(client, "MOXY.FETCH", "jobs", "default", "COUNT", 2)
    assert (first["deadline_ms"], second["deadline_ms"]) == (T0 + 4000, T0 + 30_000)


def test_payloads_may_be_anything(client: Client) -> None:
    for payload in (b"", b"\x00", b"\r\n", b"*1\r\n$4\r\nPING\r\n", b"x" * MIB, bytes(range(256))):
        client("MOXY.ENQUEUE", "jobs", payload)
        assert client.map("MOXY.FETCH", "jobs", 1000)["payload"] == payload


def test_menqueue_answers_ids_in_order(client: Client) -> None:
    assert client("MOXY.MENQUEUE", "jobs", "a", "b", "c") == [f"{n}-{NONCE}".encode() for n in (1, 2, 3)]
    assert [entry["payload"] for entry in entries(client, "MOXY.PEEK", "jobs")] == [b"a", b"b", b"c"]


def test_fetch_with_options_answers_entries(client: Client) -> None:
    client("MOXY.ENQUEUE", "jobs", "late")
    client("MOXY.ENQUEUE", "jobs", "early", "PRIORITY", 5)
    client("MOXY.ENQUEUE", "more", "third")
    got = entries(client, "MOXY.FETCH", "jobs", 1000, "WITH", "more", "empty")
    got += entries(client, "moxy.fetch", "jobs", 1000, "count", 9, "block", 0, "with", "more")
    assert [tuple(entry) for entry in got] == [ENTRY] * 3
    assert [(e["payload"], e["queue"]) for e in got] == [(b"early", b"jobs"), (b"late", b"jobs"), (b"third", b"more")]
    assert got[0] == {
        "lease_id": f"jobs:2:1:{NONCE}".encode(),
        "task_id": f"2-{NONCE}".encode(),
        "queue": b"jobs",
        "payload": b"early",
        "attempts": 0,
        "deliveries": 1,
        "token": 1,
        "deadline_ms": T0 + 1000,
        "priority": 5,
        "enqueued_ms": T0,
    }


def test_ack_and_mack(client: Client) -> None:
    client("MOXY.MENQUEUE", "jobs", "a", "b", "c")
    first, second, third = (lease(client) for _ in range(3))
    assert client("MOXY.ACK", first) == Status("OK")
    one, two, three, four = client("MOXY.MACK", second, first, "nonsense", third)
    assert (one, four) == (Status("OK"), Status("OK"))
    assert [two.code, three.code] == ["NOLEASE", "NOLEASE"]
    assert client.map("MOXY.INFO", "jobs")["total_acked"] == 3


def test_nack_in_its_three_forms(client: Client) -> None:
    for task_id in ("plain", "later", "released", "fatal"):
        client("MOXY.ENQUEUE", "jobs", "x", "ID", task_id)
    plain, later, released, fatal = (lease(client) for _ in range(4))
    assert client("MOXY.NACK", plain, "REASON", "disk full") == Status("OK")
    assert client("MOXY.NACK", later, "DELAY", 500) == Status("OK")
    assert client("MOXY.NACK", released, "RELEASE") == Status("OK")
    assert client("MOXY.NACK", fatal, "FATAL", "REASON", "bad input") == Status("OK")
    shown = {name: client.map("MOXY.SHOW", "jobs", name) for name in ("plain", "later", "released", "fatal")}
    assert [shown[name]["state"] for name in shown] == [b"ready", b"scheduled", b"ready", b"dead"]
    assert [shown[name]["attempts"] for name in shown] == [1, 1, 0, 1]
    assert shown["plain"]["last_reason"] == b"disk full"
    assert shown["later"]["due_ms"] == T0 + 500
    assert (shown["fatal"]["dead_cause"], shown["fatal"]["dead_reason"]) == (b"fatal", b"bad input")
    assert shown["fatal"]["dead_ms"] == T0


def test_extend_answers_the_deadline_and_never_moves_it_earlier(client: Client) -> None:
    client("MOXY.ENQUEUE", "jobs", "x")
    held = lease(client, timeout_ms=1000)
    assert client("MOXY.EXTEND", held, 5000) == T0 + 5000
    assert client("MOXY.EXTEND", held, 10) == T0 + 5000


def test_peek_shows_each_state_and_delivers_nothing(client: Client) -> None:
    client("MOXY.ENQUEUE", "jobs", "held", "PRIORITY", 9)
    client("MOXY.ENQUEUE", "jobs", "dead", "PRIORITY", 8)
    held = lease(client)
    client("MOXY.NACK", lease(client), "FATAL")
    client("MOXY.MENQUEUE", "jobs", *[f"ready{n}" for n in range(12)])
    client("MOXY.ENQUEUE", "jobs", "scheduled", "DELAY", 1000)
    before = client("MOXY.INFO", "jobs")
    seen = {
        state: entries(client, "MOXY.PEEK", "jobs", "STATE", state) for state in ("scheduled", "processing", "dead")
    }
    assert [len(entries(client, "MOXY.PEEK", "jobs", *more)) for more in ((), ("COUNT", 11), ("COUNT", 1000))] == [
        10,
        11,
        12,
    ]
    assert {state: [entry["payload"] for entry in seen[state]] for state in seen} == {
        "scheduled": [b"scheduled"],
        "processing": [b"held"],
        "dead": [b"dead"],
    }
    assert tuple(seen["processing"][0]) == ENTRY
    assert seen["processing"][0]["lease_id"] == held.encode()
    assert (seen["dead"][0]["lease_id"], seen["dead"][0]["deadline_ms"]) == (None, None)
    assert client("MOXY.PEEK", "unknown") == []
    assert client("MOXY.INFO", "jobs") == before


def test_show_tells_who_holds_it(client: Client) -> None:
    client("CLIENT", "SETNAME", "worker-7")
    client("MOXY.ENQUEUE", "jobs", "x", "ID", "a")
    held = lease(client)
    shown = client.map("MOXY.SHOW", "jobs", "a")
    assert (shown["state"], shown["worker"], shown["lease_id"]) == (b"processing", b"worker-7", held.encode())
    counters = {
        name: shown[name] for name in ("deliveries", "expiries", "failures", "releases", "disconnects", "token")
    }
    assert counters == {"deliveries": 1, "expiries": 0, "failures": 0, "releases": 0, "disconnects": 0, "token": 1}


def test_stats_of_an_unknown_queue_are_zeros_and_create_nothing(client: Client) -> None:
    zeros = {"ready": 0, "processing": 0, "dead": 0, "active_leases": 0, "heap": 0}
    stats = client.map("MOXY.STATS", "jobs")
    assert (stats, list(stats)) == (zeros, list(zeros))
    assert client.map("MOXY.INFO", "jobs")["last_seq"] == 0
    assert client.map("MOXY.CONFIG", "jobs")
    assert client("MOXY.QUEUES") == [b"0", []]


def test_info_has_counts_policy_totals_and_ages(moxy: House, client: Client) -> None:
    client("MOXY.MENQUEUE", "jobs", "a", "b", "c")
    client("MOXY.ACK", lease(client))
    lease(client)
    moxy.at(700)
    info = client.map("MOXY.INFO", "jobs")
    expected = {
        "ready": 1,
        "processing": 1,
        "scheduled": 0,
        "dead": 0,
        "paused": 0,
        "oldest_ready_age_ms": 700,
        "last_seq": 6,
        "last_token": 2,
        "policy_max_attempts": 25,
        "policy_lease_ms": 30_000,
        "total_enqueued": 3,
        "total_acked": 1,
        "since_start_enqueued": 3,
        "since_start_acked": 1,
    }
    assert {name: info[name] for name in expected} == expected


def test_queues_are_listed_page_by_page_each_once(client: Client) -> None:
    names = [f"q{n:02}" for n in range(25)]
    for name in reversed(names):
        client("MOXY.ENQUEUE", name, "x")
    assert client("MOXY.QUEUES") == [b"0", [name.encode() for name in names]]
    cursor, seen = b"0", []
    while True:
        cursor, page = client("MOXY.QUEUES", "COUNT", 10, "CURSOR", cursor)
        seen += page
        if cursor == b"0":
            break
    assert seen == [name.encode() for name in names]
    assert client("MOXY.QUEUES", "MATCH", "q1[0-4]") == [b"0", [f"q1{n}".encode() for n in range(5)]]


def test_config_reads_and_sets_together(client: Client) -> None:
    policy = client.map("MOXY.CONFIG", "jobs")
    assert policy == {
        "max_attempts": 25,
        "backoff_ms": 0,
        "backoff_max_ms": 0,
        "lease_ms": 30_000,
        "max_hold_ms": 0,
        "max_ready": 0,
        "ttl_ms": 0,
    }
    assert client("MOXY.CONFIG", "jobs", "lease_ms", 5, "MAX_READY", 7) == Status("OK")
    assert client.map("MOXY.CONFIG", "jobs") == policy | {"lease_ms": 5, "max_ready": 7}
    seq = client.map("MOXY.INFO", "jobs")["last_seq"]
    assert client("MOXY.CONFIG", "jobs", "lease_ms", 5) == Status("OK")
    assert client.map("MOXY.INFO", "jobs")["last_seq"] == seq


def test_redrive_delete_and_purge_answer_numbers(client: Client) -> None:
    for task_id in ("a", "b", "c", "d"):
        client("MOXY.ENQUEUE", "jobs", "x", "ID", task_id)
    for _ in range(4):
        client("MOXY.NACK", lease(client), "FATAL")
    assert client("MOXY.REDRIVE", "jobs", "ID", "c") == 1
    assert client("MOXY.REDRIVE", "jobs", "COUNT", 1) == 1
    assert [state(client, task_id) for task_id in "abcd"] == ["ready", "dead", "ready", "dead"]
    assert client("MOXY.DELETE", "jobs", "a") == 1
    assert client("MOXY.DELETE", "jobs", "a") == 0
    assert client("MOXY.DELETE", "jobs", b"\xff") == 0
    assert client("MOXY.PURGE", "jobs", "dead") == 2
    assert client("MOXY.PURGE", "jobs", "dead") == 0
    assert client("MOXY.REDRIVE", "jobs") == 0
    client("MOXY.ENQUEUE", "jobs", "x", "DELAY", 1000)
    assert client("MOXY.PURGE", "jobs", "SCHEDULED") == 1
    assert client("MOXY.PURGE", "jobs", "ready") == 1


def test_pause_and_resume(moxy: House, client: Client) -> None:
    client("MOXY.MENQUEUE", "jobs", "a", "b")
    held = lease(client, timeout_ms=100)
    assert client("MOXY.PAUSE", "jobs") == Status("OK")
    assert client("MOXY.PAUSE", "jobs") == Status("OK")
    assert client("MOXY.FETCH", "jobs", 1000) is None
    moxy.at(100)
    assert client.map("MOXY.STATS", "jobs")["ready"] == 2
    assert client("MOXY.ACK", held).code == "NOLEASE"
    assert client.map("MOXY.INFO", "jobs")["paused"] == 1
    assert client("MOXY.RESUME", "jobs") == Status("OK")
    assert client("MOXY.RESUME", "jobs") == Status("OK")
    assert client.map("MOXY.FETCH", "jobs", 1000)["payload"] == b"a"


# Time, over the wire


def test_a_lease_ends_at_its_deadline_and_not_before(moxy: House, client: Client) -> None:
    client("MOXY.ENQUEUE", "jobs", "x")
    old = lease(client, timeout_ms=200)
    moxy.at(199)
    assert client("MOXY.FETCH", "jobs", 200) is None
    moxy.at(200)
    again = entries(client, "MOXY.FETCH", "jobs", 200, "COUNT", 1)[0]
    assert (again["attempts"], again["deliveries"], again["token"]) == (1, 2, 2)
    for words in ("MOXY.ACK", old), ("MOXY.NACK", old), ("MOXY.EXTEND", old, 1000):
        assert client(*words).code == "NOLEASE"
    assert client("MOXY.ACK", again["lease_id"]) == Status("OK")


def test_attempts_used_up_and_ttl_set_tasks_aside(moxy: House, client: Client) -> None:
    client("MOXY.ENQUEUE", "jobs", "x", "ID", "tried", "MAXATTEMPTS", 1)
    client("MOXY.ENQUEUE", "jobs", "x", "ID", "late", "TTL", 50)
    lease(client, timeout_ms=10)
    moxy.at(50)
    tried, late = (client.map("MOXY.SHOW", "jobs", task_id) for task_id in ("tried", "late"))
    assert (tried["state"], tried["dead_cause"], tried["dead_reason"]) == (b"dead", b"attempts", b"lease expired")
    assert (late["state"], late["dead_cause"], late["dead_reason"]) == (b"dead", b"ttl", b"ttl")


def test_new_queues_are_born_with_the_servers_policy() -> None:
    with serving(policy=Policy(max_attempts=3)) as moxy, moxy.client() as client:
        client("MOXY.ENQUEUE", "jobs", "x")
        assert client.map("MOXY.CONFIG", "jobs")["max_attempts"] == 3
        assert client.map("MOXY.INFO", "jobs")["last_seq"] == 2  # the first event was a QueueConfigured


# Refusals

HELD = f"jobs:1:1:{NONCE}"
ACKED = f"jobs:2:2:{NONCE}"
NACKED = f"jobs:3:3:{NONCE}"
RELEASED = f"jobs:4:4:{NONCE}"
SHORT = f"short:1:1:{NONCE}"
EXPIRED = f"short:2:2:{NONCE}"
QUEUES = ("jobs", "short", "full", "nowhere")


def furnish(moxy: House) -> None:
    """A held, an acked, a dead, a released and a ready task in `jobs`; two leases with a cap in `short`; `full`."""
    with moxy.client() as client:
        for task_id in ("held", "acked", "dead", "ready"):
            client("MOXY.ENQUEUE", "jobs", "x", "ID", task_id)
        assert [lease(client) for _ in range(4)] == [HELD, ACKED, NACKED, RELEASED]
        client("MOXY.ACK", ACKED)
        client("MOXY.NACK", NACKED, "FATAL")
        client("MOXY.NACK", RELEASED, "RELEASE")
        client("MOXY.CONFIG", "short", "max_hold_ms", 1000)
        client("MOXY.MENQUEUE", "short", "x", "y")
        assert [lease(client, "short"), lease(client, "short", 100)] == [SHORT, EXPIRED]
        client("MOXY.CONFIG", "full", "max_ready", 2)
        client("MOXY.ENQUEUE", "full", "x", "DELAY", 1000, "ID", "known")
        client("MOXY.ENQUEUE", "full", "x")
        moxy.at(100)


def snapshot(client: Client) -> list[Any]:
    """All that can be seen of the queues."""
    asked: list[list[Word]] = [["MOXY.QUEUES"]]
    for queue in QUEUES:
        asked.append(["MOXY.INFO", queue])
        asked += [["MOXY.PEEK", queue, "STATE", state] for state in ("ready", "scheduled", "processing", "dead")]
    asked += [["MOXY.SHOW", "jobs", task_id] for task_id in ("held", "acked", "dead", "ready")]
    return client.pipeline(*asked)


REFUSALS: list[tuple[str, list[Word]]] = [
    *[("NOLEASE", [verb, bad, *more]) for bad in (
        "nonsense", "", "jobs", ":::", "jobs:1:1:ffffffffffffffff", "jobs:1:1:", f"jobs:01:1:{NONCE}",
        f"jobs:9:9:{NONCE}", f"nowhere:1:1:{NONCE}", f"short:1:9:{NONCE}", b"\xff:1:1:0", f"jobs:\u0661:1:{NONCE}",
        f"jobs:99999999999999999999:1:{NONCE}", ACKED, NACKED, RELEASED, EXPIRED,
    ) for verb, more in (("MOXY.ACK", ()), ("MOXY.NACK", ("FATAL",)), ("MOXY.EXTEND", (1000,)))],
    ("NOTASK", ["MOXY.REDRIVE", "jobs", "ID", "ready"]),
    ("NOTASK", ["MOXY.REDRIVE", "jobs", "ID", "held"]),
    ("NOTASK", ["MOXY.REDRIVE", "jobs", "ID", "nobody"]),
    ("NOTASK", ["MOXY.REDRIVE", "nowhere", "ID", "dead"]),
    *[("BADQUEUE", ["MOXY.ENQUEUE", name, "x"]) for name in NOT_QUEUES],
    ("BADQUEUE", ["MOXY.FETCH", "jobs", 1000, "WITH", "a b"]),
    ("BADQUEUE", ["MOXY.FETCH", "jobs", 1000, "BLOCK", 0, "WITH", ""]),
    *[("BADTIMEOUT", ["MOXY.FETCH", "jobs", word]) for word in (*NOT_INTEGERS, 0, -1, DAYS_30_MS + 1, "DEFAUL")],
    *[("BADTIMEOUT", ["MOXY.EXTEND", HELD, word]) for word in (*NOT_INTEGERS, 0, -1, DAYS_30_MS + 1, "DEFAULT")],
    *[("BADTIMEOUT", ["MOXY.ENQUEUE", "jobs", "x", "LEASE", word]) for word in ("+4", 0, DAYS_30_MS + 1, "DEFAULT")],
    ("TOOBIG", ["MOXY.ENQUEUE", "jobs", "x", "ID", "i" * 129]),
    ("TOOBIG", ["MOXY.NACK", HELD, "REASON", "r" * 1025]),
    ("FULL", ["MOXY.ENQUEUE", "full", "x"]),
    ("FULL", ["MOXY.ENQUEUE", "full", "x", "DELAY", 5, "ID", "new"]),
    ("FULL", ["MOXY.MENQUEUE", "full", "x"]),
    ("MAXHOLD", ["MOXY.EXTEND", SHORT, 30_901]),
    ("LEASED", ["MOXY.DELETE", "jobs", "held"]),
    ("LEASED", ["MOXY.PURGE", "jobs", "processing"]),
    ("ERR syntax error", ["MOXY.ENQUEUE", "jobs", "x", "DEDUP", 5]),
    ("ERR syntax error", ["MOXY.NACK", HELD, "FATAL", "RELEASE"]),
    ("ERR syntax error", ["MOXY.NACK", HELD, "DELAY", 0, "FATAL"]),
    ("ERR syntax error", ["MOXY.NACK", HELD, "DELAY", 0, "RELEASE"]),
    ("ERR syntax error", ["MOXY.NACK", HELD, "REASON", "", "RELEASE"]),
    ("ERR syntax error", ["MOXY.REDRIVE", "jobs", "COUNT", 1, "ID", "dead"]),
    ("ERR syntax error", ["MOXY.CONFIG", "jobs", "lease_ms"]),
    ("ERR syntax error", ["MOXY.CONFIG", "jobs", "color", 1]),
    ("ERR syntax error", ["MOXY.CONFIG", "jobs", "ttl_ms", 1, "TTL_MS", 2]),
    ("ERR", ["MOXY.CONFIG", "jobs", "ttl_ms", 5, "lease_ms", 0]),
    ("ERR", ["MOXY.CONFIG", "jobs", "max_attempts", 1_000_000_001]),
    ("ERR", ["MOXY.CONFIG", "jobs", "backoff_ms", "04"]),
    ("ERR", ["MOXY.PURGE", "jobs", "acked"]),
    ("ERR", ["MOXY.PEEK", "jobs", "STATE", "acked"]),
    ("ERR", ["MOXY.QUEUES", "CURSOR", "1"]),
    ("ERR", ["MOXY.ENQUEUE", "jobs", "x", "ID", ""]),
    ("ERR", ["MOXY.ENQUEUE", "jobs", "x", "ID", "a b"]),
    ("ERR", ["MOXY.ENQUEUE", "jobs", "x", "ID", b"\xff"]),
    ("ERR", ["MOXY.NACK", HELD, "REASON", b"\xff"]),
    *[("ERR", ["MOXY.ENQUEUE", "jobs", "x", "PRIORITY", word]) for word in (*NOT_INTEGERS, -1, 10)],
    *[("ERR", ["MOXY.ENQUEUE", "jobs", "x", "DELAY", word]) for word in ("+4", "04", -1, DAYS_30_MS + 1)],
    *[("ERR", ["MOXY.ENQUEUE", "jobs", "x", "TTL", word]) for word in ("1_0", " 4", 0, DAYS_30_MS + 1)],
    *[("ERR", ["MOXY.ENQUEUE", "jobs", "x", "ID", "i", "DEDUP", word]) for word in ("04", 0, DAYS_30_MS + 1)],
    *[("ERR", ["MOXY.ENQUEUE", "jobs", "x", "MAXATTEMPTS", word]) for word in ("04", -1, 1_000_000_001)],
    *[("ERR", ["MOXY.FETCH", "jobs", 1000, "COUNT", word]) for word in (*NOT_INTEGERS, 0, -1, 1001)],
    *[("ERR", ["MOXY.FETCH", "jobs", 1000, "BLOCK", word]) for word in (*NOT_INTEGERS, -1, DAYS_30_MS + 1)],
    ("ERR", ["MOXY.REDRIVE", "jobs", "COUNT", 1001]),
    ("ERR", ["MOXY.PEEK", "jobs", "COUNT", 0]),
    ("ERR", ["MOXY.NACK", HELD, "DELAY", DAYS_30_MS + 1]),
    ("ERR unknown command", ["MOXY.NOPE", "jobs", "x"]),
    ("ERR unknown command", ["MOXY.ENQUEUE ", "jobs", "x"]),
    ("ERR unknown command", [""]),
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])
def test_every_refusal_has_its_code_and_changes_nothing(protocol: int) -> None:
    with serving() as moxy, moxy.client(protocol) as client:
        furnish(moxy)
        before = snapshot(client)
        wrong = []
        for code, words in REFUSALS:
            reply = client(*words)
            if not isinstance(reply, Failure) or not reply.startswith((f"{code} ", f"{code}: ")):
                wrong.append((words, code, reply))
            assert snapshot(client) == before, words
        assert wrong == []


@pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("row", QUEUE_ROWS, ids=named)
def test_bad_options_of_every_command_change_nothing(row: Row, protocol: int) -> None:
    """Each option without its value, twice, and one that does not exist; a word that is empty is no exception."""
    with serving() as moxy, moxy.client(protocol) as client:
        furnish(moxy)
        before = snapshot(client)
        given = options(row)
        bad: list[list[Word]] = [[name] for name, value in given.items() if value is not None]
        for name, value in given.items():
            once: list[Word] = [name] if value is None else [name, value]
            if name != "WITH":
                bad.append([*once, *once])
            bad.append([*once, "BOGUS"] if name != "WITH" else ["BOGUS", *once])
        if given:
            bad += [["BOGUS"], ["", "BOGUS"], [b"\xff\r\n"]]
        for more in bad:
            reply = client(*required(row), *more)
            assert isinstance(reply, Failure), (row.name, more, reply)
            assert reply.startswith("ERR syntax error"), (more, reply)
        assert snapshot(client) == before


@pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])
def test_every_wrong_arity_of_every_row(protocol: int) -> None:
    with serving() as moxy, moxy.client(protocol) as client:
        furnish(moxy)
        before = snapshot(client)
        for row in ROWS:
            right = required(row)
            wrong = [right[:size] for size in range(1, abs(row.arity))]
            wrong += [[*right, "more"]] if row.arity > 0 else []
            for words in wrong:
                for name in (row.name, row.name.lower()):
                    reply = client(name, *words[1:])
                    assert isinstance(reply, Failure), words
                    assert reply == f"ERR wrong number of arguments for '{row.name.lower()}' command", words
        assert client("PING", "a", "b") == "ERR wrong number of arguments for 'ping' command"
        assert snapshot(client) == before


def test_a_bad_queue_is_refused_by_every_command_that_takes_one(client: Client) -> None:
    for row in QUEUE_ROWS:
        if row.syntax.startswith("queue"):
            for name in NOT_QUEUES:
                assert client(row.name, name, *required(row)[2:]).code == "BADQUEUE", row.name
    assert client("MOXY.QUEUES") == [b"0", []]


def test_what_is_refused_at_a_bound_is_fine_just_below(moxy: House, client: Client) -> None:
    furnish(moxy)
    assert client("MOXY.EXTEND", SHORT, 900) == T0 + 30_000
    assert client.map("MOXY.ENQUEUE", "full", "x", "ID", "known") == {"task_id": b"known"}
    assert client("MOXY.FETCH", "jobs", DAYS_30_MS, "COUNT", 1000)
    client("MOXY.CONFIG", "full", "max_ready", 3)
    assert client("MOXY.MENQUEUE", "full", "y", "z").code == "FULL"
    assert client.map("MOXY.INFO", "full")["total_enqueued"] == 2
    assert len(client("MOXY.MENQUEUE", "full", "y")) == 1


def test_no_lease_says_what_became_of_it(moxy: House, client: Client) -> None:
    furnish(moxy)
    assert "expired" in client("MOXY.ACK", EXPIRED)
    assert "completed" in client("MOXY.ACK", ACKED)
    assert "never seen" in client("MOXY.ACK", f"nowhere:1:1:{NONCE}")


def test_errors_of_one_command_do_not_end_the_connection(client: Client) -> None:
    for words in ["NOPE"], ["MOXY.ACK", "x"], ["MOXY.STATS"], ["MOXY.STATS", ""]:
        assert isinstance(client(*words), Failure)
    assert client("PING") == Status("PONG")


def test_a_payload_over_the_limit_never_arrives(client: Client) -> None:
    client.send_raw(b"*3\r\n$12\r\nMOXY.ENQUEUE\r\n$4\r\njobs\r\n$%d\r\n" % (MIB + 1))
    reply = client.read()
    assert reply.startswith(("ERR Protocol error: invalid bulk length", "TOOBIG "))
    assert client.is_closed_by_server()
