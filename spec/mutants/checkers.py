"""The checkers that planted bugs are held against, as commands.

What lives here: `CHECKERS`, the quick ones first. What must not live here: a check of its own, a fault.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Checker:
    """A command for the interpreter, run in the copy. `needs`: a file without which it is not there yet."""

    about: str
    command: tuple[str, ...]
    needs: str
    patience_s: float = 150
    """A run that takes longer counts as red: the fault made it hang."""

    @property
    def is_there(self) -> bool:
        return (ROOT / self.needs).exists()


def _tests(path: str, about: str, *more: str) -> Checker:
    command = ("-m", "pytest", "-xq", "--tb=short", "--no-header", "-p", "no:cacheprovider", path, *more)
    return Checker(about, command, path)


_LOCKSTEP: Final = """
import sys
from spec.adapters import SYSTEMS
from spec.machine import check
for name, examples in (("core", 100), ("memory", 120), ("connection-resp2", 300), ("journal", 80)):
    report = check(SYSTEMS[name], examples, at_seed=1)
    if report.failure is not None:
        sys.exit(f"{name}: {report.format()}")
"""

_LOCKSTEP_REDIS: Final = """
import sys
from spec.adapters import RedisSystem, TwoOnRedis
from spec.machine import check
from tests.redis.support import serving
with serving() as server:
    for system, examples in ((RedisSystem, 400), (TwoOnRedis, 150)):
        report = check(lambda: system(server.address), examples, at_seed=5)
        if report.failure is not None:
            sys.exit(f"{system.__name__}: {report.format()}")
"""

CHECKERS: Final[dict[str, Checker]] = {
    "failures": _tests("tests/spec/test_failures.py", "every row of the failure matrix, on a simulated disk"),
    "service": _tests("tests/service", "waiters, turns, bound leases by example"),
    "backends": _tests("tests/backends", "the memory and the durable backend by example"),
    "wire": _tests("tests/wire", "the parser, the encoder, the verb table"),
    "properties": _tests("tests/core/test_properties.py", "random commands on the core against all invariants"),
    "machine": Checker(
        "lock-step with the reference model: core, service, connection, log", ("-c", _LOCKSTEP), "spec/machine"
    ),
    "explore": Checker(
        "every state of small queues: the scopes that take seconds", ("-m", "spec.explore"), "spec/explore", 400
    ),
    "simulate": Checker(
        "crashes under virtual time", ("-m", "spec.simulate", "--seed", "1", "--count", "60"), "spec/simulate.py"
    ),
    "redis": Checker(
        "lock-step with the reference model: the Lua scripts, on Valkey", ("-c", _LOCKSTEP_REDIS), "tests/redis", 400
    ),
    "two-servers": _tests("tests/redis/test_two_servers.py", "live servers on one Redis"),
    "core": _tests("tests/core", "the core by example"),
    "journal": _tests("tests/journal", "the log under faults"),
    "server": _tests("tests/server/test_conversation.py", "conversations over a socket"),
    "batch": _tests("tests/core/test_batch.py", "the fast lane's rules against those of `decide`"),
    "lane": _tests(
        "tests/server/test_lane.py", "the fast lane, with and without sockets", "tests/server/test_lane_sockets.py"
    ),
    "tick": _tests("tests/server/test_tick.py", "turns, sockets and what the kernel says of them"),
}
"""By name, the quick ones first: in this order they are tried when those that a fault names see nothing."""
