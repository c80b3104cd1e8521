"""New connections to Redis: over TCP, TLS or a unix socket, directly or to the master that Sentinels name.

Lives here: how to get from an address to an open redis-py connection. Must not: keep one.

RESP2 on purpose: its replies are the same on every server and version. redis-py's own retries and time-outs are off;
whoever dials bounds the time. Some of its functions have no types yet: hence the ignores.
"""

import asyncio
import random
import select
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError, RedisError

from moxy.backends.redis.address import Address
from moxy.backends.redis.errors import Missed, is_loss

T = TypeVar("T")

Dial = Callable[[], Awaitable[AbstractConnection]]


def dialler(address: Address) -> Dial:
    """How to reach what `address` names, when it is one server at a time. Raises what `reach` raises."""
    if address.form == "sentinel":
        return lambda: _reach_master(address)
    host, port = address.nodes[0] if address.nodes else ("", 0)
    return lambda: reach(address, host, port)


async def reach(address: Address, host: str, port: int) -> AbstractConnection:
    """An open connection to one server, logged in, its database chosen.

    Raises Missed when it cannot be had within `connect_s`, and an error reply of Redis as the RedisError it is.
    """
    common: dict[str, Any] = {  # redis-py's arguments, of all types
        "username": address.username or None,
        "password": address.password or None,
        "db": address.db,
        "client_name": "moxy",
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }
    connection: AbstractConnection
    try:
        if address.form == "unix":
            connection = UnixDomainSocketConnection(path=address.path, **common)
        elif address.tls is not None:
            connection = SSLConnection(host=host, port=port, **_tls(address), **common)
        else:
            connection = Connection(host=host, port=port, **common)
    except OSError as error:  # a certificate that is not there
        raise Missed(str(error), sent=False) from None
    where = address.path or f"{host}:{port}"
    try:
        async with asyncio.timeout(address.connect_s):
            await connection.connect()  # type: ignore[no-untyped-call]
    except TimeoutError:
        cut(connection)
        raise Missed(f"{where} did not answer within {address.connect_s:g} s", sent=False) from None
    except BaseException as error:
        cut(connection)
        raise _fault(error, where) from None
    return connection


def _fault(error: BaseException, where: str) -> BaseException:
    """What a failed connection is to the rest: an error reply stays one, all else was never sent."""
    if is_loss(error):
        return Missed(str(error) if where in str(error) else f"{where}: {error}", sent=False)
    return error


def _tls(address: Address) -> dict[str, Any]:
    return msgspec.structs.asdict(address.tls) if address.tls is not None else {}


async def ask(address: Address, host: str, port: int, *words: str) -> Any:
    """One command on a connection of its own: its reply. Raises what `reach` raises."""
    connection = await reach(address, host, port)
    try:
        return await _answer(connection, address, *words)
    finally:
        cut(connection)


async def _answer(connection: AbstractConnection, address: Address, *words: str) -> Any:
    where = connection._host_error()
    try:
        async with asyncio.timeout(address.connect_s):
            await connection.send_command(*words, check_health=False)
            return await connection.read_response(disconnect_on_error=False)
    except TimeoutError:
        raise Missed(f"{where} did not answer within {address.connect_s:g} s", sent=False) from None
    except (RedisError, OSError) as error:
        raise _fault(error, where) from None


async def first(asked: Sequence[Coroutine[Any, Any, T]]) -> T:
    """The answer of whoever answers first; the others are let go. Raises the last fault when nobody answers."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    waiting = set(tasks)
    fault: Exception = Missed("there is nobody to ask", sent=False)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, Missed | RedisError):
                    raise error
                fault = error
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise fault


async def reach_any(address: Address) -> AbstractConnection:
    """A connection to a node of a Cluster, or to a Sentinel, whichever chance takes."""
    host, port = random.choice(address.nodes)
    return await reach(_login(address) if address.form == "sentinel" else address, host, port)


def _login(address: Address) -> Address:
    """The address with what Sentinels take in place of what Redis takes."""
    return msgspec.structs.replace(
        address, db=0, username=address.sentinel_username, password=address.sentinel_password
    )


async def _reach_master(address: Address) -> AbstractConnection:
    """A connection to the server that a Sentinel calls master and that says so itself."""
    login = _login(address)
    host, port = await first([_ask_sentinel(login, *place) for place in address.nodes])
    connection = await reach(address, host, port)
    try:
        role = (await _answer(connection, address, "ROLE"))[0]
        if role != b"master":
            raise Missed(f"{host}:{port}, which Sentinel calls the master, is none yet", sent=False)
    except BaseException:
        cut(connection)
        raise
    return connection


async def _ask_sentinel(login: Address, host: str, port: int) -> tuple[str, int]:
    try:
        place = await ask(login, host, port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", login.master)
    except AuthenticationError:
        raise Missed(f"the Sentinel {host}:{port} wants sentinel_password=… in the address", sent=False) from None
    except RedisError as error:
        raise Missed(f"{host}:{port} is no Sentinel that can be asked: {error}", sent=False) from None
    if place is None:
        raise Missed(f"the Sentinel {host}:{port} knows no master {login.master!r}", sent=False)
    return place[0].decode(), int(place[1])


async def is_idle(connection: AbstractConnection) -> bool:
    """Whether a connection on which nothing is awaited can be used: not closed, and nothing unasked-for has come.

    The kernel may know of a server's death before the loop has had the time to: asking it tells a call that never
    left from one of unknown outcome. Under TLS what the kernel holds says nothing.
    """
    if await connection.can_read():
        return False
    if connection._writer is None or isinstance(connection, SSLConnection) or not hasattr(select, "poll"):
        return connection._writer is not None
    poll = select.poll()
    poll.register(connection._writer.get_extra_info("socket").fileno(), select.POLLIN)
    return not poll.poll(0)


async def send(connection: AbstractConnection, packed: bytes) -> None:
    """Send, and return when the system has taken most of it. Raises OSError.

    redis-py's own closes the connection when it is cancelled, and a close goes on sending: see `cut`.
    """
    if connection._writer is None:
        raise ConnectionResetError("the connection is closed")
    connection._writer.write(packed)
    await connection._writer.drain()


def cut(connection: AbstractConnection) -> None:
    """Drop a connection at once: what it has not sent yet must never arrive.

    redis-py's `disconnect` would leave unsent bytes to the transport, which delivers them to a server that wakes up.
    """
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
    connection._parser.on_disconnect()  # type: ignore[no-untyped-call]
    connection._reader = connection._writer = None
