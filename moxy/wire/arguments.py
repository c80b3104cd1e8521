"""From the words of a command to a typed intent.

Lives here: one parse function per verb, and the checks of single arguments. Must not: queue rules (core), bytes on a
wire (resp). Whatever is wrong is a `Refused` with a sentence; nothing has happened by then.

Integers are as strict as Redis': no sign `+`, no leading zeros, no blanks, no underscores.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from moxy.core import ids
from moxy.core.commands import (
    UNSET,
    Ack,
    AckMany,
    Bulk,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    FetchAny,
    Info,
    Intent,
    ListQueues,
    Nack,
    NackKind,
    Pause,
    Peek,
    Purge,
    ReadEvents,
    ReadHistory,
    ReadPolicy,
    Redrive,
    Resume,
    Show,
    Stats,
)
from moxy.core.errors import BADTIMEOUT, ERR, LEASED, NOTASK, TOOBIG, Refused
from moxy.core.events import PurgeState
from moxy.core.ids import NUMBER_MAX, client_task_id, split_lease_id
from moxy.core.lifecycle import DEAD, PROCESSING, READY, SCHEDULED
from moxy.core.policy import COUNT_MAX, DURATION_MS_MAX, PAYLOAD_BYTES_MAX, RANGES, REASON_BYTES_MAX
from moxy.wire.resp import parse_int

Argv: TypeAlias = Sequence[bytes]
Parse: TypeAlias = Callable[[Argv, str], Intent]
"""Takes the words, the verb included, and the name of the worker who sent them."""

_ATTEMPTS_MAX: Final = RANGES["max_attempts"][1]
_PEEK_COUNT: Final = 10
_EVENTS_COUNT: Final = 100
_REMEMBERED: Final = 4096
"""Arguments that come again and again, in their checked form: most clients say the same few queues and timeouts."""


# Single arguments


queue_name: Final[Callable[[bytes], str]] = lru_cache(_REMEMBERED)(ids.queue_name)
"""A legal queue name. Raises Refused BADQUEUE."""


def integer(raw: bytes, what: str, low: int, high: int) -> int:
    """An integer within bounds. Raises Refused ERR."""
    value = parse_int(raw)
    if value is None:
        raise Refused(ERR, f"value is not an integer or out of range: {what} is an integer from {low} to {high}")
    if not low <= value <= high:
        raise Refused(ERR, f"value is out of range: {what} is an integer from {low} to {high}")
    return value


def lease_ms(raw: bytes, what: str) -> int:
    """How long a lease lasts. Raises Refused BADTIMEOUT."""
    value = parse_int(raw)
    if value is None or not 1 <= value <= DURATION_MS_MAX:
        raise Refused(BADTIMEOUT, f"{what} is a number of milliseconds from 1 to {DURATION_MS_MAX} (30 days)")
    return value


@lru_cache(_REMEMBERED)
def fetch_timeout(raw: bytes) -> int:
    """The visibility timeout of a FETCH; 0 for the word DEFAULT. Raises Refused BADTIMEOUT."""
    value = parse_int(raw)
    if value is not None and 1 <= value <= DURATION_MS_MAX:
        return value
    if raw.upper() == b"DEFAULT":
        return 0
    raise Refused(BADTIMEOUT, f"timeout_ms is DEFAULT, or milliseconds from 1 to {DURATION_MS_MAX} (30 days)")


def text(raw: bytes, what: str, bytes_max: int) -> str:
    """A short text for people. Raises Refused TOOBIG or ERR."""
    if len(raw) > bytes_max:
        raise Refused(TOOBIG, f"{what} has at most {bytes_max} bytes, this one has {len(raw)}")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused(ERR, f"{what} must be UTF-8") from None


def lease(raw: bytes) -> tuple[str, str, int, int]:
    """Queue, lease id, task number and token. Raises Refused NOLEASE."""
    lease_id = raw.decode(errors="surrogateescape")
    queue, number, token = split_lease_id(lease_id)
    return queue, lease_id, number, token


class Words:
    """The options of a command, taken off from the left. Names are case-insensitive and come at most once."""

    __slots__ = ("_argv", "_at", "_seen")

    def __init__(self, argv: Argv, at: int) -> None:
        self._argv: Final = argv
        self._at = at
        self._seen: set[bytes] = set()

    def next_name(self) -> bytes | None:
        """The next option's name in capitals, None at the end. Raises Refused for one that came already."""
        if self._at == len(self._argv):
            return None
        name = self._argv[self._at].upper()
        self._at += 1
        if name in self._seen:
            raise syntax_error(f"{shown(name)} is given twice")
        self._seen.add(name)
        return name

    def value(self, name: bytes) -> bytes:
        """The word after an option's name. Raises Refused when there is none."""
        if self._at == len(self._argv):
            raise syntax_error(f"{shown(name)} needs a value")
        self._at += 1
        return self._argv[self._at - 1]

    def rest(self, name: bytes) -> Argv:
        """All the words that are left, at least one."""
        rest = self._argv[self._at :]
        if not rest:
            raise syntax_error(f"{shown(name)} needs at least one value")
        self._at = len(self._argv)
        return rest


