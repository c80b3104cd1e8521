"""Connections over real sockets: order, protocol faults, authentication, back-pressure, blocked and bound clients."""

import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
import redis.asyncio

from moxy.wire.table import ROWS
from tests.server.support import (
    NONCE,
    T0,
    Failure,
    Gone,
    House,
    Process,
    encode,
    serving,
    serving_in_real_time,
    until,
    until_blocked,
    until_connected,
)


@pytest.fixture(params=["uvloop", "asyncio"])
def moxy(request: pytest.FixtureRequest) -> Iterator[House]:
    with serving(loop=request.param) as house:
        yield house


# Order


def test_replies_come_in_the_order_of_the_commands(moxy: House) -> None:
    with moxy.client() as client:
        replies = client.pipeline(
            ("PING",),
            ("MOXY.ENQUEUE", "jobs", "a", "ID", "t"),
            ("ECHO", "x"),
            ("MOXY.STATS", "jobs"),
            ("NOPE",),
            ("PING",),
        )
    assert replies[0] == "PONG"
    assert replies[1] == [b"task_id", b"t"]
    assert replies[2] == b"x"
    assert replies[3][:2] == [b"ready", 1]
    assert replies[4].startswith("ERR unknown command 'NOPE'")
    assert replies[5] == "PONG"


def test_a_command_may_arrive_in_any_pieces(moxy: House) -> None:
    with moxy.client() as client:
        for byte in encode("MOXY.ENQUEUE", "jobs", "hello", "ID", "t"):
            client.send_raw(bytes([byte]))
        assert client.read() == [b"task_id", b"t"]


def test_inline_commands_work_as_in_telnet(moxy: House) -> None:
    with moxy.client() as client:
        client.send_raw(b'PING\r\nmoxy.enqueue jobs "two words" ID t\n')
        assert client.read() == "PONG"
        assert client.read() == [b"task_id", b"t"]
        assert client.map("MOXY.FETCH", "jobs", 1000)["payload"] == b"two words"


def test_hello_3_changes_the_replies_after_it_and_not_those_before(moxy: House) -> None:
    with moxy.client() as client:
        client.send_raw(encode("MOXY.STATS", "q") + encode("HELLO", 3) + encode("MOXY.STATS", "q") + encode("RESET"))
        assert isinstance(client.read(), list)
        hello = client.read()
        assert (hello[b"proto"], hello[b"server"]) == (3, b"moxy")
        assert isinstance(client.read(), dict)
        assert client.read() == "RESET"
        assert isinstance(client("MOXY.STATS", "q"), list)


def test_a_bad_hello_leaves_the_protocol_alone(moxy: House) -> None:
    with moxy.client() as client:
        assert client("HELLO", 4).code == "NOPROTO"
        assert client("HELLO", "three").code == "ERR"
        assert client("HELLO", 3, "FROB").code == "ERR"
        assert isinstance(client("MOXY.STATS", "q"), list)


def test_quit_answers_what_was_asked_before_and_ends(moxy: House) -> None:
    with moxy.client() as client:
        client.send_raw(encode("PING") + encode("QUIT") + encode("PING"))
        assert (client.read(), client.read()) == ("PONG", "OK")
        assert client.is_closed_by_server()


# Faults


FAULTS = {
    b"$4\r\nPING\r\n": "expected array",
    b"*1\r\n+PING\r\n": "bulk string",
    b"*x\r\n": "invalid multibulk length",
    b"*1\r\n$x\r\n": "invalid bulk length",
    b"*1\r\n$4\r\nPINGxx": "missing CRLF",
    b"*2000\r\n": "invalid multibulk length",
    b"*1\r\n$2000000\r\n": "invalid bulk length",
    b'PING "a\r\n': "unbalanced quotes",
}


@pytest.mark.parametrize("data", FAULTS, ids=FAULTS.get)
def test_a_protocol_error_is_named_and_ends_the_connection_after_what_came_before(moxy: House, data: bytes) -> None:
    with moxy.client() as client:
        client.send_raw(encode("MOXY.ENQUEUE", "jobs", "x", "ID", "t") + data)
        assert client.read() == [b"task_id", b"t"]
        fault = client.read()
        assert isinstance(fault, Failure)
        assert fault.startswith("ERR Protocol error: ")
        assert FAULTS[data] in fault
        assert client.is_closed_by_server()


