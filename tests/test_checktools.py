"""`moxy modelcheck` as people run it: what it prints, where, and its exit codes. Each test is a process of its own.

What lives here: the command line, a planted fault told through it, the package that it loads from a wheel. What must
not live here: what the machine checks; that is in tests/spec.
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from spec.mutants import MUTANTS, ROOT, environment, planted
from tests.server.support import clean_environment

WAIT_S = 100


def modelcheck(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moxy", "modelcheck", *words],
        cwd=cwd,
        env=env or clean_environment(None),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_what_held_is_told_with_counts_and_nothing_is_left_behind(tmp_path: Path) -> None:
    result = modelcheck("--examples", "60", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    first = re.match(r"memory: No difference from the model in (\d+) programs of \d+ steps\.\n", result.stdout)
    assert first is not None
    assert int(first[1]) >= 60, "Hypothesis also counts what it gave up"
    for title in ("rules: ", "replies: ", "events: ", "moves: ", "never happened: "):
        assert f"\n{title}" in result.stdout
    assert " new -> ready\n" in result.stdout, "the transitions of tasks are counted"
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_programs_and_another_seed_others(tmp_path: Path) -> None:
    runs = [modelcheck("--examples", "20", "--seed", seed, cwd=tmp_path).stdout for seed in ("1", "1", "2")]
    assert runs[0] == runs[1] != runs[2]


def test_a_planted_fault_ends_in_its_shortest_program_and_exit_code_1() -> None:
    with planted(MUTANTS["deadline-one-late"]) as copy:
        result = modelcheck("--examples", "1500", cwd=copy, env=environment(copy))
    assert (result.returncode, result.stderr) == (1, "")
    head, _, program = result.stdout.partition("\n\n")
    assert head == "memory: The system and the model disagree. The shortest program found:"
    typed = [line for line in program.splitlines() if "> MOXY." in line or " ms " in line]
    assert len(typed) == 2, f"an enqueue and a fetch show it, and this is longer:\n{program}"
    assert "MOXY.FETCH" in program
    assert "by the model: " in program


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--backend", "redis", "--redis-addr", "nowhere:port"), "--redis-addr: "),
        (("--backend", "mongodb"), "'mongodb' is not one of"),
        (("--examples", "0"), "0 is not in the range"),
        (("--seed", "-1"), "-1 is not in the range"),
        (("now",), "unexpected extra argument"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_cannot_be_is_one_sentence_and_exit_code_2(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = modelcheck(*words, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("moxy: ")
    assert len(result.stderr.splitlines()) == 1
    assert sentence in result.stderr


def test_a_redis_that_is_not_there_is_one_sentence_and_exit_code_5(tmp_path: Path) -> None:
    result = modelcheck("--backend", "redis", "--redis-addr", "127.0.0.1:1", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (5, "")
    assert result.stderr.startswith("moxy: Redis cannot be reached")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("missing", "told"), [("hypothesis", "pip install 'moxy[test]'"), ("spec", "cannot load it")])
def test_without_what_it_needs_it_says_so_and_the_rest_of_moxy_works(missing: str, told: str, tmp_path: Path) -> None:
    """None in `sys.modules` is how Python remembers that a module is not to be had."""
    code = f"import sys; sys.modules[{missing!r}] = None; from moxy.cli import main; main()"

    def moxy(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env=clean_environment(None),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    result = moxy("modelcheck")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("moxy: modelcheck needs ")
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert moxy("--version").returncode == 0


def test_on_a_terminal_progress_is_told_beside_the_data(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "moxy", "modelcheck", "--examples", "60"],
        cwd=tmp_path,
        env=clean_environment({"TERM": "xterm", "COLUMNS": "80"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        shown = _read_all(lambda: os.read(ours, 1 << 16))
        data = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert b" of 60 programs" in shown
    assert data.startswith(b"memory: No difference"), "and the data is what it is in a pipe"


def _read_all(read: Callable[[], bytes]) -> bytes:
    """All that comes out of a terminal; its other end closing is an error of that name."""
    shown = b""
    try:
        while data := read():
            shown += data
    except OSError:
        pass
    return shown


def test_a_wheel_has_the_spec_in_it_and_the_command_runs_from_there(tmp_path: Path) -> None:
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    source.mkdir()
    for part in ("moxy", "spec", ".build"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True,
        env=clean_environment({"MOXY_PURE": "1"}),  # compiled or not is the business of test_build
        timeout=WAIT_S,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(unpacked)
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "spec").rglob("*.py")}
    assert ours - set(names) == set()
    assert "spec/Moxy.tla" in names
    assert not any(name.startswith(("tests/", "demo/")) for name in names)
    env = {**clean_environment(None), "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import moxy, spec; print(moxy.__file__, spec.__file__)"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(unpacked in Path(file).parents for file in where), where
    result = modelcheck("--examples", "5", cwd=tmp_path, env=env)
    assert (result.returncode, result.stderr) == (0, "")
