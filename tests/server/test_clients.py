"""What client libraries and tools ask of a Redis server, for real: COMMAND, redis-py, the hints of redis-cli."""

import asyncio
import fcntl
import os
import pty
import select
import shutil
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from moxy.wire.table import ROWS
from tests.server.support import NONCE, Client, Failure, House, Status, serving

NAMES = [row.name.lower().encode() for row in ROWS]


@pytest.fixture
def moxy() -> Iterator[House]:
    with serving() as house:
        yield house


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(moxy: House, request: pytest.FixtureRequest) -> Iterator[Client]:
    with moxy.client(request.param) as client:
        yield client


# The table, told to clients


def test_command_lists_the_table(client: Client) -> None:
    told = client("COMMAND")
    assert [entry[:2] for entry in told] == [[name, row.arity] for name, row in zip(NAMES, ROWS, strict=True)]
    assert {len(entry) for entry in told} == {10}
    assert client("COMMAND", "INFO") == told
    assert client("COMMAND", "COUNT") == len(ROWS)
    assert client("COMMAND", "LIST") == NAMES


def test_command_info_has_a_null_for_what_is_unknown(client: Client) -> None:
    known, unknown, again = client("command", "info", "moxy.fetch", "nope", "PING")
    assert (known[0], unknown, again[0]) == (b"moxy.fetch", None, b"ping")
    assert known[3:6] == [1, 1, 1], "the queue is the key"
    assert again[3:6] == [0, 0, 0]


def test_command_docs_are_maps_with_arguments(client: Client) -> None:
    docs = client.map("COMMAND", "DOCS")
    assert [name.encode() for name in docs] == NAMES
    for row in ROWS:
        doc = client.as_map(docs[row.name.lower()])
        assert doc["summary"] == row.summary.encode()
        assert bool(row.syntax) == ("arguments" in doc)
        for argument in doc.get("arguments", []):
            told = client.as_map(argument)
            assert {"name", "type"} <= set(told)
            assert all(isinstance(flag, Status) for flag in told.get("flags", [])), "redis-cli aborts on anything else"
    assert list(client.map("COMMAND", "DOCS", "moxy.ack", "nope")) == ["moxy.ack"]


def test_what_clients_say_when_they_connect(client: Client) -> None:
    assert client("CLIENT", "SETINFO", "LIB-NAME", "redis-py") == Status("OK")
    assert client("CLIENT", "SETINFO", "lib-ver", "8.1.0") == Status("OK")
    assert client("CLIENT", "SETINFO", "COLOR", "red").code == "ERR"
    assert client("CLIENT", "GETNAME") in (None, b"")
    assert client("CLIENT", "SETNAME", "worker-1") == Status("OK")
    assert client("CLIENT", "GETNAME") == b"worker-1"
    assert client("CLIENT", "SETNAME", "two words").code == "ERR"
    assert client("CLIENT", "GETNAME") == b"worker-1"
    number = client("CLIENT", "ID")
    told = client("CLIENT", "INFO").decode()
    assert f"id={number} addr={client.name} name=worker-1 " in told
    assert "lib-name=redis-py lib-ver=8.1.0" in told
    assert client("CLIENT", "NO-EVICT", "ON") == Status("OK")
    assert client("CLIENT", "NOPE").code == "ERR"
    assert client("SELECT", 0) == Status("OK")
    for index in ("1", "-1", "x", "00"):
        assert client("SELECT", index).code == "ERR"
    assert client("ECHO", b"\x00\r\n") == b"\x00\r\n"


def test_info_is_what_clients_look_for(client: Client) -> None:
    text = client("INFO").decode()
    assert "loading:0\r\n" in text
    assert "redis_version:" in text
    assert client("INFO", "server").decode().startswith("# Server\r\nredis_version:")
    assert b"# Clients" not in client("INFO", "SERVER")
    assert client("INFO", "nope") == b""
    assert b"role:master" in client("INFO", "everything")


def test_config_get_is_all_there_is_of_config(client: Client) -> None:
    assert client.map("CONFIG", "GET", "save") == {"save": b""}
    assert client.map("CONFIG", "GET", "append*", "save") == {"save": b"", "appendonly": b"no"}
    assert client.map("CONFIG", "GET", "nope") == {}
    for words in ("SET", "save", "1"), ("GET",), ("NOPE", "x"):
        assert isinstance(client("CONFIG", *words), Failure)


def test_hello_answers_a_real_map_in_resp3(moxy: House) -> None:
    with moxy.client() as client:
        flat = client("HELLO")
        told = client.as_map(flat)
        assert (told["proto"], told["server"], told["role"], told["modules"]) == (2, b"moxy", b"master", [])
        assert client.raw("HELLO", 3, "SETNAME", "me").startswith(b"%8\r\n$6\r\nserver\r\n$4\r\nmoxy\r\n")
        assert client("CLIENT", "GETNAME") == b"me"
        assert client("HELLO")[b"proto"] == 3
        assert isinstance(client("HELLO", 2), list)