def test_http_is_shown_the_door_and_logged(moxy: House) -> None:
    with moxy.client() as client:
        client.send_raw(b"POST / HTTP/1.1\r\nHost: localhost:6380\r\n\r\nMOXY.ENQUEUE jobs x\r\n")
        assert client.is_closed_by_server()
    with moxy.client() as client:
        assert client.map("MOXY.STATS", "jobs")["ready"] == 0
    assert "client.refused" in [event for event, _ in moxy.said]


# Who may come in


def test_before_auth_there_is_little_to_do() -> None:
    with serving(password="sesame") as house, house.client() as client:
        for row in ROWS:
            if "no_auth" not in row.flags:
                words = [row.name, *["x"] * (abs(row.arity) - 1)]
                assert client(*words).code == "NOAUTH", row.name
        assert client("HELLO", 3).code == "NOAUTH"
        assert client("AUTH", "wrong").code == "WRONGPASS"
        assert client("AUTH", "nobody", "sesame").code == "WRONGPASS"
        assert client("AUTH", "sesame") == "OK"
        assert client("PING") == "PONG"
        assert client("RESET") == "RESET"
        assert client("PING").code == "NOAUTH"
        assert client("HELLO", 2, "AUTH", "default", "sesame", "SETNAME", "me")[1] == b"moxy"
        assert client("CLIENT", "GETNAME") == b"me"


def test_auth_where_there_is_no_password_says_so(moxy: House) -> None:
    with moxy.client() as client:
        assert "no password" in client("AUTH", "x")


def test_a_stranger_may_say_ten_words_and_sixteen_kilobytes() -> None:
    with serving(password="sesame") as house:
        with house.client() as client:
            assert client("PING", *"123456789").code == "NOAUTH"
            assert client("PING", "x" * 16 * 1024).code == "NOAUTH"
            assert "Protocol error" in client("PING", *"1234567890")
            assert client.is_closed_by_server()
        with house.client() as client:
            assert "Protocol error" in client.send_raw(b"*2\r\n$4\r\nPING\r\n$16385\r\n").read()
        with house.client() as client:
            assert client("AUTH", "sesame") == "OK"
            assert client("MOXY.MENQUEUE", "jobs", *["x" * 20_000] * 20)


def test_one_client_too_many_is_told_and_logged() -> None:
    with serving(clients_max=2) as house, house.client() as first, house.client() as second:
        assert (first("PING"), second("PING")) == ("PONG", "PONG")
        with house.client() as third:
            assert third.read() == "ERR max number of clients reached"
            assert third.is_closed_by_server()
        second.close()
        until_connected(first, 1)
        with house.client() as fourth:
            assert fourth("PING") == "PONG"
        assert ("client.refused", "max clients reached") in [(event, said.get("why")) for event, said in house.said]


# Waiting


def test_commands_behind_a_blocked_fetch_wait_and_keep_their_order(moxy: House) -> None:
    with moxy.client() as worker, moxy.client() as other:
        worker.send("MOXY.FETCH", "jobs", 1000, "BLOCK", 0)
        worker.send("PING").send("MOXY.ENQUEUE", "other", "x", "ID", "o")
        until_blocked(other, 1)
        assert other.map("MOXY.STATS", "other")["ready"] == 0, "it is behind the fetch"
        other("MOXY.ENQUEUE", "jobs", "go")
        assert worker.as_map(worker.read()[0])["payload"] == b"go"
        assert worker.read() == "PONG"
        assert worker.read() == [b"task_id", b"o"]


def test_a_blocked_fetch_ends_when_its_time_is_up(moxy: House) -> None:
    with moxy.client() as worker, moxy.client() as other:
        worker.send("MOXY.FETCH", "jobs", 1000, "BLOCK", 50)
        until_blocked(other, 1)
        moxy.at(49)
        assert moxy.server.service.blocked == 1
        moxy.at(50)
        assert worker.read() is None


def test_a_client_that_leaves_while_it_waits_costs_nothing(moxy: House) -> None:
    with moxy.client() as other:
        with moxy.client() as worker:
            worker.send("MOXY.FETCH", "jobs", 1000, "BLOCK", 0)
            until_blocked(other, 1)
        until_blocked(other, 0)
        other("MOXY.ENQUEUE", "jobs", "x")
        assert other.map("MOXY.STATS", "jobs")["ready"] == 1


