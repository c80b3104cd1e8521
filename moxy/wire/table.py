"""The verb table: one row per verb, and everything else about verbs is read from it.

Lives here: name, arity, flags, syntax, summary, how words become an intent and how an answer becomes a reply.
Must not: carry a command out. Dispatch, arity errors, COMMAND, COMMAND DOCS and docs/protocol.md come from the rows.

A row without `parse` is a connection command: it concerns the connection alone, and the server answers it.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, final

from msgspec.structs import asdict

from moxy.core.answers import AckResult, Answer, Delivery, Names, Past, QueueStats, TaskView, deliveries_of
from moxy.core.commands import Fetch, Intent, ReadHistory, ReadPolicy
from moxy.core.errors import ERR, Refused
from moxy.core.explain import fields, why
from moxy.wire import arguments, replies, resp
from moxy.wire.arguments import Argv, Parse
from moxy.wire.resp import NULL_ARRAY, Error, Simple, Value

Reply: TypeAlias = Callable[[Answer, Intent], Value]
Quick: TypeAlias = Callable[[Answer, Intent, bool], bytes]

OK: Final = Simple("OK")


# Replies: an answer as RESP values. A dict is a map in RESP3 and a flat array in RESP2.


def _ok(answer: Answer, intent: Intent) -> Value:
    return OK


def _value(answer: Answer, intent: Intent) -> Value:
    assert answer is None or isinstance(answer, int)
    return answer


def _enqueued(answer: Answer, intent: Intent) -> Value:
    assert isinstance(answer, list)
    return {"task_id": str(answer[0])}


def _enqueued_many(answer: Answer, intent: Intent) -> Value:
    assert isinstance(answer, list)
    return [str(task_id) for task_id in answer]


def _fetched(answer: Answer, intent: Intent) -> Value:
    if isinstance(intent, Fetch):  # without options: one task in short, or the null bulk string
        if not answer:
            return None
        assert isinstance(answer, list)
        task = answer[0]
        assert isinstance(task, Delivery)
        return {"lease_id": task.lease_id, "task_id": task.task_id, "payload": task.payload}
    return _entries(answer, intent) if answer else NULL_ARRAY


def _entries(answer: Answer, intent: Intent) -> Value:
    return [asdict(task) for task in deliveries_of(answer)]


def _fields(answer: Answer, intent: Intent) -> Value:
    if isinstance(answer, QueueStats | TaskView):
        return asdict(answer)
    assert answer is None or isinstance(answer, Mapping)
    return answer


def _acked_many(answer: Answer, intent: Intent) -> Value:
    assert isinstance(answer, list)
    results = [result for result in answer if isinstance(result, AckResult)]
    return [Error(result.code, result.text) if result.code else OK for result in results]


def _policy(answer: Answer, intent: Intent) -> Value:
    return _fields(answer, intent) if isinstance(intent, ReadPolicy) else OK


def _names(answer: Answer, intent: Intent) -> Value:
    assert isinstance(answer, Names)
    return [f">{answer.cursor}" if answer.cursor else "0", answer.names]


def _past(answer: Answer, intent: Intent) -> Value:
    if answer is None:
        return NULL_ARRAY
    assert isinstance(answer, Past)
    told: list[Value] = []
    if answer.cut:
        told.append({"event": "Horizon", "seq": answer.horizon, "text": "earlier events are no longer kept"})
    return told + [fields(event) for event in answer.events]


def _why(answer: Answer, intent: Intent) -> Value:
    assert isinstance(answer, Past)
    assert isinstance(intent, ReadHistory)
    return why(intent.task_id, answer.events, answer.cut)


# Quick replies: the same bytes in one go for what is asked most often, or b"" for all else.


def _not_quick(answer: Answer, intent: Intent, resp3: bool) -> bytes:
    return b""


def _ok_quickly(answer: Answer, intent: Intent, resp3: bool) -> bytes:
    return resp.OK


def _enqueued_quickly(answer: Answer, intent: Intent, resp3: bool) -> bytes:
    assert isinstance(answer, list)
    task_id = answer[0]
    if not isinstance(task_id, str):
        return b""
    return replies.enqueued(task_id, resp3)


def _fetched_quickly(answer: Answer, intent: Intent, resp3: bool) -> bytes:
    if not isinstance(intent, Fetch):
        return b""
    if not answer:
        return b"_\r\n" if resp3 else b"$-1\r\n"
    assert isinstance(answer, list)
    task = answer[0]
    if not isinstance(task, Delivery) or task.lease_id is None:
        return b""
    return replies.fetched(task.lease_id, task.task_id, task.payload, resp3)


@final
class Row:
    """One verb. `arity` as Redis counts it: the verb included, negative when it is a minimum."""

    __slots__ = (
        *("arity", "flags", "leases", "may_block", "name", "parse", "quick", "reply", "reply_doc", "summary"),
        *("syntax", "words_max", "words_min"),
    )

    def __init__(
        self,
        name: str,
        arity: int,
        flags: tuple[str, ...],
        syntax: str,
        summary: str,
        reply_doc: str,
        parse: Parse | None = None,
        reply: Reply = _ok,
        quick: Quick = _not_quick,
    ) -> None:
        self.name: Final = name
        self.arity: Final = arity
        self.flags: Final = flags
        self.syntax: Final = syntax
        self.summary: Final = summary
        self.reply_doc: Final = reply_doc
        self.parse: Final = parse
        self.reply: Final = reply
        self.quick: Final = quick
        self.leases: Final = name == "MOXY.FETCH"
        """Whether an answer may carry leases."""
        self.may_block: Final = "blocking" in flags
        self.words_min: Final = abs(arity)
        self.words_max: Final = arity if arity > 0 else _NO_LIMIT

    def check_arity(self, argv: Argv) -> None:
        """Raises Refused in Redis' words."""
        if not self.words_min <= len(argv) <= self.words_max:
            raise Refused(ERR, f"wrong number of arguments for '{self.name.lower()}' command")


