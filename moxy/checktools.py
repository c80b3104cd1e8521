"""The command that tries to prove the contract false: modelcheck.

Lives here: its flags, its exit code, what it shows on the way. Must not: a rule, a model, a system under test; those
are in `spec`, which nothing else of Moxy knows. It is loaded when the command runs, and so is Hypothesis, which only
the extra `test` installs.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Final

import click

from moxy.backends.redis.errors import BackendDown, Unreachable
from moxy.config import ConfigError

EXIT_VIOLATED: Final = 1
SEED_MAX: Final = 2**64 - 1


@click.command()
@click.option(
    "--backend",
    type=click.Choice(["memory", "journal", "redis", "two-on-redis"]),
    default="memory",
    show_default=True,
    help="What to check; journal is memory with an event log, and crashes; two-on-redis is two servers.",
)
@click.option("--redis-addr", envvar="MOXY_REDIS_ADDR", metavar="HOST:PORT|URL", help="The Redis of --backend redis.")
@click.option(
    "--examples",
    type=click.IntRange(1, 10_000_000),
    default=1_000,
    show_default=True,
    help="So many random programs.",
)
@click.option("--seed", type=click.IntRange(0, SEED_MAX), help="Other programs than the usual ones.")
def modelcheck(backend: str, redis_addr: str | None, examples: int, seed: int | None) -> None:
    """Compare a backend with the model.

    Runs random programs on a backend and on the independent reference model of spec/, in lock-step, and compares
    every reply and every state. Prints what was exercised, or the shortest program that tells the two apart.
    Exit code 0 when all was the same, 1 when not, 5 when Redis cannot be reached. In Redis it works under a prefix of
    its own, which it deletes.
    """
    machine = _spec("machine")
    factory = _spec("adapters").system_named(backend, redis_addr)
    if isinstance(factory, str):
        raise ConfigError(factory)
    tally = _spec("lockstep").Tally()
    try:
        with _without_traces(), _progress(lambda: int(tally.programs), examples):
            report = machine.check(factory, examples, seed, tally=tally)
    except BackendDown as down:
        raise Unreachable(down.sentence) from None
    click.echo(f"{backend}: {report.format()}", nl=False)
    if report.failure is not None:
        sys.exit(EXIT_VIOLATED)


def _spec(name: str) -> ModuleType:
    """A module of `spec`. Raises ConfigError where it, or Hypothesis, is not installed."""
    try:
        import_module("hypothesis")
    except ImportError:
        raise ConfigError("modelcheck needs Hypothesis: install it with pip install 'moxy[test]'") from None
    try:
        return import_module(f"spec.{name}")
    except ImportError as error:
        raise ConfigError(f"modelcheck needs the package spec of this Moxy, and cannot load it: {error}") from None


@contextmanager
def _without_traces() -> Iterator[None]:
    """Hypothesis keeps notes in the working directory; not in that of a user."""
    with tempfile.TemporaryDirectory(prefix="moxy-modelcheck-") as directory:
        import_module("hypothesis.configuration").set_hypothesis_home_dir(directory)
        yield


@contextmanager
def _progress(done: Callable[[], int], total: int) -> Iterator[None]:
    """A line on stderr that grows, for people on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def line() -> Text:
        so_far = done()
        return Text(f"{so_far:,} of {total:,} programs" if so_far < total else "the last programs, or shortening one")

    with Live(get_renderable=line, console=Console(stderr=True), transient=True, refresh_per_second=8):
        yield


COMMANDS: Final = (modelcheck,)