def test_bound_leases_end_with_their_connection(moxy: House) -> None:
    with moxy.client() as other:
        other("MOXY.ENQUEUE", "jobs", "x", "ID", "t")
        with moxy.client() as worker:
            assert len(worker("MOXY.FETCH", "jobs", 60_000, "BOUND")) == 1
            assert other.map("MOXY.STATS", "jobs")["processing"] == 1
        until(lambda: other.map("MOXY.STATS", "jobs")["ready"], lambda ready: ready == 1)
        shown = other.map("MOXY.SHOW", "jobs", "t")
        assert (shown["attempts"], shown["disconnects"]) == (1, 1)


def test_a_half_closed_client_still_gets_its_replies(moxy: House) -> None:
    with moxy.client() as client:
        client.send("MOXY.ENQUEUE", "jobs", "x", "ID", "t").send("PING").half_close()
        assert client.read() == [b"task_id", b"t"]
        assert client.read() == "PONG"
        assert client.is_closed_by_server()


# Back-pressure


def test_who_does_not_read_is_not_read_from_and_served_later() -> None:
    """If the server went on reading it would take everything, and hold the replies to it in memory."""
    command, most = encode("ECHO", "x" * 60_000), 2000
    with serving() as house, house.client() as other, house.client() as slow:
        slow.socket.setblocking(False)
        stream, sent = command * 2, 0
        idle = 0
        while idle < 50:
            try:
                sent += slow.socket.send(stream[sent % len(command) : sent % len(command) + len(command)])
                idle = 0
            except BlockingIOError:
                idle += 1  # perhaps the server only has not come to it yet: ask it something, and try again
            assert other("PING") == "PONG", "others are served meanwhile"
            assert sent < most * len(command), "it is read from without end"
        slow.socket.settimeout(10)
        whole, rest = divmod(sent, len(command))
        for _ in range(whole):
            assert len(slow.read()) == 60_000
        slow.send_raw(command[rest:])
        assert len(slow.read()) == 60_000


def test_who_lets_too_much_pile_up_is_cut_off_and_logged() -> None:
    with (
        serving(output_bytes_max=1_000_000) as house,
        house.client() as other,
        house.client(receive_bytes=4096) as slow,
    ):
        for _ in range(30):
            other("MOXY.ENQUEUE", "jobs", "x" * 1_000_000)
        slow.send("MOXY.PEEK", "jobs", "COUNT", 30)
        until_connected(other, 1)
        assert "client.cut_off" in [event for event, _ in house.said]


def test_leases_whose_reply_was_never_written_go_back_uncharged() -> None:
    with serving() as house, house.client() as other:
        for number in range(30):
            other("MOXY.ENQUEUE", "jobs", "x" * 1_000_000, "ID", f"t{number}")
        with house.client(receive_bytes=4096) as slow:
            slow.send("MOXY.FETCH", "jobs", 60_000, "COUNT", 30)
            until(lambda: other.map("MOXY.STATS", "jobs")["processing"], lambda processing: processing == 30)
            slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        until(lambda: other.map("MOXY.STATS", "jobs")["ready"], lambda ready: ready == 30)
        shown = other.map("MOXY.SHOW", "jobs", "t3")
        assert (shown["attempts"], shown["releases"]) == (0, 1)


# Time, for real


def test_a_200_ms_lease_is_redelivered_in_time_and_the_old_one_is_void() -> None:
    with serving_in_real_time() as house, house.client() as worker, house.client() as other:
        worker("MOXY.ENQUEUE", "jobs", "x")
        old = worker.as_map(worker("MOXY.FETCH", "jobs", 200, "COUNT", 1)[0])
        new = other.as_map(other("MOXY.FETCH", "jobs", 200, "BLOCK", 5000)[0])
        assert new["task_id"] == old["task_id"]
        leased_ms = new["deadline_ms"] - 200
        assert 0 <= leased_ms - old["deadline_ms"] <= 100, "an overdue lease is expired within 100 ms"
        assert worker("MOXY.ACK", old["lease_id"]).code == "NOLEASE"
        assert other("MOXY.ACK", new["lease_id"]) == "OK"


