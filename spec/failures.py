"""The failure matrix as data: for every verb and every crash boundary, what a restart finds.

Lives here: rows, and the table that docs/failure-matrix.md shows. Must not: run anything; tests/spec/test_failures.py
plays every row on a simulated disk, and checks that the page shows this table.
"""

from typing import Final, NamedTuple


class Verb(NamedTuple):
    """A command that changes a task: where the task is before and after it, and when the work may be done twice."""

    name: str
    before: str
    after: str
    twice: str


class Boundary(NamedTuple):
    """A moment at which the process, or the power, may die."""

    name: str
    finds: tuple[str, ...]
    """Which of "before" and "after" a restart may find."""


class Row(NamedTuple):
    """One line of the matrix. `finds` are the states that the task may be in after a restart."""

    verb: Verb
    boundary: Boundary

    @property
    def finds(self) -> tuple[str, ...]:
        return tuple(self.verb.before if when == "before" else self.verb.after for when in self.boundary.finds)


VERBS: Final = (
    Verb("enqueue", "not there", "ready", "if the producer repeats a lost reply without an ID"),
    Verb("enqueue with ID", "not there", "ready", "no: repeating it creates nothing"),
    Verb("lease", "ready", "processing", "yes: the lease expires, and the task is delivered again"),
    Verb("extend", "processing", "processing", "yes, if the lease then expires at its old deadline"),
    Verb("ack", "processing", "gone", "yes, if the ACK was not durable: the lease expires"),
    Verb("nack", "processing", "ready", "yes: that is what a NACK asks for"),
    Verb("nack fatal", "processing", "dead", "yes, if the NACK was not durable: the lease expires"),
    Verb("release", "processing", "ready", "yes: that is what a release asks for"),
    Verb("expire and requeue", "processing", "ready", "yes: expiry is due again at once after the restart"),
    Verb("expire and bury", "processing", "dead", "no: it is set aside, now or at once after the restart"),
    Verb("mature", "scheduled", "ready", "no: it matures again at once after the restart"),
    Verb("redrive", "dead", "ready", "no"),
    Verb("delete", "ready", "gone", "yes, if the DELETE was not durable: it is still there"),
)

BOUNDARIES: Final = (
    Boundary("before the append", ("before",)),
    Boundary("append torn or unknown", ("before", "after")),
    Boundary("durable, not replied", ("after",)),
    Boundary("replied", ("after",)),
)

ROWS: Final = tuple(Row(verb, boundary) for verb in VERBS for boundary in BOUNDARIES)


def table() -> str:
    """The matrix in Markdown."""
    lines = ["| command | the crash comes | the task is | lost? | done twice? |", "| --- | --- | --- | --- | --- |"]
    for row in ROWS:
        lost = "not acknowledged, never was" if row.finds == ("not there",) else "no"
        found = " or ".join(dict.fromkeys(row.finds))
        lines.append(f"| {row.verb.name} | {row.boundary.name} | {found} | {lost} | {row.verb.twice} |")
    return "\n".join(lines)
