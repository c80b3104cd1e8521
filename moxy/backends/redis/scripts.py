"""The Lua scripts, one per verb, and the keys that they are given.

Lives here: texts, key names. Must not: talk to Redis. The rules are in `scripts/*.lua`.
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
"""The keys of one queue, in the order in which every script declares them. docs/redis.md says what they hold."""

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


def _load(name: str) -> Script:
    folder = files(__package__) / "scripts"
    # Shared part and verb are one chunk, so that a verb sees the locals of the prelude.
    text = (folder / "prelude.lua").read_text() + "\n" + (folder / f"{name}.lua").read_text()
    return Script(name, text)


SCRIPTS: Final[dict[str, Script]] = {name: _load(name) for name in VERBS}


def keys_of(prefix: str, queue: str) -> list[str]:
    """A queue's keys. The braces are a hash tag: in a Cluster they share one slot."""
    return [key_of(prefix, queue, name) for name in KEY_NAMES]


def key_of(prefix: str, queue: str, name: str) -> str:
    """One of a queue's keys."""
    return f"{prefix}:{{{queue}}}:{name}"
