"""Who is at the other end of a connection, and what was agreed with it; and what a server counts of all of them.

Lives here: plain facts, changed by the connection commands and read by the connection. Must not: do anything.
"""

import hmac
from typing import Final, final


@final
class Session:
    """One client: its address, the name it gave itself, its protocol, and whether it has shown who it is."""

    __slots__ = ("_name", "_password", "authenticated", "client_id", "leaving", "lib", "peer", "resp3", "worker")

    def __init__(self, client_id: int, peer: str, password: str = "") -> None:
        self._password: Final = password.encode()
        self.client_id: Final = client_id
        self.peer: Final = peer
        self.lib: Final[dict[str, str]] = {}
        self._name = ""
        self.worker = peer
        """How events name this client: the name it gave itself, else its address."""
        self.resp3 = False
        self.authenticated = not password
        self.leaving = False
        """The client asked to be disconnected (QUIT)."""

    @property
    def name(self) -> str:
        """What the client calls itself; "": it did not say."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        self.worker = name or self.peer

    @property
    def needs_password(self) -> bool:
        """Whether the server asks for one at all."""
        return bool(self._password)

    def password_is(self, given: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._password, given)

    def reset(self) -> None:
        """As on a fresh connection."""
        self.resp3 = False
        self.name = ""
        self.lib.clear()
        self.authenticated = not self._password


@final
class Counts:
    """What INFO tells of a server's clients, and of what they asked."""

    __slots__ = ("blocked", "clients", "commands", "refused")

    def __init__(self) -> None:
        self.clients = 0
        self.blocked = 0
        self.commands = 0
        """Of those that were carried out."""
        self.refused = 0
        """Clients that were not let in."""
