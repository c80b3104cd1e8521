"""The `moxy` command: where settings, sources, backend, server and observers are put together.

Lives here: flags, exit codes, signals, wiring. Must not: anything that could be tested without a process.

Data goes to stdout, logs to stderr. Exit codes: 0 clean, 2 usage or configuration, and 1 for a bug.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

import click

from moxy import __version__
from moxy.backends.memory import MemoryBackend
from moxy.config import MAX_ATTEMPTS_RANGE, ConfigError, ServeConfig, parse_address
from moxy.observe.logs import LEVELS, EventLog, configure
from moxy.server.tcp import Server
from moxy.sources import RandomIds, SystemClock

EXIT_USAGE: Final = 2

try:
    from uvloop import run as run_loop
except ImportError:  # no wheel for this platform: asyncio's own loop does the same, slower
    run_loop: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run  # type: ignore[no-redef]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moxy")
def cli() -> None:
    """Moxy: leases, acks and recovery for Redis-style queues, over RESP."""


@cli.command()
@click.option("--addr", envvar="MOXY_ADDR", default="127.0.0.1:6380", show_default=True, metavar="HOST:PORT")
@click.option(
    "--backend",
    envvar="MOXY_BACKEND",
    default="memory",
    show_default=True,
    type=click.Choice(["memory", "redis"]),
    help="Where queues live.",
)
@click.option("--redis-addr", envvar="MOXY_REDIS_ADDR", metavar="HOST:PORT|URL", help="The Redis of --backend redis.")
@click.option("--data-dir", envvar="MOXY_DATA_DIR", metavar="DIR", help="Keep an event log there.")
@click.option(
    "--durability",
    envvar="MOXY_DURABILITY",
    type=click.Choice(["always", "everysec", "no"]),
    help="What a reply promises, with --data-dir.",
)
@click.option(
    "--max-attempts",
    envvar="MOXY_MAX_ATTEMPTS",
    default=25,
    show_default=True,
    type=click.IntRange(*MAX_ATTEMPTS_RANGE),
    help="Deliveries before a task is set aside, for new queues; 0 is unlimited.",
)
@click.option("--requirepass", envvar="MOXY_REQUIREPASS", default="", help="Clients must AUTH with this password.")
@click.option(
    "--max-clients",
    envvar="MOXY_MAX_CLIENTS",
    default=20_000,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Connections at a time.",
)
@click.option(
    "--log-level", envvar="MOXY_LOG_LEVEL", default="info", show_default=True, type=click.Choice(list(LEVELS))
)
@click.option(
    "--log-format",
    envvar="MOXY_LOG_FORMAT",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "json", "console"]),
    help="auto: for people on a terminal, JSON lines elsewhere.",
)
def serve(
    addr: str,
    backend: str,
    redis_addr: str | None,
    data_dir: str | None,
    durability: str | None,
    max_attempts: int,
    requirepass: str,
    max_clients: int,
    log_level: str,
    log_format: str,
) -> None:
    """Run the server. Every flag can be set by a MOXY_ variable, such as MOXY_ADDR.

    \b
    moxy serve
    redis-cli -p 6380 MOXY.ENQUEUE jobs hello
    """
    for flag, given in (
        ("--backend redis", backend == "redis"),
        ("--redis-addr", redis_addr),
        ("--data-dir", data_dir),
        ("--durability", durability),
    ):
        if given:
            raise ConfigError(f"{flag} is not available yet: this version keeps queues in memory only")
    host, port = parse_address(addr)
    config = ServeConfig(host, port, max_attempts, requirepass, max_clients, log_level, log_format)
    run_loop(run_server(config))


@cli.command()
@click.option("--svg", metavar="FILE", help="Also draw what was printed as a picture.")
@click.option("--fast", is_flag=True, help="Without the pauses that let people read.")
def demo(svg: str | None, fast: bool) -> None:
    """Watch a worker die and its task come back, in fifteen seconds."""
    from moxy.story import tell

    tell(svg, pause_s=0.0 if fast else 1.2)


async def run_server(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError when the address cannot be had."""
    log_format = config.log_format
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    logger = configure(config.log_level, "console" if log_format == "console" else "json")

    def say(event: str, **fields: str | int) -> None:
        log = logger.warning if event in ("client.refused", "client.cut_off") else logger.info
        log(event, **fields)

    clock = SystemClock()
    memory = MemoryBackend(clock, RandomIds(), config.policy)
    server = Server(
        memory, clock, say, [EventLog(logger, config.log_level)], config.password, clients_max=config.clients_max
    )
    try:
        await server.start(config.host, config.port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    gc.freeze()  # what exists now lives as long as the process: the collector need not look at it again
    host, port = server.address
    say("server.listening", address=f"{host}:{port}", host=host, port=port, version=__version__)
    logger.warning("server.volatile", text="no data directory: all tasks are gone when this process ends")
    await server.run()
    say("server.stopped", address=f"{host}:{port}")


def main() -> NoReturn:
    """Run the command line: a mistake in it is one sentence on stderr and exit code 2, never a traceback."""
    try:
        code = cli.main(standalone_mode=False)
    except (click.ClickException, ConfigError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"moxy: {message}", err=True)
        sys.exit(EXIT_USAGE)
    except click.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