def shown(raw: bytes) -> str:
    """A client's word as it may stand in a message: short, and without anything that could break a line."""
    return raw[:64].decode(errors="replace").encode("unicode_escape").decode()


def syntax_error(why: str) -> Refused:
    """Begins as Redis words it, and goes on to say what to do."""
    return Refused(ERR, f"syntax error: {why}")


def _unknown_option(name: bytes) -> Refused:
    return syntax_error(f"there is no option {shown(name)}")


# Verbs


def enqueue(argv: Argv, worker: str) -> Intent:
    queue, payload = queue_name(argv[1]), argv[2]
    if len(payload) > PAYLOAD_BYTES_MAX:  # the queue checks it too; here it comes before the options, as they stand
        raise Refused(TOOBIG, f"a payload has at most {PAYLOAD_BYTES_MAX} bytes, this one has {len(payload)}")
    if len(argv) == 3:
        return Enqueue(queue, payload)
    task_id, priority, delay_ms, ttl_ms, attempts, own_lease_ms, dedup_ms = "", 0, 0, UNSET, UNSET, 0, 0
    words = Words(argv, 3)
    while (name := words.next_name()) is not None:
        if name == b"ID":
            task_id = client_task_id(words.value(name))
        elif name == b"PRIORITY":
            priority = integer(words.value(name), "PRIORITY", 0, 9)
        elif name == b"DELAY":
            delay_ms = integer(words.value(name), "DELAY", 0, DURATION_MS_MAX)
        elif name == b"TTL":
            ttl_ms = integer(words.value(name), "TTL", 1, DURATION_MS_MAX)
        elif name == b"MAXATTEMPTS":
            attempts = integer(words.value(name), "MAXATTEMPTS", 0, _ATTEMPTS_MAX)
        elif name == b"LEASE":
            own_lease_ms = lease_ms(words.value(name), "LEASE")
        elif name == b"DEDUP":
            dedup_ms = integer(words.value(name), "DEDUP", 1, DURATION_MS_MAX)
        else:
            raise _unknown_option(name)
    if dedup_ms and not task_id:
        raise syntax_error("DEDUP needs an ID to remember")
    return Enqueue(queue, payload, task_id, priority, delay_ms, ttl_ms, attempts, own_lease_ms, dedup_ms)


def enqueue_many(argv: Argv, worker: str) -> Intent:
    return EnqueueMany(queue_name(argv[1]), tuple(argv[2:]))


def fetch(argv: Argv, worker: str) -> Intent:
    queue, timeout_ms = queue_name(argv[1]), fetch_timeout(argv[2])
    if len(argv) == 3:
        return Fetch(queue, timeout_ms, 1, worker)
    count, block_ms, bound, queues = 1, UNSET, False, [queue]
    words = Words(argv, 3)
    while (name := words.next_name()) is not None:
        if name == b"COUNT":
            count = integer(words.value(name), "COUNT", 1, COUNT_MAX)
        elif name == b"BLOCK":
            block_ms = integer(words.value(name), "BLOCK", 0, DURATION_MS_MAX)
        elif name == b"BOUND":
            bound = True
        elif name == b"WITH":
            queues += [queue_name(word) for word in words.rest(name)]
        else:
            raise _unknown_option(name)
    return FetchAny(tuple(dict.fromkeys(queues)), timeout_ms, count, block_ms, worker, bound)


def ack(argv: Argv, worker: str) -> Intent:
    return Ack(*lease(argv[1]))


def ack_many(argv: Argv, worker: str) -> Bulk:
    acks: list[Ack | tuple[str, str]] = []
    for raw in argv[1:]:
        try:
            acks.append(Ack(*lease(raw)))
        except Refused as refused:
            acks.append((refused.code, refused.text))
    return AckMany(tuple(acks))


def nack(argv: Argv, worker: str) -> Intent:
    queue, lease_id, number, token = lease(argv[1])
    kind: NackKind = "retry"
    delay_ms, reason, given = UNSET, "", False
    words = Words(argv, 2)
    while (name := words.next_name()) is not None:
        if name == b"DELAY":
            delay_ms = integer(words.value(name), "DELAY", 0, DURATION_MS_MAX)
        elif name == b"REASON":
            reason, given = text(words.value(name), "REASON", REASON_BYTES_MAX), True
        elif name in (b"FATAL", b"RELEASE"):
            if kind != "retry":
                raise syntax_error("FATAL and RELEASE exclude each other")
            kind = "fatal" if name == b"FATAL" else "release"
        else:
            raise _unknown_option(name)
    if delay_ms != UNSET and kind != "retry":
        raise syntax_error("DELAY goes only with a plain NACK: FATAL sets the task aside, RELEASE puts it back")
    if given and kind == "release":
        raise syntax_error("REASON goes only with a failure: RELEASE is none")
    return Nack(queue, lease_id, number, token, kind, delay_ms, reason)


def extend(argv: Argv, worker: str) -> Intent:
    return Extend(*lease(argv[1]), lease_ms(argv[2], "ms"))


