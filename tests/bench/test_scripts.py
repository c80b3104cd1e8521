"""Every script runs, and says what it measured: with tiny sizes, and no figure is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.harness import Row, Size, as_rate, cost

SCRIPTS = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "harness", "test_scripts")
)
ROOT = Path(__file__).parents[2]


def run(script: str, *flags: str) -> list[str]:
    words = [sys.executable, "-m", f"tests.bench.{script}", "--scale", "0.002", "--repeat", "2", *flags]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_and_every_row_has_its_figure(script: str) -> None:
    told = [json.loads(line) for line in run(script, "--json")]
    assert told
    assert len({row["label"] for row in told}) == len(told)
    for row in told:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["value"] > 0 or script == "memory", row
        assert row["unit"] in ("ns", "M/s", "bytes", "jobs/s", "tasks/s")


def test_people_get_a_line_a_figure() -> None:
    lines = run("wire")
    assert any(line.startswith("parse ENQUEUE, 16 at a time") and " ns " in line for line in lines)


def test_the_package_lists_every_script() -> None:
    text = (Path(__file__).parent / "__init__.py").read_text()
    assert [script for script in SCRIPTS if f"| `{script}` |" not in text] == []


def test_what_is_made_is_outside_the_clock_and_each_repetition_has_its_own() -> None:
    made: list[list[int]] = []
    worked: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    row = cost("x", Size(1, 3), 10, make, worked.append)
    assert len(made) == 3
    assert all(a is b for a, b in zip(made, worked, strict=True))
    assert 0 < row.low <= row.value <= row.high
    assert as_rate(Row("x", 500, 250, 1000, "ns")) == Row("x", 2, 1, 4, "M/s")


def test_sizes_shrink_to_one_and_are_each_there_once() -> None:
    assert Size(1, 1).steps(1000, 100_000) == [1000, 10_000, 100_000]
    assert Size(0.001, 1).steps(1, 10_000) == [1, 10]