_NO_LIMIT: Final = 1 << 60
_WRITE: Final = ("write", "fast")
_READ: Final = ("readonly", "fast")
_LOCAL: Final = ("fast", "loading", "stale", "noscript")
_OPEN: Final = (*_LOCAL, "no_auth")

_ENTRY: Final = "`lease_id, task_id, queue, payload, attempts, deliveries, token, deadline_ms, priority, enqueued_ms`"

ROWS: Final[tuple[Row, ...]] = (
    Row(
        "MOXY.ENQUEUE",
        -3,
        _WRITE,
        "queue payload [ID id] [PRIORITY 0..9] [DELAY ms] [TTL ms] [MAXATTEMPTS n] [LEASE ms] [DEDUP ms]",
        "Put a task into a queue. An ID that the queue still knows creates nothing.",
        '`["task_id", id]`',
        arguments.enqueue,
        _enqueued,
        _enqueued_quickly,
    ),
    Row(
        "MOXY.MENQUEUE",
        -3,
        _WRITE,
        "queue payload [payload ...]",
        "Put several tasks into a queue, all or none.",
        "array of ids",
        arguments.enqueue_many,
        _enqueued_many,
    ),
    Row(
        "MOXY.FETCH",
        -3,
        ("write", "blocking"),
        "queue timeout_ms [COUNT n] [BLOCK ms] [BOUND] [WITH queue [queue ...]]",
        "Lease the first ready task for timeout_ms, or for the task's or queue's DEFAULT.",
        '`["lease_id", x, "task_id", x, "payload", x]`, or the null bulk string when nothing is ready. With any '
        f"option: an array of entries {_ENTRY}, or the null array",
        arguments.fetch,
        _fetched,
        _fetched_quickly,
    ),
    Row(
        "MOXY.ACK",
        2,
        _WRITE,
        "lease_id",
        "The task is done: remove it.",
        "`+OK`",
        arguments.ack,
        quick=_ok_quickly,
    ),
    Row(
        "MOXY.MACK",
        -2,
        _WRITE,
        "lease_id [lease_id ...]",
        "Ack several leases, each on its own.",
        "array, per lease `OK` or an error",
        arguments.ack_many,
        _acked_many,
    ),
    Row(
        "MOXY.NACK",
        -2,
        _WRITE,
        "lease_id [DELAY ms] [REASON text] [FATAL | RELEASE]",
        "Give a task back: failed (charged), FATAL (to the dead letters) or RELEASE (uncharged).",
        "`+OK`",
        arguments.nack,
    ),
    Row(
        "MOXY.EXTEND",
        3,
        _WRITE,
        "lease_id ms",
        "Hold a lease until ms from now; never moves its deadline earlier.",
        "the deadline in ms since 1970",
        arguments.extend,
        _value,
    ),
    Row(
        "MOXY.PEEK",
        -2,
        _READ,
        "queue [STATE ready|scheduled|processing|dead] [COUNT n]",
        "Look at the first tasks of one state (ready, 10) without leasing them.",
        f"array of entries {_ENTRY}; `lease_id` and `deadline_ms` are null when no lease is on the task",
        arguments.peek,
        _entries,
    ),
    Row(
        "MOXY.SHOW",
        3,
        _READ,
        "queue task_id",
        "Every field and counter of one task.",
        "map of fields, or null when the queue does not know the task",
        arguments.show,
        _fields,
    ),
    Row(
        "MOXY.HISTORY",
        3,
        _READ,
        "queue task_id",
        "The events of one task, oldest first.",
        "array of maps; the first has `event` `Horizon` when earlier events are no longer kept",
        arguments.history,
        _past,
    ),
    Row(
        "MOXY.WHY",
        3,
        _READ,
        "queue task_id",
        "The same in sentences: why it was delivered again, who held it, what happened.",
        "array of sentences, a summary first",
        arguments.history,
        _why,
    ),
    Row(
        "MOXY.EVENTS",
        -3,
        ("readonly", "blocking"),
        "queue from_seq [COUNT n] [BLOCK ms]",
        "The events of a queue from that sequence number on, as soon as they are committed: a resumable change feed.",
        "array of maps, one an event (up to 100); the null array when BLOCK timed out",
        arguments.events,
        _past,
    ),
    Row(
        "MOXY.STATS",
        2,
        _READ,
        "queue",
        "The five counts of a queue.",
        '`["ready", n, "processing", n, "dead", n, "active_leases", n, "heap", n]`',
        arguments.stats,
        _fields,
    ),
    Row(
        "MOXY.INFO",
        2,
        _READ,
        "queue",
        "All counts, the policy, totals since start and since birth, the age of the oldest ready task.",
        "map of fields",
        arguments.info,
        _fields,
    ),
    Row(
        "MOXY.QUEUES",
        -1,
        _READ,
        "[MATCH glob] [COUNT n] [CURSOR c]",
        "List queue names, page by page.",
        "`[cursor, [name, ...]]`; the cursor is `0` after the last page",
        arguments.queues,
        _names,
    ),
    Row(
        "MOXY.CONFIG",
        -2,
        _WRITE,
        "queue [field value [field value ...]]",
        "Read or set a queue's policy: max_attempts, backoff_ms, backoff_max_ms, lease_ms, max_hold_ms, max_ready, "
        "ttl_ms.",
        "map of fields when reading, `+OK` when setting",
        arguments.config,
        _policy,
    ),
    Row(
        "MOXY.REDRIVE",
        -2,
        _WRITE,
        "queue [COUNT n | ID id]",
        "Make dead tasks ready again, the oldest first, with their attempts at 0.",
        "number of tasks made ready",
        arguments.redrive,
        _value,
    ),
    Row(
        "MOXY.DELETE",
        3,
        _WRITE,
        "queue task_id",
        "Remove a task that no live lease is on.",
        "number removed: 1 or 0",
        arguments.delete,
        _value,
    ),
    Row(
        "MOXY.PURGE",
        3,
        _WRITE,
        "queue ready|scheduled|dead",
        "Remove every task of one state.",
        "number removed",
        arguments.purge,
        _value,
    ),
    Row("MOXY.PAUSE", 2, _WRITE, "queue", "Lease nothing new from a queue.", "`+OK`", arguments.pause),
    Row("MOXY.RESUME", 2, _WRITE, "queue", "Lease from a paused queue again.", "`+OK`", arguments.resume),
    Row("PING", -1, _LOCAL, "[message]", "Is anybody there?", "`+PONG`, or the message"),
    Row("ECHO", 2, _LOCAL, "message", "Say it back.", "the message"),
    Row(
        "HELLO",
        -1,
        _OPEN,
        "[protover [AUTH username password] [SETNAME clientname]]",
        "Choose RESP2 or RESP3, and introduce yourself.",
        "map of facts about the server",
    ),
    Row("AUTH", -2, _OPEN, "[username] password", "Authenticate.", "`+OK`"),
    Row("QUIT", -1, _OPEN, "", "Close the connection after the replies so far.", "`+OK`"),
    Row("RESET", 1, _OPEN, "", "Back to a fresh connection: RESP2, no name, not authenticated.", "`+RESET`"),
    Row("SELECT", 2, _LOCAL, "index", "There is one database: 0.", "`+OK`"),
    Row(
        "CLIENT",
        -2,
        _LOCAL,
        "subcommand [argument ...]",
        "SETNAME, GETNAME, SETINFO, ID, INFO, NO-EVICT, NO-TOUCH: what clients say when they connect.",
        "depends on the subcommand",
    ),
    Row(
        "COMMAND",
        -1,
        _LOCAL,
        "[subcommand] [argument ...]",
        "This table: COUNT, DOCS, INFO, LIST.",
        "depends on the subcommand",
    ),
    Row("INFO", -1, _LOCAL, "[section ...]", "The server in Redis' INFO format.", "text"),
    Row("TIME", 1, _LOCAL, "", "The server's clock.", "`[seconds, microseconds]`"),
    Row(
        "CONFIG",
        -2,
        _LOCAL,
        "subcommand [argument ...]",
        "GET answers what redis-benchmark asks; queues are configured with MOXY.CONFIG.",
        "map of parameters",
    ),
)

TABLE: Final[dict[bytes, Row]] = {row.name.encode(): row for row in ROWS}


def find(argv: Argv) -> Row:
    """The row of a command whose number of words fits. Raises Refused in Redis' words."""
    row = TABLE.get(argv[0]) or TABLE.get(argv[0].upper())
    if row is None:
        begins = " ".join(f"'{arguments.shown(word)}'" for word in argv[1:4])
        raise Refused(ERR, f"unknown command '{arguments.shown(argv[0])}', with args beginning with: {begins}")
    row.check_arity(argv)
    return row
