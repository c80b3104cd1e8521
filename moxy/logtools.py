"""The commands that read a log: events, replay, why, verify, repair, whatif.

Lives here: what people see of a log, as tables on a terminal and plain lines in a pipe. Must not: the folds
(`replay`), the wording of a story (`core/explain`), the format on disk (`journal`).

All but `repair` only read: a data directory, live or a copy, or a Redis (`logsource`).
"""

import base64
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from moxy.backends.redis.address import Address
from moxy.backends.redis.verify import summary
from moxy.config import ConfigError
from moxy.core.events import EVENT_TYPES, AnyEvent, TaskEvent
from moxy.core.explain import clock, fields, why
from moxy.core.state import QueueState
from moxy.journal.repair import repair
from moxy.journal.verify import RECOUNT_EVENTS_MIN, verify
from moxy.logsource import (
    DIRECTORY,
    SOURCE,
    Following,
    Readable,
    Source,
    disk_of,
    followed,
    read,
    read_once,
    reread,
    verify_redis,
)
from moxy.replay import Change, diff, fold, of_task, states_at, what_if, within

PAYLOAD_SHOWN_BYTES: Final = 256
EXIT_UNSOUND: Final = 3
_FOLLOW_S: Final = 0.2

Position = tuple[int | None, int | None]
"""A point in a log: (sequence, None), or (None, milliseconds since 1970)."""


class PointType(click.ParamType[Position]):
    """A sequence number, or a time in UTC such as 2026-11-24T21:00:00.500."""

    name = "SEQ|TIME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Position:
        if value.isascii() and value.isdecimal():
            return (int(value), None)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a sequence number nor a time such as 2026-11-24T21:00:00", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (None, int(moment.timestamp() * 1000))


POINT: Final = PointType()
PREFIX: Final = click.option(
    "--redis-prefix", envvar="MOXY_REDIS_PREFIX", default="moxy", metavar="NAME", help="What keys in Redis begin with."
)


