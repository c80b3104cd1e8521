"""The `moxy` command: where settings, sources, backend, server and observers are put together.

Lives here: flags, exit codes, signals, wiring. Must not: anything that could be tested without a process.

Data goes to stdout, logs to stderr. Exit codes: 0 clean, 1 a bug, 2 usage or configuration, 3 log damaged, 4 disk
failed while running, 5 backend unreachable at start, 6 data directory in use.
"""

import asyncio
import gc
import secrets
import select
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click

from moxy import __version__, checktools, form, logtools
from moxy.backends.base import Backend, Clock
from moxy.backends.durable import Durability, DurableBackend
from moxy.backends.memory import MemoryBackend
from moxy.backends.recent import EVENTS_MAX
from moxy.backends.redis import RETAIN_EVENTS, RETAIN_EVENTS_MAX, RETAIN_EVENTS_MIN
from moxy.backends.redis.backend import RedisBackend
from moxy.backends.redis.errors import Unreachable
from moxy.backends.redis.library import server_name
from moxy.backends.redis.link import Link
from moxy.backends.redis.scripts import SCRIPT
from moxy.bench.command import bench
from moxy.config import MAX_ATTEMPTS_RANGE, ConfigError, ServeConfig, parse_address, parse_prefix, parse_redis
from moxy.core.lifecycle import PROCESSING
from moxy.journal.disk import OsDisk
from moxy.journal.errors import JournalError
from moxy.journal.journal import Journal
from moxy.journal.recovery import Progress
from moxy.observe.eventlog import EventLog
from moxy.observe.logs import LEVELS, configure
from moxy.server.doors import Form
from moxy.server.protocols import Journalist
from moxy.server.tcp import Server
from moxy.sources import RandomIds, SystemClock

EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 5
_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Nothing of a queue is in a cycle: what the collector is there for are clients that left, and errors. By default it
begins at every 700th list or tuple that lives on: a third of a microsecond for each command of fifty clients."""
WARNINGS: Final = {
    "client.refused",
    "client.cut_off",
    "log.refused",
    "log.warning",
    "snapshot.refused",
    "redis.warning",
    "redis.away",
    "redis.server_gone",
}
ERRORS: Final = {"redis.rollback"}

try:
    from uvloop import run as run_loop
except ImportError:  # no wheel for this platform: asyncio's own loop does the same, slower
    run_loop: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run  # type: ignore[no-redef]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moxy", message=f"%(prog)s %(version)s ({form()})")
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
@click.option(
    "--redis-prefix",
    envvar="MOXY_REDIS_PREFIX",
    metavar="NAME",
    help="What the keys in Redis begin with (moxy).",
)
@click.option(
    "--retain-events",
    envvar="MOXY_RETAIN_EVENTS",
    type=click.IntRange(RETAIN_EVENTS_MIN, RETAIN_EVENTS_MAX),
    metavar="EVENTS",
    help=f"Events kept for each queue in Redis ({RETAIN_EVENTS}).",
)
@click.option("--data-dir", envvar="MOXY_DATA_DIR", metavar="DIR", help="Keep an event log there.")
@click.option(
    "--durability",
    envvar="MOXY_DURABILITY",
    type=click.Choice(["always", "everysec", "no"]),
    help="What a reply promises, with --data-dir (everysec).",
)
@click.option(
    "--snapshot-every",
    envvar="MOXY_SNAPSHOT_EVERY",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(1_000, 1_000_000_000),
    metavar="EVENTS",
    help="Take a snapshot when the log has grown by so many events.",
)
@click.option(
    "--retain-bytes",
    envvar="MOXY_RETAIN_BYTES",
    type=click.IntRange(0),
    metavar="BYTES",
    help="Drop the oldest segments of the log beyond this size, as far as snapshots allow.",
)
@click.option(
    "--retain-hours",
    envvar="MOXY_RETAIN_HOURS",
    type=click.FloatRange(0),
    metavar="HOURS",
    help="Drop segments of the log that are older, as far as snapshots allow.",
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
    "--event-loop",
    envvar="MOXY_EVENT_LOOP",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "epoll", "asyncio"]),
    help="Who looks after the sockets: one epoll for all, or asyncio for each. auto: epoll where there is one.",
)
@click.option(
    "--busy-poll-us",
    envvar="MOXY_BUSY_POLL_US",
    default=0,
    show_default=True,
    type=click.IntRange(0, 1_000_000),
    metavar="MICROSECONDS",
    help="Poll for so long after the last event before sleeping: quicker replies, for a busy core (epoll only).",
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
    redis_prefix: str | None,
    retain_events: int | None,
    data_dir: str | None,
    durability: Durability | None,
    snapshot_every: int,
    retain_bytes: int | None,
    retain_hours: float | None,
    max_attempts: int,
    requirepass: str,
    max_clients: int,
    event_loop: Form,
    busy_poll_us: int,
    log_level: str,
    log_format: str,
) -> None:
    """Run the server. Every flag can be set by a MOXY_ variable, such as MOXY_ADDR.

    \b
    moxy serve
    redis-cli -p 6380 MOXY.ENQUEUE jobs hello
    """
    if backend == "redis" and data_dir:
        raise ConfigError(
            "--data-dir is for the memory backend: with --backend redis it is Redis that keeps the events"
        )
    redis_flags = {"--redis-addr": redis_addr, "--redis-prefix": redis_prefix, "--retain-events": retain_events}
    for flag, value in redis_flags.items():
        if value is not None and backend != "redis":
            raise ConfigError(f"{flag} is about Redis: add --backend redis")
    if busy_poll_us and (event_loop == "asyncio" or not hasattr(select, "epoll")):
        raise ConfigError("--busy-poll-us needs epoll: Linux, and an --event-loop that is not asyncio")
    for flag, given in (
        ("--durability", durability),
        ("--retain-bytes", retain_bytes),
        ("--retain-hours", retain_hours),
    ):
        if given is not None and not data_dir:
            raise ConfigError(f"{flag} is about the event log: say where it is with --data-dir")
    host, port = parse_address(addr)
    config = ServeConfig(
        host=host,
        port=port,
        data_dir=data_dir or "",
        durability=durability or "everysec",
        snapshot_every=snapshot_every,
        retain_bytes=retain_bytes,
        retain_ms=None if retain_hours is None else int(retain_hours * 3_600_000),
        redis=parse_redis(redis_addr or "127.0.0.1:6379") if backend == "redis" else None,
        redis_prefix=parse_prefix(redis_prefix or "moxy"),
        retain_events=retain_events or RETAIN_EVENTS,
        max_attempts=max_attempts,
        password=requirepass,
        clients_max=max_clients,
        form=event_loop,
        busy_poll_us=busy_poll_us,
        log_level=log_level,
        log_format=log_format,
    )
    run_loop(run_server(config))


@cli.command()
@click.option("--svg", metavar="FILE", help="Also draw what was printed as a picture.")
@click.option("--fast", is_flag=True, help="Without the pauses that let people read.")
def demo(svg: str | None, fast: bool) -> None:
    """Watch a worker die, and its task come back.

    In fifteen seconds, with a real server and a real kill -9.
    """
    from moxy.story import tell

    tell(svg, pause_s=0.0 if fast else 1.2)


for command in (*logtools.COMMANDS, *checktools.COMMANDS, bench):
    cli.add_command(command)


async def run_server(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError when the address cannot be had."""
    log_format = config.log_format
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    logger = configure(config.log_level, "console" if log_format == "console" else "json")

    def say(event: str, **fields: str | int) -> None:
        log = logger.error if event in ERRORS else logger.warning if event in WARNINGS else logger.info
        log(event, **fields)

    clock, backend, orphans = await open_redis(config, say) if config.redis else open_backend(config, say)
    server = Server(
        backend,
        clock,
        say,
        [EventLog(logger, LEVELS[config.log_level])],
        config.password,
        clients_max=config.clients_max,
        form=config.form,
        busy_poll_us=config.busy_poll_us,
        turns_in_tasks=config.redis is not None,
    )
    server.service.orphaned(orphans)
    try:
        await server.start(config.host, config.port)
    except OSError as error:
        await backend.close()
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    gc.freeze()  # what exists now lives as long as the process: the collector need not look at it again
    gc.set_threshold(*_GC_THRESHOLDS)
    host, port = server.address
    say("server.listening", address=f"{host}:{port}", host=host, port=port, version=__version__)
    if not config.data_dir and not config.redis:
        logger.warning("server.volatile", text="no data directory: all tasks are gone when this process ends")
    await server.run()
    say("server.stopped", address=f"{host}:{port}")


