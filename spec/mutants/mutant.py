"""What a planted bug is: a text of the source that is there exactly once, and what takes its place.

What lives here: `Mutant`. What must not live here: any of them.
"""

from dataclasses import dataclass
from pathlib import Path

from spec.mutants.checkers import ROOT


@dataclass(frozen=True)
class Mutant:
    """One fault: in `file`, `old`, which is there exactly once, becomes `new`. `seen_by`: who should see it first."""

    name: str
    about: str
    file: str
    old: str
    new: str
    seen_by: tuple[str, ...]

    def mutated(self, root: Path = ROOT) -> str:
        """The source with the fault in it. Raises ValueError when `old` is not there exactly once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the old text is {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)
