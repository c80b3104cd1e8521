"""The two forms of Moxy that the suite runs on: plain source, and compiled (docs/adr/0007-compiled.md)."""

import pytest

from moxy import form

COMPILED = form() == "compiled"

needs_source = pytest.mark.skipif(
    COMPILED, reason="replaces or counts functions of a compiled module, whose calls do not look them up"
)
