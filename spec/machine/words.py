"""What the machine says: names, numbers and options, mostly such as make things happen.

What lives here: Hypothesis strategies, and the lists they draw from. What must not live here: a rule.
"""

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

from spec.model import MAX_PAYLOAD_BYTES

CLIENTS: Final = ("c1", "c2", "c3", "c4")
QUEUES: Final = (b"a", b"b", b"gr\xc3\xbcn:1")
IDS: Final = (b"x", b"y", b"z", b"task:\xc3\xbc")
LEASE_VERBS: Final = ("ACK", "NACK", "EXTEND")


# Strategies: mostly what makes things happen, sometimes what must be refused

client_names: Final = st.sampled_from(CLIENTS)
queue_names: Final = st.sampled_from((*QUEUES[:1] * 3, *QUEUES))
task_ids: Final = st.sampled_from(IDS)
payloads: Final = st.sampled_from((b"p", b"", b"\x00\xff\r\n", b"x" * 100))
small_ms: Final = st.sampled_from((b"10", b"1", b"3", b"25", b"100"))
lease_for_ms: Final = st.sampled_from((b"10", b"5", b"25", b"100", b"default", b"DEFAULT", b"2592000000"))
picks: Final = st.sampled_from((0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 9, 14, 20))
"""Which of the leases so far: the live ones come first, then the void ones, the latest first in both."""

pipelines: Final = st.lists(
    st.sampled_from(
        (*(b"ENQUEUE", b"FETCH", b"ACK") * 3, b"ENQUEUE", b"FETCH", b"NACK", b"PEEK", b"STATS", b"MENQUEUE"),
    ),
    min_size=1,
    max_size=12,
)
"""Verbs of one pipeline."""

BAD_NUMBERS: Final = (b"-1", b"x", b"", b"01", b"+1", b" 1", b"1.0", b"2592000001", b"9223372036854775808", b"\xff")
BAD_QUEUES: Final = (b"", b"a b", b"{a}", b"a\n", b"\xff", b"x" * 256, b"\xc2\xa0", b"\xc2\x85", b"a{")
BAD_IDS: Final = (b"", b"a b", b"\t", b"\xfe", b"x" * 129, b"\xe2\x80\x83")
BAD_LEASES: Final = (b"", b"x", b"a:1:1", b"a:1:1:f", b"a:x:1:0000000000000000", b"a:1:99:0000000000000000", b":::")
BAD_REASONS: Final = (b"r" * 1025, b"\xff")

ENQUEUE_OPTIONS: Final = {
    "ID": task_ids,
    "PRIORITY": st.sampled_from((b"9", b"0", b"5")),
    "DELAY": st.sampled_from((b"10", b"0", b"3", b"25")),
    "TTL": st.sampled_from((b"10", b"3", b"25", b"40")),
    "MAXATTEMPTS": st.sampled_from((b"1", b"0", b"2")),
    "LEASE": small_ms,
    "DEDUP": st.sampled_from((b"10", b"100", b"2592000000")),
}
POLICY_VALUES: Final = {
    "max_attempts": st.sampled_from((b"2", b"1", b"0", b"25")),
    "backoff_ms": st.sampled_from((b"0", b"5", b"10")),
    "backoff_max_ms": st.sampled_from((b"0", b"8", b"15")),
    "lease_ms": small_ms,
    "max_hold_ms": st.sampled_from((b"0", b"20", b"50")),
    "max_ready": st.sampled_from((b"0", b"2", b"4")),
    "ttl_ms": st.sampled_from((b"0", b"15", b"40")),
}

_QUEUE_ONLY: Final = (b"STATS", b"PAUSE", b"RESUME")
VERBS: Final = (
    *(b"ENQUEUE", b"MENQUEUE", b"FETCH", b"ACK", b"MACK", b"NACK", b"EXTEND", b"PEEK", b"SHOW", b"STATS", b"QUEUES"),
    *(b"CONFIG", b"REDRIVE", b"DELETE", b"PURGE", b"PAUSE", b"RESUME", b"EVENTS", b"HISTORY"),
)
VERBS_OF_A_QUEUE: Final = tuple(verb for verb in VERBS if verb not in (b"ACK", b"MACK", b"NACK", b"EXTEND", b"QUEUES"))
_OPTION_WORDS: Final = (
    *(b"ID", b"PRIORITY", b"DELAY", b"TTL", b"MAXATTEMPTS", b"LEASE", b"DEDUP", b"COUNT", b"BOUND", b"WITH", b"REASON"),
    *(b"FATAL", b"RELEASE", b"STATE", b"MATCH", b"CURSOR", b"max_ready", b"lease_ms", b"id", b"fatal", b"NOPE"),
)
_VALUE_WORDS: Final = (b"1", b"0", b"10", b"1001", b"x", b"a", b"ready", b"dead", b"processing", b"DEFAULT", b"*")
words: Final = st.one_of(
    st.sampled_from(_OPTION_WORDS),
    st.sampled_from(_VALUE_WORDS),
    st.sampled_from((*BAD_NUMBERS, *BAD_QUEUES, *BAD_IDS, *BAD_REASONS)),
)


def flatten(options: dict[str, Any]) -> list[bytes]:
    """Options as words: name and value, or a flag alone when the value is None."""
    flat: list[bytes] = []
    for name, value in options.items():
        flat.append(name.encode())
        if value is not None:
            flat.append(value)
    return flat


def bad_option(numbers: Sequence[str] = (), more: dict[str, Sequence[bytes]] | None = None) -> st.SearchStrategy[Any]:
    """One option with a value that must be refused, or something that is no option."""
    pairs = [(name.encode(), value) for name in numbers for value in BAD_NUMBERS]
    pairs += [(name.encode(), value) for name, values in (more or {}).items() for value in values]
    return st.sampled_from(pairs).map(list)


TOO_BIG: Final = b"x" * (MAX_PAYLOAD_BYTES + 1)


def fetch_options(count: bytes | None, block: bytes | None, bound: bool, others: list[bytes]) -> list[bytes]:
    options = [b"COUNT", count] if count else []
    options += [b"BLOCK", block] if block is not None else []
    options += [b"BOUND"] if bound else []
    return options + ([b"WITH", *others] if others else [])
