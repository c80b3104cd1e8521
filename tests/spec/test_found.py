"""What the machine, or the reading that went into it, found in Moxy, each as its shortest program.

What lives here: the programs that once differed from docs/semantics.md, and those that still do, which are expected to
fail until they are mended. What must not live
here: a rule's own test; those are in test_model.py, and with the room that is at fault.
"""

import pytest

from spec.adapters import SYSTEMS
from spec.lockstep import Disconnect, Say, Step, Wait, play
from spec.machine import TOO_BIG


def say(client: str, words: str, *more: bytes, late: int = 0) -> Say:
    first, *rest = words.encode().split()
    return Say(client, (b"MOXY." + first, *rest, *more), late)


AN_EMPTY_WORD_ENDS_THE_OPTIONS = [say("c1", "ENQUEUE a p", b"", b"PRIORITY", b"99")]
AN_EMPTY_ID_REDRIVES_ALL = [
    say("c1", "ENQUEUE a p"),
    say("c1", "FETCH a 10"),
    say("c1", "NACK a:1:1:0000000000000000 FATAL"),
    say("c1", "REDRIVE a ID", b""),
]
TOO_BIG_IN_A_FULL_QUEUE = [
    say("c1", "CONFIG a max_ready 1"),
    say("c1", "ENQUEUE a p"),
    say("c1", "ENQUEUE a", TOO_BIG),
]
TOO_BIG_WITH_A_KNOWN_ID = [say("c1", "ENQUEUE a p ID x"), say("c1", "ENQUEUE a", TOO_BIG, b"ID", b"x")]
TOO_BIG_BEFORE_A_BAD_OPTION = [say("c1", "ENQUEUE a", TOO_BIG, b"PRIORITY", b"x")]
BYTES_THAT_ARE_NO_UTF8_FIND_A_TASK = [say("c1", "ENQUEUE a p ID \ufffd"), say("c1", "DELETE a", b"\xff")]
A_NEWCOMER_WITH_OPTIONS_OVERTAKES = [
    say("c1", "ENQUEUE a p DELAY 10"),
    say("c1", "FETCH a 100 BLOCK 0"),
    say("c2", "FETCH a 100 COUNT 1", late=10),
]
A_WAITER_OF_TWO_QUEUES_OVERTAKES = [
    say("c1", "ENQUEUE a p DELAY 10"),
    say("c1", "ENQUEUE b p DELAY 10"),
    say("c1", "FETCH b 100 BLOCK 0"),
    say("c2", "FETCH a 100 COUNT 2 BLOCK 0 WITH b"),
    Wait(10),
]


OPEN: tuple[str, ...] = ()
"""Not mended yet: take a name out of here when it is, and its way round out of the machine."""
PROGRAMS = [
    pytest.param(steps, id=name.lower(), marks=[pytest.mark.xfail(strict=True)] if name.lower() in OPEN else [])
    for name, steps in list(globals().items())
    if isinstance(steps, list) and name.isupper()
]


@pytest.mark.parametrize("steps", PROGRAMS)
def test_what_was_found_is_mended(steps: list[Step]) -> None:
    mismatch = play(SYSTEMS["memory"], steps)
    assert mismatch is None, mismatch.transcript


def test_a_disconnect_gives_each_lease_to_who_waits_before_the_next_is_released() -> None:
    """The contract does not say it; the service does one after the other, and the model follows."""
    steps = [
        say("c1", "MENQUEUE a p p"),
        say("c1", "FETCH a 100 COUNT 2 BOUND"),
        say("c2", "FETCH a 100 COUNT 2 BLOCK 0"),
        Disconnect("c1"),
    ]
    assert play(SYSTEMS["memory"], steps) is None
