"""The numbers and names of the contract: its limits, the policy, the events, the fields of replies, the arguments.

What lives here: constants, each with its section of docs/semantics.md. What must not live here: a rule, and, as in the
whole package, anything of `moxy`.
"""

from typing import Final

MAX_MS: Final = 30 * 24 * 60 * 60 * 1000
"""30 days: the longest lease, delay, block, TTL and dedup window [Limits]."""
MAX_COUNT: Final = 1_000
"""The largest COUNT, what REDRIVE takes without one, and the tasks of one go of due work [Limits, Time]."""
PEEK_COUNT: Final = 10
"""What PEEK takes without COUNT [Order]."""
MAX_PAYLOAD_BYTES: Final = 1024 * 1024
MAX_REASON_BYTES: Final = 1_024
MAX_ID_BYTES: Final = 128
MAX_QUEUE_BYTES: Final = 255
MAX_POLICY_NUMBER: Final = 1_000_000_000
NONCE: Final = f"{0:016x}"
"""The 64 random bits of task and lease ids; always 0 in lock-step runs."""

POLICY: Final = {
    "max_attempts": (25, 0, MAX_POLICY_NUMBER),
    "backoff_ms": (0, 0, MAX_MS),
    "backoff_max_ms": (0, 0, MAX_MS),
    "lease_ms": (30_000, 1, MAX_MS),
    "max_hold_ms": (0, 0, MAX_MS),
    "max_ready": (0, 0, MAX_POLICY_NUMBER),
    "ttl_ms": (0, 0, MAX_MS),
}
"""Field -> default, lowest and highest value [Operators, CONFIG]."""

TASK_EVENTS: Final = (
    *("Enqueued", "Matured", "Leased", "Extended", "Acked", "Expired", "Failed"),
    *("Released", "Requeued", "DeadLettered", "Redriven", "Deleted"),
)
QUEUE_EVENTS: Final = ("QueueConfigured", "QueuePaused", "QueueResumed", "Purged")
EVENT_KEYS: Final = ("event", "queue", "seq", "at_ms", "number", "task_id")
"""What the model knows of an event: its type, where and when it was, and whom it concerns. The rest of its fields is in
the state as soon as it is applied, and compared there."""
EVENTS_COUNT: Final = 100
"""What EVENTS takes without COUNT (docs/protocol.md)."""
MAX_SEQ: Final = 2**63 - 1

ENTRY_KEYS: Final = (
    *("lease_id", "task_id", "queue", "payload", "attempts", "deliveries", "token", "deadline_ms"),
    *("priority", "enqueued_ms"),
)
"""An entry of FETCH and PEEK, in the order of the contract."""
SHOW_KEYS: Final = (
    *("task_id", "queue", "state", "payload", "priority", "attempts", "max_attempts", "deliveries", "expiries"),
    *("failures", "releases", "disconnects", "enqueued_ms", "due_ms", "expires_ms", "lease_id", "token"),
    *("deadline_ms", "leased_ms", "worker", "bound", "last_reason", "dead_cause", "dead_reason", "dead_ms"),
)
ARGUMENTS: Final = {
    **{b"MOXY.ENQUEUE": (2, None), b"MOXY.MENQUEUE": (2, None), b"MOXY.FETCH": (2, None)},
    **{b"MOXY.ACK": (1, 1), b"MOXY.MACK": (1, None), b"MOXY.NACK": (1, None), b"MOXY.EXTEND": (2, 2)},
    **{b"MOXY.STATS": (1, 1), b"MOXY.PEEK": (1, None), b"MOXY.SHOW": (2, 2), b"MOXY.QUEUES": (0, None)},
    **{b"MOXY.CONFIG": (1, None), b"MOXY.PAUSE": (1, 1), b"MOXY.RESUME": (1, 1), b"MOXY.REDRIVE": (1, None)},
    **{b"MOXY.DELETE": (2, 2), b"MOXY.PURGE": (2, 2), b"MOXY.EVENTS": (2, None), b"MOXY.HISTORY": (2, 2)},
}
"""Verb -> the least and most arguments it takes (None: no bound); any other number is ERR (docs/protocol.md)."""
