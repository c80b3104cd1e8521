"""The two forms of Moxy that the suite runs on: plain source, and compiled (docs/adr/0007-compiled.md)."""

from typing import Any

import pytest

from moxy import form

COMPILED = form() == "compiled"

needs_source = pytest.mark.skipif(
    COMPILED, reason="replaces or counts functions of a compiled module, whose calls do not look them up"
)


def parts(thing: object) -> dict[str, Any]:
    """What an object is made of, by attribute. `vars` does not know those of a compiled class."""
    if hasattr(thing, "__dict__"):
        return dict(vars(thing))
    named = ((name, getattr(thing, name, None)) for name in dir(thing) if not name.startswith("__"))
    return {name: part for name, part in named if not callable(part)}
