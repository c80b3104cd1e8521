"""How a planted bug meets a checker: in a copy of the clone in a temporary directory, never in the working tree.

What lives here: the copy, the run, its verdict. What must not live here: a fault, a checker, what people are told.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spec.mutants.checkers import CHECKERS, ROOT, Checker
from spec.mutants.mutant import Mutant

_COPIED: Final = ("moxy", "spec", "tests", "docs", "demo", "README.md", "pyproject.toml")
_REASON_LINES_MAX: Final = 24
_WIDTH: Final = 200


@dataclass(frozen=True)
class Verdict:
    """What a checker said about a copy: `reason` is "" when it saw nothing."""

    reason: str
    seconds: float

    @property
    def gist(self) -> str:
        """One line of it: the explorer's comes last, everybody else's first."""
        lines = self.reason.splitlines()
        return next((line.strip() for line in lines if line.lstrip().startswith("=> ")), lines[0] if lines else "")


@contextmanager
def planted(mutant: Mutant | None) -> Iterator[Path]:
    """A copy of the clone with that fault in it; None: without any. Gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="moxy-mutant-") as name:
        copy = Path(name).resolve()
        for part in _COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
            elif source.exists():
                shutil.copy2(source, copy / part)
        if mutant is not None:
            (copy / mutant.file).write_text(mutant.mutated(copy), encoding="utf-8")
        yield copy


def judge(checker: Checker, copy: Path) -> Verdict:
    """Run a checker in a copy."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *checker.command],
        cwd=copy,
        env=environment(copy),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=checker.patience_s)
        except BaseException as error:
            # With all that it started: a server of a test would outlive it.
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            process.communicate()
            return Verdict(f"it hangs: no end after {checker.patience_s:.0f} s", time.monotonic() - began)
    reason = "" if process.returncode == 0 else _reason(out, err) or f"exit code {process.returncode}"
    return Verdict(reason, time.monotonic() - began)


def environment(copy: Path) -> dict[str, str]:
    """Ours, but that `moxy`, `spec` and `tests` are those of the copy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOXY_", "PYTEST_"))}
    more = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": str(_WIDTH), "NO_COLOR": "1"}
    return {**kept, **more}


def _reason(out: str, err: str) -> str:
    """What is worth reading of the output of a checker that is red."""
    lines = [line.rstrip() for line in out.splitlines()]
    failed = [line for line in lines if line.startswith(("FAILED tests", "ERROR tests"))]
    if failed:
        said = [line[1:].strip() for line in lines if line.startswith("E  ")]
        return _cut([failed[0].partition(" - ")[0].removeprefix("FAILED "), *(f"  {line}" for line in said if line)])
    told = [line for line in (out if err.startswith("Traceback") and out else err or out).splitlines() if line.strip()]
    if told and told[0].startswith("Traceback"):
        told = told[-1:]
    return _cut(told)


def _cut(lines: Sequence[str]) -> str:
    shown = [line[:_WIDTH] for line in lines]
    if len(shown) > _REASON_LINES_MAX:
        half = _REASON_LINES_MAX // 2
        shown = [*shown[:half], f"  ... {len(shown) - 2 * half} lines ...", *shown[-half:]]
    return "\n".join(shown)


def order_for(mutant: Mutant, checkers: Iterable[str]) -> list[str]:
    """Those that should see it first, then the rest."""
    known = list(checkers)
    return [name for name in mutant.seen_by if name in known] + [name for name in known if name not in mutant.seen_by]


def try_mutant(mutant: Mutant, checkers: Iterable[str], every: bool = False) -> dict[str, Verdict]:
    """What each checker says of the fault, up to the first that sees it."""
    verdicts: dict[str, Verdict] = {}
    with planted(mutant) as copy:
        for name in order_for(mutant, checkers):
            verdicts[name] = judge(CHECKERS[name], copy)
            if verdicts[name].reason and not every:
                break
    return verdicts


def sound_checkers(names: Iterable[str], tell: Callable[[str], object] = str, jobs: int = 1) -> list[str]:
    """Those that see nothing where nothing is, in a copy without a fault."""
    sound: list[str] = []
    with planted(None) as copy, ThreadPoolExecutor(jobs) as pool:
        known = list(names)
        for name, verdict in zip(known, pool.map(lambda name: judge(CHECKERS[name], copy), known), strict=True):
            if verdict.reason:
                tell(f"{name} is red without any fault, and is left out: {verdict.gist}\n")
            else:
                sound.append(name)
    return sound


def available() -> list[str]:
    """The checkers that are there."""
    return [name for name, checker in CHECKERS.items() if checker.is_there]
