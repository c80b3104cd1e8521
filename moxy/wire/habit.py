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

ENQUEUE: Final = 1
FETCH: Final = 2
ACK: Final = 3
RUN_MAX: Final = 1000
"""Most commands that are found at a time: whoever carries them out looks up in between."""
_NO_WORDS: Final[list[bytes]] = []


@final
class _Shape:
    """Commands that differ in their last word alone, and mostly not in how long it is."""

    __slots__ = ("_head", "_like", "_size", "end")

    def __init__(self, head: bytes) -> None:
        """`head`: what comes before the size of the last word."""
        self._head: Final = head
        self._like = head + b"0\r\n"
        """Of the latest one, all that came before its last word, and how long that was."""
        self._size: i64 = 0
        self.end: i64 = 0
        """Where what was found ends."""

    def find(self, data: bytes, at: i64, most: i64) -> list[bytes]:
        """The last words of those that follow each other from `at` on, `most` of them at most."""
        like, size = self._like, self._size
        end: i64 = len(data)
        words = _NO_WORDS
        while at < end and most > 0:
            start = at + len(like)
            stop = start + size
            if stop + 2 > end or data[at:start] != like or data[stop] != 13 or data[stop + 1] != 10:
                # It is not as long as the one before: find out how long it is.
                start = at + len(self._head)
                if data[at:start] != self._head:
                    break
                start, stop = find_bulk(data, start)
                if stop < 0:
                    break
                like, size = data[at:start], stop - start
            if words is _NO_WORDS:
                words = [data[start:stop]]
            else:
                words.append(data[start:stop])
            at = stop + 2
            most -= 1
        self._like, self._size, self.end = like, size, at
        return words


@final
class Habit:
    """Plain commands on `queue`, its fetches with `timeout`, which reads `lease_ms`."""

    __slots__ = ("_acks", "_enqueues", "_fetch", "lease_ms", "queue", "timeout")

    def __init__(self, queue: bytes, timeout: bytes) -> None:
        """Raises Refused BADTIMEOUT."""
        self.queue: Final = queue
        self.timeout: Final = timeout
        self.lease_ms: Final = fetch_timeout(timeout)
        self._enqueues: Final = _Shape(b"*3\r\n$12\r\nMOXY.ENQUEUE\r\n$%d\r\n%b\r\n$" % (len(queue), queue))
        self._acks: Final = _Shape(b"*2\r\n$8\r\nMOXY.ACK\r\n$")
        self._fetch: Final = b"*3\r\n$10\r\nMOXY.FETCH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            *(len(queue), queue),
            *(len(timeout), timeout),
        )

    def find(self, data: bytes, at: i64, most: i64 = RUN_MAX) -> tuple[i64, i64, i64, list[bytes]]:
        """The commands of one kind that follow each other from `at` on, at most `most`: of which kind, how many, where
        they end, and their last words: payloads or leases. Those of fetches are not told: they are all the same.

        How many is 0: what is there is no such command, or not all of one.
        """
        if at + 7 > len(data):
            return FETCH, 0, at, _NO_WORDS
        if data[at + 1] == 50:  # *2
            words = self._acks.find(data, at, most)
            return ACK, len(words), self._acks.end, words
        if data[at + 6] == 50:  # the second digit of how long the verb is: $12
            words = self._enqueues.find(data, at, most)
            return ENQUEUE, len(words), self._enqueues.end, words
        fetch = self._fetch
        size: i64 = len(fetch)
        count: i64 = 0
        while count < most and data[at : at + size] == fetch:
            at += size
            count += 1
        return FETCH, count, at, _NO_WORDS
