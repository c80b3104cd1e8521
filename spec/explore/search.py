"""The search: breadth first over every state, then the liveness of the finished graph.

What lives here: `explore` and `graph`. What must not live here: what is checked at a step (`judging`), the scopes.
"""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from moxy.core import decider, reducer
from moxy.core.commands import AnyCommand
from moxy.core.state import QueueState
from spec.explore.judging import Apply, Broken, Decide, Probed, judge_image, probe, take
from spec.explore.scopes import QUEUE, Scope
from spec.explore.telling import Report, Violation, brief
from spec.explore.worlds import ADVANCE, START_MS, Move, World, moves, reduced, whole

FORCED: Final = frozenset({ADVANCE, "Tick", "Fetch", "Resume"})
"""What time and workers do for ever, and operators after a pause: the fairness that liveness assumes."""
WHIMS: Final = frozenset({"Release", "Undelivered", "Extend", "Pause", "Redrive", "Configure"})
"""What can be repeated for ever without a task ever ending: liveness assumes that each stops at some time."""


@dataclass
class Explorer:
    """One exploration: the states by what they are reduced to, how each was first reached, the edges."""

    scope: Scope
    decide: Decide
    apply: Apply
    seen: dict[bytes, int] = field(default_factory=dict)
    parents: "array[int]" = field(default_factory=lambda: array("l"))
    ways: "array[int]" = field(default_factory=lambda: array("H"))
    starts: "array[int]" = field(default_factory=lambda: array("L", [0]))
    targets: "array[int]" = field(default_factory=lambda: array("L"))
    names: "array[int]" = field(default_factory=lambda: array("B"))
    name_of: list[str] = field(default_factory=list)
    finals: list[int] = field(default_factory=list)
    depth: int = 0

    def reduce(self, world: World) -> bytes:
        return whole(self.scope, world) if self.scope.whole else reduced(self.scope, world)

    def take(self, world: World, move: Move) -> World:
        if not move.commands:
            return world.later()
        for command in move.commands:
            world = take(world, command, move.refusals, move.seed, self.decide, self.apply)
        return world

    def first(self) -> World:
        return World(QueueState(QUEUE, self.scope.policy), START_MS)

    def run(self) -> Violation | None:
        """Level by level, so the first violation is one of the shortest."""
        first = self.first()
        self.seen[self.reduce(first)] = 0
        self.parents.append(-1)
        self.ways.append(0)
        codes: dict[str, int] = {}
        level, at = [first], 0
        while level:
            following: list[World] = []
            for world in level:
                if not (world.state.ready or world.state.scheduled or world.state.processing):
                    self.finals.append(at)
                try:
                    judge_image(world)
                    probe(world, self.decide)
                except Broken as broken:
                    return self.tell(str(broken), self.path(at))
                except Probed as probed:
                    return self.tell(str(probed), self.path(at), (probed.command,))
                edges: set[tuple[int, int]] = set()
                for way, move in enumerate(moves(self.scope, world)):
                    try:
                        after = self.take(world, move)
                    except Broken as broken:
                        return self.tell(str(broken), self.path(at), move.commands, move.seed)
                    if after is world:
                        continue
                    key = self.reduce(after)
                    to = self.seen.get(key)
                    if to is None:
                        to = self.seen[key] = len(self.parents)
                        if to >= self.scope.states_max:
                            return self.tell(f"{to + 1} states, and no end of them: something grows", self.path(at))
                        self.parents.append(at)
                        self.ways.append(way)
                        following.append(World(after.state, after.now_ms))  # unread: a level has many worlds
                    if to != at:
                        edges.add((to, codes.setdefault(move.name, len(codes))))
                for to, code in sorted(edges):
                    self.targets.append(to)
                    self.names.append(code)
                self.starts.append(len(self.targets))
                at += 1
                del world.read  # it was for judging this world's moves
            level = following
            self.depth += bool(level)
        self.name_of = sorted(codes, key=codes.__getitem__)
        return self.judge_liveness()

    # Liveness

    def judge_liveness(self) -> Violation | None:
        """EF: a final state can be reached from everywhere. L1 to L3: without whims, one is reached whatever happens.

        The second is a least set: final states are in it, and so is a state with a forced move (something that time,
        a worker that fetches, or an operator who paused will do) of which every move but the whims leads into it.
        Outside are exactly the states that have a run for ever without a task ending, or that are stuck. A wait
        between two final states is then finite, and as enqueues are finite and whims stop, so is the whole run.
        In a final state nothing is ready, so each ready task was leased or ended (L1); no lease is left (L2).
        """
        count = len(self.parents)
        back = self.reversed_edges(count)
        can = bytearray(count)
        for at in self.finals:
            can[at] = 1
        todo = list(self.finals)
        while todo:
            for from_, _ in back(todo.pop()):
                if not can[from_]:
                    can[from_] = 1
                    todo.append(from_)
        if 0 in can:
            return self.tell("no state in which nothing waits can be reached from here", self.path(can.index(0)))
        if not self.scope.every_task_ends:
            return None
        whim = [name in WHIMS for name in self.name_of]
        forced = [name in FORCED for name in self.name_of]
        open_ways, is_forced = array("L", bytes(8 * count)), bytearray(count)
        for at in range(count):
            for edge in range(self.starts[at], self.starts[at + 1]):
                open_ways[at] += not whim[self.names[edge]]
                is_forced[at] |= forced[self.names[edge]]
        must = bytearray(count)
        for at in self.finals:
            must[at] = 1
        todo = list(self.finals)
        while todo:
            for from_, name in back(todo.pop()):
                if whim[name]:
                    continue
                open_ways[from_] -= 1
                if not open_ways[from_] and is_forced[from_] and not must[from_]:
                    must[from_] = 1
                    todo.append(from_)
        return self.tell_loop(must) if 0 in must else None

    def reversed_edges(self, count: int) -> Callable[[int], Iterator[tuple[int, int]]]:
        """For a state, the edges that lead to it, as (from, name)."""
        starts = array("L", bytes(8 * (count + 1)))
        for to in self.targets:
            starts[to + 1] += 1
        for at in range(count):
            starts[at + 1] += starts[at]
        free, froms, names = array("L", starts), array("L", bytes(8 * len(self.targets))), bytearray(len(self.targets))
        for at in range(count):
            for edge in range(self.starts[at], self.starts[at + 1]):
                to = self.targets[edge]
                froms[free[to]], names[free[to]] = at, self.names[edge]
                free[to] += 1
        return lambda at: zip(froms[starts[at] : starts[at + 1]], names[starts[at] : starts[at + 1]], strict=True)

    def tell_loop(self, must: bytearray) -> Violation:
        """A run that never ends, or gets stuck: the way to its first state, then on outside the set until it closes."""
        at = must.index(0)
        path, met = self.path(at), {at: 0}
        world = self.first()
        for way in path:
            world = self.take(world, moves(self.scope, world)[way])
        came = len(path)
        while True:
            onward = self.outside(world, at, must)
            if onward is None:
                return self.tell("L3: stuck: neither time nor a worker can change anything, and a task waits", path)
            way, world, at = onward
            path.append(way)
            if at in met:
                back = came + met[at]
                return self.tell(f"L3: for ever: this is the state after move {back} again, and no task ended", path)
            met[at] = len(path) - came

    def outside(self, world: World, at: int, must: bytearray) -> tuple[int, World, int] | None:
        """A move that is no whim, does something, and leads to where nothing is bound to end."""
        for way, move in enumerate(moves(self.scope, world)):
            after = self.take(world, move)
            to = self.seen[self.reduce(after)]
            if move.name not in WHIMS and to != at and not must[to]:
                return way, after, to
        return None

    # Counterexamples

    def path(self, at: int) -> list[int]:
        """The moves that first led to a state, as positions in `moves`."""
        ways: list[int] = []
        while at:
            ways.append(self.ways[at])
            at = self.parents[at]
        return ways[::-1]

    def tell(
        self, sentence: str, path: Sequence[int], last: Sequence[AnyCommand] = (), last_seed: int = 0
    ) -> Violation:
        """The transcript of a path, and of the commands after it that broke something."""
        world, lines = self.first(), []
        for number, way in enumerate(path, 1):
            move = moves(self.scope, world)[way]
            if not move.commands:
                lines.append(f"{number:>3}. {'':>4}  1 ms passes")
                world = world.later()
            for command in move.commands:
                world = self.retake(world, command, move.seed, number, lines)
        for asked in last:
            world = self.retake(world, asked, last_seed, len(path) + 1, lines)
        return Violation(sentence, len(path) + bool(last), "\n".join(lines))

    def retake(self, world: World, command: AnyCommand, seed: int, number: int, lines: list[str]) -> World:
        """One command again, for the record and without judging it."""
        lines.append(f"{number:>3}. {world.now_ms:>4}  {brief(command)}")
        state = world.state
        try:
            for event in self.decide(state, command, world.now_ms, seed).events:
                lines.append(f"{'':>11}-> {brief(event)}")
                state = self.apply(state, event)
        except Exception as error:
            lines.append(f"{'':>11}-> {type(error).__name__}: {error}")
        return World(state, world.now_ms)


