"""The command line of the explorer: `python -m spec.explore`.

What lives here: the table of scopes as people see it. What must not live here: the search.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import Pool
from typing import Final

from spec.explore.scopes import SCOPES
from spec.explore.search import explore
from spec.explore.telling import Report

ABOUT: Final = "Every state of a small queue: breadth first over the real decide and apply, nothing sampled."
_ROW: Final = "{:<22} {:>10} {:>10} {:>6} {:>8}  {}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a table of scopes; 1 when something is broken, after its shortest transcript."""
    parser = argparse.ArgumentParser(prog="python -m spec.explore", description=ABOUT)
    parser.add_argument("--scope", choices=SCOPES, action="append", help="only this one (may be repeated)")
    parser.add_argument("--deep", action="store_true", help="the deep scopes too: at least a million states")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many scopes at a time")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs is 1 or more")
    write = sys.stdout.write
    chosen = options.scope or [name for name, scope in SCOPES.items() if options.deep or not scope.deep]
    write(_ROW.format("scope", "states", "edges", "depth", "seconds", "what"))
    jobs = min(options.jobs, len(chosen))
    if jobs <= 1:
        return _tell(map(_explored, chosen), write)
    with Pool(jobs) as pool:  # at its end, whatever the reason, the processes end, too
        return _tell(pool.imap(_explored, chosen), write)


def _explored(name: str) -> Report:
    """In a process of its own: a scope knows nothing of the others."""
    return explore(SCOPES[name])


def _tell(reports: Iterable[Report], write: Callable[[str], object]) -> int:
    """A row for each scope, in the order asked for."""
    for report in reports:
        counts = (report.states, report.edges, report.depth, f"{report.seconds:.1f}")
        write(_ROW.format(report.scope, *counts, SCOPES[report.scope].about))
        sys.stdout.flush()
        if report.violation:
            write(f"\n{report.violation}\n")
            sys.stdout.flush()
            return 1
    write("no violation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
