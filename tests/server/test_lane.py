"""The fast lane, between a connection and the turn that commits: order, refusals, lost replies, who else is served.

Lives here: what plain commands must not lose by being carried out as they are read. Its rules are held against those
of `decide` in tests/core/test_batch.py, and its replies against the model in spec/machine.
"""

import random
import re
import socket
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moxy.backends.base import CommitRefused, IdSource
from moxy.backends.memory import MemoryBackend
from moxy.requests import Turn
from moxy.server.connection import Connection
from moxy.server.greetings import Greetings
from moxy.server.lane import Lane
from moxy.server.session import Session
from moxy.service import Service
from tests.forms import needs_source
from tests.server.support import FakeClock, Status, Tapped, ZeroIds, encode, serving, until, until_blocked

OK = b"+OK\r\n"


class Rig:
    """A connection, the lane and the service without a socket: turns are run by hand."""

    def __init__(self, password: str = "", ids: IdSource | None = None) -> None:
        self.clock = FakeClock()
        self.memory = MemoryBackend(self.clock, ids or ZeroIds())
        self.backend: Any = Tapped(self.memory)
        self.service = Service(self.backend, self.clock)
        self.lane = Lane(self.memory, self.service, self.clock)
        self.greetings = Greetings(self.backend, self.clock)
        self.password = password
        self.clients = 0
        self.carried_out = 0

    def connection(self) -> Connection:
        self.clients += 1
        return Connection(Session(self.clients, f"peer {self.clients}", self.password), self.greetings, self.lane)

    def say(self, connection: Connection, *commands: tuple[str | int, ...]) -> None:
        data = b"".join(encode(*words) for words in commands)
        self.service.submit_all(connection.receive(data))

    def turn(self) -> Turn:
        self.lane.turn_begins()
        turn = drive(self.service.turn())
        self.carried_out += self.lane.turn_over(turn.refused)
        return turn

    def ask(self, connection: Connection, *commands: tuple[str | int, ...]) -> bytes:
        self.say(connection, *commands)
        self.turn()
        return connection.take_output()

    def refuse_turns(self) -> None:
        def refuse() -> bool:
            self.memory.settle()
            self.memory.take_back()
            raise CommitRefused("the disk is full")

        self.backend.commit_at_once = refuse

    def stats(self) -> tuple[int, int]:
        """How many tasks are ready and leased."""
        state = self.memory.state_of("jobs")
        return len(state.ready), len(state.processing)


def drive(work: Coroutine[Any, Any, Turn]) -> Turn:
    try:
        work.send(None)
    except StopIteration as end:
        turn: Turn = end.value
        return turn
    raise AssertionError("a turn over memory suspended")


ENQUEUE = ("MOXY.ENQUEUE", "jobs", "x")
FETCH = ("MOXY.FETCH", "jobs", 1000)


def lease(number: int, token: int) -> str:
    return f"jobs:{number}:{token}:0000000000000000"


def test_no_reply_leaves_before_the_turn_is_over() -> None:
    rig = Rig()
    client = rig.connection()
    rig.ask(client, ENQUEUE)
    rig.say(client, ENQUEUE, FETCH)
    assert rig.lane.commands == 2, "they did not take the lane"
    assert not client.has_output
    assert client.take_output() == b""
    rig.turn()
    assert client.take_output().count(b"task_id") == 2


def test_the_replies_are_those_of_the_usual_way() -> None:
    for protocol in (2, 3):
        told: list[bytes] = []
        for declining in (False, True):
            rig = Rig()
            if declining:
                rig.lane = Lane(Declining(), rig.service, rig.clock)
            client = rig.connection()
            rig.ask(client, ("HELLO", protocol))
            rig.ask(client, ENQUEUE)
            told.append(rig.ask(client, ENQUEUE, FETCH, ("MOXY.ACK", lease(1, 1))))
            assert rig.carried_out == (0 if declining else 3)
        assert told[0] == told[1]