# redis-py


@pytest.fixture(params=[None, 2, 3], ids=["default", "RESP2", "RESP3"])
def redis_py(moxy: House, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    protocol: dict[str, Any] = {} if request.param is None else {"protocol": request.param}
    with redis.Redis(port=moxy.address[1], **protocol) as client:
        yield client


def test_redis_py_reads_the_table(redis_py: redis.Redis) -> None:
    assert set(redis_py.command()) == {row.name.lower() for row in ROWS}
    assert redis_py.command_count() == len(ROWS)
    assert [str(name, "ascii").encode() if isinstance(name, bytes) else name for name in redis_py.command_list()] in (
        NAMES,
        [name.decode() for name in NAMES],
    )
    assert redis_py.info()["loading"] == 0
    assert redis_py.info("clients")["connected_clients"] == 1
    assert redis_py.client_setname("me")
    assert redis_py.client_id() >= 1
    assert redis_py.echo("x") == b"x"
    assert isinstance(redis_py.time(), tuple)
    assert redis_py.config_get("save") == {"save": ""}


def test_redis_py_speaks_resp3_by_default(moxy: House) -> None:
    with redis.Redis(port=moxy.address[1]) as client:
        client.execute_command("MOXY.ENQUEUE", "jobs", "x")
        task = client.execute_command("MOXY.FETCH", "jobs", 1000)
        assert task[b"payload"] == b"x"
        assert client.execute_command("MOXY.ACK", task[b"lease_id"]) in (b"OK", True)


def test_redis_py_pipelines_answer_errors_in_their_place(redis_py: redis.Redis) -> None:
    with redis_py.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("MOXY.ENQUEUE", "jobs", "x")
        pipeline.execute_command("MOXY.ACK", f"jobs:9:9:{NONCE}")
        pipeline.ping()
        first, second, third = pipeline.execute(raise_on_error=False)
    assert b"task_id" in first
    assert str(second).startswith("NOLEASE ")
    assert third


def test_redis_py_connects_again_when_its_connection_was_lost(moxy: House) -> None:
    retry = Retry(NoBackoff(), 3)
    with redis.Redis(port=moxy.address[1], retry=retry, max_connections=1) as client:
        assert client.ping()
        connection = client.connection_pool.get_connection()
        connection._sock.shutdown(socket.SHUT_RDWR)
        client.connection_pool.release(connection)
        assert client.ping()
        assert client.execute_command("MOXY.ENQUEUE", "jobs", "x")


def test_redis_py_logs_in(moxy: House) -> None:
    with serving(password="sesame") as guarded:
        for protocol in (2, 3):
            with redis.Redis(port=guarded.address[1], password="sesame", protocol=protocol) as client:
                assert client.ping()
            with (
                redis.Redis(
                    port=guarded.address[1], password="wrong", protocol=protocol, retry=Retry(NoBackoff(), 0)
                ) as client,
                pytest.raises(redis.AuthenticationError),
            ):
                client.ping()


def test_redis_py_of_asyncio_shares_a_pool(moxy: House) -> None:
    async def story() -> list[int]:
        async with redis.asyncio.Redis(port=moxy.address[1], max_connections=20) as client:
            waiting = [
                asyncio.ensure_future(client.execute_command("MOXY.FETCH", "jobs", 1000, "BLOCK", 5000))
                for _ in range(10)
            ]
            await client.execute_command("MOXY.MENQUEUE", "jobs", *map(str, range(10)))
            return sorted(int(task[b"payload"]) for tasks in await asyncio.gather(*waiting) for task in tasks)

    assert asyncio.run(story()) == list(range(10))


# redis-cli, as people use it


def read_terminal(terminal: int, seen: bytes) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        raise AssertionError(f"the program ended: {seen!r}") from None


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not on PATH")
def test_redis_cli_hints_at_arguments(moxy: House) -> None:
    """The hints of an interactive session come from COMMAND DOCS, which it asks for before its first prompt."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 200, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "REDISCLI_HISTFILE": "/dev/null"}
    cli = subprocess.Popen(
        ["redis-cli", "-p", str(moxy.address[1])], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        seen = b""
        for typed, expected in ((b"", b"> "), (b"MOXY.FETCH ", b"timeout_ms"), (b"\x15PING\r", b"PONG")):
            os.write(ours, typed)
            while expected not in seen:
                assert select.select([ours], [], [], 10)[0], seen
                seen += read_terminal(ours, seen)
        assert b"[COUNT n]" in seen
    finally:
        cli.kill()
        cli.wait(10)
        os.close(ours)