def graph(scope: Scope) -> set[tuple[bytes, str, bytes]]:
    """All edges of the real core's graph, with the states spelled out as `reduced` or `whole` has them."""
    explorer = Explorer(scope, decider.decide, reducer.apply)
    assert explorer.run() is None
    keys = list(explorer.seen)
    return {
        (keys[at], explorer.name_of[explorer.names[edge]], keys[explorer.targets[edge]])
        for at in range(len(keys))
        for edge in range(explorer.starts[at], explorer.starts[at + 1])
    }


def explore(scope: Scope, decide: Decide = decider.decide, apply: Apply = reducer.apply) -> Report:
    """Every state that `scope` can reach, each step and each state checked. Stops at the first violation.

    `decide` and `apply` are the real ones, or a mutant of them. `decide` folds its events with the `apply` that its own
    module has: a mutant of `apply` is planted there too, or else the difference itself is what is found (I10).
    """
    began = time.perf_counter()
    explorer = Explorer(scope, decide, apply)
    violation = explorer.run()
    edges_by_move = Counter(explorer.names)
    return Report(
        scope.name,
        len(explorer.parents),
        len(explorer.targets),
        explorer.depth,
        len(explorer.finals),
        time.perf_counter() - began,
        {name: edges_by_move[code] for code, name in enumerate(explorer.name_of)},
        violation,
    )
