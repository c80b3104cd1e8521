"""The command line of the explorer: `python -m spec.explore`.

What lives here: the table of scopes as people see it. What must not live here: the search.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from spec.explore.scopes import SCOPES
from spec.explore.search import explore

ABOUT: Final = "Every state of a small queue: breadth first over the real decide and apply, nothing sampled."
_ROW: Final = "{:<22} {:>10} {:>10} {:>6} {:>8}  {}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a table of scopes; 1 when something is broken, after its shortest transcript."""
    parser = argparse.ArgumentParser(prog="python -m spec.explore", description=ABOUT)
    parser.add_argument("--scope", choices=SCOPES, action="append", help="only this one (may be repeated)")
    parser.add_argument("--deep", action="store_true", help="the deep scopes too: at least a million states")
    options = parser.parse_args(arguments)
    write = sys.stdout.write
    chosen = options.scope or [name for name, scope in SCOPES.items() if options.deep or not scope.deep]
    write(_ROW.format("scope", "states", "edges", "depth", "seconds", "what"))
    for name in chosen:
        report = explore(SCOPES[name])
        counts = (report.states, report.edges, report.depth, f"{report.seconds:.1f}")
        write(_ROW.format(name, *counts, SCOPES[name].about))
        sys.stdout.flush()
        if report.violation:
            write(f"\n{report.violation}\n")
            return 1
    write("no violation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
