"""What a client says over and over: its plain commands, known by their bytes and not taken apart.

Lives here: a plain ENQUEUE, FETCH and ACK on one queue as client libraries send them, and how they are found in a
buffer. Must not: judgement. What is not byte for byte so is left to the parser, which says what it is.

Most clients work on one queue, with one timeout. Then in an ENQUEUE only the payload is new, in an ACK only the lease,
and one FETCH is like the other from its first byte to its last: nothing else need be cut out of the buffer and looked
at. As for the parser there is a way for the interpreter and one for a compiler.
"""

from typing import Final, final

from mypy_extensions import i64

from moxy.core.form import IS_COMPILED
from moxy.wire.arguments import fetch_timeout

OTHER: Final = 0
ENQUEUE: Final = 1
FETCH: Final = 2
ACK: Final = 3

_CRLF: Final = b"\r\n"
_ACK_HEAD: Final = b"*2\r\n$8\r\nMOXY.ACK\r\n$"
_DIGITS_MAX: Final = 9
_SIZES: Final = {b"%d" % size: size for size in range(1025)}
"""As most sizes are written."""


@final
class Habit:
    """Plain commands on `queue`, its fetches with `timeout`, which reads `lease_ms`: a value."""

    __slots__ = ("_enqueue_head", "_fetch", "lease_ms", "queue", "timeout")

    def __init__(self, queue: bytes, timeout: bytes) -> None:
        """Raises Refused BADTIMEOUT."""
        self.queue: Final = queue
        self.timeout: Final = timeout
        self.lease_ms: Final = fetch_timeout(timeout)
        self._enqueue_head: Final = b"*3\r\n$12\r\nMOXY.ENQUEUE\r\n$%d\r\n%b\r\n$" % (len(queue), queue)
        self._fetch: Final = b"*3\r\n$10\r\nMOXY.FETCH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            *(len(queue), queue),
            *(len(timeout), timeout),
        )

    def find(self, data: bytes, at: i64) -> tuple[i64, i64, i64]:
        """Which of the commands is at `at`, and where its last word begins and ends; the next begins two bytes later.
        `OTHER`: none of them, or it is not all there."""
        if at + 7 > len(data):
            return OTHER, 0, 0
        if data[at + 1] == 50:  # 2
            after = at + len(_ACK_HEAD)
            if data[at:after] == _ACK_HEAD:
                return find_bulk(ACK, data, after)
        elif data[at + 6] == 48:  # the second digit of how long the verb is
            after = at + len(self._fetch)
            if data[at:after] == self._fetch:
                return FETCH, after - 2 - len(self.timeout), after - 2
        else:
            after = at + len(self._enqueue_head)
            if data[at:after] == self._enqueue_head:
                return find_bulk(ENQUEUE, data, after)
        return OTHER, 0, 0


def find_bulk(kind: i64, data: bytes, at: i64) -> tuple[i64, i64, i64]:
    """As `Habit.find`, of a command of that kind whose last word has its size at `at`."""
    return by_bytes(kind, data, at) if IS_COMPILED else by_lines(kind, data, at)


def by_lines(kind: i64, data: bytes, at: i64) -> tuple[i64, i64, i64]:
    """`find_bulk` for the interpreter."""
    end = data.find(_CRLF, at, at + _DIGITS_MAX)
    size = _SIZES.get(data[at:end], -1)
    stop = end + 2 + size
    if end < 0 or size < 0 or data[stop : stop + 2] != _CRLF:
        return OTHER, 0, 0
    return kind, end + 2, stop


def by_bytes(kind: i64, data: bytes, at: i64) -> tuple[i64, i64, i64]:
    """`find_bulk` for a compiler."""
    end: i64 = len(data)
    digits = at
    size: i64 = 0
    while at < end:
        digit: i64 = data[at] - 48
        if not 0 <= digit <= 9:
            break
        size = size * 10 + digit
        at += 1
        if at > digits + _DIGITS_MAX:
            return OTHER, 0, 0
    stop = at + 2 + size
    if at == digits or stop + 2 > end or (data[digits] == 48 and at > digits + 1):
        return OTHER, 0, 0
    if data[at] != 13 or data[at + 1] != 10 or data[stop] != 13 or data[stop + 1] != 10:
        return OTHER, 0, 0
    return kind, at + 2, stop
