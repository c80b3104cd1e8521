"""What operators do, and what befalls all: time, lost connections, lost replies.

What lives here: rules of configuration, pause, redrive, delete and purge; of time and the network. What must not live
here: what clients do, what is refused for its form.
"""

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from spec.lockstep import Disconnect, LoseReply, Wait
from spec.machine.steps import Steps
from spec.machine.words import CLIENTS, POLICY_VALUES, client_names, flatten, picks, queue_names
from spec.model import MAX_MS


class Operators(Steps):
    """Operators, time and the network."""

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
