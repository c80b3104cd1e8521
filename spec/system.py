"""What a system under test looks like to the machine: one small protocol, and replies as plain values.

What lives here: `System`, its reply type, and `plain`, by which a reply of the model and one off a wire look alike.
What must not live here: anything of `moxy`, of Hypothesis, or of any one system; those are in `adapters` and `machine`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from spec.model import Blocked, Refusal

Plain: TypeAlias = "dict[bytes, Plain] | list[Plain] | bytes | int | None | Refusal | Blocked"
"""A reply in RESP3's shape: maps stay maps in their order, text is bytes, flags are 0 or 1, an error is its code."""

Answer: TypeAlias = tuple[str, Plain]
"""Which client got which reply after having waited for it."""


Ending: TypeAlias = Literal["stop", "kill", "power"]
"""How a server ends: it is stopped and says good-bye; its process is killed; the power goes."""


class Durable(Protocol):
    """What a system can do besides that keeps its queues in mode `always` (I13). With a server all connections end."""

    def restart(self, how: Ending, chance: int, now_ms: int) -> None:
        """The server ends that way, and is started again at that time. `chance` draws what a disk makes of it."""

    def tear(self, client: str, argv: Sequence[bytes], chance: int, now_ms: int) -> None:
        """The power goes while that command is being made durable, ahead of its reply; then it is started again."""

    def snapshot(self, now_ms: int) -> None:
        """Take a snapshot, which must change nothing that can be seen."""


class Pipelining(Protocol):
    """What a system can do besides whose clients need not wait for a reply before they say more."""

    def execute_all(self, client: str, argvs: Sequence[Sequence[bytes]], now_ms: int) -> list[Plain]:
        """Commands of a client that does not wait, in one go, none of which may wait; their replies."""


class System(Protocol):
    """One queue server and its clients, who are known by name and connect when they first say something.

    Every call ends with the system at rest: everything that is due at `now_ms` has been done by then. Within one call a
    command comes before the work that is due. Time never goes back.
    """

    can_block: bool
    """Whether a FETCH can wait."""
    takes_megabytes: bool
    """Whether an argument over 1 MiB comes through to be refused; a wire breaks the connection before."""
    durable: Durable | None
    """How to end and start it; None when nothing would be left then."""
    pipelining: Pipelining | None
    """How to say several commands in one go; None when each is asked for its reply."""

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        """One command of a client that does not wait; its reply, or BLOCKED."""

    def tick(self, now_ms: int) -> None:
        """It is now that late, and nothing arrives."""

    def disconnect(self, client: str, now_ms: int) -> None:
        """The connection of a client closes."""

    def undeliver(self, lease_id: str, now_ms: int) -> None:
        """The reply that carried that lease could not be written."""

    def take_answers(self) -> list[Answer]:
        """The replies to clients that waited, since the last call."""

    def canonical(self, now_ms: int) -> dict[str, object]:
        """All queues, in the form of `Model.canonical`."""

    def close(self) -> None:
        """Let go of everything."""


SystemFactory: TypeAlias = Callable[[], System]


def plain(value: object) -> Plain:
    """A reply of the model or a decoder in the one shape that is compared."""
    if value is None or isinstance(value, bytes | Refusal | Blocked):
        return value
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, bytes) else str(key).encode(): plain(item) for key, item in value.items()}
    assert isinstance(value, Sequence), value
    return [plain(item) for item in value]
