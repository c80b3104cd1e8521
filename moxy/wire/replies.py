"""The replies that are given most often, as bytes in one go. The same bytes as `resp.encode` would make.

Lives here: the replies of a plain ENQUEUE and FETCH. Must not: anything but put ids and sizes into their
places.
"""

from typing import Final

CRLF: Final = b"\r\n"
_SPELL_OUT: Final = "backslashreplace"  # as in resp
_SHORT: Final = [f"${size}\r\n" for size in range(1025)]
_SHORT_MAX: Final = len(_SHORT) - 1


def enqueued(task_id: str, resp3: bool) -> bytes:
    """The reply of ENQUEUE."""
    head = "%1\r\n$7\r\ntask_id\r\n" if resp3 else "*2\r\n$7\r\ntask_id\r\n"
    text = f"{head}{_header(len(task_id))}{task_id}\r\n"
    if text.isascii():
        return text.encode()
    return f"{head}{_header(_size(task_id))}{task_id}\r\n".encode("utf-8", _SPELL_OUT)


def fetched_head(lease_id: str, task_id: str, payload_bytes: int, resp3: bool) -> bytes:
    """The reply of a FETCH without options, up to the payload, which follows, and CRLF."""
    text = _fetched_head(lease_id, len(lease_id), task_id, len(task_id), payload_bytes, resp3)
    if text.isascii():
        return text.encode()
    text = _fetched_head(lease_id, _size(lease_id), task_id, _size(task_id), payload_bytes, resp3)
    return text.encode("utf-8", _SPELL_OUT)


def _fetched_head(
    lease_id: str, lease_bytes: int, task_id: str, task_bytes: int, payload_bytes: int, resp3: bool
) -> str:
    head = "%3\r\n$8\r\nlease_id\r\n" if resp3 else "*6\r\n$8\r\nlease_id\r\n"
    return (
        f"{head}{_header(lease_bytes)}{lease_id}\r\n$7\r\ntask_id\r\n{_header(task_bytes)}{task_id}\r\n"
        f"$7\r\npayload\r\n{_header(payload_bytes)}"
    )


def _header(size: int) -> str:
    """What stands before a bulk string of that many bytes."""
    return _SHORT[size] if size <= _SHORT_MAX else f"${size}\r\n"


def _size(text: str) -> int:
    """Its length in bytes."""
    return len(text.encode("utf-8", _SPELL_OUT))