class SeededIds:
    """Chance that is the same in every run."""

    def __init__(self) -> None:
        self._rng = random.Random(1)

    def seed(self) -> int:
        return self._rng.getrandbits(64)

    def digits(self, count: int) -> bytes:
        return self._rng.randbytes(count // 2).hex().encode()


def test_no_nonce_is_given_twice_however_many_are_needed_at_a_time() -> None:
    """They are drawn a thousand at a time: some runs end where those do, some go over it, some need all."""
    rig = Rig(ids=SeededIds())
    client = rig.connection()
    told = rig.ask(client, ENQUEUE)
    for count in (*[1] * 1030, *[7] * 150, 3000, 3000):
        told += rig.ask(client, *[ENQUEUE] * count) + rig.ask(client, *[FETCH] * count)
    made = re.findall(rb"[-:]([0-9a-f]{16})\r", told)
    # A FETCH tells a lease and a task, whose nonce came with its ENQUEUE.
    assert (len(made), len(set(made))) == (1 + 3 * 8080, 1 + 2 * 8080)
    assert rig.carried_out == 2 * 8080, "they did not take the lane"


WORDS: list[tuple[str | int, ...]] = [
    *(ENQUEUE, ("MOXY.ENQUEUE", "jobs", "y" * 2000), ("MOXY.ENQUEUE", "mail", "x"), ("moxy.enqueue", "jobs", "x")),
    *(FETCH, ("MOXY.FETCH", "jobs", 2000), ("MOXY.FETCH", "mail", 1000), ("MOXY.FETCH", "jobs", "DEFAULT")),
    *(("MOXY.ACK", lease(number, number)) for number in (1, 2, 3)),
    *(("MOXY.ACK", lease(1, 1).replace("jobs", "mail")), ("MOXY.ACK", lease(1, 1)[1:]), ("MOXY.ACK", "x")),
    *(("MOXY.NACK", lease(1, 1)), ("MOXY.STATS", "jobs"), ("MOXY.FETCH", "jobs", ""), ("PING",), ("HELLO", 3)),
    ("QUIT",),
]


def known_by_heart(rig: Rig) -> Connection:
    """A client that has said the same so often that it is not parsed any more; it holds three leases."""
    client = rig.connection()
    for some in (*[ENQUEUE] * 6, *[FETCH] * 3):
        rig.ask(client, some)
    return client


CHUNKS = st.tuples(st.sampled_from(WORDS), st.sampled_from([0, 0, 0, -3, -30]), st.booleans())
"""What is said, how far before its end it is cut, and whether there is a turn then."""


@settings(max_examples=500)
@given(st.lists(CHUNKS, max_size=12))
@example([(("MOXY.NACK", lease(1, 1)), 0, False), (("MOXY.ACK", lease(1, 1)), 0, True)])
@example([(("QUIT",), 0, True), (ENQUEUE, 0, True)])
def test_however_often_and_however_cut_what_is_said_comes_to_the_same(
    chunks: list[tuple[tuple[str | int, ...], int, bool]],
) -> None:
    """A client that says the same over and over is not parsed; one whose queue is not for the lane always is."""
    told: list[bytes] = []
    for declining in (False, True):
        rig = Rig()
        if declining:
            rig.lane = Lane(Declining(), rig.service, rig.clock)
        client = known_by_heart(rig)
        said = replies = b""
        for words, cut, turn in [*chunks, (("PING",), 0, True)]:
            said += encode(*words)
            end = max(len(said) + cut, 0)
            rig.service.submit_all(client.receive(said[:end]))
            said = said[end:]
            if turn:
                rig.turn()
                replies += client.take_output()
        told.append(replies)
    assert told[0] == told[1]


def parsed(rig: Rig, client: Connection, *asked: tuple[str | int, ...]) -> list[bool]:
    """Say these one after the other; which of them had to be parsed."""
    fed: list[bytes] = []
    parser = client._parser
    with pytest.MonkeyPatch.context() as patch:
        feed = parser.feed
        patch.setattr(
            client,
            "_parser",
            SimpleNamespace(feed=lambda data: fed.append(data) or feed(data), is_midway=False, fault=None),
        )
        told: list[bool] = []
        for words in asked:
            before = len(fed)
            rig.ask(client, words)
            told.append(len(fed) > before)
        return told


def pieces(client: Connection) -> list[bytes]:
    """All that is to be said, as it is written."""
    return list(iter(client.take_output, b""))


MIB = 1024 * 1024


@pytest.mark.parametrize("known", [True, False], ids=["known by heart", "parsed"])
@pytest.mark.parametrize(("command", "count"), [(FETCH, 19_000), (ENQUEUE, 50_000)])
def test_replies_are_made_a_piece_at_a_time(known: bool, command: tuple[str | int, ...], count: int) -> None:
    """However short a command is, however long its reply."""
    rig = Rig()
    client = known_by_heart(rig) if known else rig.connection()
    rig.ask(client, *[("MOXY.MENQUEUE", "jobs", *[""] * 1000)] * 20)
    before = rig.carried_out
    rig.say(client, *[command] * count)
    rig.turn()
    sizes = list(map(len, pieces(client)))
    assert sum(sizes) > 2 * MIB
    assert max(sizes) < 1.3 * MIB
    assert rig.carried_out - before > 9000, "they did not take the lane"


@pytest.mark.parametrize("known", [True, False], ids=["known by heart", "parsed"])
def test_a_piece_has_one_reply_more_than_it_has_room_for(known: bool) -> None:
    rig = Rig()
    client = known_by_heart(rig) if known else rig.connection()
    rig.ask(client, *[("MOXY.ENQUEUE", "jobs", "y" * (MIB - 200)) for _ in range(4)])
    rig.ask(client, *[FETCH] * (3 if known else 0))  # the short ones of before
    rig.say(client, FETCH, ENQUEUE, *[FETCH] * 3)
    rig.turn()
    assert [round(len(piece) / MIB) for piece in pieces(client)] == [2, 2]


@needs_source
def test_what_is_said_twice_in_a_row_is_known_by_heart() -> None:
    mail, later = ("MOXY.ENQUEUE", "mail", "x"), ("MOXY.FETCH", "jobs", 2000)
    rig = Rig()
    client = known_by_heart(rig)
    assert parsed(rig, client, ENQUEUE, FETCH, ("MOXY.ACK", lease(1, 1))) == [False, False, False]
    rig.ask(rig.connection(), mail)
    assert parsed(rig, client, mail, ENQUEUE, mail, ENQUEUE) == [True, False, True, False], "now and then is no habit"
    assert parsed(rig, client, later, FETCH, later, FETCH) == [True, False, True, False], "nor is another timeout"
    assert parsed(rig, client, mail, mail, mail, mail)[-1] is False
    for _ in range(10):
        rig.ask(client, ENQUEUE)
    rig.ask(rig.connection(), later)
    long = ("MOXY.ENQUEUE", "jobs", "y" * 2000)
    assert parsed(rig, client, long, long, FETCH) == [True, True, False], "what others say is not this client's habit"


def test_what_looks_like_a_command_in_a_payload_is_none() -> None:
    rig = Rig()
    client = known_by_heart(rig)
    payload = encode(*ENQUEUE)
    said = encode("MOXY.ENQUEUE", "jobs", payload)
    at = said.index(payload)
    rig.service.submit_all(client.receive(said[:at]))
    rig.service.submit_all(client.receive(said[at:]))
    rig.turn()
    assert client.take_output().count(b"task_id") == 1
    assert [task.payload for task in rig.memory.state_of("jobs").in_state("ready")][-1] == payload


def test_what_was_held_back_comes_first() -> None:
    rig = Rig()
    client, other = known_by_heart(rig), rig.connection()
    rig.ask(client, ("MOXY.FETCH", "more", 1000, "BLOCK", 0), ("MOXY.ENQUEUE", "jobs", "first"))
    rig.ask(other, ("MOXY.ENQUEUE", "more", "x"))
    rig.say(client, ("MOXY.ENQUEUE", "jobs", "second"))
    rig.service.submit_all(client.proceed())
    rig.turn()
    assert [task.payload for task in rig.memory.state_of("jobs").in_state("ready")][-2:] == [b"first", b"second"]


class Declining:
    """A backend in which no queue is for the lane."""

    def batch(self, queue: str) -> None:
        return None

    def digits(self, count: int) -> bytes:
        raise AssertionError("nothing is given an id")


def test_replies_come_in_the_order_of_the_commands() -> None:
    rig = Rig()
    client = rig.connection()
    rig.ask(client, ENQUEUE)
    replies = rig.ask(client, ("PING",), ENQUEUE, ("MOXY.STATS", "jobs"), ENQUEUE, FETCH, ("ECHO", "end"))
    order = [replies.index(part) for part in (b"PONG", b"\r\n2-0", b"ready\r\n:2", b"\r\n3-0", b"lease_id", b"end\r\n")]
    assert order == sorted(order)


def test_nothing_overtakes_a_command_that_waits_for_its_turn() -> None:
    """The ACK stands behind a NACK of the same lease, which goes the usual way: it comes too late."""
    rig = Rig()
    client = rig.connection()
    rig.ask(client, ENQUEUE)
    rig.ask(client, FETCH)
    nacked, acked = rig.ask(client, ("MOXY.NACK", lease(1, 1)), ("MOXY.ACK", lease(1, 1))).splitlines()
    assert nacked == b"+OK"
    assert acked.startswith(b"-NOLEASE")


def test_behind_a_blocked_fetch_nothing_is_carried_out() -> None:
    rig = Rig()
    client, other = rig.connection(), rig.connection()
    rig.ask(other, ENQUEUE, ("MOXY.ENQUEUE", "more", "x"), FETCH)
    rig.ask(client, (*FETCH, "BLOCK", 0), ("MOXY.ENQUEUE", "more", "y"))
    assert len(rig.memory.state_of("more").ready) == 1
    rig.ask(other, ENQUEUE)
    assert b"2-0000" in client.take_output()
    rig.service.submit_all(client.proceed())
    rig.turn()
    assert len(rig.memory.state_of("more").ready) == 2


def test_who_waits_gets_what_is_enqueued_and_first() -> None:
    rig = Rig()
    client, first, second = rig.connection(), rig.connection(), rig.connection()
    rig.ask(client, ENQUEUE, FETCH)
    rig.ask(first, (*FETCH, "BLOCK", 0))
    rig.ask(second, (*FETCH, "BLOCK", 0))
    rig.ask(client, ENQUEUE, FETCH)
    assert (b"2-0000" in first.take_output(), second.take_output()) == (True, b"")
    rig.ask(client, ENQUEUE)
    assert b"3-0000" in second.take_output()


def test_a_refused_turn_answers_every_command_so_and_nothing_happened() -> None:
    rig = Rig()
    client, other = rig.connection(), rig.connection()
    rig.ask(client, ENQUEUE, ENQUEUE)
    rig.ask(client, FETCH)
    was = rig.memory.state_of("jobs").seq
    rig.refuse_turns()
    rig.say(other, ENQUEUE)
    replies = rig.ask(client, ENQUEUE, FETCH, ("MOXY.ACK", lease(1, 1)), ("MOXY.STATS", "nowhere"))
    assert replies.count(b"-IOERR the disk is full") == 4
    assert other.take_output().startswith(b"-IOERR")
    assert rig.memory.state_of("jobs").seq == was
    assert rig.stats() == (1, 1)
    del rig.backend.commit_at_once
    assert rig.ask(client, ("MOXY.ACK", lease(1, 1))) == OK


@pytest.mark.parametrize("behind", [(), (("MOXY.STATS", "jobs"),)], ids=["alone", "with another reply"])
def test_leases_in_replies_that_were_not_written_are_known(behind: tuple[tuple[str, ...], ...]) -> None:
    rig = Rig()
    client = rig.connection()
    rig.ask(client, ENQUEUE, ENQUEUE)
    rig.say(client, FETCH, *behind)
    assert client.lost_leases() == [lease(1, 1)]
    rig.turn()
    assert client.lost_leases() == [lease(1, 1)]
    client.take_output()
    assert client.lost_leases() == [lease(1, 1)], "the transport has it, and has not said that it is out"
    client.sent()
    assert client.lost_leases() == []


def test_leases_that_no_reply_brought_go_back_uncharged() -> None:
    with serving() as house, house.client() as other:
        for _ in range(30):
            other("MOXY.ENQUEUE", "jobs", "x" * 1_000_000)
        with house.client(receive_bytes=4096) as slow:
            slow.send_raw(encode("MOXY.FETCH", "jobs", 60_000) * 30)
            until(lambda: other.map("MOXY.STATS", "jobs")["processing"], lambda processing: processing >= 5)
            slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        until(lambda: other.map("MOXY.STATS", "jobs")["ready"], lambda ready: ready >= 20)  # the kernel took some
        (first,) = other("MOXY.PEEK", "jobs", "COUNT", 1)
        shown = dict(zip(first[::2], first[1::2], strict=True))
        assert (shown[b"attempts"], shown[b"deliveries"]) == (0, 1)


def test_strangers_are_not_served() -> None:
    rig = Rig(password="sesame")
    friend, stranger = rig.connection(), rig.connection()
    assert rig.ask(friend, ("AUTH", "sesame"), ENQUEUE).startswith(OK)
    for words in (ENQUEUE, FETCH, ("MOXY.ACK", lease(1, 1))):
        assert rig.ask(stranger, words).startswith(b"-NOAUTH")
    assert rig.stats() == (1, 0)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("MOXY.ENQUEUE", "a b", "x"), b"-BADQUEUE"),
        (("MOXY.FETCH", "jobs", "soon"), b"-BADTIMEOUT"),
        (("MOXY.FETCH", "jobs", "0"), b"-BADTIMEOUT"),
        (("MOXY.ACK", "jobs:1"), b"-NOLEASE"),
        (("MOXY.ACK", "jobs:1:2:0000000000000000"), b"-NOLEASE"),
        (("MOXY.ACK", "jobs:1:1:000000000000000f"), b"-NOLEASE"),
        (("MOXY.ACK", "jobs:" + "9" * 30 + ":1:0000000000000000"), b"-NOLEASE"),
        (("MOXY.ACK", "nowhere:1:1:0000000000000000"), b"-NOLEASE"),
    ],
)
def test_what_is_wrong_is_refused_as_ever_and_the_rest_goes_on(words: tuple[str | int, ...], code: bytes) -> None:
    rig = Rig()
    client = rig.connection()
    rig.ask(client, ENQUEUE)
    rig.ask(client, FETCH)
    replies = rig.ask(client, ENQUEUE, words, ENQUEUE)
    assert replies.count(code) == 1
    assert replies.index(b"2-0000") < replies.index(code) < replies.index(b"3-0000")
    assert rig.stats() == (2, 1)


