"""What comes of many runs: medians, spreads and ratios, as a table for people and as JSON for programs.

Lives here: the arithmetic over runs, and its two shapes. Must not: run anything.
"""

import os
import platform
from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from moxy.bench.client import KINDS
from moxy.bench.run import BUSY, Plan, Result, client_cores, cores

OURS: Final = "moxy"
STOLEN_WORTH_A_WORD: Final = 0.1
WIDTH_MIN: Final = 110
"""Columns that the table may need. A narrower terminal breaks lines, and no figure is cut."""


class Summary(msgspec.Struct, frozen=True):
    """All runs against one server. Medians over the runs; `ratio` is Moxy's median by this one's, None for Moxy.

    `tasks_per_cpu_s`: by second of processor time of the server, None when it is somebody else's. On a machine that is
    busy with other things this is the figure that is disturbed least; `cpu_ratio` is Moxy's by this one's.
    `ratio_low` and `ratio_high`: the same of each round by itself, Moxy's run by the run of the peer beside it.
    """

    server: str
    version: str
    runs: int
    tasks_per_s: float
    tasks_per_s_low: float
    tasks_per_s_high: float
    tasks_per_cpu_s: float | None
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    by_kind_p50_us: dict[str, float]
    by_kind_p99_us: dict[str, float]
    client_cpu: float
    server_cpu: float | None
    stolen: float
    client_is_the_limit: bool
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    cpu_ratio: float | None
    p99_ratio: float | None
    findings: tuple[str, ...]


class Report(msgspec.Struct, frozen=True):
    """What `moxy bench` found. `valid` is false when any check of any run failed."""

    plan: Plan
    durability: str
    machine: str
    cores: int
    client_processes: int
    pinned: bool
    summaries: tuple[Summary, ...]
    valid: bool


def machine() -> str:
    """The kind of machine, for whoever compares reports."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores"


def report(plan: Plan, durability: str, versions: dict[str, str], runs: Sequence[Result]) -> Report:
    """Sum up runs that took turns: the n-th run of a server and the n-th of another stood side by side."""
    by_server: dict[str, list[Result]] = {}
    for run in runs:
        by_server.setdefault(run.target, []).append(run)
    summaries = tuple(
        _summary(name, versions.get(name, ""), own, by_server.get(OURS, [])) for name, own in by_server.items()
    )
    places = client_cores(plan.connections)
    return Report(
        plan,
        durability,
        machine(),
        len(cores()),
        len(places),
        places != [-1],
        summaries,
        not any(summary.findings for summary in summaries),
    )


def _summary(name: str, version: str, runs: Sequence[Result], ours: Sequence[Result]) -> Summary:
    findings = tuple(dict.fromkeys(finding for run in runs for finding in run.findings))
    sound = [run for run in runs if not run.findings]
    rates = [run.tasks_per_s for run in sound] or [0.0]
    busy = [run.server_cpu for run in sound if run.server_cpu is not None]
    ratios = [
        mine.tasks_per_s / other.tasks_per_s
        for mine, other in zip(ours, runs, strict=False)
        if name != OURS and not mine.findings and not other.findings
    ]
    own_p99, our_p99 = (
        _middle(sound, "all", "p99_us"),
        _middle([run for run in ours if not run.findings], "all", "p99_us"),
    )
    per_cpu, our_per_cpu = _per_cpu(sound), _per_cpu([run for run in ours if not run.findings])
    our_rates = [run.tasks_per_s for run in ours if not run.findings]
    return Summary(
        name,
        version,
        len(runs),
        median(rates),
        min(rates),
        max(rates),
        per_cpu,
        _middle(sound, "all", "p50_us"),
        own_p99,
        _middle(sound, "all", "p999_us"),
        _middle(sound, "all", "max_us"),
        {kind: _middle(sound, kind, "p50_us") for kind in KINDS},
        {kind: _middle(sound, kind, "p99_us") for kind in KINDS},
        median([run.client_cpu for run in sound] or [0.0]),
        median(busy) if busy else None,
        median([run.stolen for run in sound] or [0.0]),
        sum(run.client_is_the_limit for run in sound) * 2 > len(sound),
        median(our_rates) / median(rates) if ratios else None,
        min(ratios) if ratios else None,
        max(ratios) if ratios else None,
        our_per_cpu / per_cpu if ratios and our_per_cpu and per_cpu else None,
        our_p99 / own_p99 if ratios and own_p99 else None,
        findings,
    )


def _per_cpu(runs: Sequence[Result]) -> float | None:
    rates = [run.tasks_per_s / run.server_cpu for run in runs if run.server_cpu]
    return median(rates) if rates else None


def _middle(runs: Sequence[Result], kind: str, field: str) -> float:
    return median([float(getattr(run.latency[kind], field)) for run in runs] or [0.0])


def as_json(report: Report) -> str:
    """One JSON object."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def show(report: Report, console: Console) -> None:
    """The table, and what one must know to read it."""
    plan = report.plan
    console.print(
        f"{plan.connections} connections x pipeline {plan.pipeline}, {plan.payload_bytes}-byte payloads, "
        f"{plan.tasks:,} tasks a run, {plan.queues} queues, durability {report.durability}. "
        f"A task is enqueue, lease and ack: three commands.",
        soft_wrap=True,
        highlight=False,
    )
    where = "server on one core, clients on the others" if report.pinned else "not pinned: one core for all"
    console.print(
        f"{report.machine}; {report.client_processes} client processes; {where}.", soft_wrap=True, highlight=False
    )
    versions = dict.fromkeys(s.version for s in report.summaries if s.version)
    if versions:
        console.print(f"Versions: {', '.join(versions)}.", soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("server", no_wrap=True)
    for heading in ("tasks/s", "spread", "per cpu-s", "p50 us", "p99 us", "p99.9 us", "cpu s/c", "moxy is"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in report.summaries:
        spread = (s.tasks_per_s_high - s.tasks_per_s_low) / 2 / (s.tasks_per_s or 1)
        ratio = "" if s.ratio is None else f"x{s.ratio:.2f} ({s.ratio_low:.2f}-{s.ratio_high:.2f})"
        server = "?" if s.server_cpu is None else f"{s.server_cpu * 100:.0f}"
        table.add_row(
            s.server,
            f"{s.tasks_per_s:,.0f}",
            f"±{spread:.0%}",
            "?" if s.tasks_per_cpu_s is None else f"{s.tasks_per_cpu_s:,.0f}",
            f"{s.p50_us:,.0f}",
            f"{s.p99_us:,.0f}",
            f"{s.p999_us:,.0f}",
            f"{server}/{s.client_cpu * 100:.0f}%",
            ratio,
            style="red" if s.findings else None,
        )
    console.print(table)
    for s in report.summaries:
        if s.client_is_the_limit:
            console.print(
                f"{s.server}: the client was the bottleneck (above {BUSY:.0%} of its core): it may do more than this.",
                soft_wrap=True,
                highlight=False,
            )
        if s.stolen > STOLEN_WORTH_A_WORD:
            console.print(
                f"{s.server}: other processes had its core or the client's for {s.stolen:.0%} of the time: "
                "absolute figures mean little, ratios a little more.",
                soft_wrap=True,
                highlight=False,
            )
        for finding in s.findings:
            console.print(f"{s.server}: wrong: {finding}", soft_wrap=True, highlight=False, markup=False)
