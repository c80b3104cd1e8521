"""Take one guard out of Moxy, and watch two machines find it: `python demo/find_the_bug.py [--fast]`.

Lives here: the story, and what it expects of the machines. Must not: the fault (spec/mutants), the machines
(spec/explore, spec/machine). The fault is planted in a copy in a temporary directory; this clone stays as it is.
What is shown is the machines' own output; if it is not as told, the demo ends with exit code 1.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the spec beside us, whichever is installed

from rich.console import Console
from rich.text import Text

from moxy.stage import COLUMNS, Astray, Stage, expect
from spec import mutants

FAULT: Final = mutants.MUTANTS["ack-ignores-its-lease"]
EXPLORE: Final = ("-m", "spec.explore", "--scope", "plain")
LOCKSTEP: Final = (
    "-c",
    "import sys; from spec.adapters import SYSTEMS; from spec.machine import check; "
    "report = check(SYSTEMS['memory'], int(sys.argv[1]), at_seed=1); "
    "sys.exit(f'{report.format()}' if report.failure else print(report.format().splitlines()[0]))",
)
PROGRAMS: Final = 300
PROGRAMS_AFTER: Final = 20
PATIENCE_S: Final = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when both machines found it, and found nothing once the guard was back."""
    parser = argparse.ArgumentParser(prog="python demo/find_the_bug.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="without the pauses that let people read")
    options = parser.parse_args(arguments)
    console = Console(width=min(Console().width, COLUMNS), highlight=False)
    try:
        play(Stage(console, 0 if options.fast else 0.6), console)
    except (Astray, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"find_the_bug: this did not go as told: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def play(stage: Stage, console: Console) -> None:
    stage.title("One guard less. Two machines find it.")
    stage.step("1  The guard", "An ACK counts only under the lease that it names. In a copy, we take that out.")
    for sign, text, style in (("-", FAULT.old, "red"), ("+", FAULT.new, "green")):
        for line in text.splitlines():
            show(console, f"  {sign} {line}", style)
    stage.pause()
    with mutants.planted(FAULT) as copy:
        stage.step("2  The explorer goes through every state", "The first violation it meets is one of the shortest.")
        stage.shell("python -m spec.explore --scope plain", "in the copy")
        code, said = run(copy, *EXPLORE)
        expect(code == 1 and "I4" in said, "the explorer finds a broken I4, with a void lease", said)
        tell(console, said.splitlines()[2:])
        stage.pause()
        stage.step("3  Hypothesis plays against the model", "Random programs. The one that fails is then shortened.")
        code, said = run(copy, *LOCKSTEP, str(PROGRAMS))
        expect(code == 1 and "MOXY.ACK" in said, "Hypothesis finds an ACK that is answered otherwise", said)
        expect("by the model: (error) NOLEASE" in said, "the model refuses that ACK", said)
        tell(console, said.splitlines()[1:])
        stage.pause()
    with mutants.planted(None) as copy:
        stage.step("4  The guard is back", "The same two machines, the same seed.")
        for command in (EXPLORE, (*LOCKSTEP, str(PROGRAMS_AFTER))):
            code, said = run(copy, *command)
            expect(code == 0, "they find nothing", said)
            show(console, f"  {said.splitlines()[-1]}")
    stage.title("Found twice: by looking at every state, and by playing against the model.")
    stage.note(f"There are {len(mutants.MUTANTS)} such faults: python -m spec.mutants --list")


def run(copy: Path, *command: str) -> tuple[int, str]:
    """What a machine says in that copy, and how it ends."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=mutants.environment(copy),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    return done.returncode, (done.stdout or done.stderr).strip()


def tell(console: Console, lines: Sequence[str]) -> None:
    """What a machine said, its verdict in colour."""
    for line in lines:
        if line.strip():
            verdict = line.lstrip().startswith(("=>", "the reply is", "by the model"))
            show(console, f"  {line}", "bold yellow" if verdict else "")


def show(console: Console, line: str, style: str = "") -> None:
    """One line, cut where the terminal ends."""
    cut = line if len(line) <= console.width else line[: console.width - 4] + " ..."
    console.print(Text(cut, style))


if __name__ == "__main__":
    sys.exit(main())
