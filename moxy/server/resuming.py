"""A coroutine that was begun without a task, and goes on in one.

Lives here: handing over what it waits for. Must not: know what it does.
"""

import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def resumed(begun: Coroutine[Any, Any, T], waits_for: object) -> Generator[object, None, T]:
    """The rest of a coroutine that was begun outside of a task, and now waits: a task takes what it waits for first."""
    try:
        while True:
            try:
                yield waits_for
            except BaseException as thrown:
                waits_for = begun.throw(thrown)
            else:
                waits_for = begun.send(None)
    except StopIteration as end:
        ended: T = end.value
        return ended
