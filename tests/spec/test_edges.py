"""Every edge of a small state graph, taken by every system: the explorer's moves, in lock-step with the model.

What lives here: the graphs (scopes of spec/explore, small enough for sockets), and walks that together take every
edge. What must not live here: a rule of a queue, or what a reply should be; the model says that, step by step.

The explorer lets time pass and does due work as two moves. A system does what is due at once; so an edge here is a move
of the explorer and then all that is due. An edge is a state and the position of a move in it, also one that is refused
or changes nothing. A walk goes on from edge to edge in one system; so each edge is met once, in whatever history led
there, and leads where the graph says: that is also a test of what the explorer takes for the same state.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import pytest
from msgspec.structs import asdict, replace

from moxy.core.commands import (
    UNSET,
    Ack,
    Command,
    Configure,
    Delete,
    Enqueue,
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
from moxy.core.lifecycle import PROCESSING
from moxy.core.policy import Policy
from moxy.core.state import QueueState
from spec import explore
from spec.adapters import SYSTEMS, canonical
from spec.explore import QUEUE, Move, Scope, World, reduced
from spec.lockstep import T0_MS, Disconnect, LoseReply, Pair, Say, Step, Tally, Wait
from spec.system import SystemFactory

_WALK_MAX: Final = 400

SCOPES: Final = {
    scope.name: scope
    for scope in (
        Scope(
            "one life",
            "one task, and nearly all that can become of it",
            1,
            Policy(max_attempts=2, lease_ms=2, max_hold_ms=4),
            fetches=(Fetch(QUEUE, 0), Fetch(QUEUE, 0, 2, "w2", True)),
            nacks=(("retry", UNSET), ("retry", 1), ("fatal", UNSET), ("release", UNSET)),
            extends=(3,),
            undelivers=True,
            deletes=True,
            redrives=True,
            operators=(Redrive(QUEUE, 1), Purge(QUEUE, "dead"), Purge(QUEUE, "ready"), Purge(QUEUE, "scheduled")),
        ),
        Scope(
            "lives and deaths",
            "two tasks, every NACK, lost replies, redrive, delete, purge",
            2,
            Policy(max_attempts=2, lease_ms=2),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", "", 9, 1)),
            nacks=(("retry", UNSET), ("retry", 1), ("fatal", UNSET), ("release", UNSET)),
            undelivers=True,
            deletes=True,
            redrives=True,
            operators=(Redrive(QUEUE, 1), Purge(QUEUE, "dead"), Purge(QUEUE, "ready"), Purge(QUEUE, "scheduled")),
        ),
        Scope(
            "ids and pauses",
            "an id with a window, a TTL, pause and resume",
            2,
            Policy(max_attempts=1, lease_ms=1, max_ready=1),
            enqueues=(Enqueue(QUEUE, b"", "a", dedup_ms=2), Enqueue(QUEUE, b"", ttl_ms=2)),
            operators=(Pause(QUEUE), Resume(QUEUE), Purge(QUEUE, "dead")),
        ),
        Scope(
            "bound",
            "two connections, leases bound to them, EXTEND up to a cap",
            2,
            Policy(max_attempts=2, lease_ms=2, max_hold_ms=4),
            fetches=(Fetch(QUEUE, 0, 1, "w1", True), Fetch(QUEUE, 0, 1, "w2", True)),
            extends=(3,),
        ),
    )
}


QUICK: Final = ("one life", "ids and pauses")
SIZES: Final = [
    ("one life", 38, 579),
    ("ids and pauses", 140, 888),
    ("lives and deaths", 358, 5626),
    ("bound", 1225, 9796),
]


@dataclass
class Graph:
    """The states of a scope, and where each of their moves leads. State 0 is the first."""

    scope: Scope
    number_of: dict[bytes, int] = field(default_factory=dict)
    edges: list[list[int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(map(len, self.edges))

    def number(self, world: World) -> int:
        return self.number_of[key_of(self.scope, world)]


def first(scope: Scope) -> World:
    """A queue with the policy of the scope, configured as a client would."""
    changes = tuple(asdict(scope.policy).items())
    return World(decide(QueueState(QUEUE), Configure(QUEUE, changes), T0_MS, 0).state, T0_MS)


def key_of(scope: Scope, world: World) -> bytes:
    """What the explorer takes for the same state, but connections keep their names: moves are told by position."""
    leases = [task.lease for task in world.state.in_state(PROCESSING)]
    return reduced(scope, world) + repr([lease.worker for lease in leases if lease and lease.bound]).encode()


def moves(scope: Scope, world: World) -> list[Move]:
    """The explorer's, but for the ticks, which here come by themselves. Whoever fetches has a name."""
    found = [move for move in explore.moves(scope, world) if move.commands != (Tick(QUEUE),)]
    return [
        move._replace(
            commands=tuple(replace(c, worker=c.worker or "w1") if isinstance(c, Fetch) else c for c in move.commands)
        )
        for move in found
    ]


def take(world: World, move: Move) -> World:
    """The move, and then all that is due."""
    state, now_ms = world.state, world.now_ms + (not move.commands)
    for command in move.commands:
        try:
            state = decide(state, command, now_ms, 0).state
        except Refused as refused:
            if refused.code not in move.refusals:
                raise
    while (decision := decide(state, Tick(QUEUE), now_ms, 0)).events:
        state = decision.state
    return World(state, now_ms)


