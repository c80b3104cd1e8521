"""The machine: Hypothesis drives a system and the reference model in lock-step through random programs.

What lives here: the rules (what clients, operators, networks and time may do, and what must be refused), what a run has
to come across, and `check`, which tells what held or the shortest program that failed. What must not live here:
anything of `moxy` (a system comes as a factory of `spec.system.System`), any rule of a queue (that is `model`), how the
two are compared (that is `lockstep`).

Leases are never forgotten: commands go on using void ones on purpose.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from spec.lockstep import Disconnect, ListByPage, LoseReply, Mismatch, Pair, Say, Step, Tally, Wait, shorten
from spec.model import MAX_MS, MAX_PAYLOAD_BYTES, QUEUE_EVENTS, TASK_EVENTS
from spec.system import SystemFactory

CLIENTS: Final = ("c1", "c2", "c3", "c4")
QUEUES: Final = (b"a", b"b", b"gr\xc3\xbcn:1")
IDS: Final = (b"x", b"y", b"z", b"task:\xc3\xbc")
LEASE_VERBS: Final = ("ACK", "NACK", "EXTEND")

CODES: Final = ("BADQUEUE", "BADTIMEOUT", "ERR", "FULL", "LEASED", "MAXHOLD", "NOLEASE", "NOTASK", "TOOBIG")
"""Every refusal that a queue command can meet."""
MOVES: Final = (
    *("new -> ready", "new -> scheduled", "scheduled -> ready", "ready -> processing"),
    *("processing -> ready", "processing -> scheduled", "processing -> gone", "processing -> dead by attempts"),
    *("processing -> dead by ttl", "processing -> dead by fatal", "ready -> dead by ttl", "scheduled -> dead by ttl"),
    *("dead -> ready", "dead -> gone", "ready -> gone", "scheduled -> gone"),
    *("expiries", "failures", "releases", "disconnects", "a lease extended", "a place kept", "an id remembered"),
)
"""What can become of a task from one step to the next, and how a lease can end, as `_moves` names it."""
WAITS: Final = ("a wait begins", "a wait is answered", "a wait times out")


# Strategies: mostly what makes things happen, sometimes what must be refused

client_names: Final = st.sampled_from(CLIENTS)
queue_names: Final = st.sampled_from((*QUEUES[:1] * 3, *QUEUES))
task_ids: Final = st.sampled_from(IDS)
payloads: Final = st.sampled_from((b"p", b"", b"\x00\xff\r\n", b"x" * 100))
small_ms: Final = st.sampled_from((b"10", b"1", b"3", b"25", b"100"))
lease_for_ms: Final = st.sampled_from((b"10", b"5", b"25", b"100", b"default", b"DEFAULT", b"2592000000"))
picks: Final = st.sampled_from((0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 9, 14, 20))
"""Which of the leases so far: the live ones come first, then the void ones, the latest first in both."""

_BAD_NUMBERS: Final = (b"-1", b"x", b"", b"01", b"+1", b" 1", b"1.0", b"2592000001", b"9223372036854775808", b"\xff")
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
_VERBS: Final = (
    *(b"ENQUEUE", b"MENQUEUE", b"FETCH", b"ACK", b"MACK", b"NACK", b"EXTEND", b"PEEK", b"SHOW", b"STATS", b"QUEUES"),
    *(b"CONFIG", b"REDRIVE", b"DELETE", b"PURGE", b"PAUSE", b"RESUME"),
)
_OPTION_WORDS: Final = (
    *(b"ID", b"PRIORITY", b"DELAY", b"TTL", b"MAXATTEMPTS", b"LEASE", b"DEDUP", b"COUNT", b"BOUND", b"WITH", b"REASON"),
    *(b"FATAL", b"RELEASE", b"STATE", b"MATCH", b"CURSOR", b"max_ready", b"lease_ms", b"id", b"fatal", b"NOPE"),
)
_VALUE_WORDS: Final = (b"1", b"0", b"10", b"1001", b"x", b"a", b"ready", b"dead", b"processing", b"DEFAULT", b"*")
words: Final = st.one_of(
    st.sampled_from(_OPTION_WORDS),
    st.sampled_from(_VALUE_WORDS),
    st.sampled_from((*_BAD_NUMBERS, *BAD_QUEUES, *BAD_IDS, *BAD_REASONS)),
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
    pairs = [(name.encode(), value) for name in numbers for value in _BAD_NUMBERS]
    pairs += [(name.encode(), value) for name, values in (more or {}).items() for value in values]
    return st.sampled_from(pairs).map(list)


class LockStep(RuleBasedStateMachine):
    """Bind a system with `machine_for`; this class itself has none."""

    factory: ClassVar[SystemFactory]
    tally: ClassVar[Tally]

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(type(self).factory(), self.tally)
        self.model = self.pair.model
        self.can_block = self.pair.system.can_block
        self.takes_megabytes = self.pair.system.takes_megabytes
        self.tally.programs += 1

    # Producers

    @rule(client=client_names, queue=queue_names, payload=payloads, late=st.just(0))
    def enqueue(self, client: str, queue: bytes, payload: bytes, late: int) -> None:
        self.say("enqueue", client, b"ENQUEUE", queue, payload, late=late)

    @rule(
        client=client_names,
        queue=queue_names,
        payload=payloads,
        options=st.fixed_dictionaries({}, optional=ENQUEUE_OPTIONS),
        late=st.sampled_from((0, 0, 0, 1, 10)),
    )
    def enqueue_with_options(
        self, client: str, queue: bytes, payload: bytes, options: dict[str, bytes], late: int
    ) -> None:
        if "DEDUP" in options:
            options = {"ID": IDS[0], **options}
        self.say("enqueue_with_options", client, b"ENQUEUE", queue, payload, *flatten(options), late=late)

    @precondition(lambda self: self.remembered())
    @rule(client=client_names, pick=picks, payload=payloads, late=st.sampled_from((0, 0, 1, 10)))
    def enqueue_a_remembered_id(self, client: str, pick: int, payload: bytes, late: int) -> None:
        known = self.remembered()
        queue, task_id = known[pick % len(known)]
        self.say("enqueue_a_remembered_id", client, b"ENQUEUE", queue, payload, b"ID", task_id, late=late)

    @rule(client=client_names, queue=queue_names, batch=st.lists(payloads, min_size=1, max_size=4))
    def menqueue(self, client: str, queue: bytes, batch: list[bytes]) -> None:
        self.say("menqueue", client, b"MENQUEUE", queue, *batch)

    # Workers

    @rule(client=client_names, queue=queue_names, timeout=lease_for_ms, late=st.sampled_from((0, 0, 0, 1, 10)))
    def fetch(self, client: str, queue: bytes, timeout: bytes, late: int) -> None:
        self.say("fetch", client, b"FETCH", queue, timeout, late=late)

    @rule(
        client=client_names,
        queue=queue_names,
        timeout=lease_for_ms,
        count=st.sampled_from((b"1", b"2", b"3", b"1000", None)),
        bound=st.booleans(),
        others=st.lists(st.sampled_from(QUEUES), max_size=2),
        late=st.sampled_from((0, 0, 0, 1, 10)),
    )
    def fetch_with_options(
        self,
        client: str,
        queue: bytes,
        timeout: bytes,
        count: bytes | None,
        bound: bool,
        others: list[bytes],
        late: int,
    ) -> None:
        options = fetch_options(count, None, bound, others) or [b"COUNT", b"1"]
        self.say("fetch_with_options", client, b"FETCH", queue, timeout, *options, late=late)

    @precondition(lambda self: self.can_block)
    @rule(
        client=client_names,
        queue=queue_names,
        timeout=lease_for_ms,
        count=st.sampled_from((None, b"1", b"2", b"3")),
        block=st.sampled_from((b"0", b"5", b"10", b"20", b"100")),
        bound=st.booleans(),
        others=st.lists(st.sampled_from(QUEUES), max_size=2),
        late=st.sampled_from((0, 0, 0, 1, 10)),
    )
    def fetch_and_wait(
        self,
        client: str,
        queue: bytes,
        timeout: bytes,
        count: bytes | None,
        block: bytes,
        bound: bool,
        others: list[bytes],
        late: int,
    ) -> None:
        options = fetch_options(count, block, bound, others)
        self.say("fetch_and_wait", client, b"FETCH", queue, timeout, *options, late=late)

    @precondition(lambda self: self.can_block and self.without_ready())
    @rule(client=client_names, pick=picks, block=st.sampled_from((b"0", b"20", b"100")), timeout=lease_for_ms)
    def wait_for_what_comes_back(self, client: str, pick: int, block: bytes, timeout: bytes) -> None:
        queues = self.without_ready()
        queue = queues[pick % len(queues)]
        self.say("wait_for_what_comes_back", client, b"FETCH", queue, timeout, b"BLOCK", block)

    @precondition(lambda self: self.void_ones())
    @rule(client=client_names, verb=st.sampled_from((b"ACK", b"NACK", b"EXTEND")), pick=picks)
    def use_a_void_lease_of_a_leased_task(self, client: str, verb: bytes, pick: int) -> None:
        void = self.void_ones()
        more = [b"10"] if verb == b"EXTEND" else []
        self.say("use_a_void_lease_of_a_leased_task", client, verb, void[pick % len(void)], *more)

    @precondition(lambda self: self.pair.leases)
    @rule(client=client_names, pick=picks, late=st.sampled_from((0, 0, 0, 1, 10, 100)))
    def ack(self, client: str, pick: int, late: int) -> None:
        self.say("ack", client, b"ACK", self.lease(pick), late=late)

    @precondition(lambda self: self.pair.leases)
    @rule(client=client_names, some=st.lists(st.one_of(picks, st.sampled_from(BAD_LEASES)), min_size=1, max_size=4))
    def mack(self, client: str, some: list[int | bytes]) -> None:
        named = [self.lease(pick) if isinstance(pick, int) else pick for pick in some]
        self.say("mack", client, b"MACK", *named)

    @precondition(lambda self: self.pair.leases)
    @rule(
        client=client_names,
        pick=picks,
        options=st.sampled_from(
            (
                {},
                {"DELAY": b"10"},
                {"DELAY": b"0", "REASON": b"it broke"},
                {"REASON": b"gr\xc3\xbcn"},
                {"REASON": b""},
                {"FATAL": None},
                {"REASON": b"no use", "FATAL": None},
                {"RELEASE": None},
                {"RELEASE": None},
            )
        ),
        late=st.sampled_from((0, 0, 0, 1, 10, 100)),
    )
    def nack(self, client: str, pick: int, options: dict[str, bytes | None], late: int) -> None:
        self.say("nack", client, b"NACK", self.lease(pick), *flatten(options), late=late)

    @precondition(lambda self: self.pair.leases)
    @rule(client=client_names, pick=picks, more=small_ms, late=st.sampled_from((0, 0, 1, 10, 100)))
    def extend(self, client: str, pick: int, more: bytes, late: int) -> None:
        self.say("extend", client, b"EXTEND", self.lease(pick), more, late=late)

    @precondition(lambda self: self.held_with_a_limit())
    @rule(client=client_names, pick=picks, more=st.sampled_from((b"2592000000", b"50", b"20")))
    def extend_to_the_limit(self, client: str, pick: int, more: bytes) -> None:
        held = self.held_with_a_limit()
        self.say("extend_to_the_limit", client, b"EXTEND", held[pick % len(held)], more)

    # Operators

    @initialize(queue=queue_names, fields=st.fixed_dictionaries({}, optional=POLICY_VALUES))
    def configure_first(self, queue: bytes, fields: dict[str, bytes]) -> None:
        if fields:
            self.say("configure_first", CLIENTS[0], b"CONFIG", queue, *flatten(fields))

    @rule(client=client_names, queue=queue_names, fields=st.fixed_dictionaries({}, optional=POLICY_VALUES))
    def config(self, client: str, queue: bytes, fields: dict[str, bytes]) -> None:
        self.say("config", client, b"CONFIG", queue, *flatten(fields))

    @rule(client=client_names, queue=queue_names)
    def pause(self, client: str, queue: bytes) -> None:
        self.say("pause", client, b"PAUSE", queue)

    @rule(client=client_names, queue=queue_names)
    def resume(self, client: str, queue: bytes) -> None:
        self.say("resume", client, b"RESUME", queue)

    @rule(client=client_names, queue=queue_names, count=st.sampled_from((None, b"1", b"2", b"1000")))
    def redrive(self, client: str, queue: bytes, count: bytes | None) -> None:
        self.say("redrive", client, b"REDRIVE", queue, *([b"COUNT", count] if count else []))

    @rule(client=client_names, queue=queue_names, pick=picks)
    def redrive_one(self, client: str, queue: bytes, pick: int) -> None:
        self.say("redrive_one", client, b"REDRIVE", queue, b"ID", self.task_id(queue, pick, "dead"))

    @rule(client=client_names, queue=queue_names, pick=picks)
    def delete(self, client: str, queue: bytes, pick: int) -> None:
        self.say("delete", client, b"DELETE", queue, self.task_id(queue, pick))

    @rule(
        client=client_names,
        queue=queue_names,
        state=st.sampled_from((b"dead", b"ready", b"scheduled", b"READY", b"processing")),
    )
    def purge(self, client: str, queue: bytes, state: bytes) -> None:
        self.say("purge", client, b"PURGE", queue, state)

    # Readers

    @rule(
        client=client_names,
        queue=queue_names,
        state=st.sampled_from((None, b"ready", b"scheduled", b"processing", b"Dead")),
        count=st.sampled_from((None, b"1", b"3")),
        late=st.sampled_from((0, 0, 10)),
    )
    def peek(self, client: str, queue: bytes, state: bytes | None, count: bytes | None, late: int) -> None:
        options = ([b"STATE", state] if state else []) + ([b"COUNT", count] if count else [])
        self.say("peek", client, b"PEEK", queue, *options, late=late)

    @rule(client=client_names, queue=queue_names, pick=picks)
    def show(self, client: str, queue: bytes, pick: int) -> None:
        self.say("show", client, b"SHOW", queue, self.task_id(queue, pick))

    @rule(client=client_names, queue=queue_names)
    def stats(self, client: str, queue: bytes) -> None:
        self.say("stats", client, b"STATS", queue)

    @rule(client=client_names, pattern=st.sampled_from((None, b"*", b"a", b"gr*", b"?")))
    def queues(self, client: str, pattern: bytes | None) -> None:
        self.say("queues", client, b"QUEUES", *([b"MATCH", pattern] if pattern else []))

    @rule(client=client_names, count=st.sampled_from((b"1", b"2")))
    def queues_page_by_page(self, client: str, count: bytes) -> None:
        """Cursors are opaque, so it is what all the pages list together that must be right."""
        if client := self.free(client):
            self.step("queues_page_by_page", ListByPage(client, count))

    # Time and the network

    @rule(ms=st.sampled_from((1, 2, 5, 10, 11, 25)))
    def a_moment_passes(self, ms: int) -> None:
        self.step("a_moment_passes", Wait(ms))

    @precondition(lambda self: self.model.next_due_ms() is not None)
    @rule(early=st.sampled_from((0, 0, 1)))
    def until_the_next_due_time(self, early: int) -> None:
        due_ms = self.model.next_due_ms()
        assert due_ms is not None
        self.step("until_the_next_due_time", Wait(max(due_ms - early - self.pair.now_ms, 0)))

    @rule(ms=st.sampled_from((100, 1_000, MAX_MS)))
    def a_long_time_passes(self, ms: int) -> None:
        self.step("a_long_time_passes", Wait(ms))

    @rule(client=client_names)
    def disconnect(self, client: str) -> None:
        self.step("disconnect", Disconnect(client))

    @precondition(lambda self: self.pair.leases)
    @rule(pick=picks)
    def undeliver(self, pick: int) -> None:
        self.step("undeliver", LoseReply(self.lease(pick).decode()))

    # What must be refused

    @rule(
        client=client_names,
        verb=st.sampled_from(_VERBS[:3] + _VERBS[7:10] + _VERBS[11:]),
        queue=st.sampled_from(BAD_QUEUES),
    )
    def bad_queue(self, client: str, verb: bytes, queue: bytes) -> None:
        more = {b"ENQUEUE": [b"p"], b"MENQUEUE": [b"p"], b"FETCH": [b"10"], b"SHOW": [b"x"], b"DELETE": [b"x"]}
        rest = [b"ready"] if verb == b"PURGE" else more.get(verb, [])
        self.say("bad_queue", client, verb, queue, *rest)

    @rule(
        client=client_names,
        queue=queue_names,
        options=st.fixed_dictionaries({}, optional=ENQUEUE_OPTIONS),
        bad=bad_option(
            ("PRIORITY", "DELAY", "TTL", "MAXATTEMPTS", "LEASE", "DEDUP"),
            {"ID": BAD_IDS, "PRIORITY": (b"10",), "TTL": (b"0",), "LEASE": (b"0",), "DEDUP": (b"0",), "ID ": (b"x",)},
        ),
        at_end=st.booleans(),
    )
    def bad_enqueue(self, client: str, queue: bytes, options: dict[str, bytes], bad: list[bytes], at_end: bool) -> None:
        good = flatten(options)
        self.say("bad_enqueue", client, b"ENQUEUE", queue, b"p", *(good + bad if at_end else bad + good))

    @precondition(lambda self: self.takes_megabytes)
    @rule(
        client=client_names,
        queue=queue_names,
        verb=st.sampled_from((b"ENQUEUE", b"MENQUEUE")),
        rest=st.sampled_from(([], [b"ID", IDS[0]], [b"PRIORITY", b"x"])),
    )
    def too_big(self, client: str, queue: bytes, verb: bytes, rest: list[bytes]) -> None:
        self.say("too_big", client, verb, queue, TOO_BIG, *rest)

    @rule(
        client=client_names,
        queue=queue_names,
        timeout=st.sampled_from((b"0", *_BAD_NUMBERS)),
        options=st.sampled_from(([], [b"COUNT", b"1"], [b"COUNT", b"x"])),
    )
    def bad_timeout(self, client: str, queue: bytes, timeout: bytes, options: list[bytes]) -> None:
        self.say("bad_timeout", client, b"FETCH", queue, timeout, *options)

    @rule(
        client=client_names,
        verb=st.sampled_from(LEASE_VERBS),
        lease=st.sampled_from(BAD_LEASES),
        ms=st.sampled_from((b"1", b"x")),
    )
    def bad_lease(self, client: str, verb: str, lease: bytes, ms: bytes) -> None:
        self.say("bad_lease", client, verb.encode(), lease, *([ms] if verb == "EXTEND" else []))

    @precondition(lambda self: self.pair.leases)
    @rule(
        client=client_names,
        pick=picks,
        options=st.one_of(
            bad_option(("DELAY",), {"REASON": BAD_REASONS}),
            st.sampled_from(
                (
                    [b"FATAL", b"RELEASE"],
                    [b"DELAY", b"1", b"FATAL"],
                    [b"RELEASE", b"DELAY", b"0"],
                    [b"REASON", b"r", b"RELEASE"],
                    [b"FATAL", b"FATAL"],
                    [b"DELAY"],
                    [b"REASON", BAD_REASONS[0], b"DELAY", b"x"],
                    [b"DELAY", b"x", b"REASON", BAD_REASONS[0]],
                )
            ),
        ),
    )
    def bad_nack(self, client: str, pick: int, options: list[bytes]) -> None:
        self.say("bad_nack", client, b"NACK", self.lease(pick), *options)

    @precondition(lambda self: self.pair.leases)
    @rule(client=client_names, pick=picks, ms=st.sampled_from((b"0", *_BAD_NUMBERS)))
    def bad_extend(self, client: str, pick: int, ms: bytes) -> None:
        self.say("bad_extend", client, b"EXTEND", self.lease(pick), ms)

    @rule(
        client=client_names,
        queue=queue_names,
        fields=st.fixed_dictionaries({}, optional=POLICY_VALUES),
        bad=bad_option(tuple(POLICY_VALUES), {"lease_ms": (b"0",), "nope": (b"1",), "max_ready": (b"1000000001",)}),
    )
    def bad_config(self, client: str, queue: bytes, fields: dict[str, bytes], bad: list[bytes]) -> None:
        self.say("bad_config", client, b"CONFIG", queue, *flatten(fields), *bad)

    @rule(client=client_names, verb=st.sampled_from(_VERBS), queue=queue_names, rest=st.lists(words, max_size=5))
    def anything(self, client: str, verb: bytes, queue: bytes, rest: list[bytes]) -> None:
        first = [] if verb == b"QUEUES" else [queue]
        if verb in (b"ACK", b"MACK", b"NACK", b"EXTEND"):
            first = [self.pair.leases[-1] if self.pair.leases else BAD_LEASES[3]]
        if verb == b"QUEUES" and b"COUNT" in rest:
            rest = [word for word in rest if word != b"COUNT"]
        self.say("anything", client, verb, *first, *rest)

    @rule(
        client=client_names,
        argv=st.sampled_from(([b"NOPE"], [b"ENQUEUE", b"a"], [b"ACK"], [b"STATS"], [b"EXTEND", b"a"])),
    )
    def no_such_command(self, client: str, argv: list[bytes]) -> None:
        self.say("no_such_command", client, *argv)

    # How a step is done

    def free(self, client: str) -> str:
        """That client, or if it waits the next that does not; "" when all wait."""
        order = CLIENTS[CLIENTS.index(client) :] + CLIENTS[: CLIENTS.index(client)]
        return next((name for name in order if name not in self.pair.waiting), "")

    def lease(self, pick: int) -> bytes:
        """One of the leases so far, live or void."""
        latest_first = self.pair.leases[::-1]
        live = {task.lease.lease_id for queue in self.model.queues.values() for task in queue.tasks if task.lease}
        order = sorted(latest_first, key=lambda lease_id: lease_id.decode() not in live)
        return order[pick % len(order)]

    def void_ones(self) -> list[bytes]:
        """Leases that ended, of tasks that are leased again: all but their token is right."""
        live = [task.lease.lease_id for queue in self.model.queues.values() for task in queue.tasks if task.lease]
        again = {lease_id.rsplit(":", 2)[0] for lease_id in live}
        told = [lease.decode() for lease in self.pair.leases]
        return [lease.encode() for lease in told if lease.rsplit(":", 2)[0] in again and lease not in live]

    def held_with_a_limit(self) -> list[bytes]:
        """Live leases of queues with a `max_hold_ms`."""
        limited = [queue for queue in self.model.queues.values() if queue.policy["max_hold_ms"]]
        return [task.lease.lease_id.encode() for queue in limited for task in queue.tasks if task.lease]

    def remembered(self) -> list[tuple[bytes, bytes]]:
        """(queue, id) of the tasks that are gone and whose window was open, and maybe still is."""
        return [(q.name.encode(), name.encode()) for q in self.model.queues.values() for name, _ in q.remembered]

    def without_ready(self) -> list[bytes]:
        """Queues with nothing to lease now, and something later on."""
        return [q.name.encode() for q in self.model.queues.values() if q.tasks and not q.in_state("ready")]

    def task_id(self, queue: bytes, pick: int, state: str | None = None) -> bytes:
        """The id of a task there, or one that may not be there."""
        tasks = self.model.queues[queue.decode()].tasks if queue.decode() in self.model.queues else []
        known = [task.task_id.encode() for task in tasks if state in (None, task.state)]
        known += [*IDS, b"nobody"]
        return known[pick % len(known)]

    def say(self, name: str, client: str, *argv: bytes, late: int = 0) -> None:
        """One command, of that client or of another that does not wait."""
        verb, *args = argv
        if client := self.free(client):
            self.step(name, Say(client, (b"MOXY." + verb, *args), late))

    def step(self, name: str, step: Step) -> None:
        self.tally.rules[name] += 1
        self.pair.take(step)

    def teardown(self) -> None:
        for name in self.model.queues:
            self.tally.events.update(self.model.events_count(name))
        if sys.exc_info()[0] is None:
            target(float(len(self.pair.seen)), label="kinds of moves")
        self.pair.close()


TOO_BIG: Final = b"x" * (MAX_PAYLOAD_BYTES + 1)


def fetch_options(count: bytes | None, block: bytes | None, bound: bool, others: list[bytes]) -> list[bytes]:
    options = [b"COUNT", count] if count else []
    options += [b"BLOCK", block] if block is not None else []
    options += [b"BOUND"] if bound else []
    return options + ([b"WITH", *others] if others else [])


# How it is run


@dataclass
class Report:
    """What a run came to: `failure` is the shortest failing program as a transcript, None when everything held."""

    tally: Tally
    can_block: bool
    takes_megabytes: bool
    failure: str | None = None

    @property
    def missing(self) -> list[str]:
        """What a thorough run should have come across and this one did not."""
        tally = self.tally
        cannot = ([] if self.can_block else ["fetch_and_wait", "wait_for_what_comes_back"]) + (
            [] if self.takes_megabytes else ["too_big"]
        )
        never = [f"rule {name}" for name in _rule_names() if not tally.rules[name] and name not in cannot]
        never += [f"reply {code}" for code in CODES if not tally.replies[code]]
        never += [f"event {name}" for name in (*TASK_EVENTS, *QUEUE_EVENTS) if not tally.events[name]]
        never += [f"move {name}" for name in MOVES if not tally.moves[name]]
        never += [f"move {name}" for name in WAITS if self.can_block and not tally.moves[name]]
        return never

    def format(self) -> str:
        """The report for people."""
        if self.failure is not None:
            return f"The system and the model disagree. The shortest program found:\n\n{self.failure}\n"
        tally = self.tally
        lines = [f"No difference from the model in {tally.programs} programs of {tally.steps} steps.", ""]
        for title, counts in (("rules", tally.rules), ("replies", tally.replies), ("events", tally.events)):
            lines += _columns(title, counts)
        lines += _columns("moves", tally.moves)
        lines.append(f"never happened: {', '.join(self.missing) or 'nothing that can'}")
        return "\n".join(lines) + "\n"


def _columns(title: str, counts: Counter[str]) -> list[str]:
    return [title, *(f"  {count:>9,}  {name}" for name, count in sorted(counts.items()) if count), ""]


def _rule_names() -> list[str]:
    """Every rule of the machine: Hypothesis marks them with an attribute of that name."""
    marks = ("hypothesis_stateful_rule", "hypothesis_stateful_initialize_rule")
    return sorted(name for name, each in vars(LockStep).items() if any(hasattr(each, mark) for mark in marks))


def machine_for(factory: SystemFactory, tally: Tally) -> type[LockStep]:
    """The machine over a system of that factory, counting into that tally."""
    return type("LockStep", (LockStep,), {"factory": staticmethod(factory), "tally": tally})


def check(
    factory: SystemFactory,
    examples: int,
    at_seed: int | None = None,
    steps: int = 50,
    targeted: bool = False,
) -> Report:
    """Run so many programs against systems of that factory; without a seed always the same ones.

    A `Mismatch` becomes the report's failure, shrunk; so does any other exception of the system, with its transcript.
    """
    tally = Tally()
    machine = machine_for(factory, tally)
    if at_seed is not None:
        machine = seed(at_seed)(machine)
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=at_seed is None,
        database=None,
        deadline=None,
        phases=(Phase.generate, *([Phase.target] if targeted else [])),  # `shorten` is quicker, and goes further
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )
    probe = factory()
    report = Report(tally, probe.can_block, probe.takes_megabytes)
    probe.close()
    try:
        run_state_machine_as_test(machine, settings=profile)
    except Mismatch as mismatch:
        report.failure = shorten(factory, mismatch).transcript
    return report
