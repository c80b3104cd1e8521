"""The errors of the core. Expected ones carry a code; everything else is a bug.

`Refused` is the only error that a client can cause. `IllegalEvent` means that a log and this code disagree, and
whoever meets it must stop: it is never answered to a client.
"""

from typing import Final, final

ERR: Final = "ERR"
NOLEASE: Final = "NOLEASE"
NOTASK: Final = "NOTASK"
BADQUEUE: Final = "BADQUEUE"
BADTIMEOUT: Final = "BADTIMEOUT"
TOOBIG: Final = "TOOBIG"
FULL: Final = "FULL"
MAXHOLD: Final = "MAXHOLD"
LEASED: Final = "LEASED"
IOERR: Final = "IOERR"
READONLY: Final = "READONLY"
BACKEND: Final = "BACKEND"
NOAUTH: Final = "NOAUTH"
WRONGPASS: Final = "WRONGPASS"
NOPERM: Final = "NOPERM"

CODES: Final[dict[str, str]] = {
    ERR: "unknown command, wrong number of arguments, syntax, or a value out of range",
    NOLEASE: "the lease is void or was never seen",
    NOTASK: "no such task, or it is not in the state that the command needs",
    BADQUEUE: "not a queue name",
    BADTIMEOUT: "a lease must be DEFAULT or 1 ms to 30 days",
    TOOBIG: "an argument is longer than its limit",
    FULL: "the queue is at its max_ready",
    MAXHOLD: "the lease may not be held that long",
    LEASED: "the task is under a live lease",
    IOERR: "the event log refused the write: nothing happened",
    READONLY: "the server takes no changes at the moment",
    BACKEND: "the Redis backend cannot be reached",
    NOAUTH: "authenticate first",
    WRONGPASS: "wrong user name or password",
    NOPERM: "not allowed",
}
"""Every code that a reply can start with, and when. The protocol page is made from it."""


@final
class Refused(Exception):
    """A command that is not carried out: nothing changed and no event exists (I12).

    `code` is the first word of the RESP error, stable for programs; `text` is a sentence for people.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code: Final = code
        self.text: Final = text


@final
class IllegalEvent(Exception):
    """An event that breaks the lifecycle table, a sequence or another rule of the reducer."""

    def __init__(self, rule: str, event: object, state: str) -> None:
        super().__init__(f"{rule}: {event!r} does not apply to {state}")
        self.rule: Final = rule
        self.event: Final = event
