"""The demo of the planted bug, run as people run it: as a process, in a pipe.

What lives here: that both machines are shown to find it, and nothing once the guard is back; how it ends when they do
not. What must not live here: the faults and the machines, which have tests of their own in tests/spec.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "find_the_bug.py"
ENV = {
    name: value
    for name, value in os.environ.items()
    if name not in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")
} | {"PYTHONIOENCODING": "utf-8"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What it prints, from some other directory. It is slow, so the tests share one telling."""
    done = subprocess.run(
        [sys.executable, str(DEMO), "--fast"],
        capture_output=True,
        encoding="utf-8",
        env=ENV,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def part(told: str, number: int) -> str:
    """One step of the story."""
    return re.split(r"^\d  .* ─+$", told, flags=re.MULTILINE)[number]


def test_the_explorer_tells_a_shortest_way_to_a_void_lease_with_an_effect(told: str) -> None:
    moves = re.findall(r"^ +(\d)\. +\d+  (\w+)\(", part(told, 2), re.MULTILINE)
    assert moves == [("1", "Enqueue"), ("2", "Fetch"), ("3", "Ack")]
    assert "=> I4: its lease is void, and it had an effect" in part(told, 2)


def test_hypothesis_tells_a_short_program_whose_ack_the_model_refuses(told: str) -> None:
    program = part(told, 3)
    assert len(re.findall(r"^ +c\d> MOXY", program, re.MULTILINE)) <= 4
    assert re.search(r"c\d> MOXY\.M?ACK .*\n", program)
    assert "the reply is: OK" in program
    assert "by the model: (error) NOLEASE" in program


def test_with_the_guard_back_both_find_nothing(told: str) -> None:
    assert "no violation" in part(told, 4)
    assert "No difference from the model" in part(told, 4)


def test_a_pipe_gets_plain_text_of_eighty_columns(told: str) -> None:
    assert not re.search(r"[^\n -~─]", told)
    assert max(map(len, told.splitlines())) <= 80


def test_a_machine_that_finds_nothing_ends_the_demo_with_1() -> None:
    """The fault it plants is exchanged for one that the explorer cannot see."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import find_the_bug as demo; from spec.mutants import MUTANTS; "
        "demo.FAULT = MUTANTS['plus-sign-accepted']; sys.exit(demo.main(['--fast']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(DEMO.parent)], capture_output=True, encoding="utf-8", env=ENV, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("find_the_bug: this did not go as told: the explorer finds a broken I4")
    assert "Found twice" not in done.stdout