def peek(argv: Argv, worker: str) -> Intent:
    queue, state, count = queue_name(argv[1]), READY, _PEEK_COUNT
    words = Words(argv, 2)
    while (name := words.next_name()) is not None:
        if name == b"STATE":
            state = _state(words.value(name))
        elif name == b"COUNT":
            count = integer(words.value(name), "COUNT", 1, COUNT_MAX)
        else:
            raise _unknown_option(name)
    return Peek(queue, state, count)


def _state(raw: bytes) -> Literal["ready", "scheduled", "processing", "dead"]:
    given = raw.lower()
    if given == b"ready":
        return READY
    if given == b"scheduled":
        return SCHEDULED
    if given == b"processing":
        return PROCESSING
    if given == b"dead":
        return DEAD
    raise syntax_error("a state is ready, scheduled, processing or dead")


def show(argv: Argv, worker: str) -> Intent:
    return Show(queue_name(argv[1]), _task_id(argv[2]))


def _task_id(raw: bytes) -> str:
    """An id to look for. What cannot be one is simply not there: bytes that are no UTF-8 must not look like some that
    are, as they would if they were replaced."""
    return raw.decode(errors="surrogateescape")


def stats(argv: Argv, worker: str) -> Intent:
    return Stats(queue_name(argv[1]))


def info(argv: Argv, worker: str) -> Intent:
    return Info(queue_name(argv[1]))


def queues(argv: Argv, worker: str) -> Intent:
    pattern, count, cursor = "*", 100, ""
    words = Words(argv, 1)
    while (name := words.next_name()) is not None:
        if name == b"MATCH":
            pattern = words.value(name).decode(errors="replace")
        elif name == b"COUNT":
            count = integer(words.value(name), "COUNT", 1, COUNT_MAX)
        elif name == b"CURSOR":
            given = words.value(name)
            if given != b"0" and not given.startswith(b">"):
                raise Refused(ERR, "invalid cursor: begin with 0 and go on with the cursor of the last reply")
            cursor = given.removeprefix(b">").decode(errors="replace") if given != b"0" else ""
        else:
            raise _unknown_option(name)
    return ListQueues(pattern, count, cursor)


def events(argv: Argv, worker: str) -> Intent:
    queue, count, block_ms = queue_name(argv[1]), _EVENTS_COUNT, UNSET
    from_seq = integer(argv[2], "from_seq", 1, NUMBER_MAX)
    words = Words(argv, 3)
    while (name := words.next_name()) is not None:
        if name == b"COUNT":
            count = integer(words.value(name), "COUNT", 1, COUNT_MAX)
        elif name == b"BLOCK":
            block_ms = integer(words.value(name), "BLOCK", 0, DURATION_MS_MAX)
        else:
            raise _unknown_option(name)
    return ReadEvents(queue, from_seq, count, block_ms)


def history(argv: Argv, worker: str) -> Intent:
    return ReadHistory(queue_name(argv[1]), _task_id(argv[2]))


def config(argv: Argv, worker: str) -> Intent:
    queue = queue_name(argv[1])
    if len(argv) == 2:
        return ReadPolicy(queue)
    if len(argv) % 2:
        raise syntax_error("fields and values come in pairs")
    changes: dict[str, int] = {}
    for raw, value in zip(argv[2::2], argv[3::2], strict=True):
        field = raw.lower().decode(errors="replace")
        if field not in RANGES:
            raise syntax_error(f"there is no field {shown(raw)}: fields are {', '.join(RANGES)}")
        if field in changes:
            raise syntax_error(f"{field} is given twice")
        low, high = RANGES[field]
        changes[field] = integer(value, field, low, high)
    return Configure(queue, tuple(changes.items()))


def redrive(argv: Argv, worker: str) -> Intent:
    queue, count, task_id = queue_name(argv[1]), 0, ""
    words = Words(argv, 2)
    while (name := words.next_name()) is not None:
        if name == b"COUNT":
            count = integer(words.value(name), "COUNT", 1, COUNT_MAX)
        elif name == b"ID":
            task_id = _task_id(words.value(name))
            if not task_id:
                raise Refused(NOTASK, "no dead task has an empty id")
        else:
            raise _unknown_option(name)
    if count and task_id:
        raise syntax_error("COUNT and ID exclude each other")
    return Redrive(queue, count or COUNT_MAX, task_id)


def delete(argv: Argv, worker: str) -> Intent:
    return Delete(queue_name(argv[1]), _task_id(argv[2]))


def purge(argv: Argv, worker: str) -> Intent:
    queue, state = queue_name(argv[1]), _state(argv[2])
    if state == PROCESSING:
        raise Refused(LEASED, "tasks under a live lease cannot be removed: wait until their leases end")
    purged: PurgeState = state
    return Purge(queue, purged)


def pause(argv: Argv, worker: str) -> Intent:
    return Pause(queue_name(argv[1]))


def resume(argv: Argv, worker: str) -> Intent:
    return Resume(queue_name(argv[1]))
