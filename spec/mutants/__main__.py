"""The command line of the planted bugs: `python -m spec.mutants`.

What lives here: what people are told, and the table. What must not live here: how a fault is planted (`meeting`).
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from spec.mutants.checkers import CHECKERS
from spec.mutants.faults import MUTANTS
from spec.mutants.meeting import Verdict, available, sound_checkers, try_mutant
from spec.mutants.mutant import Mutant

ABOUT: Final = "Planted bugs: small faults in Moxy's source, and which of the checkers sees each."


def _list(write: Callable[[str], object]) -> None:
    for mutant in MUTANTS.values():
        write(f"{mutant.name:<32} {mutant.about}\n{'':<32} in {mutant.file}; should be seen by {mutant.seen_by[0]}\n")
    write(f"\n{len(MUTANTS)} faults. The checkers, the quick ones first:\n")
    for name, checker in CHECKERS.items():
        write(f"{name:<12} {checker.about}{'' if checker.is_there else ' (not there yet)'}\n")


def _tell_one(mutant: Mutant, checkers: Sequence[str], every: bool, write: Callable[[str], object]) -> bool:
    write(f"{mutant.name}: {mutant.about}\n\n{_diff(mutant)}\n")
    seen = False
    for name, verdict in try_mutant(mutant, checkers, every).items():
        seen = seen or bool(verdict.reason)
        if verdict.reason:
            write(f"{name} is RED after {verdict.seconds:.1f} s:\n\n{_indented(verdict.reason)}\n\n")
        else:
            write(f"{name} saw nothing in {verdict.seconds:.1f} s\n")
    if not seen:
        write("nobody saw it: a test is missing\n")
    return seen


def _diff(mutant: Mutant) -> str:
    minus = [f"  - {line}\n" for line in mutant.old.splitlines()]
    plus = [f"  + {line}\n" for line in mutant.new.splitlines()]
    return f"  {mutant.file}\n{''.join(minus)}{''.join(plus)}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def table(
    mutants: Sequence[Mutant], checkers: Sequence[str], every: bool, jobs: int, write: Callable[[str], object]
) -> list[str]:
    """A row for each fault, as soon as it is known; the names of those that nobody saw."""
    write(f"{'fault':<32} " + " ".join(f"{name:>10}" for name in checkers) + "\n")
    unseen: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda mutant: try_mutant(mutant, checkers, every), mutants)
        for mutant, verdicts in zip(mutants, results, strict=True):
            write(f"{mutant.name:<32} {' '.join(_cell(verdicts.get(name)) for name in checkers)}\n")
            if not any(verdict.reason for verdict in verdicts.values()):
                unseen.append(mutant.name)
    write(f"\n{len(mutants) - len(unseen)} of {len(mutants)} were seen\n")
    for name in unseen:
        write(f"nobody saw {name}: {MUTANTS[name].about}\n")
    return unseen


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return f"{'.':>10}"
    return f"{'RED' if verdict.reason else 'ok'} {verdict.seconds:3.0f} s".rjust(10)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 1 when a fault was seen by nobody."""
    parser = argparse.ArgumentParser(prog="python -m spec.mutants", description=ABOUT)
    parser.add_argument("name", nargs="*", metavar="NAME", help="the faults to plant, each in a copy of its own")
    parser.add_argument("--list", action="store_true", help="the faults and the checkers")
    parser.add_argument("--all", action="store_true", help="all faults, as a table")
    parser.add_argument("--every", action="store_true", help="go on after the first checker that sees the fault")
    parser.add_argument("--checker", action="append", choices=CHECKERS, help="only this one (may be repeated)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many copies at a time, for --all")
    options = parser.parse_args(arguments)
    write = sys.stdout.write
    if options.list:
        _list(write)
        return 0
    if unknown := set(options.name) - set(MUTANTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; see --list")
    checkers = [name for name in options.checker or available() if CHECKERS[name].is_there]
    if options.all:
        return (
            1
            if table(
                list(MUTANTS.values()),
                sound_checkers(checkers, write, options.jobs),
                options.every,
                options.jobs,
                write,
            )
            else 0
        )
    if not options.name:
        parser.error("name a fault, or give --all or --list")
    seen = [_tell_one(MUTANTS[name], checkers, options.every, write) for name in options.name]
    return 0 if all(seen) else 1


if __name__ == "__main__":
    sys.exit(main())
