"""Planted bugs: small faults in Moxy's source, and which of the checkers sees each.

What lives here: a door to the rooms behind it: the faults as data (`faults`), the checkers as commands (`checkers`),
how they meet (`meeting`), the command line (`__main__`).

    python -m spec.mutants --list            the faults, and the checkers
    python -m spec.mutants NAME              plant one; say who saw it, and what it looked like
    python -m spec.mutants --all [--every]   a table: each fault against the checkers, up to the first that sees it

A checker is a command that ends with 0 when nothing is wrong. `--all` also runs each on a copy without a fault first:
one that is red there proves nothing and is left out.
"""

from spec.mutants.checkers import CHECKERS, ROOT, Checker
from spec.mutants.faults import MUTANTS
from spec.mutants.meeting import Verdict, available, environment, judge, planted, sound_checkers, try_mutant
from spec.mutants.mutant import Mutant

__all__ = [
    "CHECKERS",
    "MUTANTS",
    "ROOT",
    "Checker",
    "Mutant",
    "Verdict",
    "available",
    "environment",
    "judge",
    "planted",
    "sound_checkers",
    "try_mutant",
]
