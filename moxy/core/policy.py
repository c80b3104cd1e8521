"""What an operator can set per queue, and the limits that no policy can pass.

Lives here: the policy value, the range of each field, the hard limits. Must not: anything that acts on them, which
is the decider's.
"""

from typing import Final

import msgspec

DAY_MS: Final = 24 * 60 * 60 * 1000
DURATION_MS_MAX: Final = 30 * DAY_MS
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
REASON_BYTES_MAX: Final = 1024
TASK_ID_BYTES_MAX: Final = 128
QUEUE_BYTES_MAX: Final = 255
COUNT_MAX: Final = 1000
"""Most tasks that one command leases, lists or redrives, and that one go of due work touches."""

_NUMBER_MAX: Final = 1_000_000_000


class Policy(msgspec.Struct, frozen=True, gc=False):
    """A queue's policy. 0 means "none" for every field but `lease_ms`; for `max_attempts` it means unlimited."""

    max_attempts: int = 25
    backoff_ms: int = 0
    backoff_max_ms: int = 0
    lease_ms: int = 30_000
    max_hold_ms: int = 0
    max_ready: int = 0
    ttl_ms: int = 0


RANGES: Final[dict[str, tuple[int, int]]] = {
    "max_attempts": (0, _NUMBER_MAX),
    "backoff_ms": (0, DURATION_MS_MAX),
    "backoff_max_ms": (0, DURATION_MS_MAX),
    "lease_ms": (1, DURATION_MS_MAX),
    "max_hold_ms": (0, DURATION_MS_MAX),
    "max_ready": (0, _NUMBER_MAX),
    "ttl_ms": (0, DURATION_MS_MAX),
}
"""Field -> smallest and largest legal value."""
