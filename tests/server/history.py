"""A checker of histories: what concurrent clients asked and heard, searched for what a queue can never have answered.

Lives here: an operation, a client that records its own, and `check`. Must not: start servers, or know how one works.

There is no search for a linearization, which gives up on queues after a few hundred operations: every payload is
enqueued once, so each rule is a bad pattern that is found in one pass (Henzinger et al., Aspect-oriented
linearizability proofs, CONCUR'13). An operation whose connection was lost before its reply may have happened or not,
at any time from its start on, and every rule allows for both. Two orders are used: that of the clients' own monotonic
clock, which all processes of a machine share (A is before B when A's reply came before B was sent), and that of the
fencing tokens and deadlines in the replies.
"""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from tests.server.support import Client, Failure, Gone

NEVER = 1 << 62
SLACK_MS = 100
"""How far the clocks of a client and of the server may lie apart: both began with the same wall clock."""
ENDS = ("MOXY.ACK", "MOXY.MACK", "MOXY.NACK")
RULES = (
    "duplicate",  # one payload under two ids
    "invented",  # a payload nobody enqueued, or whose enqueue was refused, or before it was enqueued
    "lost",  # enqueued and acknowledged, neither done nor there
    "resurrected",  # acked, and there again
    "double lease",  # delivered while an earlier lease was live
    "void lease accepted",  # an OK for a lease that had ended, or that nobody was given
    "lease lost",  # refused before the deadline though nothing ended it
    "token",  # given twice, or not above one that was known before
    "counters",  # deliveries do not increase, or attempts decrease
    "order",  # a later task was delivered before an earlier one
    "empty",  # nothing, although something was ready all the while
)


class Unknown:
    """The connection was lost before the reply."""

    def __repr__(self) -> str:
        return "unknown"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unknown)

    __hash__ = None  # type: ignore[assignment]


UNKNOWN = Unknown()


@dataclass(frozen=True, slots=True)
class Op:
    """One command: sent at `start`, its reply read at `end` (nanoseconds; `end_ms` on the wall clock)."""

    client: str
    command: tuple[str, ...]
    start: int
    end: int
    end_ms: int
    reply: Any

    @property
    def verb(self) -> str:
        return self.command[0]

    @property
    def is_unknown(self) -> bool:
        return isinstance(self.reply, Unknown)

    @property
    def is_refused(self) -> bool:
        return isinstance(self.reply, Failure)

    def __str__(self) -> str:
        return f"{self.client}: {' '.join(self.command)}"


class Finding(NamedTuple):
    """A rule that a history breaks, and where."""

    rule: str
    text: str