def graph_of(scope: Scope) -> Graph:
    """Breadth first, all of it."""
    graph = Graph(scope)
    start = first(scope)
    graph.number_of[key_of(scope, start)] = 0
    todo = deque([start])
    while todo:
        world = todo.popleft()
        leads: list[int] = []
        for move in moves(scope, world):
            after = take(world, move)
            key = key_of(scope, after)
            if key not in graph.number_of:
                graph.number_of[key] = len(graph.number_of)
                todo.append(after)
            leads.append(graph.number_of[key])
        graph.edges.append(leads)
    return graph


class Walker:
    """Which edges are still to be taken, and the way to the next."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.open = [set(range(len(leads))) for leads in graph.edges]
        self.left = graph.size
        self.count = 0

    def next(self, at: int) -> int | None:
        """The position of the move to take in that state; None when nothing is left that can be reached from it."""
        came: dict[int, tuple[int, int]] = {}
        todo = deque([at])
        while todo:
            state = todo.popleft()
            if self.open[state]:
                if state == at:
                    return min(self.open[state])
                while came[state][0] != at:
                    state = came[state][0]
                return came[state][1]
            for position, to in enumerate(self.graph.edges[state]):
                if to != at and to not in came:
                    came[to] = (state, position)
                    todo.append(to)
        return None

    def taken(self, at: int, position: int) -> None:
        if position in self.open[at]:
            self.open[at].remove(position)
            self.left -= 1
            self.count += 1


# Moves as a client makes them


def steps_of(move: Move, world: World) -> Iterator[Step]:
    if not move.commands:
        yield Wait(1)
    elif move.name == "Disconnect":
        (first_lease, *_) = (command.number for command in move.commands if isinstance(command, Release))
        lease = world.state.tasks[first_lease].lease
        assert lease is not None
        yield Disconnect(lease.worker)
    else:
        for command in move.commands:
            yield step_of(command)


def step_of(command: Command) -> Step:
    """A command in words."""
    if isinstance(command, Release):
        return LoseReply(command.lease_id)
    client = command.worker if isinstance(command, Fetch) else "w0"
    return Say(client, tuple(word if isinstance(word, bytes) else str(word).encode() for word in words_of(command)))


def words_of(command: Command) -> Iterator[bytes | str | int]:
    verb = {"Configure": "CONFIG"}.get(type(command).__name__, type(command).__name__.upper())
    yield f"MOXY.{verb}"
    if isinstance(command, Ack | Nack | Extend):
        yield command.lease_id
    else:
        yield command.queue
    if isinstance(command, Enqueue):
        yield command.payload
        options = (
            ("ID", command.task_id, ""),
            ("PRIORITY", command.priority, 0),
            ("DELAY", command.delay_ms, 0),
            ("TTL", command.ttl_ms, UNSET),
            ("MAXATTEMPTS", command.max_attempts, UNSET),
            ("LEASE", command.lease_ms, 0),
            ("DEDUP", command.dedup_ms, 0),
        )
        for name, value, none in options:
            if value != none:
                yield from (name, value)
    elif isinstance(command, Fetch):
        yield command.lease_ms or "DEFAULT"
        if command.count > 1:
            yield from ("COUNT", command.count)
        if command.bound:
            yield "BOUND"
    elif isinstance(command, Nack):
        if command.kind != "retry":
            yield command.kind.upper()
        if command.delay_ms != UNSET:
            yield from ("DELAY", command.delay_ms)
    elif isinstance(command, Extend):
        yield command.lease_ms
    elif isinstance(command, Configure):
        for field_name, number in command.changes:
            yield from (field_name, number)
    elif isinstance(command, Redrive):
        yield from ("ID", command.task_id) if command.task_id else ("COUNT", command.count)
    elif isinstance(command, Delete):
        yield command.task_id
    elif isinstance(command, Purge):
        yield command.state
    else:
        assert isinstance(command, Ack | Pause | Resume), command


# The walks


@cache
def graph_named(name: str) -> Graph:
    return graph_of(SCOPES[name])


def walk(walker: Walker, pair: Pair) -> int:
    """One walk through the graph in one system, until nothing new can be reached; how many moves it took."""
    scope, graph = walker.graph.scope, walker.graph
    world, at = first(scope), 0
    pair.take(step_of(Configure(QUEUE, tuple(asdict(scope.policy).items()))))
    for taken in range(_WALK_MAX):
        position = walker.next(at)
        if position is None:
            return taken
        move = moves(scope, world)[position]
        for step in steps_of(move, world):
            pair.take(step)
        world = take(world, move)
        to = graph.number(world)
        assert to == graph.edges[at][position], (
            f"{move} leads elsewhere than from the state that was taken for this one"
        )
        assert pair.system.canonical(pair.now_ms) == canonical({QUEUE: world.state}, pair.now_ms)
        walker.taken(at, position)
        at = to
    return _WALK_MAX


@pytest.mark.parametrize(("name", "states", "edges"), SIZES)
def test_the_graph_is_the_one_that_is_meant(name: str, states: int, edges: int) -> None:
    graph = graph_named(name)
    assert (len(graph.edges), graph.size) == (states, edges)


@pytest.mark.parametrize("scope", QUICK)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_edge_is_taken_and_every_reply_and_state_is_the_models(system: str, scope: str) -> None:
    take_every_edge(SYSTEMS[system], scope)


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scope", [name for name in SCOPES if name not in QUICK])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_edge_of_the_larger_graphs_is_taken(system: str, scope: str) -> None:
    take_every_edge(SYSTEMS[system], scope)


def take_every_edge(factory: SystemFactory, scope: str) -> None:
    graph = graph_named(scope)
    walker = Walker(graph)
    while walker.left:
        pair = Pair(factory(), Tally())
        try:
            left = walker.left
            walk(walker, pair)
            assert walker.left < left
        finally:
            pair.close()
    assert walker.count == graph.size
