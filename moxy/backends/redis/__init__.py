"""Queues in Redis: any number of Moxy servers, or Python programs, on one Redis, Sentinel or Cluster.

Lives here: the scripts (one per verb, atomic, in `scripts/`), the way to them, the backend, and `connect` for programs
that need no server. Must not: rules that the scripts do not have, a second truth about a queue in this process.
"""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moxy.backends.redis.library import Queues
    from moxy.core.policy import Policy


RETAIN_EVENTS: Final = 100_000
"""How many events each queue keeps, unless told otherwise."""
RETAIN_EVENTS_MIN: Final = 1_000
RETAIN_EVENTS_MAX: Final = 1_000_000_000


def connect(
    url: str, prefix: str = "moxy", retain_events: int = RETAIN_EVENTS, policy: "Policy | None" = None
) -> "AbstractAsyncContextManager[Queues]":
    """The queues of a Redis, for `async with`: see `library.Queues`.

    `url`, `prefix`, `retain_events`: as `moxy serve` has them. `policy`: what new queues are born with. Raises
    `AddressError` and `ValueError` for what cannot be, and `Unreachable` when Redis is not there or may not be used.
    """
    from moxy.backends.redis.library import opened  # here, so that whoever needs an address need not load redis-py

    return opened(url, prefix, retain_events, policy)