class Recorder:
    """A connection whose every command is an `Op` of `ops`. Raises Gone, all open commands being recorded as unknown,
    when the connection is lost."""

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self.name = name
        self.ops: list[Op] = []
        self._client = Client(address)

    def close(self) -> None:
        self._client.close()

    def __call__(self, *words: str) -> Any:
        return self.pipeline([words])[0]

    def pipeline(self, commands: Sequence[tuple[str, ...]], sent: Any = None) -> list[Any]:
        """Send all, call `sent`, then read all replies."""
        start = time.monotonic_ns()
        replies: list[Any] = []
        try:
            for words in commands:
                self._client.send(*words)
            if sent is not None:
                sent()
            for words in commands:
                replies.append(_entries(words, self._client.read()))
                self._record(words, start, replies[-1])
        except (Gone, OSError):
            for words in commands[len(replies) :]:
                self.ops.append(Op(self.name, words, start, NEVER, NEVER, UNKNOWN))
            self.close()
            raise Gone from None
        return replies

    def _record(self, words: tuple[str, ...], start: int, reply: Any) -> None:
        self.ops.append(Op(self.name, words, start, time.monotonic_ns(), time.time_ns() // 1_000_000, reply))


def _entries(words: tuple[str, ...], reply: Any) -> Any:
    """Tasks as dicts of text and numbers, the reply of an enqueue as its id, everything else as it is."""
    if words[0] == "MOXY.ENQUEUE" and isinstance(reply, list):
        return _text(reply[1])
    if words[0] == "MOXY.FETCH" and isinstance(reply, list) and isinstance(reply[0], bytes):
        reply = [reply]  # a plain one
    if words[0] in ("MOXY.FETCH", "MOXY.PEEK") and isinstance(reply, list):
        return [
            {key.decode(): _text(value) for key, value in zip(entry[::2], entry[1::2], strict=True)} for entry in reply
        ]
    return [_text(part) for part in reply] if isinstance(reply, list) else _text(reply)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def token_of(lease_id: str) -> int:
    return int(lease_id.split(":")[2])


# The checker


class _Delivery(NamedTuple):
    """A plain FETCH tells neither times nor counts: `leased_ms` is the latest that it can be then, `deadline_ms` the
    earliest, and the counts are 0."""

    op: Op
    payload: str
    lease_id: str
    token: int
    leased_ms: int
    deadline_ms: int
    deliveries: int
    attempts: int
    bound: bool


class _LeaseOp(NamedTuple):
    op: Op
    ends: bool
    outcome: str  # "ok", "unknown", or the code of a refusal


class _History:
    """The operations of one queue, sorted by what they are about."""

    def __init__(self, queue: str, ops: Iterable[Op], left: Mapping[str, str] | None) -> None:
        self.queue = queue
        self.left = left
        self.enqueues: dict[str, list[tuple[Op, str]]] = defaultdict(list)
        self.deliveries: dict[str, list[_Delivery]] = defaultdict(list)
        self.by_lease: dict[str, _Delivery] = {}
        self.payload_of: dict[str, str] = {}
        self.lease_ops: dict[str, list[_LeaseOp]] = defaultdict(list)
        self.empty: list[Op] = []
        self.hidden_fetches = False
        for op in ops:
            self._take(op)
        if left is not None:
            self.left = {payload: state for payload, state in left.items() if payload in self.enqueues}
        for deliveries in self.deliveries.values():
            deliveries.sort(key=lambda delivery: delivery.token)

    def _take(self, op: Op) -> None:
        if op.verb in ("MOXY.ENQUEUE", "MOXY.MENQUEUE"):
            payloads = op.command[2:] if op.verb == "MOXY.MENQUEUE" else op.command[2:3]
            ids = op.reply if isinstance(op.reply, list) else [op.reply] * len(payloads)
            for payload, task_id in zip(payloads, ids, strict=True):
                self.enqueues[payload].append((op, task_id))
        elif op.verb == "MOXY.FETCH":
            self.hidden_fetches |= op.is_unknown
            if op.reply is None:
                self.empty.append(op)
            for entry in op.reply if isinstance(op.reply, list) else ():
                self._take_delivery(op, entry)
        elif op.verb == "MOXY.PEEK" and isinstance(op.reply, list):
            self.payload_of |= {entry["lease_id"]: entry["payload"] for entry in op.reply if entry["lease_id"]}
        elif op.verb == "MOXY.MACK":
            results = op.reply if isinstance(op.reply, list) else [op.reply] * (len(op.command) - 1)
            for lease_id, result in zip(op.command[1:], results, strict=True):
                self.lease_ops[lease_id].append(_LeaseOp(op, True, _outcome(result)))
        elif op.verb in ("MOXY.ACK", "MOXY.NACK", "MOXY.EXTEND"):
            self.lease_ops[op.command[1]].append(_LeaseOp(op, op.verb in ENDS, _outcome(op.reply)))

    def _take_delivery(self, op: Op, entry: Mapping[str, Any]) -> None:
        lease_ms, token = int(op.command[2]), token_of(entry["lease_id"])
        if "deadline_ms" in entry:
            assert entry["token"] == token
            leased_ms, deadline_ms = entry["deadline_ms"] - lease_ms, entry["deadline_ms"]
        else:
            leased_ms = op.end_ms + SLACK_MS
            deadline_ms = op.end_ms - (op.end - op.start) // 1_000_000 - SLACK_MS + lease_ms
        delivery = _Delivery(
            op,
            entry["payload"],
            entry["lease_id"],
            token,
            leased_ms,
            deadline_ms,
            entry.get("deliveries", 0),
            entry.get("attempts", 0),
            "BOUND" in op.command,
        )
        self.deliveries[delivery.payload].append(delivery)
        self.by_lease[delivery.lease_id] = delivery
        self.payload_of[delivery.lease_id] = delivery.payload


def _outcome(reply: Any) -> str:
    if isinstance(reply, Unknown):
        return "unknown"
    return reply.code if isinstance(reply, Failure) else "ok"


def check(ops: Iterable[Op], left: Mapping[str, str] | None = None) -> list[Finding]:
    """Everything in a history that cannot have happened; nothing is the good answer.

    `left`: the payloads that the queues still held when all was over, with their states; None when nobody looked.
    """
    by_queue: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        leases = op.command[1:] if op.verb == "MOXY.MACK" else op.command[1:2]
        by_queue[leases[0].split(":", 1)[0]].append(op)
    histories = [
        _History(queue, sorted(part, key=lambda op: op.start), left) for queue, part in sorted(by_queue.items())
    ]
    strange = [payload for payload in left or {} if not any(payload in history.enqueues for history in histories)]
    findings = [Finding("invented", f"{payload} is there and was never enqueued") for payload in strange]
    for history in histories:
        for rule in (_tasks, _acked, _leases, _tokens, _counters, _order):
            findings += rule(history)
    return findings


def _tasks(h: _History) -> Iterable[Finding]:
    """duplicate, invented, lost"""
    left = h.left or {}
    for payload in h.deliveries.keys() | left.keys():
        tries = h.enqueues.get(payload, [])
        first = h.deliveries[payload][0].op if payload in h.deliveries else None
        if not tries:
            yield Finding("invented", f"{payload} was never enqueued")
        elif all(op.is_refused for op, _ in tries):
            yield Finding("invented", f"{payload} is there, but its enqueue was refused: {tries[0][1]}")
        elif first is not None and first.end < min(op.start for op, _ in tries):
            yield Finding("invented", f"{payload} was delivered before it was enqueued")
    done = {
        h.payload_of.get(lease_id)
        for lease_id, uses in h.lease_ops.items()
        if any(use.ends and use.op.verb != "MOXY.NACK" and use.outcome in ("ok", "unknown") for use in uses)
    }
    for payload, tries in h.enqueues.items():
        ids = {task_id for op, task_id in tries if not op.is_unknown and not op.is_refused}
        if len(ids) > 1:
            yield Finding("duplicate", f"{payload} has the ids {sorted(ids)}")
        if ids and h.left is not None and payload not in done and payload not in left:
            yield Finding("lost", f"{payload} was enqueued as {ids.pop()}, is not done and not there ({tries[0][0]})")


def _acked(h: _History) -> Iterable[Finding]:
    """resurrected"""
    for lease_id, uses in h.lease_ops.items():
        payload = h.payload_of.get(lease_id)
        acks = [use.op for use in uses if use.ends and use.op.verb != "MOXY.NACK" and use.outcome == "ok"]
        if not acks or payload is None:
            continue
        again = [delivery for delivery in h.deliveries[payload] if delivery.token > token_of(lease_id)]
        if again:
            yield Finding("resurrected", f"{payload} was acked ({acks[0]}) and delivered with token {again[0].token}")
        if payload in (h.left or {}):
            yield Finding("resurrected", f"{payload} was acked ({acks[0]}) and is still there")


def _leases(h: _History) -> Iterable[Finding]:
    """double lease, void lease accepted, lease lost"""
    known = {(lease_id.split(":")[1], token_of(lease_id)): lease_id for lease_id in h.payload_of}
    for lease_id, uses in h.lease_ops.items():
        accepted = [use for use in uses if use.outcome == "ok"]
        given = known.get((lease_id.split(":")[1], token_of(lease_id)))
        if accepted and given != lease_id and (given is not None or not h.hidden_fetches):
            yield Finding("void lease accepted", f"nobody was given it: {accepted[0].op}")
        ended = [use for use in accepted if use.ends]
        if len(ended) > 1:
            yield Finding("void lease accepted", f"it ended twice: {ended[0].op}; {ended[1].op}")
        if ended and any(use.op.start > ended[0].op.end for use in accepted):
            yield Finding("void lease accepted", f"it had ended: {ended[0].op}")
        if lease_id in h.by_lease:
            yield from _refused_early(h.by_lease[lease_id], uses)
    for payload, deliveries in h.deliveries.items():
        for held, following in pairwise(deliveries):
            uses = h.lease_ops.get(held.lease_id, [])
            for use in uses:
                if use.outcome == "ok" and use.op.start > following.op.end:
                    yield Finding(
                        "void lease accepted", f"{payload} had been leased again, token {following.token}: {use.op}"
                    )
            may_have_ended = held.bound or any(
                use.ends and use.outcome in ("ok", "unknown") and use.op.start < following.op.end for use in uses
            )
            if not may_have_ended and following.leased_ms < _deadline_ms(held, uses):
                yield Finding(
                    "double lease",
                    f"{payload}: token {held.token} until {_deadline_ms(held, uses)}, "
                    f"token {following.token} from {following.leased_ms}",
                )


def _deadline_ms(held: _Delivery, uses: Sequence[_LeaseOp]) -> int:
    """The deadline with its extensions: an accepted one was accepted before the lease ended, whenever that was."""
    extended = [int(use.op.reply) for use in uses if use.op.verb == "MOXY.EXTEND" and use.outcome == "ok"]
    return max([held.deadline_ms, *extended])


def _refused_early(held: _Delivery, uses: Sequence[_LeaseOp]) -> Iterable[Finding]:
    for use in uses:
        others = [u for u in uses if u is not use and u.ends and u.outcome in ("ok", "unknown")]
        may_have_ended = held.bound or any(other.op.start < use.op.end for other in others)
        if use.outcome == "NOLEASE" and not may_have_ended and use.op.end_ms + SLACK_MS < _deadline_ms(held, uses):
            yield Finding(
                "lease lost",
                f"{held.payload}: {use.op} refused at {use.op.end_ms}, deadline {_deadline_ms(held, uses)}",
            )


def _tokens(h: _History) -> Iterable[Finding]:
    """token"""
    given = [delivery for deliveries in h.deliveries.values() for delivery in deliveries]
    seen: dict[int, str] = {}
    for delivery in given:
        if seen.setdefault(delivery.token, delivery.lease_id) != delivery.lease_id:
            yield Finding("token", f"{delivery.token} was given twice: {seen[delivery.token]} and {delivery.lease_id}")
    # Sweep: replies in the order in which they came; what was sent after one has tokens above all of it.
    replies = sorted(given, key=lambda delivery: delivery.op.end)
    highest, index = 0, 0
    for delivery in sorted(given, key=lambda delivery: delivery.op.start):
        while index < len(replies) and replies[index].op.end < delivery.op.start:
            highest = max(highest, replies[index].token)
            index += 1
        if delivery.token <= highest:
            yield Finding("token", f"{delivery.token} was given after {highest} was known ({delivery.payload})")


def _counters(h: _History) -> Iterable[Finding]:
    """counters"""
    for payload, deliveries in h.deliveries.items():
        for before, after in pairwise(deliveries):
            if not before.deliveries or not after.deliveries:
                continue
            if after.deliveries <= before.deliveries or after.attempts < before.attempts:
                yield Finding(
                    "counters",
                    f"{payload}: deliveries {before.deliveries} then {after.deliveries}, "
                    f"attempts {before.attempts} then {after.attempts}",
                )


def _order(h: _History) -> Iterable[Finding]:
    """order, empty: what happened wholly while a task was ready, and should have been that task's delivery.

    A task is surely ready from the reply to its enqueue until its first delivery was asked for.
    """
    ready: list[tuple[int, int, str]] = []
    overtakers: list[tuple[int, int, str]] = []
    for payload, tries in h.enqueues.items():
        op = tries[0][0]
        first = h.deliveries[payload][0] if payload in h.deliveries else None
        if len(tries) > 1 or {"PRIORITY", "DELAY", "TTL"} & set(op.command[3:]) or first is None:
            continue
        overtakers.append((op.start, first.op.end, payload))
        if first.deliveries == 1 and not op.is_unknown and not op.is_refused:
            ready.append((op.end, first.op.start, payload))
    for payload, other in _within(ready, overtakers):
        yield Finding("order", f"{other} was enqueued after {payload} and delivered before it")
    for payload, other in _within(ready, [(op.start, op.end, str(op)) for op in h.empty]):
        yield Finding("empty", f"{payload} was ready, and {other} found nothing")


def _within(outer: Iterable[tuple[int, int, str]], inner: Iterable[tuple[int, int, str]]) -> Iterable[tuple[str, str]]:
    """For each span of `outer` one of `inner` that lies inside it, if there is one."""
    spans = sorted(inner)
    earliest: list[tuple[int, str]] = []
    for _, end, name in reversed(spans):
        earliest.append(min((end, name), earliest[-1] if earliest else (NEVER, "")))
    earliest.reverse()
    starts = [start for start, _, _ in spans]
    for start, end, name in outer:
        index = bisect_right(starts, start)
        if index < len(spans) and earliest[index][0] < end:
            yield name, earliest[index][1]
