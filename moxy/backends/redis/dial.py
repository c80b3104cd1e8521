"""New connections to Redis: over TCP, TLS or a unix socket, directly or to the master that Sentinels name.

Lives here: how to get from an address to an open redis-py connection. Must not: keep one.

RESP2 on purpose: its replies are the same on every server and version. redis-py's own retries and time-outs are off;
whoever dials bounds the time. Some of its functions have no types yet: hence the ignores.
"""

import asyncio
import select
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from moxy.backends.redis.address import Address
from moxy.backends.redis.errors import Missed, is_loss

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


async def _reach_master(address: Address) -> AbstractConnection:
    """A connection to the server that the Sentinels call master and that says so itself."""
    arguments: dict[str, Any] = {
        "username": address.sentinel_username or None,
        "password": address.sentinel_password or None,
        "socket_timeout": address.connect_s,
        "socket_connect_timeout": address.connect_s,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.tls is not None:
        arguments |= {"ssl": True, **_tls(address)}
    sentinel = Sentinel(address.nodes, sentinel_kwargs=arguments)  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(address.connect_s):
            host, port = await sentinel.discover_master(address.master)
    except MasterNotFoundError:
        raise Missed(f"no Sentinel knows a master {address.master!r} that is up", sent=False) from None
    except TimeoutError:
        raise Missed(f"no Sentinel answered within {address.connect_s:g} s", sent=False) from None
    except RedisError as error:
        raise _fault(error, "Sentinel") from None
    finally:
        await sentinel.aclose()
    connection = await reach(address, host, int(port))
    try:
        async with asyncio.timeout(address.connect_s):
            await connection.send_command("ROLE", check_health=False)
            role = (await connection.read_response())[0]
    except BaseException as error:
        cut(connection)
        if isinstance(error, TimeoutError):
            raise Missed(f"{host}:{port} did not answer within {address.connect_s:g} s", sent=False) from None
        raise _fault(error, f"{host}:{port}") from None
    if role != b"master":
        cut(connection)
        raise Missed(f"{host}:{port}, which Sentinel calls the master, is none yet", sent=False)
    return connection


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


def cut(connection: AbstractConnection) -> None:
    """Drop a connection at once: what it has not sent yet must never arrive.

    redis-py's `disconnect` would leave unsent bytes to the transport, which delivers them to a server that wakes up.
    """
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
    connection._parser.on_disconnect()  # type: ignore[no-untyped-call]
    connection._reader = connection._writer = None