@click.command()
@click.argument("source", type=SOURCE)
@PREFIX
@click.option("--queue", help="Only this queue.")
@click.option("--task", help="Only this task id.")
@click.option("--type", "kind", type=click.Choice([t.__name__ for t in EVENT_TYPES], case_sensitive=False))
@click.option("--since", type=POINT, help="From there on.")
@click.option("--until", type=POINT, help="Up to there.")
@click.option("--follow", is_flag=True, help="Go on as events come.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, also on a terminal.")
def events(
    source: Source,
    redis_prefix: str,
    queue: str | None,
    task: str | None,
    kind: str | None,
    since: Position | None,
    until: Position | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the events of a log.

    One a line: JSON in a pipe, a readable line on a terminal.
    """
    people = sys.stdout.isatty() and not as_json

    def wanted(event: AnyEvent) -> bool:
        return (
            (queue is None or event.queue == queue)
            and (task is None or (isinstance(event, TaskEvent) and event.task_id == task))
            and (kind is None or type(event).__name__ == kind)
            and (since is None or _from(event, since))
            and (until is None or within(event, *until))
        )

    with followed(source, redis_prefix) as log:
        doubt = ""
        while True:
            for number, event in log.look():
                _tell_missed(log)
                if wanted(event):
                    click.echo(_line(event) if people else to_json(number, event))
            if log.doubt is not None and (not follow or doubt == str(log.doubt)):
                raise log.doubt
            if not follow:
                return
            doubt = str(log.doubt or "")
            time.sleep(_FOLLOW_S)


def _tell_missed(log: Following) -> None:
    """Say on stderr what was dropped while it was still to be read; a log that begins later is not worth a word."""
    for first, last in log.missed:
        if first > 1:
            click.echo(f"events {first} to {last} of the log were dropped before they could be read", err=True)
    log.missed.clear()


def _from(event: AnyEvent, point: Position) -> bool:
    seq, at_ms = point
    return (seq is None or event.seq >= seq) and (at_ms is None or event.at_ms >= at_ms)


def to_json(number: int | None, event: AnyEvent) -> str:
    """One event as a JSON object: its place in the whole log, its fields, the payload as text or base64, cut."""
    told: dict[str, object] = {**({} if number is None else {"log_sequence": number}), **fields(event)}
    payload = told.get("payload")
    if isinstance(payload, bytes):
        told["payload_bytes"] = len(payload)
        shown = payload[:PAYLOAD_SHOWN_BYTES]
        try:
            payload.decode()
            told["payload"] = shown.decode(errors="ignore")  # the cut may fall into a character
        except UnicodeDecodeError:
            del told["payload"]
            told["payload_base64"] = base64.b64encode(shown).decode()
    return msgspec.json.encode(told).decode()


def _line(event: AnyEvent) -> str:
    told = fields(event)
    rest = {name: value for name, value in told.items() if name not in ("event", "queue", "seq", "at_ms", "number")}
    shown = " ".join(f"{name}={_short(value)}" for name, value in rest.items() if value not in (0, -1, "", False))
    kind = type(event).__name__
    name = click.style(f"{kind:<12}", fg=_COLOURS.get(kind, "cyan"))
    return f"{clock(event.at_ms)} {event.queue} #{event.seq} {name} {shown}"


_COLOURS: Final = {"Expired": "yellow", "Failed": "yellow", "DeadLettered": "red", "Acked": "green"}


def _short(value: object) -> str:
    text = value[:PAYLOAD_SHOWN_BYTES].decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text[:60] + "…") if len(text) > 60 else (repr(text) if " " in text else text)


@click.command()
@click.argument("source", type=SOURCE)
@PREFIX
@click.option("--queue", help="Only this queue.")
@click.option("--at", type=POINT, help="The state there; without it, at the end.")
@click.option("--step", is_flag=True, help="Event by event, with what each changed.")
@click.option("--diff", "between", nargs=2, type=POINT, help="What differs between two points.")
def replay(
    source: Source,
    redis_prefix: str,
    queue: str | None,
    at: Position | None,
    step: bool,
    between: tuple[Position, Position] | None,
) -> None:
    """Show queues at any point of a log.

    The state is computed from the events, by the reducer that the server runs.
    """
    if step:
        read_once(source, redis_prefix, lambda log: _step(*log.base(queue), at))
    elif between is not None:
        before, after = read(source, redis_prefix, lambda log: [_states(log, queue, point) for point in between])
        for name in sorted({*before, *after}):
            _print_changes(
                name, diff(before.get(name) or QueueState(name), after.get(name) or QueueState(name)), Console()
            )
    else:
        states = read(source, redis_prefix, lambda log: _states(log, queue, at or (None, None)))
        for name in sorted(states):
            if queue is None or name == queue:
                _print_state(states[name])


def _states(log: Readable, queue: str | None, point: Position) -> dict[str, QueueState]:
    base, events = log.base(queue)
    return states_at(base, events, *point)


def _step(base: dict[str, QueueState], log: Iterator[AnyEvent], at: Position | None) -> None:
    """Stop after each event on a terminal until a key is pressed; run through in a pipe."""
    console = Console()
    states = dict(base)
    for event, state in fold(base, log):
        if at is not None and not within(event, *at):
            continue
        before = states.get(event.queue) or QueueState(event.queue)
        states[event.queue] = state
        click.echo(_line(event))
        _print_changes(event.queue, diff(before, state), console)
        if sys.stdout.isatty() and sys.stdin.isatty():
            click.pause("-- any key for the next event, Ctrl-C to stop --")


def _print_changes(queue: str, changes: list[Change], console: Console) -> None:
    for change in changes:
        what = f"{queue} {change.task_id}".rstrip()
        console.print(
            f"    {what} {change.field}: {_value(change.before)} -> {_value(change.after)}",
            markup=False,
            highlight=console.is_terminal,
            soft_wrap=True,
        )


def _value(value: object) -> str:
    return "-" if value is None else str(value)


def _print_state(state: QueueState) -> None:
    """The counts of a queue, and its tasks in the order in which they stand."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    paused = ", paused" if state.paused else ""
    console.print(
        f"queue {state.name} at #{state.seq}, {clock(state.at_ms)}{paused}: {len(state.ready)} ready, "
        f"{len(state.scheduled)} scheduled, {len(state.processing)} processing, {len(state.dead)} dead, "
        f"{state.totals.acked} acked, {state.totals.deleted} deleted",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("state", "task", "priority", "attempts", "deliveries", "since", "until", "payload"):
        table.add_column(heading, overflow="fold")
    for name in ("processing", "ready", "scheduled", "dead"):
        for task in state.in_state(name):
            lease = task.lease
            table.add_row(
                task.state,
                task.task_id,
                str(task.priority),
                str(task.tally.attempts),
                str(task.tally.deliveries),
                clock(lease.leased_ms if lease else task.placed_ms),
                clock(lease.deadline_ms) if lease else (clock(task.due_ms) if task.due_ms else ""),
                _short(task.payload) if task.death is None else f"{task.death.cause}: {task.death.reason}",
            )
    if table.row_count:
        console.print(table)


@click.command(name="why")
@click.argument("source", type=SOURCE)
@PREFIX
@click.argument("queue")
@click.argument("task_id")
def why_command(source: Source, redis_prefix: str, queue: str, task_id: str) -> None:
    """Tell why a task was delivered again.

    What happened to it, in sentences.
    """
    story = read(source, redis_prefix, lambda log: of_task(log.events(queue), queue, task_id))
    if not story:
        raise ConfigError(f"no event of the log concerns task {task_id!r} of queue {queue!r}")
    for sentence in why(task_id, story, cut=type(story[0]).__name__ != "Enqueued"):
        click.echo(sentence)


@click.command(name="verify")
@click.argument("source", type=SOURCE)
@PREFIX
@click.option("--every-step", is_flag=True, help="Recount all tasks at every step: quadratic, for short logs.")
def verify_command(source: Source, redis_prefix: str, every_step: bool) -> None:
    """Fold a log and check every invariant.

    A directory: at every step in what it touched, and now and then in all tasks; the snapshots against the fold. A
    Redis, which may be live: every queue's stream, folded, against its keys. Exit code 0 when all holds, 3 when not.
    """
    if not isinstance(source, str):
        _verify_redis(source, redis_prefix)
        return
    report = reread(source, lambda disk: verify(disk, every_step))
    for note in report.notes:
        click.echo(f"note: {note}")
    for finding in report.findings:
        click.echo(f"wrong: {finding}")
    click.echo(
        f"last sequence {report.last_sequence}, digest {report.digest or 'none'}; {report.events} events in "
        f"{report.records} records folded from {report.folded_from}, {report.steps} steps and "
        f"{report.snapshots_checked} snapshots checked"
    )
    if report.exit_code:
        click.echo(f"not sound: {len(report.findings)} findings")
        sys.exit(report.exit_code)
    if every_step:
        depth = (
            "I1, I2, I3, I5, I6, I7, I8, I9, I14 in all tasks of a queue "
            f"{report.recounts} times: at every step, at every snapshot, at the end"
        )
    else:
        depth = (
            f"I1, I2, I3, I5, I6, I7, I8, I9, I14 at every one of {report.steps} steps in the tasks that it touched; "
            f"I1, I2, I3, I7, I9, I14 in all tasks of a queue {report.recounts} times: at the end, at every snapshot, "
            f"and whenever as many events had come as it had tasks, at least {RECOUNT_EVENTS_MIN} "
            "(--every-step: at every step)"
        )
    click.echo(
        "sound: every checksum and the chain of records; every event legal by the lifecycle table and in sequence "
        f"(I5, I11, I15); {depth}; every snapshot equal to the fold (I10)"
    )


def _verify_redis(address: Address, prefix: str) -> None:
    reports = verify_redis(address, prefix)
    for report in reports:
        click.echo(report.sentence)
        for finding in report.findings:
            click.echo(f"wrong: {finding}")
    click.echo(summary(reports))
    if any(report.findings for report in reports):
        sys.exit(EXIT_UNSOUND)


@click.command(name="repair")
@click.argument("directory", type=DIRECTORY)
def repair_command(directory: str) -> None:
    """Cut a damaged log at its first damage.

    Keeps the original beside it, and says what was lost.
    """
    result = repair(disk_of(directory))
    for sentence in result.done or ("nothing is damaged, and nothing was done",):
        click.echo(sentence)
    click.echo(f"the log now ends with sequence {result.last_sequence}")


@click.command(name="whatif")
@click.argument("source", type=SOURCE)
@PREFIX
@click.option("--queue", required=True)
@click.option("--lease-ms", required=True, type=click.IntRange(1), help="The visibility timeout to imagine.")
@click.option("--max-attempts", type=click.IntRange(0), help="The maximum of attempts to imagine; 0 is unlimited.")
@click.option("--backoff-ms", type=click.IntRange(0), help="The backoff to imagine.")
def whatif_command(
    source: Source, redis_prefix: str, queue: str, lease_ms: int, max_attempts: int | None, backoff_ms: int | None
) -> None:
    """Try another policy on a real log.

    Estimates how many redeliveries and dead letters it would have spared.
    """
    result = read(
        source, redis_prefix, lambda log: what_if(log.events(queue), queue, lease_ms, max_attempts, backoff_ms)
    )
    rows = [
        ("deliveries in the log", result.deliveries),
        ("leases that expired", result.expiries),
        (f"  would not have, with {lease_ms} ms", result.expiries_avoided),
        ("  cannot be told: the work was never finished, or its worker died", result.unknown),
        (f"leases that were acked, but would have expired with {lease_ms} ms", result.expiries_added),
        ("dead letters", result.dead_letters),
    ]
    if max_attempts is not None:
        rows.append((f"  would not have been, yet, with {max_attempts} attempts", result.dead_letters_avoided))
    if backoff_ms is not None:
        rows.append((f"redeliveries that a backoff of {backoff_ms} ms would have put off", result.put_off))
    width = max(len(label) for label, _ in rows)
    for label, count in rows:
        click.echo(f"{label:<{width}}  {count:>8}")
    click.echo("An estimate: with another policy the workers would have behaved differently.")


COMMANDS: Final = (events, replay, why_command, verify_command, repair_command, whatif_command)
