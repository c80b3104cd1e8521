"""Every state of a small queue: breadth first over the real `decide` and `apply`, nothing sampled.

What lives here: the scopes (which commands, how many tasks), the exploration, what is checked at every step and in
every state, the liveness of the finished graph, and how a counterexample is told. What must not live here: a second
idea of how a queue works. The shipped core is the model; this package only drives it and judges. Of `moxy` it
imports only the core.

`scopes` are what is explored, `worlds` what can happen in one, `judging` what must hold, `search` the exploration and
the liveness of its graph, `telling` the report.

    python -m spec.explore [--scope NAME] [--deep] [--jobs N]

Words. A *move* is one command (a closing connection: one release for each lease bound to it) or one millisecond that
passes. Two worlds are the same *state* when `reduced` says so. An *edge* is a distinct triple (state, name of the
move, other state); a move that is refused or changes nothing is checked, but is no edge.

Time needs no bound: it is kept relative, and what is overdue stays overdue. So the graph is finite as soon as the
number of enqueues and of attempts is, and "every state" has no small print about how long the run was.
"""

from spec.explore.scopes import QUEUE, SCOPES, Scope
from spec.explore.search import explore, graph
from spec.explore.telling import Report, Violation
from spec.explore.worlds import START_MS, Move, World, moves, reduced, whole

__all__ = [
    "QUEUE",
    "SCOPES",
    "START_MS",
    "Move",
    "Report",
    "Scope",
    "Violation",
    "World",
    "explore",
    "graph",
    "moves",
    "reduced",
    "whole",
]
