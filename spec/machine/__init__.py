"""The machine: Hypothesis drives a system and the reference model in lock-step through random programs.

What lives here: the rules (what clients, operators, networks and time may do, and what must be refused), what a run has
to come across, and `check`, which tells what held or the shortest program that failed. What must not live here:
anything of `moxy` (a system comes as a factory of `spec.system.System`), any rule of a queue (that is `model`), how the
two are compared (that is `lockstep`).

Leases are never forgotten: commands go on using void ones on purpose.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from spec.lockstep import Mismatch, Tally, shorten
from spec.machine.clients import Clients
from spec.machine.crashes import Crashes
from spec.machine.operators import Operators
from spec.machine.refusals import Refusals
from spec.machine.words import TOO_BIG
from spec.model import QUEUE_EVENTS, TASK_EVENTS
from spec.system import SystemFactory

__all__ = ["TOO_BIG", "LockStep", "Report", "check", "machine_for"]

CODES: Final = ("BADQUEUE", "BADTIMEOUT", "ERR", "FULL", "LEASED", "MAXHOLD", "NOLEASE", "NOTASK", "TOOBIG")
"""Every refusal that a queue command can meet."""
MOVES: Final = (
    *("new -> ready", "new -> scheduled", "scheduled -> ready", "ready -> processing"),
    *("processing -> ready", "processing -> scheduled", "processing -> gone", "processing -> dead by attempts"),
    *("processing -> dead by ttl", "processing -> dead by fatal", "ready -> dead by ttl", "scheduled -> dead by ttl"),
    *("dead -> ready", "dead -> gone", "ready -> gone", "scheduled -> gone"),
    *("expiries", "failures", "releases", "disconnects", "a lease extended", "a place kept", "an id remembered"),
)
"""What can become of a task from one step to the next, and how a lease can end, as `_moves` names it."""
ENDS: Final = (
    *("an end by stop", "an end by kill", "an end by power", "a wait lost with the server"),
    *("a torn command kept", "a torn command lost"),
)
"""What only a system that is durable comes across."""
WAITS: Final = ("a wait begins", "a wait is answered", "a wait times out")


class LockStep(Clients, Operators, Refusals, Crashes):
    """All rules. Bind a system with `machine_for`; this class itself has none."""


@dataclass
class Report:
    """What a run came to: `failure` is the shortest failing program as a transcript, None when everything held."""

    tally: Tally
    can_block: bool
    takes_megabytes: bool
    is_durable: bool
    can_pipeline: bool
    failure: str | None = None

    @property
    def missing(self) -> list[str]:
        """What a thorough run should have come across and this one did not."""
        tally = self.tally
        cannot = [] if self.can_block else ["fetch_and_wait", "wait_for_what_comes_back"]
        cannot += [] if self.takes_megabytes else ["too_big"]
        cannot += [] if self.can_pipeline else ["pipeline"]
        cannot += [] if self.is_durable else [name for name in vars(Crashes) if name in _rule_names()]
        never = [f"rule {name}" for name in _rule_names() if not tally.rules[name] and name not in cannot]
        never += [f"reply {code}" for code in CODES if not tally.replies[code]]
        never += [f"event {name}" for name in (*TASK_EVENTS, *QUEUE_EVENTS) if not tally.events[name]]
        never += [f"move {name}" for name in MOVES if not tally.moves[name]]
        never += [f"move {name}" for name in WAITS if self.can_block and not tally.moves[name]]
        never += [f"move {name}" for name in ENDS if self.is_durable and not tally.moves[name]]
        return never

    def format(self) -> str:
        """The report for people."""
        if self.failure is not None:
            return f"The system and the model disagree. The shortest program found:\n\n{self.failure}\n"
        tally = self.tally
        lines = [f"No difference from the model in {tally.programs} programs of {tally.steps} steps.", ""]
        for title, counts in (("rules", tally.rules), ("replies", tally.replies), ("events", tally.events)):
            lines += _columns(title, counts)
        lines += _columns("moves", tally.moves)
        lines.append(f"never happened: {', '.join(self.missing) or 'nothing that can'}")
        return "\n".join(lines) + "\n"


def _columns(title: str, counts: Counter[str]) -> list[str]:
    head = f"{title}: {len(counts)} kinds, {counts.total():,} in all"
    return [head, *(f"  {count:>9,}  {name}" for name, count in sorted(counts.items()) if count), ""]


def _rule_names() -> list[str]:
    """Every rule of the machine: Hypothesis marks them with an attribute of that name."""
    marks = ("hypothesis_stateful_rule", "hypothesis_stateful_initialize_rule")
    return sorted(name for name in dir(LockStep) if any(hasattr(getattr(LockStep, name), mark) for mark in marks))


def machine_for(factory: SystemFactory, tally: Tally) -> type[LockStep]:
    """The machine over a system of that factory, counting into that tally."""
    return type("LockStep", (LockStep,), {"factory": staticmethod(factory), "tally": tally})


def check(
    factory: SystemFactory,
    examples: int,
    at_seed: int | None = None,
    steps: int = 50,
    targeted: bool = False,
    tally: Tally | None = None,
) -> Report:
    """Run so many programs against systems of that factory; without a seed always the same ones.

    A `Mismatch` becomes the report's failure, shrunk; so does any other exception of the system, with its transcript.
    Whoever gives the `tally` can watch it grow.
    """
    tally = tally or Tally()
    machine = machine_for(factory, tally)
    if at_seed is not None:
        machine = seed(at_seed)(machine)
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=at_seed is None,
        database=None,
        deadline=None,
        phases=(Phase.generate, *([Phase.target] if targeted else [])),  # `shorten` is quicker, and goes further
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )
    probe = factory()
    report = Report(
        tally, probe.can_block, probe.takes_megabytes, probe.durable is not None, probe.pipelining is not None
    )
    probe.close()
    try:
        run_state_machine_as_test(machine, settings=profile)
    except Mismatch as mismatch:
        report.failure = shorten(factory, mismatch).transcript
    return report
