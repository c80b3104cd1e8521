"""What can go wrong between here and Redis, what is certain about it, and what people are told.

Lives here: one table of the error replies of Redis, and the errors of the link. Must not: retry, or connect.

The question that matters is whether a script may have run. An error reply that Redis gives before it runs a script
is certain: nothing happened. A connection lost after the script was sent is not: it may have run, and on a server
that was only paused it may yet run.
"""

import enum
import re
from typing import Final, final

import msgspec
from redis import exceptions

from moxy.core.errors import BACKEND, CODES, Refused


class Remedy(enum.Enum):
    """What makes a call that was turned away pass."""

    NONE = enum.auto()  # nothing that this side can do
    WAIT = enum.auto()  # time, for the whole server
    SLOT = enum.auto()  # time, for the queues of this slot
    SCRIPTS = enum.auto()  # load the scripts
    ROUTE = enum.auto()  # ask anew who the master is
    MOVED = enum.auto()  # go to the node that the reply names, and keep to it
    ASK = enum.auto()  # go to the node that the reply names, this once


class Row(msgspec.Struct, frozen=True):
    """One error reply: what to do, and the sentence when that does not help. `certain`: no script ran."""

    remedy: Remedy
    sentence: str
    certain: bool = True


TABLE: Final[dict[str, Row]] = {
    "NOSCRIPT": Row(Remedy.SCRIPTS, "Redis keeps losing its scripts"),
    "LOADING": Row(Remedy.WAIT, "Redis is starting and loads its data"),
    "BUSY": Row(Remedy.WAIT, "Redis is busy with a script that runs too long"),
    "TRYAGAIN": Row(Remedy.SLOT, "Redis Cluster is moving this queue to another node"),
    "READONLY": Row(Remedy.ROUTE, "this Redis is a read-only replica"),
    "MASTERDOWN": Row(Remedy.ROUTE, "this Redis is a replica that lost its master"),
    "CLUSTERDOWN": Row(Remedy.ROUTE, "Redis Cluster is down"),
    "MOVED": Row(Remedy.MOVED, "Redis Cluster is moving this queue to another node"),
    "ASK": Row(Remedy.ASK, "Redis Cluster is moving this queue to another node"),
    "NOREPLICAS": Row(Remedy.NONE, "Redis has fewer replicas than its min-replicas-to-write and takes no writes"),
    "OOM": Row(Remedy.NONE, "Redis is full: it uses all of its maxmemory"),
    "MISCONF": Row(Remedy.NONE, "Redis cannot write to its disk and takes no writes until it can"),
    "NOAUTH": Row(Remedy.NONE, "Redis wants a password: put it in the address, as in redis://:PASSWORD@host:port"),
    "WRONGPASS": Row(Remedy.NONE, "Redis does not accept the user name or password of the address"),
    "NOPERM": Row(Remedy.NONE, "the Redis user of the address may not do what Moxy needs"),
    "WRONGTYPE": Row(Remedy.NONE, "a key of this queue in Redis holds something that is not Moxy's"),
    "CROSSSLOT": Row(Remedy.NONE, "the keys of this queue are not in one slot of Redis Cluster"),
}
"""Every error reply with a meaning of its own. What is not here is a bug or news: see `UNKNOWN`."""

UNKNOWN: Final = Row(Remedy.NONE, "Redis answered with an error", certain=False)
UNREACHED: Final = Row(Remedy.ROUTE, "Redis cannot be reached")
LOST: Final = Row(Remedy.ROUTE, "the connection to Redis was lost before it answered", certain=False)

NOTHING: Final = "nothing happened, try again"
PERHAPS: Final = "whether it happened, or still will, is unknown"


@final
class Unreachable(Exception):
    """No service from Redis at start: one sentence. Exit code 5."""


@final
class BackendDown(Exception):
    """Redis did not do what it was asked. `unknown`: it may have, or still may; else certainly nothing happened."""

    def __init__(self, sentence: str, unknown: bool) -> None:
        super().__init__(sentence)
        self.sentence: Final = sentence
        self.unknown: Final = unknown

    def refused(self) -> Refused:
        """The same as an answer to a client."""
        return Refused(BACKEND, f"{self.sentence}: {PERHAPS if self.unknown else NOTHING}")


@final
class Missed(Exception):
    """In place of a reply: there is none. `sent`: the call had left when the connection went."""

    def __init__(self, reason: str, sent: bool) -> None:
        super().__init__(reason)
        self.reason: Final = reason
        self.sent: Final = sent


Fault = exceptions.RedisError | Missed
"""What stands in the place of a reply when there is no value."""

_CODES: Final[tuple[tuple[type[exceptions.RedisError], str], ...]] = (
    # redis-py cuts the code off the errors that have a class; MovedError is an AskError, so it comes first
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
    (exceptions.NoScriptError, "NOSCRIPT"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
)
_IN_SCRIPT: Final = re.compile(r"Error running script.*?-([A-Z]+)\b", re.DOTALL)


def code_of(error: exceptions.RedisError) -> str:
    """The first word of the error reply, which redis-py may have turned into a class."""
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError):
        return "NOAUTH" if text.startswith("Authentication required") else "WRONGPASS"
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    inner = _IN_SCRIPT.search(text)  # before Redis 7 a script wraps the error of its command in one of its own
    return inner[1] if inner else text.split(" ", 1)[0]


def row_of(fault: Fault) -> Row:
    """What the table says about a missing reply or an error reply."""
    if isinstance(fault, Missed):
        return LOST if fault.sent else UNREACHED
    return TABLE.get(code_of(fault), UNKNOWN)


def is_loss(error: BaseException) -> bool:
    """Whether the connection is gone or speaks another protocol; not a reply that redis-py made a ConnectionError."""
    kinds = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse)
    return type(error) in kinds or isinstance(error, OSError | EOFError)


def down(fault: Fault) -> BackendDown:
    """The fault as an error for whoever waits."""
    row = row_of(fault)
    detail = fault.reason if isinstance(fault, Missed) else str(fault)
    about = f" ({detail})" if row in (UNKNOWN, UNREACHED, LOST) and detail else ""
    return BackendDown(f"{row.sentence}{about}", unknown=not row.certain)


def refusal(fault: Fault) -> Refused:
    """The fault as an answer to a client.

    A script may refuse with an error reply of Moxy's own, such as `NOLEASE …`: that one is passed on as it is.
    """
    if isinstance(fault, exceptions.ResponseError):
        code, _, text = str(fault).partition(" ")
        if code in CODES:
            return Refused(code, text)
    return down(fault).refused()