def test_commands_in_small_letters_and_with_options_are_as_right_as_plain_ones() -> None:
    rig = Rig()
    client = rig.connection()
    rig.ask(client, ENQUEUE)
    rig.ask(client, ("moxy.enqueue", "jobs", "y"), (*ENQUEUE, "PRIORITY", 9), ENQUEUE)
    taken = [rig.ask(client, FETCH) for _ in range(4)]
    assert [reply.split(b"task_id\r\n$18\r\n")[1][:1] for reply in taken] == [b"3", b"1", b"2", b"4"]


def test_observers_and_readers_hear_of_plain_commands() -> None:
    rig = Rig()
    client, reader = rig.connection(), rig.connection()
    rig.ask(client, ENQUEUE)
    rig.ask(reader, ("MOXY.EVENTS", "jobs", 3, "BLOCK", 0))
    rig.say(client, ENQUEUE, FETCH)
    assert [type(event).__name__ for event in rig.turn().events] == ["Enqueued", "Leased"]
    assert b"leased" in reader.take_output().lower()


def test_info_counts_plain_commands() -> None:
    with serving() as house, house.client() as client:
        client("MOXY.ENQUEUE", "jobs", "x")
        before = client("INFO", "stats")
        client.pipeline(*[("MOXY.ENQUEUE", "jobs", "x")] * 10)
        after = client("INFO", "stats")
        count = [int(text.split(b"total_commands_processed:")[1].split(b"\r\n")[0]) for text in (before, after)]
        assert count[1] - count[0] >= 10


