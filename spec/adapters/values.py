"""States and replies as plain values: what is compared.

What lives here: a queue's state in the form of `Model.canonical`, a reply in the form of `spec.system.Plain`, the
decoder that reads one off a wire, and how bytes are cut into pieces. What must not live here: a system.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec.structs import asdict

from moxy.core import invariants
from moxy.core.state import QueueState
from moxy.core.tasks import Task
from moxy.core.views import show
from moxy.wire.resp import Error, NullArray, Simple, Value
from spec.model import Refusal
from spec.system import Plain, plain

_PARTS_MAX: Final = 4


# States


def canonical(states: Mapping[str, QueueState], now_ms: int) -> dict[str, object]:
    """The states in the form of `Model.canonical`; a state that breaks an invariant of its own is an error."""
    return {name: _canonical_queue(state, max(now_ms, state.at_ms)) for name, state in states.items() if state.seq}


def _canonical_queue(state: QueueState, at_ms: int) -> dict[str, object]:
    broken = invariants.broken(state)
    assert not broken, broken
    return {
        "seq": state.seq,
        "paused": state.paused,
        "policy": asdict(state.policy),
        "next_number": state.next_number,
        "last_token": state.last_token,
        "counters": asdict(state.totals),
        "tasks": [_canonical_task(state, state.tasks[number]) for number in sorted(state.tasks)],
        "remembered": sorted((task_id, until) for task_id, (until, _) in state.remembered.items() if at_ms < until),
    }


def _canonical_task(state: QueueState, task: Task) -> dict[str, object]:
    more = {"number": task.number, "place": task.place, "dedup_ms": task.options.dedup_ms or None}
    return {**asdict(show(state, task)), **more}


# Replies


def plain_value(value: Value) -> Plain:
    """What `encode` would write and a client would read back, without the bytes in between."""
    if isinstance(value, Error):
        return Refusal(value.code)
    if isinstance(value, Simple):
        return value.text.encode()
    if isinstance(value, NullArray):
        return None
    if isinstance(value, Mapping):
        return {str(key).encode(): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return plain(value)


class Decoder:
    """Replies off a wire, RESP2 and RESP3, as they come in. Not the server's own code, on purpose."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data

    @property
    def is_empty(self) -> bool:
        return not self._data

    def next(self) -> tuple[Plain] | None:
        """The next whole reply, or None."""
        try:
            value, end = _decode(self._data, 0)
        except EOFError:
            return None
        self._data = self._data[end:]
        return (value,)


def _decode(data: bytes, at: int) -> tuple[Plain, int]:
    end = data.find(b"\r\n", at)
    if end < 0:
        raise EOFError
    kind, head, at = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b"+":
        return head, at
    if kind == b"-":
        return Refusal(head.split(b" ", 1)[0].decode()), at
    if kind == b":":
        return int(head), at
    if kind == b"#":
        return int(head == b"t"), at
    if kind == b"_" or head == b"-1":
        return None, at
    if kind in b"$=":
        end = at + int(head)
        if len(data) < end + 2:
            raise EOFError
        assert data[end : end + 2] == b"\r\n", data
        return data[at:end], end + 2
    assert kind in b"*%", data
    items: list[Plain] = []
    for _ in range(int(head) * (2 if kind == b"%" else 1)):
        item, at = _decode(data, at)
        items.append(item)
    return (_pairs(items) if kind == b"%" else items), at


def _pairs(items: list[Plain]) -> dict[bytes, Plain]:
    pairs: dict[bytes, Plain] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        assert isinstance(key, bytes)
        assert key not in pairs, f"{key!r} comes twice"
        pairs[key] = value
    return pairs


_MAPS: Final = (b"MOXY.ENQUEUE", b"MOXY.SHOW", b"MOXY.STATS", b"MOXY.CONFIG")
"""What RESP3 answers with a map, and RESP2 with a flat array."""


def in_resp3_shape(argv: Sequence[bytes], reply: Plain) -> Plain:
    """A reply of RESP2 with its flat arrays made maps again."""
    if not isinstance(reply, list):
        return reply
    verb = argv[0].upper()
    if verb in _MAPS or (verb == b"MOXY.FETCH" and len(argv) == 3):
        return _pairs(reply)
    if verb in (b"MOXY.PEEK", b"MOXY.FETCH", b"MOXY.EVENTS", b"MOXY.HISTORY"):
        return [_pairs(entry) if isinstance(entry, list) else entry for entry in reply]
    return reply


def encode_command(argv: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)


def cut(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """The same bytes in pieces: mostly whole, sometimes in a few, sometimes one by one."""
    if not data:
        return
    how = chance.randrange(4)
    if how == 3 and len(data) < 200:
        places = list(range(1, len(data)))
    else:
        places = sorted({chance.randrange(len(data)) for _ in range(how and chance.randrange(_PARTS_MAX))} - {0})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[start:end]
