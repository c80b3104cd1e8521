"""`moxy bench`: its flags, the order of its runs, its exit codes.

Lives here: what is asked for, and the wiring of servers, runs and report. Must not: measure.

Exit code 0 when every check of every run held, 1 when one did not, 2 for wrong flags, 5 when a server cannot be had.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

import click
from rich.console import Console

from moxy.bench.drivers import DRIVERS, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, PIPELINE_MAX
from moxy.bench.report import OURS, WIDTH_MIN, as_json, report, show
from moxy.bench.run import Plan, Result, run, server_core
from moxy.bench.servers import CannotStart, Target, running, started
from moxy.config import ConfigError, parse_address

EXIT_CHECK_FAILED: Final = 1
EXIT_UNREACHABLE: Final = 5
_PEER: Final = re.compile(r"(?P<name>[a-z-]+)(?:@(?P<address>.+))?")


class _Step(Protocol):
    def __call__(self, result: Result | None, what: str) -> None: ...


@click.command()
@click.option("--addr", metavar="HOST:PORT", help="A running Moxy; without it one is started for the purpose.")
@click.option("--connections", default=50, show_default=True, type=click.IntRange(1, 10_000), metavar="C")
@click.option(
    "--pipeline",
    default=16,
    show_default=True,
    type=click.IntRange(1, PIPELINE_MAX),
    metavar="P",
    help="Commands that a connection writes at once.",
)
@click.option(
    "--payload",
    "payload_bytes",
    default=100,
    show_default=True,
    type=click.IntRange(PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MAX),
    metavar="BYTES",
)
@click.option(
    "--tasks",
    default=100_000,
    show_default=True,
    type=click.IntRange(1, 100_000_000),
    metavar="N",
    help="Tasks a run, rounded up to whole batches.",
)
@click.option("--queues", default=1, show_default=True, type=click.IntRange(1, 10_000), metavar="Q")
@click.option(
    "--against",
    multiple=True,
    metavar="PEER",
    help=f"{', '.join(name for name in DRIVERS if name != OURS)}; started, or NAME@HOST:PORT. May come several times.",
)
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1, 1000), metavar="R", help="Runs of each.")
@click.option(
    "--durability",
    default="none",
    show_default=True,
    type=click.Choice(["none", "everysec", "always"]),
    help="Of servers that are started: none keeps nothing.",
)
@click.option("--serve-flags", default="", metavar="FLAGS", help="More flags for the moxy serve that is started.")
@click.option("--json", "as_json_", is_flag=True, help="JSON, also on a terminal.")
def bench(
    addr: str | None,
    connections: int,
    pipeline: int,
    payload_bytes: int,
    tasks: int,
    queues: int,
    against: tuple[str, ...],
    runs: int,
    durability: str,
    serve_flags: str,
    as_json_: bool,
) -> None:
    """Measure throughput and latency, beside peers.

    The whole life of a task: enqueue, lease, ack with the id that came. Runs take turns, so that what drifts drifts for
    all. Every reply is checked.

    \b
    moxy bench --against redis-lua --against redis-list
    """
    plan = Plan(connections, pipeline, payload_bytes, tasks, queues)
    peers = [_peer(text) for text in against]
    names = [name for name, _ in peers]
    if len(set(names)) < len(names):
        raise ConfigError("--against names a peer twice")
    if addr and (serve_flags or durability != "none"):
        raise ConfigError("--durability and --serve-flags are for servers that are started: leave out --addr")
    ours = None if addr is None else parse_address(addr)
    flags = shlex.split(serve_flags)
    results: list[Result] = []
    try:
        with ExitStack() as servers, _progress(runs * (len(peers) + 1)) as step:
            targets: list[Target] = []
            for name, address in [*peers, (OURS, ours)]:
                step(None, f"starting {name}")
                if address is not None:
                    targets.append(running(name, *address))
                else:
                    own = flags if name == OURS else []
                    targets.append(servers.enter_context(started(name, durability, own, server_core())))
            for number in range(runs):
                for target in targets:
                    step(None, f"{target.name}, run {number + 1} of {runs}")
                    results.append(run(target, plan))
                    step(results[-1], f"{target.name}: {results[-1].tasks_per_s:,.0f} tasks/s")
    except CannotStart as error:
        click.echo(f"moxy: {error}", err=True)
        sys.exit(EXIT_UNREACHABLE)
    found = report(plan, durability, {target.name: target.version for target in targets}, results)
    if as_json_:
        click.echo(as_json(found))
    else:
        show(found, Console(width=max(Console().width, WIDTH_MIN)))
    if not found.valid:
        sys.exit(EXIT_CHECK_FAILED)


def _peer(text: str) -> tuple[str, tuple[str, int] | None]:
    """NAME or NAME@HOST:PORT. Raises ConfigError."""
    match = _PEER.fullmatch(text)
    if match is None or match["name"] not in DRIVERS or match["name"] == OURS:
        known = ", ".join(name for name in DRIVERS if name != OURS)
        raise ConfigError(f"--against is one of {known}, or such a name with @HOST:PORT, not {text!r}")
    return match["name"], parse_address(match["address"]) if match["address"] else None


@contextmanager
def _progress(total: int) -> Iterator[_Step]:
    """A bar on stderr for people on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda result, what: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Nothing turns while a run is measured: the bar is drawn when it has something to say.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)

        def step(result: Result | None, what: str) -> None:
            bar.update(task, advance=0 if result is None else 1, description=what, refresh=True)

        yield step