def test_a_waiter_over_a_socket_is_served_by_a_plain_enqueue() -> None:
    with serving() as house, house.client() as worker, house.client() as other:
        other("MOXY.ENQUEUE", "jobs", "x")
        assert worker.map("MOXY.FETCH", "jobs", 1000)["payload"] == b"x"
        worker.send("MOXY.FETCH", "jobs", 1000, "BLOCK", 0)
        until_blocked(other, 1)
        other("MOXY.ENQUEUE", "jobs", "y")
        assert worker.read()[0][7] == b"y"
        assert other("PING") == Status("PONG")


@pytest.mark.parametrize("behind", [(), (("PING",),), (("PING",), ("ECHO", "x"))])
def test_what_was_held_back_gets_a_turn_whatever_comes_behind_it(behind: tuple[tuple[str, ...], ...]) -> None:
    with serving() as house, house.client() as worker, house.client() as other:
        other("MOXY.ENQUEUE", "jobs", "x")
        worker.send_raw(
            b"".join(encode(*words) for words in ((*FETCH[:1], "more", 1000, "BLOCK", 0), ENQUEUE, *behind))
        )
        until_blocked(other, 1)
        other("MOXY.ENQUEUE", "more", "y")
        assert worker.read()[0][7] == b"y"
        assert worker.read()[0] == b"task_id"
        assert len([worker.read() for _ in behind]) == len(behind)


def test_the_time_of_a_command_is_not_that_of_an_earlier_one_that_had_no_turn() -> None:
    rig = Rig()
    client = rig.connection()
    rig.ask(client, ENQUEUE)
    rig.say(client, ("MOXY.FETCH", "jobs"))  # refused on the spot: no turn comes of it
    assert client.take_output().startswith(b"-ERR")
    rig.clock.ms += 1000
    rig.ask(client, ENQUEUE)
    state = rig.memory.state_of("jobs")
    first, second = (task.enqueued_ms for task in state.in_state("ready"))
    assert second == first + 1000
