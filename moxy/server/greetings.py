"""The connection commands: what clients say to a Redis server before they get to work.

Lives here: PING, HELLO, AUTH, CLIENT, COMMAND, INFO and their like, as far as redis-cli, redis-benchmark and the
client libraries need them. Must not: touch a queue. Each is a row of wire/table without `parse`.
"""

import os
import platform
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final, final

from moxy import __version__
from moxy.backends.base import Backend, Clock
from moxy.core.errors import ERR, NOAUTH, WRONGPASS, Refused
from moxy.server.session import Counts, Session
from moxy.wire.arguments import Argv, shown
from moxy.wire.describe import command_doc, command_info
from moxy.wire.resp import Simple, Value, Verbatim, parse_int
from moxy.wire.table import OK, ROWS, TABLE, Row

REDIS_VERSION: Final = "7.2.0"
"""The Redis whose manners these are: clients read it to decide what they may ask for."""

_BENCHMARK_PARAMETERS: Final = {"save": "", "appendonly": "no", "maxmemory": "0", "databases": "1"}


@final
class Greetings:
    """Answers connection commands for all connections of one server."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend: Final = backend
        self._clock: Final = clock
        self._started_ms: Final = clock.now_ms()
        self.port = 0
        self.counts: Final = Counts()

    def answer(self, session: Session, row: Row, argv: Argv) -> Value:
        """The reply; the session is changed as asked. Raises Refused."""
        return HANDLERS[row.name](self, session, argv)

    def _ping(self, session: Session, argv: Argv) -> Value:
        if len(argv) > 2:
            raise Refused(ERR, "wrong number of arguments for 'ping' command")
        return argv[1] if len(argv) == 2 else Simple("PONG")

    def _echo(self, session: Session, argv: Argv) -> Value:
        return argv[1]

    def _hello(self, session: Session, argv: Argv) -> Value:
        resp3 = session.resp3
        at = 1
        if len(argv) > 1:
            version = parse_int(argv[1])
            if version is None:
                raise Refused(ERR, "Protocol version is not an integer or out of range")
            if version not in (2, 3):
                raise Refused("NOPROTO", "unsupported protocol version: this server speaks 2 and 3")
            resp3, at = version == 3, 2
        name: str | None = None
        login: tuple[bytes, bytes] | None = None
        while at < len(argv):
            option = argv[at].upper()
            if option == b"AUTH" and at + 2 < len(argv):
                login = (argv[at + 1], argv[at + 2])
                at += 3
            elif option == b"SETNAME" and at + 1 < len(argv):
                name = _client_name(argv[at + 1])
                at += 2
            else:
                raise Refused(ERR, f"Syntax error in HELLO option '{shown(argv[at])}'")
        if login is not None:  # only now: a HELLO that is refused lets nobody in
            self._check(session, *login)
        if not session.authenticated:
            raise Refused(
                NOAUTH,
                "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
                "<pass> option can be used to authenticate the client and select the RESP protocol version at the "
                "same time",
            )
        session.resp3 = resp3
        if name is not None:
            session.name = name
        return {
            "server": "moxy",
            "version": REDIS_VERSION,
            "moxy_version": __version__,
            "proto": 3 if resp3 else 2,
            "id": session.client_id,
            "mode": "standalone",
            "role": "master",
            "modules": [],
        }

    def _auth(self, session: Session, argv: Argv) -> Value:
        if len(argv) > 3:
            raise Refused(ERR, "syntax error: AUTH takes a password, or a user name and a password")
        self._check(session, argv[1] if len(argv) == 3 else b"default", argv[-1])
        return OK

    def _check(self, session: Session, user: bytes, password: bytes) -> None:
        if not session.needs_password:
            raise Refused(ERR, "AUTH called, but this server has no password: start it with --requirepass to have one")
        if not session.password_is(password) or user != b"default":
            raise Refused(WRONGPASS, "invalid username-password pair or user is disabled.")
        session.authenticated = True

    def _quit(self, session: Session, argv: Argv) -> Value:
        session.leaving = True
        return OK

    def _reset(self, session: Session, argv: Argv) -> Value:
        session.reset()
        return Simple("RESET")

    def _select(self, session: Session, argv: Argv) -> Value:
        index = parse_int(argv[1])
        if index is None:
            raise Refused(ERR, "invalid DB index")
        if index:
            raise Refused(ERR, "DB index is out of range: there is one database, 0; queues are told apart by name")
        return OK

    def _client(self, session: Session, argv: Argv) -> Value:
        sub, words = argv[1].upper(), argv[2:]
        if sub == b"SETNAME" and len(words) == 1:
            session.name = _client_name(words[0])
            return OK
        if sub == b"GETNAME" and not words:
            return session.name or None
        if sub == b"SETINFO" and len(words) == 2:
            field = words[0].upper()
            if field not in (b"LIB-NAME", b"LIB-VER"):
                raise Refused(ERR, f"Unrecognized option '{shown(words[0])}'")
            session.lib[field.decode().lower()] = _client_name(words[1])
            return OK
        if sub == b"ID" and not words:
            return session.client_id
        if sub == b"INFO" and not words:
            lib = " ".join(f"{field}={value}" for field, value in session.lib.items())
            resp = 3 if session.resp3 else 2
            return f"id={session.client_id} addr={session.peer} name={session.name} db=0 resp={resp} {lib}\n"
        if sub in (b"NO-EVICT", b"NO-TOUCH") and len(words) == 1 and words[0].upper() in (b"ON", b"OFF"):
            return OK
        raise _unknown_subcommand("CLIENT", argv)

    def _command(self, session: Session, argv: Argv) -> Value:
        if len(argv) == 1:
            return [command_info(row) for row in ROWS]
        sub, names = argv[1].upper(), [name.upper() for name in argv[2:]]
        if sub == b"COUNT" and not names:
            return len(ROWS)
        if sub == b"LIST" and not names:
            return [row.name.lower() for row in ROWS]
        if sub == b"INFO":
            asked = [TABLE.get(name) for name in names] if names else [*ROWS]
            return [None if row is None else command_info(row) for row in asked]
        if sub == b"DOCS":
            rows = [row for row in ROWS if not names or row.name.encode() in names]
            return {row.name.lower(): command_doc(row) for row in rows}
        raise _unknown_subcommand("COMMAND", argv)

    def _info(self, session: Session, argv: Argv) -> Value:
        wanted = {word.decode(errors="replace").lower() for word in argv[1:]} - {"all", "everything", "default"}
        parts: list[str] = []
        for section, facts in self._sections().items():
            if not wanted or section.lower() in wanted:
                parts.append(f"# {section}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in facts.items()))
        return Verbatim("\r\n".join(parts))

    def _sections(self) -> dict[str, dict[str, str | int]]:
        uptime_ms = self._clock.now_ms() - self._started_ms
        return {
            "Server": {
                "redis_version": REDIS_VERSION,
                "redis_mode": "standalone",
                "moxy_version": __version__,
                "python_version": platform.python_version(),
                "process_id": os.getpid(),
                "tcp_port": self.port,
                "uptime_in_seconds": uptime_ms // 1000,
            },
            "Clients": {"connected_clients": self.counts.clients, "blocked_clients": self.counts.blocked},
            "Persistence": {"loading": 0},
            "Stats": {
                "total_commands_processed": self.counts.commands,
                "rejected_connections": self.counts.refused,
            },
            "Replication": {"role": "master", "connected_slaves": 0},
            "Cluster": {"cluster_enabled": 0},
            "Moxy": self._backend.describe(),
        }

    def _time(self, session: Session, argv: Argv) -> Value:
        now_ms = self._clock.now_ms()
        return [str(now_ms // 1000), str(now_ms % 1000 * 1000)]

    def _config(self, session: Session, argv: Argv) -> Value:
        if argv[1].upper() == b"GET" and len(argv) > 2:
            patterns = [word.decode(errors="replace").lower() for word in argv[2:]]
            return {
                name: value
                for name, value in _BENCHMARK_PARAMETERS.items()
                if any(fnmatchcase(name, pattern) for pattern in patterns)
            }
        raise Refused(ERR, "only CONFIG GET is here: start moxy with flags, and set a queue's policy with MOXY.CONFIG")


HANDLERS: Final[dict[str, Callable[[Greetings, Session, Argv], Value]]] = {
    "PING": Greetings._ping,
    "ECHO": Greetings._echo,
    "HELLO": Greetings._hello,
    "AUTH": Greetings._auth,
    "QUIT": Greetings._quit,
    "RESET": Greetings._reset,
    "SELECT": Greetings._select,
    "CLIENT": Greetings._client,
    "COMMAND": Greetings._command,
    "INFO": Greetings._info,
    "TIME": Greetings._time,
    "CONFIG": Greetings._config,
}


def _client_name(raw: bytes) -> str:
    """Redis' rule: printable ASCII without blanks."""
    if any(byte < 33 or byte > 126 for byte in raw):
        raise Refused(ERR, "Client names cannot contain spaces, newlines or special characters.")
    return raw[:255].decode("ascii")


def _unknown_subcommand(command: str, argv: Argv) -> Refused:
    return Refused(
        ERR, f"unknown subcommand or wrong number of arguments for '{shown(argv[1])}'. Try COMMAND DOCS {command}."
    )
