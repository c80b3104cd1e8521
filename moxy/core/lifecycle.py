"""The task lifecycle: the only definition of the legal moves.

The `transitions` machine below is the source; `TABLE`, a plain dict made from it at import, is what everything else
reads: the reducer's guard, the tests, the diagram in docs/lifecycle.md. A trigger of the library costs about ten
microseconds and a lookup a twentieth of one, so the hot path looks up.

Two moves have a `_later` twin that leads to `scheduled`, so that a state and a move always name one next state.
"""

from typing import Final, Literal

from transitions import Machine

State = Literal["new", "scheduled", "ready", "processing", "expired", "failed", "dead", "acked", "deleted"]

NEW: Final = "new"
SCHEDULED: Final = "scheduled"
READY: Final = "ready"
PROCESSING: Final = "processing"
EXPIRED: Final = "expired"
FAILED: Final = "failed"
DEAD: Final = "dead"
ACKED: Final = "acked"
DELETED: Final = "deleted"

STATES: Final[tuple[State, ...]] = (NEW, SCHEDULED, READY, PROCESSING, EXPIRED, FAILED, DEAD, ACKED, DELETED)
FINAL_STATES: Final[tuple[State, ...]] = (ACKED, DELETED)

MOVES: Final[tuple[tuple[str, tuple[State, ...], State, str, str], ...]] = (
    # move, from, to, event, who causes it
    ("enqueue", (NEW,), READY, "Enqueued", "producer"),
    ("enqueue_later", (NEW,), SCHEDULED, "Enqueued", "producer, with DELAY"),
    ("mature", (SCHEDULED,), READY, "Matured", "time"),
    ("lease", (READY,), PROCESSING, "Leased", "worker: FETCH"),
    ("extend", (PROCESSING,), PROCESSING, "Extended", "worker: EXTEND"),
    ("ack", (PROCESSING,), ACKED, "Acked", "worker: ACK"),
    ("expire", (PROCESSING,), EXPIRED, "Expired", "time: the deadline passed"),
    ("fail", (PROCESSING,), FAILED, "Failed", "worker: NACK"),
    ("release", (PROCESSING,), READY, "Released", "worker: NACK RELEASE, or its connection"),
    ("requeue", (EXPIRED, FAILED), READY, "Requeued", "follows Expired or Failed"),
    ("requeue_later", (EXPIRED, FAILED), SCHEDULED, "Requeued", "the same, with a backoff or DELAY"),
    ("bury", (EXPIRED, FAILED, READY, SCHEDULED), DEAD, "DeadLettered", "attempts used up, NACK FATAL, or TTL"),
    ("redrive", (DEAD,), READY, "Redriven", "operator: REDRIVE"),
    ("delete", (SCHEDULED, READY, DEAD), DELETED, "Deleted, Purged", "operator: DELETE, PURGE"),
)


def new_machine(model: object, initial: State = NEW) -> Machine:
    """Bind a `transitions` machine to `model`: the library's own view of the lifecycle, for tests and diagrams."""
    return Machine(
        model=model,
        states=list(STATES),
        transitions=[{"trigger": move, "source": list(source), "dest": dest} for move, source, dest, _, _ in MOVES],
        initial=initial,
        auto_transitions=False,
    )


class _Anyone:
    """A model without a task, so that the machine can be asked for its transitions."""


def _derive() -> dict[tuple[str, str], str]:
    machine = new_machine(_Anyone())
    return {(t.source, move): t.dest or t.source for move in machine.events for t in machine.get_transitions(move)}


TABLE: Final[dict[tuple[str, str], str]] = _derive()
"""`(state, move) -> state`: what is not in it is illegal."""


def mermaid() -> str:
    """The lifecycle as a Mermaid state diagram, from the table. Final states lead to the end mark."""
    lines = ["stateDiagram-v2", f"    [*] --> {NEW}"]
    lines += [f"    {source} --> {dest}: {move}" for (source, move), dest in TABLE.items()]
    lines += [f"    {state} --> [*]" for state in FINAL_STATES]
    return "\n".join(lines)
