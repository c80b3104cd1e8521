"""The planted bugs: that each can be planted, and that the checkers see them.

What lives here: a quick look at all of them and a few for real; deep, all of them. What must not live here: a fault or
a checker; those are in spec/mutants.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from spec.mutants import (
    CHECKERS,
    MUTANTS,
    ROOT,
    Checker,
    Mutant,
    available,
    environment,
    judge,
    planted,
    sound_checkers,
)
from spec.mutants.__main__ import main, table

UNSEEN: dict[str, str] = {}
"""Faults that nobody sees yet, with the reason. At most one in thirty may stand here."""

QUICK = {
    "deadline-one-late": "machine",
    "ack-ignores-its-lease": "explore",
    "plus-sign-accepted": "wire",
}


def test_there_are_enough_of_them_in_every_room() -> None:
    assert len(MUTANTS) >= 30
    files = {mutant.file for mutant in MUTANTS.values()}
    for room in ("core/effects", "core/decider", "journal/", "wire/resp", "service", "server/connection", "durable"):
        assert any(room in file for file in files), room
    assert len(UNSEEN) <= len(MUTANTS) // 30
    assert set(UNSEEN) <= set(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_a_fault_fits_its_file_once_and_compiles(mutant: Mutant) -> None:
    text = mutant.mutated()
    if mutant.file.endswith(".py"):
        compile(text, mutant.file, "exec")
    assert mutant.old != mutant.new
    assert mutant.about.endswith(".")
    assert mutant.seen_by
    assert set(mutant.seen_by) <= set(CHECKERS)


def test_the_rows_of_the_verification_page_are_faults_of_today() -> None:
    """The last column is what a run said, and runs are deep: a fault that is newer than the last may have no row."""
    page = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| `(.*)` \| `(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) > 50
    for name, about, file, checker in rows:
        assert (MUTANTS[name].about, MUTANTS[name].file) == (about, file)
        assert checker in CHECKERS


def test_a_text_that_is_not_there_once_is_refused() -> None:
    for old in ("this is not in it", "return"):
        with pytest.raises(ValueError, match="not once"):
            Mutant("none", "None.", "moxy/core/decider.py", old, "", ("core",)).mutated()


def test_the_copy_is_what_is_run_and_the_clone_stays_as_it_is() -> None:
    mutant = MUTANTS["priority-reversed"]
    before = (ROOT / mutant.file).read_bytes()
    with planted(mutant) as copy:
        code = "import moxy.core.heart, spec, tests; print(*(m.__file__ for m in (moxy.core.heart, spec, tests)))"
        files = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=copy,
            env=environment(copy),
        ).stdout.split()
        assert all(copy in Path(file).parents for file in files), files
        assert (copy / mutant.file).read_bytes() != before
    assert (ROOT / mutant.file).read_bytes() == before
    assert not copy.exists()


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_is_seen_and_told_in_a_few_lines(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--checker", QUICK[name]]) == 0
    told = capsys.readouterr().out
    assert f"{QUICK[name]} is RED" in told
    assert "Traceback" not in told
    assert len(told.splitlines()) < 60


def test_a_fault_that_a_checker_does_not_see_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a checker that looks at nothing."""
    monkeypatch.setitem(CHECKERS, "core", Checker("nothing", ("-c", ""), "spec"))
    assert main(["priority-reversed", "--checker", "core"]) == 1
    assert capsys.readouterr().out.endswith("nobody saw it: a test is missing\n")


def test_a_checker_that_does_not_end_is_stopped_and_is_red() -> None:
    with planted(None) as copy:
        verdict = judge(Checker("for ever", ("-c", "while True: pass"), "spec", patience_s=0.2), copy)
    assert verdict.reason.startswith("it hangs")


def test_the_list_names_every_fault_and_every_checker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    told = capsys.readouterr().out
    assert [name for name in (*MUTANTS, *CHECKERS) if name not in told] == []


@pytest.mark.deep
@pytest.mark.timeout(7200)
def test_all_but_one_in_thirty_are_seen() -> None:
    lines: list[str] = []
    checkers = sound_checkers(available(), lines.append)
    unseen = table(list(MUTANTS.values()), checkers, every=False, jobs=2, write=lines.append)
    print("".join(lines))  # noqa: T201 - the table is what one runs this for: pytest -m deep -s
    assert set(unseen) <= set(UNSEEN), "a test is missing"
