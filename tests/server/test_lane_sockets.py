"""The fast lane over real sockets: what the transports, the turns and other clients have to do with it.

Lives here: the server around the lane. Must not: what can be seen without a socket, which is in test_lane.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from moxy.backends.base import CommitRefused, Done, Outcome
from moxy.backends.memory import MemoryBackend
from moxy.core.answers import Past
from moxy.core.commands import AnyCommand, Enqueue, Tick
from moxy.core.events import AnyEvent
from moxy.server.tcp import AHEAD_BYTES_MAX
from tests.server.support import (
    DAYS_30_MS,
    MIB,
    NONCE,
    NOT_INTEGERS,
    NOT_QUEUES,
    Client,
    Failure,
    FakeClock,
    House,
    Status,
    Word,
    ZeroIds,
    encode,
    server_info,
    serving,
    until,
    until_blocked,
    until_connected,
)
from tests.server.test_tick import Gate, reset

ENQUEUE = ("MOXY.ENQUEUE", "jobs", "x")
FETCH = ("MOXY.FETCH", "jobs", 60_000)
STATS = ("MOXY.STATS", "jobs")


def lease(number: int, token: int, queue: str = "jobs") -> str:
    return f"{queue}:{number}:{token}:{NONCE}"


@pytest.fixture
def moxy() -> Iterator[House]:
    with serving() as house:
        yield house


@pytest.fixture
def other(moxy: House) -> Iterator[Client]:
    """Somebody else; the queue is there."""
    with moxy.client() as client:
        client("MOXY.ENQUEUE", "jobs", "first", "ID", "t")
        yield client


def memory(house: House) -> MemoryBackend:
    backend: MemoryBackend = house.server._backend._backend  # type: ignore[attr-defined]
    return backend


def seq(house: House) -> int:
    """The sequence number of what happened last, committed or not."""
    return house.call(lambda: memory(house).state_of("jobs").seq)


def commands_of_the_usual_way(house: House) -> list[AnyCommand]:
    """Fills with those that do not take the lane."""
    seen: list[AnyCommand] = []
    backend = house.server._backend
    execute = backend.execute

    async def watched(commands: Sequence[AnyCommand]) -> list[Outcome]:
        seen.extend(command for command in commands if not isinstance(command, Tick))
        return await execute(commands)

    house.call(lambda: setattr(backend, "execute", watched))
    return seen


def carried_out(house: House) -> int:
    """How many plain commands have been carried out that belong to no turn yet."""
    lane = house.server._lane
    assert lane is not None
    return house.call(lambda: lane.commands)


def committed(house: House) -> int:
    """The sequence number of the last event that can be read."""
    recent = memory(house).recent
    return house.call(lambda: (recent.index(1000), max(event.seq for event in recent.since("jobs", 1, 1000)))[1])


def turn_under_way(house: House, client: Client, queue: str = "jobs") -> Gate:
    """A turn with an ENQUEUE of that client has been written, and waits to be let through."""
    gate = Gate(house)
    client.send("MOXY.ENQUEUE", queue, "x")
    gate.until_somebody_waits()
    return gate


def refuse_commits(house: House) -> Callable[[], None]:
    """The log takes nothing, until what this gives is called."""
    backend = house.server._backend
    commit = backend.commit_at_once

    def refuse() -> bool:
        memory(house).settle()
        if memory(house).uncommitted:
            memory(house).take_back()
            raise CommitRefused("no space: nothing happened")
        return True

    house.call(lambda: setattr(backend, "commit_at_once", refuse))
    return lambda: house.call(lambda: setattr(backend, "commit_at_once", commit))


# The order of replies


def test_plain_commands_behind_a_blocked_fetch_are_carried_out_and_answered_when_it_ends(
    moxy: House, other: Client
) -> None:
    """By themselves: nobody else says a word afterwards."""
    with moxy.client() as worker:
        worker.send_raw(encode("MOXY.FETCH", "more", 1000, "BLOCK", 0) + encode(*ENQUEUE) + encode(*FETCH))
        until_blocked(other, 1)
        assert other.map(*STATS)["ready"] == 1
        other("MOXY.ENQUEUE", "more", "go")
        assert worker.as_map(worker.read()[0])["payload"] == b"go"
        assert worker.read() == [b"task_id", f"2-{NONCE}".encode()]
        assert worker.as_map(worker.read())["payload"] == b"first"


def test_plain_commands_behind_a_blocked_reader_of_events_are_answered_when_it_ends(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        worker.send_raw(encode("MOXY.EVENTS", "jobs", 2, "BLOCK", 0) + encode(*FETCH))
        until_blocked(other, 1)
        other(*ENQUEUE)
        assert len(worker.read()) == 1
        assert worker.as_map(worker.read())["payload"] == b"first"


class SlowRead:
    """A read of the log that takes until it is told to end."""

    def __init__(self) -> None:
        self.slices = 0
        self.over = False

    async def advance(self) -> Outcome | None:
        self.slices += 1
        return Done(Past([], 1)) if self.over else None


def slow_read(house: House) -> SlowRead:
    """What HISTORY is from now on."""
    read = SlowRead()

    async def history(query: Any) -> SlowRead:
        return read

    house.call(lambda: setattr(house.server._backend, "history", history))
    return read


def behind_a_slow_read(house: House, client: Client, read: SlowRead) -> None:
    """What this client says from now on is carried out, in the lane, too; and answered when the read is over."""
    client.send_raw(encode("MOXY.HISTORY", "jobs", "t") + encode(*STATS))
    until(lambda: house.call(lambda: read.slices), bool)


def test_a_plain_command_behind_a_slow_read_is_answered_after_it(moxy: House, other: Client) -> None:
    read = slow_read(moxy)
    with moxy.client() as client:
        client.send_raw(encode("MOXY.HISTORY", "jobs", "t") + encode(*STATS) + encode(*ENQUEUE))
        until(lambda: other.map(*STATS)["ready"], lambda ready: ready == 2)
        client.send(*ENQUEUE)
        until(lambda: other.map(*STATS)["ready"], lambda ready: ready == 3)
        assert read.slices > 0
        assert client.has_come() == b""
        moxy.call(lambda: setattr(read, "over", True))
        assert client.read() == []
        assert client.as_map(client.read())["ready"] == 1
        assert [client.read()[1][:2] for _ in range(2)] == [b"2-", b"3-"]


def test_a_long_pipeline_of_all_sorts_is_answered_in_order(moxy: House, other: Client) -> None:
    """It comes in many reads, and goes in and out of the lane all the time."""
    rounds = 2000
    commands = [("ECHO", 1), ENQUEUE, ("moxy.enqueue", "jobs", "x"), ENQUEUE, FETCH, STATS, FETCH]
    with moxy.client() as client:
        client.send_raw(b"".join(encode(*words) for words in commands) * rounds)
        for number in range(rounds):
            first = 3 * number + 2
            assert client.read() == b"1"
            for step in range(3):
                assert client.read()[1] == f"{first + step}-{NONCE}".encode()
            taken = 2 * number + 1
            assert client.read()[1] == lease(taken, taken).encode()
            assert client.read()[3] == taken
            assert client.read()[1] == lease(taken + 1, taken + 1).encode()


def test_a_plain_reply_behind_more_than_one_piece_of_others_is_written_with_them(moxy: House, other: Client) -> None:
    with moxy.client() as client:
        client.send_raw(encode("ECHO", "x" * 600_000) * 2)
        client.send_raw(encode(*ENQUEUE) * 3)
        assert [len(client.read()) for _ in range(5)] == [600_000] * 2 + [2] * 3
        busy = moxy.keep_busy()
        client.send_raw(b"".join(encode("ECHO", "x" * 30_000) + encode(*ENQUEUE) for _ in range(60)))
        busy.set()
        assert [len(client.read()) for _ in range(120)] == [30_000, 2] * 60


def test_who_half_closes_behind_a_long_pipeline_is_answered_in_full(moxy: House, other: Client) -> None:
    with moxy.client() as client:
        client.send_raw(encode(*ENQUEUE) * 500 + encode(*FETCH) * 500).half_close()
        assert [client.read()[0] for _ in range(1000)] == [b"task_id"] * 500 + [b"lease_id"] * 500
        assert client.is_closed_by_server()


# The turn that commits


def test_no_reply_leaves_before_its_commit_and_what_comes_meanwhile_is_of_the_next_turn(
    moxy: House, other: Client
) -> None:
    """I13. It is carried out meanwhile, and its reply waits for a commit of its own."""
    with moxy.client() as first, moxy.client() as second:
        assert (first("PING"), second("PING")) == ("PONG", "PONG")
        gate = Gate(moxy)
        first.send_raw(encode(*ENQUEUE) + encode(*FETCH))
        gate.until_somebody_waits()
        assert seq(moxy) == 3
        usual = commands_of_the_usual_way(moxy)
        second.send(*ENQUEUE)
        first.send("MOXY.ACK", lease(1, 1))
        until(lambda: carried_out(moxy), lambda count: count == 2)
        assert seq(moxy) == 5
        assert committed(moxy) == 1
        assert first.has_come() == second.has_come() == b""
        gate.let_through()
        assert first.read()[0] == b"task_id"
        assert first.read()[0] == b"lease_id"
        gate.until_somebody_waits()
        assert committed(moxy) == 3
        assert first.has_come() == second.has_come() == b""
        assert usual == []
        gate.open()
        assert second.read()[0] == b"task_id"
        assert first.read() == Status("OK")


def test_a_lease_that_is_given_while_a_turn_is_on_its_way_begins_when_it_was_asked_for(
    moxy: House, other: Client
) -> None:
    """A medium may take seconds. The lease is not to be over before its worker hears of it."""
    with moxy.client() as worker:
        assert worker("PING") == "PONG"
        gate = turn_under_way(moxy, other)
        worker.send(*ENQUEUE)
        until(lambda: carried_out(moxy), lambda count: count == 1)
        later_ms = moxy.clock.now_ms() + 2500
        moxy.call(lambda: setattr(moxy.clock, "ms", later_ms))
        worker.send("MOXY.FETCH", "jobs", 2000)
        until(lambda: carried_out(moxy), lambda count: count == 2)
        gate.open()
        assert [other.read()[0], worker.read()[0], worker.read()[0]] == [b"task_id", b"task_id", b"lease_id"]
        assert other.map("MOXY.SHOW", "jobs", "t")["deadline_ms"] == later_ms + 2000


def test_what_is_looked_at_while_a_turn_is_on_its_way_has_a_bound(moxy: House, other: Client) -> None:
    """Or a slow medium makes a large turn, which makes the medium slow."""
    with moxy.client() as client:
        assert client("PING") == "PONG"
        gate = turn_under_way(moxy, other)
        payload = "x" * 10_000
        count = 3 * AHEAD_BYTES_MAX // len(payload)
        client.send_raw(encode("MOXY.ENQUEUE", "jobs", payload) * count)
        until(lambda: moxy.call(lambda: len(moxy.server._unseen)), bool)
        until(lambda: moxy.call(lambda: next(iter(moxy.server._unseen))._unseen_bytes), lambda size: size > 1_000_000)
        assert 0 < carried_out(moxy) <= AHEAD_BYTES_MAX // len(payload)
        gate.open()
        assert [client.read()[0] for _ in range(count)] == [b"task_id"] * count


def test_plain_commands_behind_a_blocked_fetch_are_answered_when_they_are_committed_not_before(
    moxy: House, other: Client
) -> None:
    """I13. They are carried out while the reply of the fetch is being written."""
    with moxy.client() as worker:
        worker.send_raw(encode("MOXY.FETCH", "more", 1000, "BLOCK", 0) + encode(*ENQUEUE) + encode(*FETCH))
        until_blocked(other, 1)
        gate = Gate(moxy)
        other.send("MOXY.ENQUEUE", "more", "go")
        gate.until_somebody_waits()
        gate.let_through()
        assert len(worker.read()) == 1
        gate.until_somebody_waits()
        for _ in range(50):
            moxy.call(lambda: None)
        assert worker.has_come() == b""
        gate.open()
        assert worker.read()[0] == b"task_id"
        assert worker.read()[0] == b"lease_id"


def test_who_says_goodbye_during_a_turn_is_answered_after_it(moxy: House, other: Client) -> None:
    with moxy.client() as client:
        assert client("PING") == "PONG"
        gate = turn_under_way(moxy, other)
        client.send(*ENQUEUE)
        until(lambda: carried_out(moxy), bool)
        client.half_close()
        gate.let_through()
        gate.open()
        assert client.read()[1] == f"3-{NONCE}".encode()
        assert client.is_closed_by_server()
        assert other.read()[1] == f"2-{NONCE}".encode()


def test_what_a_client_said_before_it_vanished_is_carried_out_although_a_turn_was_under_way(
    moxy: House, other: Client
) -> None:
    """An ENQUEUE was sent and may have been meant; what a FETCH leased goes back, since nobody is there."""
    client = moxy.client()
    assert client("PING") == "PONG"
    gate = turn_under_way(moxy, other)
    client.send_raw(encode(*ENQUEUE) + encode(*FETCH))
    until(lambda: carried_out(moxy), bool)
    reset(client)
    until(lambda: moxy.call(lambda: len(moxy.server._links)), lambda count: count == 1)
    gate.let_through()
    gate.open()
    assert other.read()[0] == b"task_id"
    until(lambda: other.map(*STATS)["ready"], lambda ready: ready == 3)
    shown = other.map("MOXY.SHOW", "jobs", "t")
    assert (shown["attempts"], shown["deliveries"], shown["releases"]) == (0, 1, 1)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_refused_turn_turns_every_reply_into_the_same_error_and_nothing_happened(
    moxy: House, other: Client, protocol: int
) -> None:
    with moxy.client(protocol) as client, moxy.client() as third:
        other(*ENQUEUE)
        other(*FETCH)
        assert third("PING") == "PONG"
        was, shown = seq(moxy), other("MOXY.SHOW", "jobs", "t")
        take_again = refuse_commits(moxy)
        busy = moxy.keep_busy()
        client.send_raw(
            encode(*ENQUEUE) + encode(*FETCH) + encode("PING") + encode("MOXY.ACK", lease(1, 1)) + encode("moxy.x")
        )
        third.send("moxy.enqueue", "jobs", "the usual way")
        third.send(*ENQUEUE)
        busy.set()
        refused = Failure("IOERR no space: nothing happened")
        assert [client.read() for _ in range(4)] == [refused, refused, "PONG", refused]
        assert client.read().code == "ERR"
        assert [third.read() for _ in range(2)] == [refused, refused]
        assert (seq(moxy), other("MOXY.SHOW", "jobs", "t")) == (was, shown)
        take_again()
        assert client("MOXY.ACK", lease(1, 1)) == "OK"
        assert client.map(*FETCH)["lease_id"] == lease(2, 2).encode()
        assert client("MOXY.ACK", lease(2, 2)) == "OK"
        assert other.map(*STATS)["ready"] == 0


def test_what_is_committed_stays_answered_so_although_a_later_turn_is_refused(moxy: House, other: Client) -> None:
    """The reply stands behind a slow read all the while."""
    read = slow_read(moxy)
    with moxy.client() as client:
        behind_a_slow_read(moxy, client, read)
        usual = commands_of_the_usual_way(moxy)
        client.send(*ENQUEUE)
        until(lambda: other.map(*STATS)["ready"], lambda ready: ready == 2)
        assert "Enqueue" not in [type(command).__name__ for command in usual]
        take_again = refuse_commits(moxy)
        assert other(*ENQUEUE).code == "IOERR"
        take_again()
        moxy.call(lambda: setattr(read, "over", True))
        assert client.read() == []
        assert client.as_map(client.read())["ready"] == 1
        assert client.read() == [b"task_id", f"2-{NONCE}".encode()]


# Leases whose replies are lost


def test_a_lease_that_was_refused_is_not_given_back_when_its_reply_is_lost(moxy: House, other: Client) -> None:
    """It never was; here, where ids are predictable, another client has been given one with the same id since."""
    read = slow_read(moxy)
    client = moxy.client()
    behind_a_slow_read(moxy, client, read)
    take_again = refuse_commits(moxy)
    refused = moxy.call(lambda: moxy.server._counts.commands)
    client.send(*FETCH)
    until(lambda: moxy.call(lambda: moxy.server._counts.commands), lambda count: count > refused)
    take_again()
    assert other.map(*FETCH)["lease_id"] == lease(1, 1).encode()
    reset(client)
    until(lambda: moxy.call(lambda: len(moxy.server._links)), lambda count: count == 1)
    assert other("PING") == "PONG"
    assert other("MOXY.ACK", lease(1, 1)) == "OK"


def test_leases_of_a_client_that_vanishes_during_the_commit_go_back_uncharged(moxy: House, other: Client) -> None:
    client = moxy.client()
    assert client("PING") == "PONG"
    usual = commands_of_the_usual_way(moxy)
    gate = Gate(moxy)
    client.send(*FETCH)
    gate.until_somebody_waits()
    assert usual == []
    reset(client)
    until(lambda: moxy.call(lambda: len(moxy.server._links)), lambda count: count == 1)
    gate.let_through()
    gate.open()
    shown = until(lambda: other.map("MOXY.SHOW", "jobs", "t"), lambda shown: shown["state"] == b"ready")
    assert (shown["attempts"], shown["deliveries"], shown["releases"]) == (0, 1, 1)


def test_leases_of_a_client_that_vanishes_with_its_command_go_back_uncharged(moxy: House, other: Client) -> None:
    for number in range(20):
        client = moxy.client()
        assert client("PING") == "PONG"
        busy = moxy.keep_busy()
        client.send_raw(encode(*ENQUEUE) + encode(*FETCH) * 2)
        reset(client)
        busy.set()
        until_connected(other, 1)
        until(lambda: other.map(*STATS)["processing"], lambda processing: processing == 0)
        assert other.map("MOXY.SHOW", "jobs", "t")["attempts"] == 0, number


def test_a_refused_turn_of_a_client_that_vanished_leaves_nothing_behind(moxy: House, other: Client) -> None:
    client = moxy.client()
    assert client("PING") == "PONG"
    was = seq(moxy)
    gate = turn_under_way(moxy, other, "more")
    client.send(*FETCH)
    until(lambda: carried_out(moxy), bool)
    take_again = refuse_commits(moxy)
    reset(client)
    until(lambda: moxy.call(lambda: len(moxy.server._links)), lambda count: count == 1)
    gate.open()
    assert other.read()[0] == b"task_id"
    until(lambda: carried_out(moxy), lambda count: count == 0)
    take_again()
    assert other.map(*STATS) == {"ready": 1, "processing": 0, "dead": 0, "active_leases": 0, "heap": 0}
    assert seq(moxy) == was


def test_a_slow_reader_of_plain_fetches_gets_them_all_and_is_not_cut_off() -> None:
    """As with PEEK, replies are handed to the kernel piece by piece: no more waits than about one of them."""
    with (
        serving(output_bytes_max=4 * MIB) as house,
        house.client() as other,
        house.client(receive_bytes=4096) as slow,
    ):
        for _ in range(30):
            other("MOXY.ENQUEUE", "jobs", "x" * 500_000)
        slow.send_raw(encode(*FETCH) * 30)
        until(lambda: other.map("MOXY.INFO", "jobs")["last_token"], bool)
        assert [slow.read()[5] == b"x" * 500_000 for _ in range(30)] == [True] * 30
        assert house.said == []


# Others


def test_waiters_are_served_first_and_in_their_order(moxy: House, other: Client) -> None:
    with moxy.client() as first, moxy.client() as second, moxy.client() as third:
        assert other.map(*FETCH)["payload"] == b"first"
        for number, worker in enumerate((first, second), 1):
            worker.send(*FETCH, "BLOCK", 0)
            until_blocked(other, number)
        third.send_raw(b"".join(encode("MOXY.ENQUEUE", "jobs", name) for name in "abc") + encode(*FETCH))
        assert [first.as_map(first.read()[0])["payload"], second.as_map(second.read()[0])["payload"]] == [b"a", b"b"]
        assert [third.read()[0] for _ in range(3)] == [b"task_id"] * 3
        assert third.as_map(third.read())["payload"] == b"c"


@pytest.mark.parametrize("producer_first", [True, False])
def test_a_waiter_that_comes_with_the_task_misses_nothing(moxy: House, other: Client, producer_first: bool) -> None:
    """Both are found in one wake-up: the FETCH is not waiting yet when the ENQUEUE is carried out."""
    assert other.map(*FETCH)["payload"] == b"first"
    with moxy.client() as worker, moxy.client() as producer:
        assert (worker("PING"), producer("PING")) == ("PONG", "PONG")
        for number in range(10):
            busy = moxy.keep_busy()
            if producer_first:
                producer.send("MOXY.ENQUEUE", "jobs", f"x{number}")
            worker.send(*FETCH, "BLOCK", 0)
            if not producer_first:
                producer.send("MOXY.ENQUEUE", "jobs", f"x{number}")
            busy.set()
            assert worker.as_map(worker.read()[0])["payload"] == f"x{number}".encode()
            assert producer.read()[0] == b"task_id"


def test_a_waiter_over_several_queues_gets_what_is_enqueued_to_the_last_of_them(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        worker.send("MOXY.FETCH", "more", 1000, "BLOCK", 0, "WITH", "most", "jobs")
        assert worker.as_map(worker.read()[0])["payload"] == b"first"
        worker.send("MOXY.FETCH", "more", 1000, "BLOCK", 0, "WITH", "most", "jobs")
        until_blocked(other, 1)
        other(*ENQUEUE)
        assert worker.as_map(worker.read()[0])["queue"] == b"jobs"


def test_a_paused_queue_takes_tasks_and_gives_none(moxy: House, other: Client) -> None:
    usual = commands_of_the_usual_way(moxy)
    with moxy.client() as client:
        assert client.pipeline(("MOXY.PAUSE", "jobs"), FETCH, ENQUEUE)[1] is None
        usual.clear()
        assert client(*FETCH) is None
        assert client(*ENQUEUE)[0] == b"task_id"
        assert [type(command).__name__ for command in usual] == ["Fetch"]
        assert client.pipeline(("MOXY.RESUME", "jobs"), FETCH)[1][5] == b"first"


def test_a_stranger_s_plain_commands_are_refused_and_a_friend_s_are_not() -> None:
    with serving(password="sesame") as house, house.client() as friend, house.client() as stranger:
        assert friend.pipeline(("AUTH", "sesame"), ENQUEUE, FETCH)[0] == "OK"
        for words in (ENQUEUE, FETCH, ("MOXY.ACK", lease(1, 1))):
            assert stranger(*words).code == "NOAUTH"
        assert friend.map(*STATS) == {"ready": 0, "processing": 1, "dead": 0, "active_leases": 1, "heap": 1}
        replies = stranger.pipeline(ENQUEUE, ("AUTH", "sesame"), ("MOXY.ACK", lease(1, 1)), ("RESET",), ENQUEUE)
        assert [getattr(reply, "code", reply) for reply in replies] == ["NOAUTH", "OK", "OK", "RESET", "NOAUTH"]


# The same as ever


PAYLOADS: tuple[bytes, ...] = (b"", b"x", bytes(range(256)), b"\r\n$-1\r\n", b"y" * 100_000)
QUEUES = ("jobs", "réservé", "a:b:c", "q" * 255, "\N{SNOWMAN}")


def conversation(verb: Callable[[str], str], protocol: int) -> tuple[list[bytes], list[AnyCommand]]:
    """All replies to plain commands, byte for byte; and which of these went the usual way."""
    replies: list[bytes] = []
    with serving() as house, house.client(protocol) as client:
        for queue in QUEUES:
            client("MOXY.ENQUEUE", queue, "first")
        usual = commands_of_the_usual_way(house)
        for queue in QUEUES:
            replies += [client.raw(verb("MOXY.ENQUEUE"), queue, payload) for payload in PAYLOADS]
            replies += [client.raw(verb("MOXY.FETCH"), queue, word) for word in (1, "DEFAULT", "default", 99_999, 5, 6)]
            replies += [client.raw(verb("MOXY.ACK"), lease(number, number, queue)) for number in range(1, 7)]
        return replies, list(usual)


@pytest.mark.parametrize("protocol", [2, 3])
def test_every_reply_of_the_lane_is_that_of_the_usual_way_byte_for_byte(protocol: int) -> None:
    """A verb in small letters does not take the lane."""
    fast, declined = conversation(str.upper, protocol)
    slow, usual = conversation(str.lower, protocol)
    assert fast == slow
    assert declined == []
    assert len(usual) == len(slow) == 17 * len(QUEUES)


WRONG: list[tuple[Word, ...]] = [
    *[("MOXY.ENQUEUE", queue, "x") for queue in NOT_QUEUES],
    *[("MOXY.FETCH", queue, 1000) for queue in NOT_QUEUES],
    *[("MOXY.FETCH", "jobs", word) for word in (*NOT_INTEGERS, "0", "-1", str(DAYS_30_MS + 1), "soon")],
    *[("MOXY.ACK", queue + b":1:1:" + NONCE.encode()) for queue in NOT_QUEUES],
    *[
        ("MOXY.ACK", f"jobs:{number}:{token}:{nonce}")
        for number, token, nonce in (
            *(("01", 1, NONCE), (1, "01", NONCE), ("+1", 1, NONCE), (" 1", 1, NONCE), ("", 1, NONCE), (1, "", NONCE)),
            *(("٤", 1, NONCE), ("²", 1, NONCE), ("9" * 18, 1, NONCE), ("9" * 19, 1, NONCE), ("9" * 5000, 1, NONCE)),
            *((1, 9, NONCE), (9, 1, NONCE), (2, 1, NONCE), (1, 1, ""), (1, 1, NONCE + " "), (1, 1, "f" * 16)),
        )
    ],
    *[("MOXY.ACK", word) for word in ("", "jobs", ":::", "jobs:1:1", f"nowhere:1:1:{NONCE}", f"JOBS:1:1:{NONCE}")],
    *[("MOXY.ACK", b"jobs\xff:1:1:" + NONCE.encode()), ("MOXY.ACK", lease(1, 1).encode() + b"\xff")],
    *[(verb,) for verb in ("MOXY.ENQUEUE", "MOXY.FETCH", "MOXY.ACK")],
    ("MOXY.ENQUEUE", "jobs"),
    ("MOXY.ENQUEUE", "jobs", "x", "ID"),
    ("MOXY.FETCH", "jobs"),
    ("MOXY.FETCH", "jobs", 1000, "FROB"),
    ("MOXY.FETCH", "jobs", 1000, "COUNT", 0),
    ("MOXY.ACK", lease(1, 1), "more"),
]


def test_what_is_malformed_is_refused_as_in_small_letters_and_nothing_happens(moxy: House, other: Client) -> None:
    with moxy.client() as client:
        assert client.map(*FETCH)["lease_id"] == lease(1, 1).encode()
        assert client(*ENQUEUE)
        was = seq(moxy)
        for words in WRONG:
            fast, slow = client(*words), client(str(words[0]).lower(), *words[1:])
            assert isinstance(fast, Failure), words
            assert fast == slow, words
        assert seq(moxy) == was
        assert client("MOXY.ACK", lease(1, 1)) == "OK"


def test_options_and_small_letters_mean_what_they_always_did(moxy: House, other: Client) -> None:
    usual = commands_of_the_usual_way(moxy)
    with moxy.client() as client:
        assert client("MOXY.ENQUEUE", "jobs", "p", "PRIORITY", 9, "ID", "urgent") == [b"task_id", b"urgent"]
        assert client("MOXY.ENQUEUE", "jobs", "again", "ID", "t") == [b"task_id", b"t"]
        assert client("Moxy.Enqueue", "jobs", "m") == [b"task_id", f"3-{NONCE}".encode()]
        assert usual != []
        assert client.map(*FETCH)["task_id"] == b"urgent"
        assert len(client("moxy.fetch", "jobs", 1000, "count", 5)) == 2
        client.send_raw(b"MOXY.ENQUEUE jobs inline\r\n")
        assert client.read()[0] == b"task_id"
        usual.clear()
        client.send_raw(b"MOXY.FETCH jobs 1000\r\n")
        assert client.as_map(client.read())["payload"] == b"inline"
        assert usual == []


# What is told of it


def test_counts_events_and_totals_know_plain_commands() -> None:
    heard: list[AnyEvent] = []
    with serving(observers=[lambda turn: heard.extend(turn.events)]) as house, house.client() as client:
        client("CLIENT", "SETNAME", "worker-a")
        client(*ENQUEUE)
        counted = int(server_info(client)["total_commands_processed"])
        usual = commands_of_the_usual_way(house)
        client.pipeline(ENQUEUE, FETCH, FETCH, ("MOXY.ACK", lease(1, 1)))
        assert usual == []
        assert int(server_info(client)["total_commands_processed"]) == counted + 4
        assert client.map(*STATS) == {"ready": 0, "processing": 1, "dead": 0, "active_leases": 1, "heap": 1}
        info = client.map("MOXY.INFO", "jobs")
        assert [info[f"total_{what}"] for what in ("enqueued", "leased", "acked")] == [2, 2, 1]
        assert [type(event).__name__ for event in heard] == ["Enqueued", "Enqueued", "Leased", "Leased", "Acked"]
        assert [event.seq for event in heard] == [1, 2, 3, 4, 5]
        assert b"worker-a" in client.raw("MOXY.EVENTS", "jobs", 3)
        assert client("MOXY.WHY", "jobs", f"2-{NONCE}")


def test_a_lease_of_the_lane_ends_when_its_time_is_up(moxy: House, other: Client) -> None:
    """Nothing but a plain FETCH has happened since the timer was last set."""
    other("MOXY.FETCH", "jobs", 50)
    assert moxy.call(lambda: moxy.server.service.next_wake_ms()) == 1_000_050
    moxy.at(50)
    assert other.map(*STATS)["ready"] == 1
    assert other("MOXY.ACK", lease(1, 1)).code == "NOLEASE"


# Beneath


def test_queues_can_be_frozen_slice_by_slice_while_plain_commands_come() -> None:
    """A snapshot lets the loop go round between two slices: a batch may be open when the next one is due."""
    backend = MemoryBackend(FakeClock(), ZeroIds())
    queues = [f"q{number}" for number in range(250)]
    work = backend.execute([Enqueue(queue, b"x") for queue in queues])
    with pytest.raises(StopIteration):
        work.send(None)
    backend.commit_at_once()
    images = []
    for some in backend.freeze():
        images += some
        for queue in queues:
            batch = backend.plain().batch(queue)
            assert batch is not None
            assert batch.enqueue([b"y"], 0, b"0" * 16, 0)
    assert {image.name: len(list(image.tasks)) for image in images} == dict.fromkeys(queues, 1)
    backend.thaw()
    assert {len(state.tasks) for state in backend.states().values()} == {5}
