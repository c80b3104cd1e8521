"""How a rule takes its step: the pair under test, who may speak, which lease or task is meant.

What lives here: `Steps`, on which all rules stand. What must not live here: a rule.
"""

import sys
from typing import ClassVar

from hypothesis import target
from hypothesis.stateful import RuleBasedStateMachine

from spec.lockstep import Pair, Say, Step, Tally
from spec.machine.words import CLIENTS, IDS
from spec.model import MAX_COUNT, Model
from spec.system import SystemFactory


class Steps(RuleBasedStateMachine):
    """Bind a system with `machine_for`; this class itself has none."""

    factory: ClassVar[SystemFactory]
    tally: ClassVar[Tally]

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(type(self).factory(), self.tally)
        self.can_block = self.pair.system.can_block
        self.takes_megabytes = self.pair.system.takes_megabytes
        self.is_durable = self.pair.system.durable is not None
        self.can_pipeline = self.pair.system.pipelining is not None
        self.tally.programs += 1

    @property
    def model(self) -> Model:
        """The model of this moment: a torn command leaves one of two."""
        return self.pair.model

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

    def log(self, queue: bytes) -> list[dict[str, object]]:
        """The events of a queue so far."""
        name = queue.decode()
        return self.model.queues[name].log if name in self.model.queues else []

    def say(self, name: str, client: str, *argv: bytes, late: int = 0) -> None:
        """One command, of that client or of another that does not wait."""
        verb, *args = argv
        if client := self.free(client):
            self.step(name, Say(client, (b"MOXY." + verb, *args), late))

    def step(self, name: str, step: Step) -> None:
        self.tally.rules[name] += 1
        self.pair.take(step)

    def teardown(self) -> None:
        """At the end of a program that held, the whole story of each queue is compared too."""
        for name in self.model.queues:
            self.tally.events.update(self.model.events_count(name))
        if sys.exc_info()[0] is None:
            if client := self.free(CLIENTS[0]):
                for name in self.model.queues:
                    self.pair.take(Say(client, (b"MOXY.EVENTS", name.encode(), b"1", b"COUNT", b"%d" % MAX_COUNT)))
            target(float(len(self.pair.seen)), label="kinds of moves")
        self.pair.close()
