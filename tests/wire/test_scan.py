"""The parser's fast path, in both of its forms: it takes what is plain, and leaves the rest to be judged."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moxy.wire import scan
from moxy.wire.resp import Parser

Scan = Callable[[bytes, list[list[bytes]], int, int], int]
BULK_BYTES_MAX, ELEMENTS_MAX = 2000, 20


def command(*args: bytes) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


ENQUEUE = command(b"MOXY.ENQUEUE", b"jobs", b"x" * 40)
both = pytest.mark.parametrize("take", [scan.by_lines, scan.by_bytes])


def taken(take: Scan, data: bytes) -> tuple[list[list[bytes]], bytes]:
    """The commands that are taken, and the bytes that are left."""
    commands: list[list[bytes]] = []
    at = take(data, commands, BULK_BYTES_MAX, ELEMENTS_MAX)
    return commands, data[at:]


@both
def test_what_is_plain_is_taken(take: Scan) -> None:
    commands = [[b"PING"], [b"ECHO", b""], [b"A", b"x" * 1024], [b"B", b"x" * 1025], [b"C", *[b"y"] * 19]]
    data = b"".join(command(*args) for args in commands)
    assert taken(take, data) == (commands, b"")


REST = {
    "nothing": b"",
    "the beginning of a header": b"*3\r",
    "a command that is not all there": ENQUEUE[:-1],
    "an inline command": b"PING\r\n",
    "an empty command": b"*0\r\n",
    "a null command": b"*-1\r\n",
    "a leading zero": b"*01\r\n$4\r\nPING\r\n",
    "no number": b"*\r\n$4\r\nPING\r\n",
    "a plus sign": b"*+1\r\n$4\r\nPING\r\n",
    "too many elements": command(*[b"x"] * (ELEMENTS_MAX + 1)),
    "a number without end": b"*" + b"1" * 40,
    "a header without its newline": b"*1\rx$4\r\nPING\r\n",
    "no bulk string": b"*1\r\n+PING\r\n",
    "a size of no digits": b"*1\r\n$\r\nPING\r\n",
    "a size of no digits before nothing": b"*1\r\n$\r\n\r\n",
    "a size without its newline": b"*1\r\n$4\rxPING\r\n",
    "a size with a leading zero": b"*1\r\n$04\r\nPING\r\n",
    "a size below zero": b"*1\r\n$-1\r\n\r\n",
    "a size that is too small": b"*1\r\n$3\r\nPING\r\n",
    "a size that is too large": b"*1\r\n$5\r\nPING\r\n" + ENQUEUE,
    "a size over the limit": command(b"x" * (BULK_BYTES_MAX + 1)),
    "a size of very many digits": b"*1\r\n$" + b"9" * 30 + b"\r\nPING\r\n",
    "no newline after an element": b"*1\r\n$4\r\nPINGxx",
}


@both
@pytest.mark.parametrize("rest", REST)
def test_all_else_is_left_from_the_beginning_of_its_command(take: Scan, rest: str) -> None:
    assert taken(take, ENQUEUE * 2 + REST[rest]) == ([[b"MOXY.ENQUEUE", b"jobs", b"x" * 40]] * 2, REST[rest])


@both
def test_the_limits_are_those_that_were_given(take: Scan) -> None:
    commands: list[list[bytes]] = []
    assert take(command(b"1234", b"12345"), commands, 5, 2) > 0
    assert take(command(b"1234", b"123456"), commands, 5, 2) == 0
    assert take(command(b"1", b"2", b"3"), commands, 5, 2) == 0
    assert commands == [[b"1234", b"12345"]]


def test_the_form_over_bytes_takes_any_bytes() -> None:
    args = [b"MOXY.ENQUEUE", b"jobs", b"\r\n*1\r\n$4\r\nPING\r\n"]
    assert taken(scan.by_lines, ENQUEUE + command(*args))[1] == command(*args)
    assert taken(scan.by_bytes, ENQUEUE + command(*args))[1] == b""


pieces = st.one_of(
    st.lists(st.binary(max_size=30), min_size=1, max_size=5).map(lambda args: command(*args)),
    st.sampled_from([*REST.values(), b"\r\n", b"*1\r\n", b"$4\r\n", b"\n"]),
)


@given(st.lists(pieces, max_size=8).map(b"".join), st.integers(0, 2**32))
def test_what_is_taken_is_what_the_judge_would_have_said(data: bytes, seed: int) -> None:
    """Byte by byte the parser never sees a whole command, so nothing of this comes from the fast path."""
    if random.Random(seed).randrange(3) == 0:
        data = data[: random.Random(seed).randrange(len(data) + 1)]
    judge = Parser(BULK_BYTES_MAX, ELEMENTS_MAX)
    judged = [found for at in range(len(data)) for found in judge.feed(data[at : at + 1])]
    by_lines, by_bytes = taken(scan.by_lines, data)[0], taken(scan.by_bytes, data)[0]
    assert by_bytes == judged[: len(by_bytes)]
    assert by_lines == by_bytes[: len(by_lines)]


def test_the_form_suits_the_way_in_which_it_runs() -> None:
    """Only the lines form leaves a CRLF inside an element to the parser."""
    data = command(b"a\r\nb", b"c")
    assert taken(scan.plain_commands, data)[1] == (b"" if scan.IS_COMPILED else data)
