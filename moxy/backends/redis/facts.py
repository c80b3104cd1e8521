"""What the Redis at the other end is and what it promises, read once it is connected.

Lives here: which of its settings can lose or drop tasks, and the sentences about that. Must not: talk to Redis; it is
given the replies.
"""

from collections.abc import Mapping
from typing import Final, Literal, cast

import msgspec

from moxy.backends.redis.address import Form

OLDEST: Final = (6, 2)
UNKNOWN: Final = "unknown"

Mode = Literal["standalone", "sentinel", "cluster"]


class Facts(msgspec.Struct, frozen=True):
    """One server, from INFO and CONFIG GET. Services that forbid CONFIG leave `appendfsync` and `save` unknown."""

    product: str
    version: str
    run_id: str
    mode: Mode
    role: str
    appendonly: str
    appendfsync: str
    save: str
    maxmemory_bytes: int
    eviction: str
    replicas: int
    form: Form = "redis"

    @property
    def refusal(self) -> str:
        """Why Moxy must not work on it, in a sentence; empty: it may."""
        name = f"{self.product} {self.version}"
        if _version(self.version) < OLDEST:
            return f"{name} is too old: Moxy needs Redis 6.2 or later, or Valkey"
        if self.mode == "sentinel":
            return "this is a Sentinel, not a Redis: write sentinel://host:port/MASTER_NAME as the address"
        if self.mode == "cluster" and self.form != "cluster":
            return "this is a node of a Redis Cluster: write cluster://host:port as the address"
        if self.role != "master":
            return "this Redis is a read-only replica: give the address of its master"
        if self.eviction.startswith("allkeys-"):
            return (
                f"this Redis throws away any key when it is full (maxmemory-policy {self.eviction}): "
                "tasks would vanish; set maxmemory-policy noeviction"
            )
        return ""

    @property
    def warnings(self) -> list[str]:
        """What can be lost with these settings, a sentence each."""
        found = [self._about_disk()]
        if self.replicas or self.form in ("sentinel", "cluster"):
            found.append(
                "Redis replicates after it has answered: a fail-over can lose the last changes before it, "
                "also those that were acknowledged"
            )
        if self.eviction.startswith("volatile-"):
            found.append(
                f"maxmemory-policy {self.eviction} drops keys that have an expiry when Redis is full; "
                "set noeviction, unless this Redis is a cache as well"
            )
        return [sentence for sentence in found if sentence]

    def _about_disk(self) -> str:
        if self.appendonly == "no":
            if self.save == "":
                return "Redis keeps nothing on disk: when it restarts, all tasks are lost; set appendonly yes"
            if self.save == UNKNOWN:
                return (
                    "Redis has no append-only file: when it crashes, what came after its last snapshot is lost, "
                    "if it takes snapshots at all; set appendonly yes"
                )
            return (
                "Redis only takes snapshots: when it crashes, all that came after the last is lost; set appendonly yes"
            )
        if self.appendonly != "yes":
            return "whether Redis keeps anything on disk is unknown: ask whoever runs it what a crash can lose"
        if self.appendfsync == "everysec":
            return "Redis syncs once a second: when its machine crashes, up to 2 s of changes are lost"
        if self.appendfsync == "no":
            return "Redis leaves syncing to its system: when its machine crashes, half a minute of changes can be lost"
        if self.appendfsync == UNKNOWN:
            return "how often Redis syncs is unknown: when its machine crashes, the last seconds of changes may be lost"
        return ""

    def describe(self) -> dict[str, str | int]:
        """The same for INFO and the log."""
        return {
            "redis_product": self.product,
            "redis_version": self.version,
            "redis_run_id": self.run_id,
            "redis_mode": "sentinel" if self.form == "sentinel" else self.mode,
            "redis_role": self.role,
            "redis_appendonly": self.appendonly,
            "redis_appendfsync": self.appendfsync,
            "redis_save": self.save,
            "redis_maxmemory_bytes": self.maxmemory_bytes,
            "redis_maxmemory_policy": self.eviction,
            "redis_connected_replicas": self.replicas,
        }


def facts_of(form: Form, info: object, config: Mapping[str, object]) -> Facts:
    """Facts from the reply to INFO and those to CONFIG GET, by name. What is not there is unknown."""
    told = _told(info)
    return Facts(
        product={"valkey": "Valkey"}.get(told.get("server_name", ""), "Redis"),
        version=told.get("valkey_version") or told.get("redis_version", UNKNOWN),
        run_id=told.get("run_id", UNKNOWN),
        mode=cast(Mode, told.get("server_mode") or told.get("redis_mode", "standalone")),
        role=told.get("role", UNKNOWN),
        appendonly={"0": "no", "1": "yes"}.get(told.get("aof_enabled", ""), UNKNOWN),
        appendfsync=_setting(config, "appendfsync"),
        save=_setting(config, "save"),
        maxmemory_bytes=int(told.get("maxmemory", 0)),
        eviction=told.get("maxmemory_policy", UNKNOWN),
        replicas=int(told.get("connected_slaves", 0)),
        form=form,
    )


def _told(info: object) -> dict[str, str]:
    text = info.decode(errors="replace") if isinstance(info, bytes) else ""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def _setting(config: Mapping[str, object], name: str) -> str:
    reply = config.get(name)
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
        return reply[1].decode(errors="replace")
    return UNKNOWN


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else OLDEST
