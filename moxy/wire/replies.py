"""The replies that are given most often, as bytes in one go. The same bytes as `resp.encode` would make.

Lives here: the replies of a plain ENQUEUE and FETCH. Must not: anything but put ids and sizes into their
places.
"""

from typing import Final

CRLF: Final = b"\r\n"
_SPELL_OUT: Final = "backslashreplace"  # as in resp


def enqueued(task_id: str, resp3: bool) -> bytes:
    """The reply of ENQUEUE."""
    head = "%1\r\n$7\r\ntask_id\r\n$" if resp3 else "*2\r\n$7\r\ntask_id\r\n$"
    return f"{head}{_size(task_id)}\r\n{task_id}\r\n".encode("utf-8", _SPELL_OUT)


def fetched_head(lease_id: str, task_id: str, payload_bytes: int, resp3: bool) -> bytes:
    """The reply of a FETCH without options, up to the payload, which follows, and CRLF."""
    head = "%3\r\n$8\r\nlease_id\r\n$" if resp3 else "*6\r\n$8\r\nlease_id\r\n$"
    return (
        f"{head}{_size(lease_id)}\r\n{lease_id}\r\n$7\r\ntask_id\r\n${_size(task_id)}\r\n{task_id}\r\n"
        f"$7\r\npayload\r\n${payload_bytes}\r\n"
    ).encode("utf-8", _SPELL_OUT)


def _size(text: str) -> int:
    """Its length in bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", _SPELL_OUT))
