"""The replies that are given most often, put straight into what will be written. The same bytes as `resp.encode` makes.

Lives here: the replies of a plain ENQUEUE and FETCH. Must not: anything but put ids and sizes into their places.
"""

from typing import Final

from librt.strings import BytesWriter

_CRLF: Final = b"\r\n"
_SHORT_MAX: Final = 1024
_SPELL_OUT: Final = "backslashreplace"  # as in resp


def _heads(before: bytes) -> list[bytes]:
    """What stands before a bulk string of each length, after other bytes that always come first."""
    return [b"%b$%d\r\n" % (before, size) for size in range(_SHORT_MAX + 1)]


_ENQUEUED: Final = (_heads(b"*2\r\n$7\r\ntask_id\r\n"), _heads(b"%1\r\n$7\r\ntask_id\r\n"))
_LEASE: Final = (_heads(b"*6\r\n$8\r\nlease_id\r\n"), _heads(b"%3\r\n$8\r\nlease_id\r\n"))
"""In RESP2 and in RESP3."""
_TASK: Final = _heads(b"\r\n$7\r\ntask_id\r\n")
_PAYLOAD: Final = _heads(b"\r\n$7\r\npayload\r\n")


def enqueued(task_id: str, resp3: bool) -> bytes:
    """The reply of ENQUEUE."""
    w = BytesWriter()
    put_enqueued(w, task_id.encode("utf-8", _SPELL_OUT), resp3)
    return w.getvalue()


def fetched(lease_id: str, task_id: str, payload: bytes, resp3: bool) -> bytes:
    """The reply of a FETCH without options."""
    w = BytesWriter()
    put_fetched(w, lease_id.encode("utf-8", _SPELL_OUT), task_id.encode("utf-8", _SPELL_OUT), payload, resp3)
    return w.getvalue()


def put_enqueued(w: BytesWriter, task_id: bytes, resp3: bool) -> None:
    """The reply of ENQUEUE."""
    _put(w, _ENQUEUED[1] if resp3 else _ENQUEUED[0], task_id)
    w.write(_CRLF)


def put_fetched(w: BytesWriter, lease_id: bytes, task_id: bytes, payload: bytes, resp3: bool) -> None:
    """The reply of a FETCH without options."""
    heads = _LEASE[1] if resp3 else _LEASE[0]
    if len(lease_id) <= _SHORT_MAX and len(task_id) <= _SHORT_MAX and len(payload) <= _SHORT_MAX:
        w.write(heads[len(lease_id)])
        w.write(lease_id)
        w.write(_TASK[len(task_id)])
        w.write(task_id)
        w.write(_PAYLOAD[len(payload)])
        w.write(payload)
    else:
        _put(w, heads, lease_id)
        _put(w, _TASK, task_id)
        _put(w, _PAYLOAD, payload)
    w.write(_CRLF)


def _put(w: BytesWriter, heads: list[bytes], text: bytes) -> None:
    size = len(text)
    if size <= _SHORT_MAX:
        w.write(heads[size])
    else:
        w.write(heads[0][:-3])
        w.write(b"%d\r\n" % size)
    w.write(text)
