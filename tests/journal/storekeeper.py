"""A server without sockets over the journal, a random workload for it, and what must hold after a crash.

Lives here: what the tests of this folder share. `Store` decides commands, gathers their events, and keeps the history
of what was written and of how much of it was acknowledged: a recovered log must be a prefix of the first that holds
the second.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from moxy.core.answers import Delivery
from moxy.core.commands import (
    Ack,
    AnyCommand,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    Nack,
    Pause,
    Purge,
    Redrive,
    Release,
    Resume,
    Tick,
)
from moxy.core.decider import decide
from moxy.core.errors import Refused
from moxy.core.events import AnyEvent
from moxy.core.reading import different
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.core.tasks import Image
from moxy.journal.errors import LogFailed, LogRefused
from moxy.journal.journal import Journal
from moxy.journal.recovery import Recovered

LOG_ID = 0x1EAF1EAF
T0_MS = 1_700_000_000_000
States = dict[str, QueueState]


def folded(events: Iterable[AnyEvent], states: States | None = None) -> States:
    """The states after some events."""
    out = dict(states or {})
    for event in events:
        out[event.queue] = apply(out.get(event.queue) or QueueState(event.queue), event)
    return out


def images(states: States) -> list[Image]:
    """What a snapshot is made of."""
    return [state.image() for state in states.values()]


def differences(one: States, other: States) -> list[str]:
    """What two sets of states differ in; empty when in nothing."""
    out = [f"queue {name} is missing" for name in one.keys() ^ other.keys()]
    for name in one.keys() & other.keys():
        out += [f"{name}.{field}" for field in different(one[name], other[name])]
    return out


class Workload:
    """An endless random run of commands on a few queues. Remembers leases, void ones too, on purpose."""

    def __init__(self, seed: int, queues: Sequence[str] = ("jobs", "mail"), payload_bytes: int = 40) -> None:
        self.rng = random.Random(seed)
        self.queues = queues
        self.payload_bytes = payload_bytes
        self.now_ms = T0_MS
        self.deliveries: list[Delivery] = []

    def payload(self) -> bytes:
        rng = self.rng
        size = rng.choice([0, 3, self.payload_bytes, self.payload_bytes * 3])
        return bytes(size) if rng.random() < 0.2 else rng.randbytes(size)

    def command(self) -> AnyCommand:
        rng = self.rng
        self.now_ms += rng.choice([0, 0, 1, 20, 400])
        queue = rng.choice(self.queues)
        if self.deliveries and rng.random() < 0.45:
            return self._about_a_lease(rng.choice(self.deliveries[-8:]))
        roll = rng.randrange(20)
        if roll < 8:
            return Enqueue(
                queue,
                self.payload(),
                rng.choice(["", "", f"id{rng.randrange(20)}"]),
                rng.choice([0, 0, 9]),
                rng.choice([0, 0, 50]),
                rng.choice([-1, -1, 300]),
                rng.choice([-1, -1, 1, 2]),
                dedup_ms=rng.choice([0, 0, 800]),
            )
        if roll < 13:
            return Fetch(queue, rng.choice([0, 100, 1000]), rng.choice([1, 1, 3]), "worker-1", rng.random() < 0.3)
        if roll == 13:
            return EnqueueMany(queue, tuple(self.payload() for _ in range(rng.randrange(1, 5))))
        if roll == 14:
            return rng.choice([Pause(queue), Resume(queue), Resume(queue)])
        if roll == 15:
            return Configure(queue, ((rng.choice(["backoff_ms", "ttl_ms", "max_attempts"]), rng.choice([0, 2, 500])),))
        if roll == 16:
            return rng.choice([Delete(queue, f"id{rng.randrange(20)}"), Purge(queue, rng.choice(["ready", "dead"]))])
        if roll == 17:
            return Redrive(queue)
        return Tick(queue)

    def _about_a_lease(self, d: Delivery) -> AnyCommand:
        assert d.lease_id is not None
        _, number, token, _ = d.lease_id.rsplit(":", 3)
        lease = (d.queue, d.lease_id, int(number), int(token))
        roll = self.rng.randrange(8)
        if roll < 4:
            return Ack(*lease)
        if roll < 6:
            kind = self.rng.choice(["retry", "retry", "fatal", "release"])
            return Nack(*lease, kind, self.rng.choice([-1, 0, 60]), self.rng.choice(["", "no"]))
        return self.rng.choice([Extend(*lease, 700), Release(*lease, "disconnect"), Release(*lease, "undelivered")])


def random_batches(seed: int, batches: int, payload_bytes: int = 40) -> list[list[AnyEvent]]:
    """Batches of events, each of one to four commands, never empty."""
    work = Workload(seed, payload_bytes=payload_bytes)
    states: States = {}
    out: list[list[AnyEvent]] = []
    while len(out) < batches:
        batch: list[AnyEvent] = []
        for _ in range(work.rng.randrange(1, 5)):
            batch += run(states, work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
        if batch:
            out.append(batch)
    return out


def run(
    states: States, command: AnyCommand, now_ms: int, seed: int, deliveries: list[Delivery]
) -> tuple[AnyEvent, ...]:
    """Decide one command on `states`, which change. A refusal changes nothing."""
    before = states.get(command.queue) or QueueState(command.queue)
    try:
        decision = decide(before, command, now_ms, seed)
    except Refused:
        return ()
    if decision.events:
        states[command.queue] = decision.state
    answer: Any = decision.answer
    if isinstance(command, Fetch) and isinstance(answer, list):
        deliveries.extend(answer)
    return decision.events


class Store:
    """A server on one disk. `history` are the events that the log took, `acknowledged` how many of them are promised.

    `in_doubt`: the batch whose outcome nobody knows, after the disk failed.
    """

    def __init__(self, disk: Any, durable_first: bool = True, segment_bytes: int = 4096) -> None:
        self.durable_first = durable_first
        self.journal, self.recovered = Journal.open(disk, LOG_ID, T0_MS, segment_bytes)
        self.states: States = dict(self.recovered.states)
        self.written: States = dict(self.states)
        self.history: list[AnyEvent] = []
        self.batch: list[AnyEvent] = []
        self.in_doubt: list[AnyEvent] = []
        self.acknowledged = 0
        self.refused = 0

    def do(self, command: AnyCommand, now_ms: int, seed: int, deliveries: list[Delivery]) -> None:
        self.batch += run(self.states, command, now_ms, seed, deliveries)

    def commit(self) -> bool:
        """Write and, if asked to, sync what was done since; False when the log refused it and it is undone."""
        batch, self.batch = self.batch, []
        try:
            self.journal.append(batch)
            self.journal.flush()
        except LogRefused:
            self.states = dict(self.written)
            self.refused += 1
            return False
        except LogFailed:
            self.in_doubt = batch
            raise
        self.history += batch
        self.written = dict(self.states)
        if self.durable_first:
            assert self.journal.sync() == len(self.history)
            self.acknowledged = len(self.history)
        return True

    def snapshot(self, now_ms: int, retain_bytes: int | None = None) -> None:
        """A snapshot and the retention after it. The log goes on when it is refused."""
        try:
            self.journal.write_snapshot(images(self.states), self.journal.mark(), now_ms)
            self.acknowledged = max(self.acknowledged, self.journal.snapshot_sequence)
            self.journal.retain(now_ms, retain_bytes, None)
        except LogRefused:
            self.refused += 1


def check_recovered(store: Store, recovered: Recovered, all_written: bool = False) -> None:
    """What survives is a prefix of what was written, with all that was acknowledged in it."""
    history = store.history + store.in_doubt
    least = len(store.history) if all_written else store.acknowledged
    assert least <= recovered.last_sequence <= len(history), (least, recovered.last_sequence, len(history))
    assert differences(recovered.states, folded(history[: recovered.last_sequence])) == []
