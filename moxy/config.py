"""What `moxy serve` was asked to be, checked.

Lives here: the settings, their ranges and how they are written. Must not: act on them.
"""

import re
from typing import Final

import msgspec

from moxy.backends.durable import Durability
from moxy.backends.redis import RETAIN_EVENTS
from moxy.backends.redis.address import Address, AddressError, parse_redis_address
from moxy.backends.redis.address import parse_prefix as parse_redis_prefix
from moxy.core.policy import RANGES, Policy
from moxy.server.doors import Form


class ConfigError(ValueError):
    """A setting that cannot be: one sentence that says what to do. Exit code 2."""


class ServeConfig(msgspec.Struct, frozen=True):
    """Everything that a server needs to know before it starts."""

    host: str = "127.0.0.1"
    port: int = 6380
    data_dir: str = ""
    durability: Durability = "everysec"
    snapshot_every: int = 1_000_000
    retain_bytes: int | None = None
    retain_ms: int | None = None
    redis: Address | None = None
    redis_prefix: str = "moxy"
    retain_events: int = RETAIN_EVENTS
    max_attempts: int = Policy().max_attempts
    password: str = ""
    clients_max: int = 20_000
    form: Form = "auto"
    busy_poll_us: int = 0
    log_level: str = "info"
    log_format: str = "auto"

    @property
    def policy(self) -> Policy:
        """The policy that new queues are born with."""
        return Policy(max_attempts=self.max_attempts)


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `:PORT` (this machine) or `[IPV6]:PORT`. Raises ConfigError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"an address is HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:6380, not {text!r}")
    return match["ipv6"] or match["host"] or "127.0.0.1", int(match["port"])


def parse_redis(text: str) -> Address:
    """Where Redis is. Raises ConfigError."""
    try:
        return parse_redis_address(text)
    except AddressError as error:
        raise ConfigError(f"--redis-addr: {error}") from None


def parse_prefix(text: str) -> str:
    """What keys in Redis begin with. Raises ConfigError."""
    try:
        return parse_redis_prefix(text)
    except AddressError as error:
        raise ConfigError(f"--redis-prefix: {error}") from None


_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Za-z:.%]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
MAX_ATTEMPTS_RANGE: Final = RANGES["max_attempts"]
