"""What must be refused: rules that say something wrong on purpose.

What lives here: bad names, numbers, leases, options. What must not live here: what is refused for the state of a queue;
that the other rules come across by themselves.
"""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from spec.machine.steps import Steps
from spec.machine.words import (
    BAD_IDS,
    BAD_LEASES,
    BAD_NUMBERS,
    BAD_QUEUES,
    BAD_REASONS,
    ENQUEUE_OPTIONS,
    IDS,
    LEASE_VERBS,
    POLICY_VALUES,
    TOO_BIG,
    VERBS,
    VERBS_OF_A_QUEUE,
    bad_option,
    client_names,
    flatten,
    picks,
    queue_names,
    words,
)


class Refusals(Steps):
    """Mistakes."""

    @rule(
        client=client_names,
        verb=st.sampled_from(VERBS_OF_A_QUEUE),
        queue=st.sampled_from(BAD_QUEUES),
    )
    def bad_queue(self, client: str, verb: bytes, queue: bytes) -> None:
        words_after = {b"ENQUEUE": b"p", b"MENQUEUE": b"p", b"FETCH": b"10", b"SHOW": b"x", b"DELETE": b"x"}
        words_after |= {b"PURGE": b"ready", b"EVENTS": b"1", b"HISTORY": b"x"}
        rest = [words_after[verb]] if verb in words_after else []
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
        timeout=st.sampled_from((b"0", *BAD_NUMBERS)),
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
    @rule(client=client_names, pick=picks, ms=st.sampled_from((b"0", *BAD_NUMBERS)))
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

    @rule(client=client_names, verb=st.sampled_from(VERBS), queue=queue_names, rest=st.lists(words, max_size=5))
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