def test_ten_thousand_idle_connections_stay_under_200_mib() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 10_500, f"this machine allows {hard} open files: the promise cannot be checked here"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with Process() as server, ExitStack() as sockets:
            for _ in range(10_000):
                sockets.enter_context(socket.create_connection(server.address, timeout=10))
            with server.client() as client:
                until_connected(client, 10_001)
                assert server.memory_mib() < 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Clients


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works_unmodified(protocol: int) -> None:
    with serving_in_real_time() as house:
        host, port = house.address
        with redis.Redis(host, port, protocol=protocol, client_name="worker-a", decode_responses=True) as client:
            assert client.ping()
            assert client.info()["redis_version"]
            with client.pipeline(transaction=False) as pipeline:
                for number in range(3):
                    pipeline.execute_command("MOXY.ENQUEUE", "jobs", f"task {number}")
                assert len(pipeline.execute()) == 3
            task = client.execute_command("MOXY.FETCH", "jobs", 5000)
            assert isinstance(task, dict) == (protocol == 3)
            assert client.client_getname() == "worker-a"
            with pytest.raises(redis.ResponseError, match="NOLEASE"):
                client.execute_command("MOXY.ACK", f"jobs:9:9:{NONCE}")
            events = client.execute_command("MOXY.EVENTS", "jobs", 4)
            assert "worker-a" in str(events), "the log says who held it"


def test_redis_py_s_default_protocol_and_asyncio_client_work() -> None:
    import asyncio

    async def story(port: int) -> None:
        async with redis.asyncio.Redis(port=port) as client:
            await client.execute_command("MOXY.ENQUEUE", "jobs", b"\x00\xff")
            (task,) = await client.execute_command("MOXY.FETCH", "jobs", 5000, "BLOCK", 1000)
            assert {**task}[b"payload"] == b"\x00\xff" if isinstance(task, dict) else b"\x00\xff" in task

    with serving_in_real_time() as house:
        asyncio.run(story(house.address[1]))


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not on PATH")
def test_redis_cli_holds_the_conversation_of_the_readme() -> None:
    with serving() as house:

        def cli(*words: str) -> str:
            command = ["redis-cli", "-p", str(house.address[1]), "--no-raw", *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout

        assert cli("PING") == "PONG\n"
        assert cli("MOXY.ENQUEUE", "jobs", "hello") == f'1) "task_id"\n2) "1-{NONCE}"\n'
        fetched = cli("MOXY.FETCH", "jobs", "30000")
        assert fetched == (
            f'1) "lease_id"\n2) "jobs:1:1:{NONCE}"\n3) "task_id"\n4) "1-{NONCE}"\n5) "payload"\n6) "hello"\n'
        )
        assert cli("MOXY.ACK", f"jobs:1:1:{NONCE}") == "OK\n"
        assert cli("MOXY.STATS", "jobs").splitlines()[:2] == [' 1) "ready"', " 2) (integer) 0"]
        assert cli("MOXY.FETCH", "jobs", "30000") == "(nil)\n"
        assert cli("-3", "MOXY.STATS", "jobs").startswith('1# "ready" => (integer) 0')


@pytest.mark.skipif(not shutil.which("redis-benchmark"), reason="redis-benchmark is not on PATH")
def test_redis_benchmark_runs() -> None:
    with serving_in_real_time() as house:
        for words in (("-t", "ping"), ("MOXY.ENQUEUE", "bench", "x")):
            command = ["redis-benchmark", "-p", str(house.address[1]), "-n", "2000", "-c", "20", "-q", *words]
            result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
            assert "requests per second" in result.stdout
            assert "WARNING" not in result.stderr
        with house.client() as client:
            assert client.map("MOXY.STATS", "bench")["ready"] == 2000


def test_sigterm_ends_a_server_with_blocked_clients() -> None:
    with Process() as server, server.client() as worker, server.client() as other:
        worker.send("MOXY.FETCH", "jobs", 1000, "BLOCK", 0)
        until_blocked(other, 1)
        server.signal(signal.SIGTERM)
        with pytest.raises(Gone):
            worker.read()
        assert server.end()[0] == 0


def test_the_clock_is_the_server_s() -> None:
    with serving() as house, house.client() as client:
        assert client("TIME") == [str(T0 // 1000).encode(), b"0"]