def open_backend(config: ServeConfig, say: Journalist) -> tuple[Clock, Backend, list[str]]:
    """The backend that was asked for, its clock, and the bound leases whose connections ended with the last process.

    Raises JournalError.
    """
    if not config.data_dir:
        clock = SystemClock()
        return clock, MemoryBackend(clock, RandomIds(), config.policy), []
    began_ms = SystemClock().now_ms()
    try:
        disk = OsDisk(config.data_dir, writes_zeros=config.durability == "always")
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{config.data_dir} cannot be the data directory: {why}") from None
    with recovery_progress() as progress:
        journal, recovered = Journal.open(disk, secrets.randbits(32), began_ms, progress=progress)
    states = recovered.states
    clock = SystemClock(max((state.at_ms for state in states.values()), default=0))
    for warning in recovered.warnings:
        say("log.warning", text=warning)
    say(
        "log.recovered",
        data_dir=config.data_dir,
        durability=config.durability,
        queues=recovered.queues,
        tasks=recovered.tasks,
        events_folded=recovered.events,
        snapshot_sequence=recovered.snapshot_sequence,
        last_sequence=recovered.last_sequence,
        took_ms=clock.now_ms() - began_ms,
    )
    memory = MemoryBackend(clock, RandomIds(), config.policy, states)
    since = max(journal.horizon, recovered.last_sequence - EVENTS_MAX + 1)
    memory.recent.add([[event for _, event in journal.read(since)]])
    # A snapshot's thread and the loop share the interpreter: hand over often, so that no command waits for long.
    sys.setswitchinterval(0.0005)
    backend = DurableBackend(
        memory,
        journal,
        clock,
        config.durability,
        config.snapshot_every,
        config.retain_bytes,
        config.retain_ms,
        say,
    )
    bound = [
        task.lease.lease_id
        for state in states.values()
        for task in state.in_state(PROCESSING)
        if task.lease is not None and task.lease.bound
    ]
    return clock, backend, bound


async def open_redis(config: ServeConfig, say: Journalist) -> tuple[Clock, Backend, list[str]]:
    """The backend over a Redis that is there and may be used. Raises Unreachable, or ConfigError when it may not."""
    assert config.redis is not None
    link = Link(config.redis, [SCRIPT])
    facts = await link.connect()
    if facts.refusal:
        await link.close()
        raise ConfigError(f"{config.redis.display}: {facts.refusal}")
    say("redis.connected", address=config.redis.display, **facts.describe())
    for warning in facts.warnings:
        say("redis.warning", text=warning)
    clock = SystemClock()
    backend = RedisBackend(
        link,
        clock,
        RandomIds(),
        server_name(),
        config.policy,
        config.redis_prefix,
        config.retain_events,
        say,
        {"redis_address": config.redis.display, **facts.describe()},
    )
    return clock, backend, []


@contextmanager
def recovery_progress() -> Iterator[Progress | None]:
    """A bar on stderr while a log is read, for people on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the log", total=None)

        def update(events: int, read_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=read_bytes, total=total_bytes, description=f"reading the log: {events:,} events")

        yield update


def main() -> NoReturn:
    """Run the command line: a mistake in it is one sentence on stderr and exit code 2, never a traceback."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help:
        click.echo(help.format_message(), err=True)
        sys.exit(EXIT_USAGE)
    except (click.ClickException, ConfigError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"moxy: {message}", err=True)
        sys.exit(EXIT_USAGE)
    except JournalError as error:
        click.echo(f"moxy: {error}", err=True)
        sys.exit(error.exit_code)
    except Unreachable as error:
        click.echo(f"moxy: {error}", err=True)
        sys.exit(EXIT_UNREACHABLE)
    except click.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
