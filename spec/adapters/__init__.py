"""The systems that are checked against the model: Moxy's parts and wholes, each behind `spec.system.System`.

What lives here: the table of systems by name. The adapters are in the modules beside; they, `explore` and the
simulation are all of `spec` that imports `moxy`. What must not live here: a rule of a queue, an expectation, anything
of Hypothesis.

- `CoreSystem`: `decide` folded over a dict of states; words parsed and replies shaped by the verb table.
- `ServiceSystem`: a `Backend` through `Service`, turn by turn.
- `ConnectionSystem`: the same with bytes in and out, cut anywhere, in RESP2 or RESP3.
- `JournalSystem`: the durable backend through `Service`, on a simulated disk that crashes.
- `RedisSystem` and `TwoOnRedis`: the Redis backend, with one Moxy server, and with two on one Redis.
- `SocketSystem`: the real `Server` and real sockets on a loop whose time is the machine's.

Another backend needs no class of its own: give `ServiceSystem`, `ConnectionSystem` or `SocketSystem` a `Deployment`
that builds it on the clock and ids it is handed, and reads its states.
"""

from typing import Final

from moxy.backends.redis.address import AddressError, parse_redis_address
from spec.adapters.core import CoreSystem
from spec.adapters.journal import JournalSystem
from spec.adapters.redis import RedisSystem, TwoOnRedis
from spec.adapters.service import ConnectionSystem, Deployment, InMemory, ServiceSystem, SettableClock, ZeroIds
from spec.adapters.sockets import SocketSystem
from spec.adapters.values import canonical
from spec.system import SystemFactory

__all__ = [
    "SYSTEMS",
    "ConnectionSystem",
    "CoreSystem",
    "Deployment",
    "InMemory",
    "JournalSystem",
    "RedisSystem",
    "ServiceSystem",
    "SettableClock",
    "SocketSystem",
    "TwoOnRedis",
    "ZeroIds",
    "canonical",
]

SYSTEMS: Final[dict[str, SystemFactory]] = {
    "core": CoreSystem,
    "memory": ServiceSystem,
    "journal": JournalSystem,
    "connection-resp2": lambda: ConnectionSystem(2),
    "connection-resp3": lambda: ConnectionSystem(3),
    "socket-resp2": lambda: SocketSystem(2),
    "socket-resp3": lambda: SocketSystem(3),
}
"""Every system by its name."""


_ON_REDIS: Final = {"redis": RedisSystem, "two-on-redis": TwoOnRedis}
"""Systems that need the address of a Redis."""


def system_named(name: str, redis_addr: str | None = None) -> SystemFactory | str:
    """The system of that name, for `moxy modelcheck`; or, in one sentence, why it cannot be had.

    `redis_addr`: where the Redis is, for a system that needs one.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    try:
        addr = redis_addr or "127.0.0.1:6379"
        parse_redis_address(addr)
    except AddressError as error:
        return f"--redis-addr: {error}"
    return lambda: _ON_REDIS[name](addr)
