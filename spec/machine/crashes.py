"""How servers end, and are started again: rules for systems that keep their queues.

What lives here: stops, kills, power cuts, also in the midst of a command, and snapshots. What must not live here: what
may be lost by them; that is in `spec.lockstep`.
"""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from spec.lockstep import Restart, Snapshot, Tear
from spec.machine.steps import Steps
from spec.machine.words import client_names, payloads, picks, queue_names
from spec.system import Ending

chances = st.integers(0, 999)
"""Which of the fates that a disk can meet."""


class Crashes(Steps):
    """Ends and starts."""

    @precondition(lambda self: self.is_durable)
    @rule(
        how=st.sampled_from(("kill", "power", "power", "stop")), chance=chances, down_ms=st.sampled_from((0, 0, 1, 10))
    )
    def restart(self, how: Ending, chance: int, down_ms: int) -> None:
        self.step("restart", Restart(how, chance, down_ms))

    @precondition(lambda self: self.is_durable)
    @rule()
    def take_a_snapshot(self) -> None:
        self.step("take_a_snapshot", Snapshot())

    @precondition(lambda self: self.is_durable)
    @rule(client=client_names, queue=queue_names, payload=payloads, chance=chances, more=st.integers(0, 3))
    def tear_an_enqueue(self, client: str, queue: bytes, payload: bytes, chance: int, more: int) -> None:
        self.tear("tear_an_enqueue", client, chance, b"MENQUEUE", queue, payload, *[b"q" * 600] * more)

    @precondition(lambda self: self.is_durable)
    @rule(client=client_names, queue=queue_names, chance=chances, bound=st.booleans())
    def tear_a_fetch(self, client: str, queue: bytes, chance: int, bound: bool) -> None:
        self.tear("tear_a_fetch", client, chance, b"FETCH", queue, b"25", b"COUNT", b"2", *[b"BOUND"] * bound)

    @precondition(lambda self: self.is_durable and self.pair.leases)
    @rule(client=client_names, pick=picks, chance=chances, verb=st.sampled_from((b"ACK", b"NACK")))
    def tear_an_end_of_a_lease(self, client: str, pick: int, chance: int, verb: bytes) -> None:
        self.tear("tear_an_end_of_a_lease", client, chance, verb, self.lease(pick))

    def tear(self, name: str, client: str, chance: int, verb: bytes, *args: bytes) -> None:
        """The power goes in the midst of a command, of that client or of another that does not wait."""
        if client := self.free(client):
            self.step(name, Tear(client, (b"MOXY." + verb, *args), chance))
