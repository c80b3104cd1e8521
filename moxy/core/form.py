"""Which form of this source is running.

Lives here: one fact, for the few places that do a thing one way for the interpreter and another way for a compiler.
Must not: anything else.
"""

from typing import Final


def _is_compiled() -> bool:
    """Compiled functions have no bytecode."""
    return not hasattr(_is_compiled, "__code__")


IS_COMPILED: Final = _is_compiled()
