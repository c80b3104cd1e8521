"""What a client says over and over: its plain commands, known by their bytes and not taken apart.

Lives here: a plain ENQUEUE, FETCH and ACK on one queue as client libraries send them, and how they are found in a
buffer. Must not: judgement. What is not byte for byte so is left to the parser, which says what it is.

Most clients work on one queue, with one timeout. Then in an ENQUEUE only the payload is new, in an ACK only the lease,
and one FETCH is like the other from its first byte to its last: nothing else need be cut out of the buffer and looked
at.
"""

from typing import Final, final

from mypy_extensions import i64

from moxy.wire.arguments import fetch_timeout
from moxy.wire.scan import find_bulk

OTHER: Final = 0
ENQUEUE: Final = 1
FETCH: Final = 2
ACK: Final = 3

_ACK_HEAD: Final = b"*2\r\n$8\r\nMOXY.ACK\r\n$"


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
        kind: i64 = ENQUEUE
        if data[at + 1] == 50:  # 2
            kind = ACK
            after = at + len(_ACK_HEAD)
            if data[at:after] != _ACK_HEAD:
                return OTHER, 0, 0
        elif data[at + 6] == 48:  # the second digit of how long the verb is
            after = at + len(self._fetch)
            if data[at:after] != self._fetch:
                return OTHER, 0, 0
            return FETCH, after - 2 - len(self.timeout), after - 2
        else:
            after = at + len(self._enqueue_head)
            if data[at:after] != self._enqueue_head:
                return OTHER, 0, 0
        start, stop = find_bulk(data, after)
        if stop < 0:
            return OTHER, 0, 0
        return kind, start, stop
