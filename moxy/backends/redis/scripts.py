"""The Lua that decides inside Redis, and the keys that it is given.

Lives here: its text, key names. Must not: talk to Redis. The rules are in `scripts/*.lua`, one file per verb.
"""

from importlib.resources import files
from typing import Final

from moxy.backends.redis.node import Script

KEY_NAMES: Final = (
    "meta",
    "policy",
    "tasks",
    "payloads",
    "ids",
    "ready",
    "scheduled",
    "processing",
    "dead",
    "expiring",
    "remembered",
    "bound",
    "waiting",
    "events",
)
"""The keys of one queue, in the order in which the script declares them. docs/redis.md says what they hold."""

VERBS: Final = (
    "ack",
    "configure",
    "delete",
    "enqueue",
    "extend",
    "fetch",
    "info",
    "nack",
    "orphans",
    "pause",
    "peek",
    "policy",
    "purge",
    "redrive",
    "release",
    "resume",
    "rollback",
    "show",
    "stats",
    "tick",
    "watch",
)


def _load() -> Script:
    """One chunk, so that the parts share locals: what all verbs need, the verbs, and what runs a batch of them."""
    folder = files(__package__) / "scripts"
    parts = ("prelude", *VERBS, "dispatch")
    return Script("moxy", "\n".join((folder / f"{name}.lua").read_text() for name in parts))


SCRIPT: Final = _load()


def keys_of(prefix: str, queue: str) -> list[str]:
    """A queue's keys. The braces are a hash tag: in a Cluster they share one slot."""
    return [key_of(prefix, queue, name) for name in KEY_NAMES]


def key_of(prefix: str, queue: str, name: str) -> str:
    """One of a queue's keys."""
    return f"{prefix}:{{{queue}}}:{name}"
