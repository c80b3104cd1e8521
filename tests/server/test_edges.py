"""Where conversations end, begin or stall: blocked clients that say more, half-closed ones, strangers, slow readers.

Each test is a corner that a reading of the code left in doubt; `test_conversation` has the plain cases.
"""

import signal
import socket
import threading
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest

from moxy.requests import Request
from tests.forms import needs_source
from tests.server.support import (
    MIB,
    Client,
    Failure,
    Gone,
    House,
    Process,
    Status,
    encode,
    server_info,
    serving,
    until,
    until_blocked,
    until_connected,
    until_still,
)

SECRET = "sesame"


@pytest.fixture(params=["uvloop", "asyncio"])
def moxy(request: pytest.FixtureRequest) -> Iterator[House]:
    with serving(loop=request.param) as house:
        yield house


@pytest.fixture
def guarded() -> Iterator[House]:
    with serving(password=SECRET) as house:
        yield house


@pytest.fixture
def other(moxy: House) -> Iterator[Client]:
    with moxy.client() as client:
        yield client


def block(client: Client, *more: bytes) -> None:
    """A fetch that waits, and what is behind it, in one segment."""
    client.send_raw(encode("MOXY.FETCH", "jobs", 1000, "BLOCK", 0) + b"".join(more))


def reset_on_close(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


# Behind a blocked fetch


def test_local_commands_behind_a_blocked_fetch_are_answered_with_it(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        block(worker, encode("PING"), encode("ECHO", "x"))
        until_blocked(other, 1)
        other("MOXY.ENQUEUE", "jobs", "go")
        assert len(worker.read()) == 1
        assert (worker.read(), worker.read()) == (Status("PONG"), b"x")


def test_a_refused_command_behind_a_blocked_fetch_is_answered_with_it(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        block(worker, encode("NOPE"))
        until_blocked(other, 1)
        other("MOXY.ENQUEUE", "jobs", "go")
        assert len(worker.read()) == 1
        assert worker.read().startswith("ERR unknown command")


def test_quit_behind_a_blocked_fetch_ends_the_connection(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        block(worker, encode("QUIT"))
        until_blocked(other, 1)
        other("MOXY.ENQUEUE", "jobs", "go")
        assert len(worker.read()) == 1
        assert worker.read() == Status("OK")
        assert worker.is_closed_by_server()


def test_a_fault_behind_a_blocked_fetch_is_told_after_it(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        block(worker, encode("MOXY.ENQUEUE", "other", "x"), b"*1\r\n+PING\r\n")
        until_blocked(other, 1)
        other("MOXY.ENQUEUE", "jobs", "go")
        assert len(worker.read()) == 1
        assert worker.read()[0] == b"task_id"
        assert "bulk string" in worker.read()
        assert worker.is_closed_by_server()


def test_blocked_fetches_in_a_row_are_served_one_after_the_other(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        fetch = encode("MOXY.FETCH", "jobs", 1000, "BLOCK", 0)
        block(worker, encode("PING"), fetch, encode("ECHO", "end"))
        for task in "ab":
            until_blocked(other, 1)
            other("MOXY.ENQUEUE", "jobs", task)
            assert worker.as_map(worker.read()[0])["payload"] == task.encode()
            assert worker.read() in (Status("PONG"), b"end")


def test_hello_behind_a_blocked_fetch_changes_only_what_follows(moxy: House, other: Client) -> None:
    with moxy.client() as worker:
        block(worker, encode("HELLO", 3), encode("MOXY.STATS", "jobs"))
        until_blocked(other, 1)
        other("MOXY.ENQUEUE", "jobs", "go")
        assert isinstance(worker.read()[0], list)
        assert isinstance(worker.read(), dict)
        assert isinstance(worker.read(), dict)


def test_a_client_that_sends_much_behind_a_blocked_fetch_and_leaves_is_noticed(moxy: House, other: Client) -> None:
    """Its waiter must be dropped before a task is leased for it, although so much waits that reading had stopped."""
    with moxy.client() as worker:
        block(worker, encode("PING") * 2000)
        until_blocked(other, 1)
        reset_on_close(worker)
    until_connected(other, 1)
    other("MOXY.ENQUEUE", "jobs", "x", "ID", "t")
    shown = other.map("MOXY.SHOW", "jobs", "t")
    assert (shown["state"], shown["deliveries"]) == (b"ready", 0)


def test_a_fetch_whose_client_died_before_its_reply_goes_back_uncharged(moxy: House, other: Client) -> None:
    """The server is kept busy meanwhile, so that it finds the command and its client's end together."""
    other("MOXY.ENQUEUE", "jobs", "x", "ID", "t")
    with moxy.client() as worker:
        assert worker("PING") == Status("PONG")
        busy = moxy.keep_busy()
        worker.send("MOXY.FETCH", "jobs", 60_000)
        reset_on_close(worker)
    busy.set()
    until_connected(other, 1)
    shown = until(lambda: other.map("MOXY.SHOW", "jobs", "t"), lambda shown: shown["state"] == b"ready")
    assert shown["attempts"] == 0


def test_waiters_are_served_in_the_order_in_which_they_came(moxy: House, other: Client) -> None:
    with moxy.client() as first, moxy.client() as second:
        for number, worker in enumerate((first, second), 1):
            block(worker)
            until_blocked(other, number)
        other("MOXY.MENQUEUE", "jobs", "a", "b")
        got = [worker.as_map(worker.read()[0])["payload"] for worker in (first, second)]
        assert got == [b"a", b"b"]


# Half-closed clients


def test_what_came_before_a_blocked_fetch_is_answered_to_a_half_closed_client(moxy: House) -> None:
    """The fetch counts as gone, the commands before it do not."""
    with moxy.client() as client:
        client.send_raw(encode("PING") + encode("MOXY.ENQUEUE", "other", "x", "ID", "t"))
        block(client)
        client.half_close()
        assert client.read() == Status("PONG")
        assert client.read() == [b"task_id", b"t"]
        assert client.is_closed_by_server()


def test_a_fetch_that_need_not_wait_is_answered_to_a_half_closed_client(moxy: House, other: Client) -> None:
    for number in range(20):
        other("MOXY.ENQUEUE", "jobs", f"x{number}")
        with moxy.client() as client:
            block(client)
            client.half_close()
            assert client.as_map(client.read()[0])["payload"] == f"x{number}".encode()
            assert client.is_closed_by_server()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("tail", [b"", encode("MOXY.FETCH", "jobs", 1000, "BLOCK", 0)], ids=["", "blocked fetch"])
def test_a_client_that_half_closed_before_its_commands_were_committed_is_answered(loop: str, tail: bytes) -> None:
    with serving(loop=loop, slow_commits=True) as house, house.client() as client:
        assert client("PING") == Status("PONG")
        busy = house.keep_busy()
        client.send_raw(encode("PING") + encode("MOXY.ENQUEUE", "other", "x", "ID", "t") + tail)
        client.half_close()
        busy.set()
        assert client.read() == Status("PONG")
        assert client.read() == [b"task_id", b"t"]
        assert client.is_closed_by_server()


def test_a_half_closed_client_gets_a_long_pipeline_of_replies(moxy: House) -> None:
    with moxy.client() as client:
        client.send_raw(encode("MOXY.ENQUEUE", "jobs", "x") * 3000)
        client.half_close()
        assert [client.read()[0] for _ in range(3000)] == [b"task_id"] * 3000
        assert client.is_closed_by_server()


# Strangers


def test_a_pipeline_that_begins_with_auth_is_bound_by_the_limits_of_a_known_client(guarded: House) -> None:
    """However the network cuts it: what comes after a good AUTH comes from somebody who has shown who it is."""
    pipeline = encode("AUTH", SECRET) + encode("MOXY.MENQUEUE", "jobs", *["x" * 20_000] * 20)
    with guarded.client() as client:
        client.send_raw(pipeline)
        assert client.read() == Status("OK")
        assert isinstance(client.read(), list)


def test_a_pipeline_that_begins_with_a_bad_auth_is_bound_by_the_limits_of_a_stranger(guarded: House) -> None:
    with guarded.client() as client:
        client.send_raw(encode("AUTH", "wrong") + encode("PING", *"1234567890"))
        assert client.read().code == "WRONGPASS"
        assert client.read().startswith("ERR Protocol error")
        assert client.is_closed_by_server()


@pytest.mark.parametrize(
    "more", [("BOGUS",), ("SETNAME", "two words"), ("SETNAME",), ("AUTH", "default")], ids=" ".join
)
def test_a_hello_that_is_refused_lets_nobody_in(guarded: House, more: tuple[str, ...]) -> None:
    with guarded.client() as client:
        assert isinstance(client("HELLO", 3, "AUTH", "default", SECRET, *more), Failure)
        assert client("PING").code == "NOAUTH"
        assert client("HELLO", 2, "AUTH", "default", SECRET)[-1] == []
        assert client("PING") == Status("PONG")


def test_a_refused_hello_changes_no_name_and_no_protocol(moxy: House) -> None:
    with moxy.client() as client:
        client("CLIENT", "SETNAME", "me")
        assert client("HELLO", 3, "SETNAME", "you", "BOGUS").code == "ERR"
        assert client("HELLO", 3, "SETNAME", "a b").code == "ERR"
        assert client("HELLO", 4, "SETNAME", "you").code == "NOPROTO"
        assert client("CLIENT", "GETNAME") == b"me"
        assert isinstance(client("MOXY.STATS", "q"), list)


def test_a_failed_auth_takes_nothing_away(guarded: House) -> None:
    with guarded.client() as client:
        assert client("AUTH", "default", SECRET) == Status("OK")
        assert client("AUTH", "wrong").code == "WRONGPASS"
        assert client("PING") == Status("PONG")


def test_a_stranger_may_quit_and_reset(guarded: House) -> None:
    with guarded.client() as client:
        assert client("RESET") == Status("RESET")
        assert client("QUIT") == Status("OK")
        assert client.is_closed_by_server()


def test_reset_forgets_name_and_protocol(moxy: House) -> None:
    with moxy.client(3) as client:
        client("CLIENT", "SETNAME", "me")
        assert client("RESET") == Status("RESET")
        assert client.raw("CLIENT", "GETNAME") == b"$-1\r\n"
        assert client.raw("MOXY.FETCH", "jobs", 1000) == b"$-1\r\n"


def test_http_ends_at_its_host_line_and_what_came_before_is_answered(moxy: House) -> None:
    with moxy.client() as client:
        client.send_raw(b"PING\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nMOXY.ENQUEUE jobs x\r\n")
        assert client.read() == Status("PONG")
        assert client.read().startswith("ERR unknown command 'GET'")
        assert client.is_closed_by_server()
    with moxy.client() as client:
        assert client.map("MOXY.STATS", "jobs")["ready"] == 0
    assert ("client.refused", "speaks HTTP, not RESP") in [(event, said.get("why")) for event, said in moxy.said]


# Slow readers


def test_replies_are_not_built_far_beyond_the_limit_of_what_a_client_may_have_waiting() -> None:
    """Few bytes of requests can ask for very many bytes of replies: whoever asks is cut off or made to wait."""
    with serving(output_bytes_max=MIB) as house, house.client() as other:
        other("MOXY.ENQUEUE", "jobs", "x" * 100_000)
        with house.client(receive_bytes=4096) as slow:
            assert slow("PING") == Status("PONG")
            tracemalloc.start()
            try:
                slow.send_raw(encode("MOXY.PEEK", "jobs") * 1000)
                until_still(lambda: int(server_info(other)["total_commands_processed"]))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak < 16 * MIB, f"{peak / MIB:.0f} MiB were held for a client that may have 1 MiB"


def test_leases_of_a_client_that_is_cut_off_go_back_uncharged() -> None:
    with serving(output_bytes_max=MIB) as house, house.client() as other:
        for number in range(30):
            other("MOXY.ENQUEUE", "jobs", "x" * 1_000_000, "ID", f"t{number}")
        with house.client(receive_bytes=4096) as slow:
            slow.send("MOXY.FETCH", "jobs", 60_000, "COUNT", 30, "BOUND")
            until(lambda: other.map("MOXY.INFO", "jobs")["last_token"], lambda token: token == 30)
            until(lambda: other.map("MOXY.STATS", "jobs")["ready"], lambda ready: ready == 30)
        shown = other.map("MOXY.SHOW", "jobs", "t29")
        assert (shown["attempts"], shown["releases"], shown["disconnects"]) == (0, 1, 0)


def test_a_slow_reader_that_says_goodbye_keeps_its_leases(moxy: House, other: Client) -> None:
    """The reply was written in full, late: nothing is released."""
    for number in range(20):
        other("MOXY.ENQUEUE", "jobs", "x" * 1_000_000, "ID", f"t{number}")
    with moxy.client(receive_bytes=4096) as slow:
        slow.send_raw(encode("MOXY.FETCH", "jobs", 60_000, "COUNT", 20) + encode("QUIT"))
        until(lambda: other.map("MOXY.STATS", "jobs")["processing"], lambda processing: processing == 20)
        assert len(slow.read()) == 20
        assert slow.read() == Status("OK")
        assert slow.is_closed_by_server()
    until_connected(other, 1)
    assert other.map("MOXY.STATS", "jobs")["processing"] == 20


def test_a_flood_to_a_client_that_does_not_read_is_bounded_and_served_in_the_end() -> None:
    """It asks for twice what it may have outstanding; were it read from on and on, it would be cut off."""
    asked, payload = 60_000, 1000
    with serving(output_bytes_max=32 * MIB) as house, house.client() as other:
        other("MOXY.ENQUEUE", "jobs", "x" * payload)
        size = len(other.raw("MOXY.PEEK", "jobs"))
        with house.client(receive_bytes=65536) as slow:
            sender = threading.Thread(target=slow.send_raw, args=(encode("MOXY.PEEK", "jobs") * asked,))
            sender.start()
            for _ in range(200):
                assert other("PING") == Status("PONG"), "others are served meanwhile"
            slow.read_bytes(size * asked)
            sender.join(10)
            assert slow("PING") == Status("PONG")
        assert house.said == []


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_arrived_before_the_signal_is_answered(number: signal.Signals) -> None:
    """The process is stopped meanwhile, so that commands and signal are there when it goes on."""
    with Process() as server, server.client() as first, server.client() as second:
        assert (first("PING"), second("PING")) == (Status("PONG"), Status("PONG"))
        server.signal(signal.SIGSTOP)
        first.send_raw(encode("MOXY.ENQUEUE", "jobs", "x") * 50)
        second.send_raw(encode("PING") * 50)
        server.signal(number)
        server.signal(signal.SIGCONT)
        assert [first.read()[0] for _ in range(50)] == [b"task_id"] * 50
        assert [second.read() for _ in range(50)] == ["PONG"] * 50
        assert first.is_closed_by_server()
        assert second.is_closed_by_server()
        assert server.end() == (0, b"")


@needs_source
def test_what_arrives_together_with_the_stop_is_answered(moxy: House) -> None:
    with moxy.client() as client:
        assert client("PING") == Status("PONG")
        submit_all = moxy.server.service.submit_all

        def submit_and_stop(requests: Sequence[Request]) -> None:
            submit_all(requests)
            moxy.server.stop()

        moxy.call(lambda: setattr(moxy.server.service, "submit_all", submit_and_stop))
        assert client("MOXY.ENQUEUE", "jobs", "x")[0] == b"task_id"
        assert client.is_closed_by_server()
    moxy.join()


def test_a_server_that_stops_answers_slow_readers_in_full(moxy: House) -> None:
    with moxy.client(receive_bytes=4096) as slow, moxy.client() as other:
        other("MOXY.ENQUEUE", "jobs", "x" * 1_000_000)
        slow.send_raw(encode("MOXY.PEEK", "jobs") * 10)
        until(lambda: int(server_info(other)["total_commands_processed"]), lambda count: count >= 11)
        moxy.call(moxy.server.stop)
        assert [len(slow.read()) for _ in range(10)] == [1] * 10
        with pytest.raises(Gone):
            slow.read()
    moxy.join()
