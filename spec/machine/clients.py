"""What clients do: producers, workers, readers.

What lives here: rules in which nothing is meant to be refused for its form. What must not live here: operators, time.
"""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from spec.lockstep import ListByPage, SayAll
from spec.machine.steps import Steps
from spec.machine.words import (
    BAD_LEASES,
    ENQUEUE_OPTIONS,
    IDS,
    QUEUES,
    client_names,
    fetch_options,
    flatten,
    lease_for_ms,
    payloads,
    picks,
    pipelines,
    queue_names,
    small_ms,
)


class Clients(Steps):
    """Producers, workers and readers."""

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

    # Both

    @rule(client=client_names, queue=queue_names, payload=payloads, timeout=lease_for_ms)
    def full_cycle(self, client: str, queue: bytes, payload: bytes, timeout: bytes) -> None:
        """The three commands that nearly all of the work consists of, in their plain form."""
        self.say("full_cycle", client, b"ENQUEUE", queue, payload)
        self.say("full_cycle", client, b"FETCH", queue, timeout)
        if self.pair.leases:
            self.say("full_cycle", client, b"ACK", self.lease(0))

    @precondition(lambda self: self.can_pipeline)
    @rule(client=client_names, queue=queue_names, timeout=lease_for_ms, pick=picks, verbs=pipelines)
    def pipeline(self, client: str, queue: bytes, timeout: bytes, pick: int, verbs: list[bytes]) -> None:
        """Plain commands with a few others between them, none waiting for the reply to the one before."""
        more = {
            b"ENQUEUE": [queue, b"p"],
            b"FETCH": [queue, timeout],
            b"PEEK": [queue],
            b"STATS": [queue],
            b"MENQUEUE": [queue, b"p", b"q"],
        }
        argvs: list[tuple[bytes, ...]] = []
        for verb in verbs:
            if verb in more:
                argvs.append((b"MOXY." + verb, *more[verb]))
            elif self.pair.leases:
                argvs.append((b"MOXY." + verb, self.lease(pick)))
                pick += 1
        if client := self.free(client):
            self.step("pipeline", SayAll(client, tuple(argvs)))

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

    @rule(
        client=client_names,
        queue=queue_names,
        from_seq=st.sampled_from((b"1", b"1", b"2", b"5", b"30", b"9223372036854775807")),
        count=st.sampled_from((None, b"1", b"3", b"1000")),
        late=st.sampled_from((0, 0, 10)),
    )
    def events(self, client: str, queue: bytes, from_seq: bytes, count: bytes | None, late: int) -> None:
        self.say("events", client, b"EVENTS", queue, from_seq, *([b"COUNT", count] if count else []), late=late)

    @rule(client=client_names, queue=queue_names, pick=picks)
    def history(self, client: str, queue: bytes, pick: int) -> None:
        """Of a task that is there, or that was there once, or never."""
        known = [entry["task_id"] for entry in self.log(queue) if "task_id" in entry]
        task_id = str(known[-1 - pick % len(known)]).encode() if known and pick % 2 else self.task_id(queue, pick)
        self.say("history", client, b"HISTORY", queue, task_id)

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
