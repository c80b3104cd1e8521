"""The lifecycle: every state with every move, in the library's machine and in the table, against section 1 by hand."""

import pytest
from transitions import MachineError

from moxy.core import lifecycle
from moxy.core.events import EVENT_TYPES, TaskEvent

STATES = ("new", "scheduled", "ready", "processing", "expired", "failed", "dead", "acked", "deleted")

LEGAL = {
    ("new", "enqueue"): "ready",
    ("new", "enqueue_later"): "scheduled",
    ("scheduled", "mature"): "ready",
    ("ready", "lease"): "processing",
    ("processing", "extend"): "processing",
    ("processing", "ack"): "acked",
    ("processing", "expire"): "expired",
    ("processing", "fail"): "failed",
    ("processing", "release"): "ready",
    ("expired", "requeue"): "ready",
    ("failed", "requeue"): "ready",
    ("expired", "requeue_later"): "scheduled",
    ("failed", "requeue_later"): "scheduled",
    ("expired", "bury"): "dead",
    ("failed", "bury"): "dead",
    ("ready", "bury"): "dead",
    ("scheduled", "bury"): "dead",
    ("dead", "redrive"): "ready",
    ("scheduled", "delete"): "deleted",
    ("ready", "delete"): "deleted",
    ("dead", "delete"): "deleted",
}

MOVES = sorted({move for _, move in LEGAL})
PAIRS = [(state, move) for state in STATES for move in MOVES]

EVENTS = {
    "enqueue": "Enqueued",
    "enqueue_later": "Enqueued",
    "mature": "Matured",
    "lease": "Leased",
    "extend": "Extended",
    "ack": "Acked",
    "expire": "Expired",
    "fail": "Failed",
    "release": "Released",
    "requeue": "Requeued",
    "requeue_later": "Requeued",
    "bury": "DeadLettered",
    "redrive": "Redriven",
    "delete": "Deleted, Purged",
}


class Task:
    """A model to bind a machine to; the machine writes its `state` and its triggers."""

    state: str


def task_in(state: str) -> Task:
    task = Task()
    lifecycle.new_machine(task, initial=state)
    assert task.state == state
    return task


def test_states_and_moves_are_those_of_the_contract():
    assert lifecycle.STATES == STATES
    assert sorted(row[0] for row in lifecycle.MOVES) == MOVES
    assert lifecycle.FINAL_STATES == ("acked", "deleted")


def test_the_table_is_that_of_the_contract():
    assert lifecycle.TABLE == LEGAL


@pytest.mark.parametrize(("state", "move"), PAIRS)
def test_the_machine_makes_every_legal_move_and_refuses_every_other(state, move):
    task = task_in(state)
    trigger = getattr(task, move)
    if (state, move) in LEGAL:
        assert trigger() is True
        assert task.state == LEGAL[state, move]
    else:
        with pytest.raises(MachineError):
            trigger()
        assert task.state == state, "a refused move changes nothing"


@pytest.mark.parametrize(("state", "move"), PAIRS)
def test_the_table_has_every_legal_move_and_no_other(state, move):
    assert lifecycle.TABLE.get((state, move)) == LEGAL.get((state, move))


def test_the_machine_has_no_move_beside_these():
    machine = lifecycle.new_machine(Task())
    assert sorted(machine.events) == MOVES
    assert sorted(machine.states) == sorted(STATES)


def test_a_new_machine_starts_before_the_enqueue():
    task = Task()
    lifecycle.new_machine(task)
    assert task.state == "new"


@pytest.mark.parametrize("state", ["acked", "deleted"])
def test_nothing_leads_out_of_a_final_state(state):
    assert [move for source, move in lifecycle.TABLE if source == state] == []


def test_nothing_leads_back_to_new():
    assert "new" not in lifecycle.TABLE.values()


def test_each_move_names_its_event():
    assert {row[0]: row[3] for row in lifecycle.MOVES} == EVENTS
    named = {name for row in lifecycle.MOVES for name in row[3].split(", ")}
    task_events = {kind.__name__ for kind in EVENT_TYPES if issubclass(kind, TaskEvent)}
    assert named == task_events | {"Purged"}


@pytest.mark.parametrize(
    "walk",
    [
        ("new", "enqueue", "ready", "lease", "processing", "ack", "acked"),
        ("new", "enqueue", "ready", "lease", "processing", "expire", "expired", "requeue", "ready"),
    ],
)
def test_the_two_lines_that_the_project_is_known_by(walk):
    task = task_in(walk[0])
    for move, state in zip(walk[1::2], walk[2::2], strict=True):
        getattr(task, move)()
        assert task.state == state


def test_the_diagram_has_every_edge_and_no_other():
    lines = [line.strip() for line in lifecycle.mermaid().splitlines()]
    assert lines[0] == "stateDiagram-v2"
    edges = [f"{source} --> {dest}: {move}" for (source, move), dest in LEGAL.items()]
    ends = ["[*] --> new", "acked --> [*]", "deleted --> [*]"]
    assert sorted(lines[1:]) == sorted(edges + ends)
