"""What each server is told and what it answers: bytes made ahead, replies looked at as a whole.

Lives here: one class per kind of server. Must not: sockets, clocks, processes.

A client in Python is only fast enough when a batch of commands costs a few calls into C, whatever its size. So the
commands of a batch are pieces that a batch number joins; a batch of replies is whole when it has so many line feeds (no
payload has one); it is sound when it has the right marks as often; and what an ACK needs is cut out of it in one pass.
Whose payloads came, and whether twice, is looked at after the clock has stopped (`keys`).

A payload is 8 hexadecimal digits of the run, 12 of the batch, 4 of its place there, and `x` up to its size.
"""

import re
from abc import ABC, abstractmethod
from typing import Final

KEY_BYTES: Final = 24
PAYLOAD_BYTES_MIN: Final = KEY_BYTES
PAYLOAD_BYTES_MAX: Final = 1 << 20
PIPELINE_MAX: Final = 1 << 12
LEASE_MS: Final = 30_000
_BATCH: Final = b"<the-batch->"
assert len(_BATCH) == 12


def resp(*words: bytes) -> bytes:
    """One command."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Driver(ABC):
    """One kind of server. Makes a batch of `pipeline` commands at a time, for a queue of a run.

    `lines` are how many lines a reply has: to an enqueue, a lease, an ack. `ordered`: one connection gets its tasks in
    the order in which it gave them.
    """

    lines: tuple[int, int, int]

    def __init__(self, queue: bytes, nonce: bytes, pipeline: int, payload_bytes: int) -> None:
        """`nonce`: the 8 hexadecimal digits of the run."""
        assert len(nonce) == 8
        self.queue: Final = queue
        self.nonce: Final = nonce
        self.pipeline: Final = pipeline
        self.payload_bytes: Final = payload_bytes
        filler = b"x" * (payload_bytes - KEY_BYTES)
        payloads = [nonce + _BATCH + b"%04x" % index + filler for index in range(pipeline)]
        self._pieces: Final = b"".join(self.put(payload) for payload in payloads).split(_BATCH)
        self.leases: Final = self.lease() * pipeline

    def enqueues(self, batch: int) -> bytes:
        """The enqueues of a batch."""
        return (b"%012x" % batch).join(self._pieces)

    def prepare(self) -> list[tuple[bytes, bytes]]:
        """What to say once before a run, and how each answer must begin."""
        return []

    def greet(self) -> list[tuple[bytes, bytes]]:
        """What each connection says first, and how each answer must begin."""
        return []

    def clean_up(self) -> list[tuple[bytes, bytes]]:
        """What to say after a run, so that nothing of it is left, and how each answer must begin."""
        return []

    @abstractmethod
    def put(self, payload: bytes) -> bytes:
        """The command that enqueues it."""

    @abstractmethod
    def lease(self) -> bytes:
        """The command that takes a task."""

    @abstractmethod
    def enqueued(self, replies: bytes) -> bool:
        """Whether a batch of replies to enqueues is what it should be."""

    @abstractmethod
    def acks(self, replies: bytes) -> bytes | None:
        """The acks of what these replies leased; None when they are not what they should be."""

    @abstractmethod
    def acked(self, replies: bytes) -> bool:
        """Whether a batch of replies to acks is what it should be."""

    @abstractmethod
    def keys(self, replies: bytes) -> list[bytes]:
        """The first bytes of each payload in replies that `acks` took."""

    def refused(self, replies: bytes) -> bool:
        """Whether there is an error or a null among replies that are not what they should be, or not whole."""
        return replies[:1] in (b"-", b"_") or any(
            mark in replies for mark in (b"\r\n-", b"$-1\r\n", b"*-1\r\n", b"\r\n_")
        )

    def _payload_keys(self, replies: bytes, before: bytes) -> list[bytes]:
        """Of payloads that each come right after the same bytes."""
        return [piece[:KEY_BYTES] for piece in replies.split(before)[1:]]


class Moxy(Driver):
    """MOXY.ENQUEUE, MOXY.FETCH, MOXY.ACK with the lease id that came."""

    lines = (5, 13, 1)
    _ACK: Final = b"*2\r\n$8\r\nMOXY.ACK\r\n"
    _LEASED: Final = re.compile(rb"\*6\r\n\$8\r\nlease_id\r\n(\$\d+\r\n[^\r]+)\r\n\$7\r\ntask_id\r\n")
    """The length of a lease id and the id: just what an ACK takes."""

    def put(self, payload: bytes) -> bytes:
        return resp(b"MOXY.ENQUEUE", self.queue, payload)

    def lease(self) -> bytes:
        return resp(b"MOXY.FETCH", self.queue, b"%d" % LEASE_MS)

    def enqueued(self, replies: bytes) -> bool:
        return replies.count(b"*2\r\n$7\r\ntask_id\r\n$") == self.pipeline

    def acks(self, replies: bytes) -> bytes | None:
        ids = self._LEASED.findall(replies)
        if len(ids) != self.pipeline:
            return None
        return self._ACK + (b"\r\n" + self._ACK).join(ids) + b"\r\n"

    def acked(self, replies: bytes) -> bool:
        return replies == b"+OK\r\n" * self.pipeline

    def keys(self, replies: bytes) -> list[bytes]:
        return self._payload_keys(replies, b"\r\n$7\r\npayload\r\n$%d\r\n" % self.payload_bytes)


class RedisList(Driver):
    """LPUSH, LMOVE to a list of what is being worked on, LREM from it. No lease, no deadline, no id."""

    lines = (1, 2, 1)

    def put(self, payload: bytes) -> bytes:
        return resp(b"LPUSH", self.queue, payload)

    def lease(self) -> bytes:
        return resp(b"LMOVE", self.queue, self.queue + b":held", b"RIGHT", b"LEFT")

    def clean_up(self) -> list[tuple[bytes, bytes]]:
        return [(resp(b"DEL", self.queue, self.queue + b":held"), b":")]

    def enqueued(self, replies: bytes) -> bool:
        return replies.count(b":") == self.pipeline

    def acks(self, replies: bytes) -> bytes | None:
        head = b"$%d\r\n" % self.payload_bytes
        bodies = replies.split(head)
        if len(bodies) != self.pipeline + 1 or bodies[0] or len(replies) != self.pipeline * self._reply_bytes(head):
            return None
        ack = b"*4\r\n$4\r\nLREM\r\n$%d\r\n%b\r\n$2\r\n-1\r\n" % (len(self.queue) + 5, self.queue + b":held")
        return (ack + head).join(bodies)

    def acked(self, replies: bytes) -> bool:
        return replies == b":1\r\n" * self.pipeline

    def keys(self, replies: bytes) -> list[bytes]:
        return self._payload_keys(replies, b"$%d\r\n" % self.payload_bytes)

    def _reply_bytes(self, head: bytes) -> int:
        return len(head) + self.payload_bytes + 2


class RedisLua(Driver):
    """A reliable queue in two scripts: a list of jobs, and a hash of those that are being worked on, by id.

    A job is a JSON object, as such queues have it. No deadline: what a worker that died held stays in the hash.
    """

    lines = (1, 2, 1)
    _TAKE: Final = (
        b"local job = redis.call('RPOP', KEYS[1]) if not job then return nil end "
        b"redis.call('HSET', KEYS[2], cjson.decode(job)['id'], job) return job"
    )
    _DONE: Final = b"return redis.call('HDEL', KEYS[1], ARGV[1])"

    def __init__(self, queue: bytes, nonce: bytes, pipeline: int, payload_bytes: int) -> None:
        import hashlib

        self._take: Final = hashlib.sha1(self._TAKE).hexdigest().encode()
        self._done: Final = hashlib.sha1(self._DONE).hexdigest().encode()
        super().__init__(queue, nonce, pipeline, payload_bytes)
        self._job_bytes: Final = len(self._job(b"x" * payload_bytes))
        held = queue + b":held"
        self._ack: Final = b"*5\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n" % (
            self._done,
            len(held),
            held,
            KEY_BYTES,
        )

    def prepare(self) -> list[tuple[bytes, bytes]]:
        return [
            (resp(b"SCRIPT", b"LOAD", script), b"$40\r\n%b" % sha)
            for script, sha in ((self._TAKE, self._take), (self._DONE, self._done))
        ]

    def clean_up(self) -> list[tuple[bytes, bytes]]:
        return [(resp(b"DEL", self.queue, self.queue + b":held"), b":")]

    def put(self, payload: bytes) -> bytes:
        return resp(b"LPUSH", self.queue, self._job(payload))

    def lease(self) -> bytes:
        return resp(b"EVALSHA", self._take, b"2", self.queue, self.queue + b":held")

    def enqueued(self, replies: bytes) -> bool:
        return replies.count(b":") == self.pipeline

    def acks(self, replies: bytes) -> bytes | None:
        ids = self.keys(replies)
        if len(ids) != self.pipeline or replies.count(b"$%d\r\n" % self._job_bytes) != self.pipeline:
            return None
        return self._ack + (b"\r\n" + self._ack).join(ids) + b"\r\n"

    def acked(self, replies: bytes) -> bool:
        return replies == b":1\r\n" * self.pipeline

    def keys(self, replies: bytes) -> list[bytes]:
        return self._payload_keys(replies, b'{"id":"')

    def _job(self, payload: bytes) -> bytes:
        return b'{"id":"%b","payload":"%b","attempts":0}' % (payload[:KEY_BYTES], payload)


class RedisStreams(Driver):
    """XADD, XREADGROUP, XACK in one consumer group. Acknowledged entries stay in the stream, as XACK leaves them."""

    lines = (2, 13, 1)
    _LEASED: Final = re.compile(rb"\*1\r\n\*2\r\n(\$\d+\r\n[^\r]+)\r\n\*2\r\n\$1\r\np\r\n")

    def prepare(self) -> list[tuple[bytes, bytes]]:
        return [(resp(b"XGROUP", b"CREATE", self.queue, b"g", b"0", b"MKSTREAM"), b"+OK")]

    def clean_up(self) -> list[tuple[bytes, bytes]]:
        return [(resp(b"DEL", self.queue), b":")]

    def put(self, payload: bytes) -> bytes:
        return resp(b"XADD", self.queue, b"*", b"p", payload)

    def lease(self) -> bytes:
        return resp(b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"1", b"STREAMS", self.queue, b">")

    def enqueued(self, replies: bytes) -> bool:
        return replies.count(b"$") == self.pipeline

    def acks(self, replies: bytes) -> bytes | None:
        ids = self._LEASED.findall(replies)
        if len(ids) != self.pipeline:
            return None
        ack = b"*4\r\n$4\r\nXACK\r\n$%d\r\n%b\r\n$1\r\ng\r\n" % (len(self.queue), self.queue)
        return ack + (b"\r\n" + ack).join(ids) + b"\r\n"

    def acked(self, replies: bytes) -> bool:
        return replies == b":1\r\n" * self.pipeline

    def keys(self, replies: bytes) -> list[bytes]:
        return self._payload_keys(replies, b"\r\np\r\n$%d\r\n" % self.payload_bytes)


class Beanstalkd(Driver):
    """put, reserve-with-timeout 0, delete, in a tube of the run."""

    lines = (1, 2, 1)

    def greet(self) -> list[tuple[bytes, bytes]]:
        tube = self.queue.replace(b":", b"-")
        return [
            (b"use %b\r\n" % tube, b"USING"),
            (b"watch %b\r\n" % tube, b"WATCHING"),
            (b"ignore default\r\n", b"WATCHING"),
        ]

    def put(self, payload: bytes) -> bytes:
        return b"put 0 0 %d %d\r\n%b\r\n" % (LEASE_MS // 1000, len(payload), payload)

    def lease(self) -> bytes:
        return b"reserve-with-timeout 0\r\n"

    def enqueued(self, replies: bytes) -> bool:
        return replies.count(b"INSERTED ") == self.pipeline

    def acks(self, replies: bytes) -> bytes | None:
        pieces = replies.split(b"RESERVED ")
        if len(pieces) != self.pipeline + 1 or pieces[0]:
            return None
        ids = [piece[: piece.index(b" ")] for piece in pieces[1:]]
        return b"delete " + b"\r\ndelete ".join(ids) + b"\r\n"

    def acked(self, replies: bytes) -> bool:
        return replies == b"DELETED\r\n" * self.pipeline

    def keys(self, replies: bytes) -> list[bytes]:
        return self._payload_keys(replies, b" %d\r\n" % self.payload_bytes)

    def refused(self, replies: bytes) -> bool:
        return any(
            replies.startswith(word) or b"\r\n" + word in replies
            for word in (
                b"TIMED_OUT",
                b"DEADLINE_SOON",
                b"NOT_FOUND",
                b"BURIED",
                b"OUT_OF",
                b"BAD_",
                b"UNKNOWN",
                b"JOB",
            )
        )


DRIVERS: Final[dict[str, type[Driver]]] = {
    "moxy": Moxy,
    "redis-lua": RedisLua,
    "redis-list": RedisList,
    "redis-streams": RedisStreams,
    "beanstalkd": Beanstalkd,
}
