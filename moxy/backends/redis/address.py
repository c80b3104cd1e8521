"""Where Redis is: `--redis-addr`, read and checked.

Lives here: the forms of the address and what each part means. Must not: connect; or ever show a password, be it in
`repr`, in `display` or in an error.
"""

import re
from collections.abc import Callable
from typing import Any, Final, Literal, final
from urllib.parse import parse_qsl, unquote

import msgspec

Form = Literal["redis", "unix", "sentinel", "cluster"]

FORMS: Final = (
    "host:port, redis://, rediss:// (TLS), unix:///path/to/socket, "
    "sentinel://host:port,host:port/MASTER_NAME or cluster://host:port,host:port"
)


@final
class AddressError(ValueError):
    """An address that cannot be: one sentence that says what to do, and never repeats what may be a password."""


class Tls(msgspec.Struct, frozen=True):
    """How to trust the server and be trusted, in files; the names are redis-py's."""

    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_cert_reqs: Literal["none", "optional", "required"] = "required"
    ssl_check_hostname: bool = True


class Address(msgspec.Struct, frozen=True):
    """One Redis, or the several doors to one: Sentinels that know its master, or nodes of one Cluster.

    `nodes` are pairs of host and port: the server itself, the Sentinels, or some nodes of the Cluster. User and
    password are for Redis; Sentinels that want some of their own get `sentinel_username` and `sentinel_password`.
    """

    form: Form
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    tls: Tls | None = None
    connect_s: float = 2.0
    reply_s: float = 5.0

    @property
    def display(self) -> str:
        """The address for people and logs, without its secrets."""
        scheme = self.form if self.tls is None else self.form + "s"
        user = f"{self.username}:***@" if self.password else f"{self.username}@" if self.username else ""
        if self.form == "unix":
            return f"{scheme}://{user}{self.path}" + (f"?db={self.db}" if self.db else "")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        tail = f"/{self.master}" if self.master else ""
        return f"{scheme}://{user}{hosts}{tail}" + (f"/{self.db}" if self.db else "")

    def __repr__(self) -> str:
        return f"Address({self.display})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("", self.display)]


def parse_prefix(text: str) -> str:
    """What keys begin with. Raises AddressError."""
    if _PREFIX.fullmatch(text) is None:
        raise AddressError("a prefix is 1 to 64 letters, digits, dots, colons, underscores or hyphens")
    return text


def parse_redis_address(text: str) -> Address:
    """The address that `text` writes. Raises AddressError.

    `host:port` is `redis://host:port`. In user, password, path and master name `%XX` stands for a byte, as in every
    URL. Options follow a `?`, named as redis-py names them.
    """
    scheme, found, rest = text.strip().partition("://")
    if not found:
        scheme, rest = "redis", text.strip()
    if scheme not in _SCHEMES:
        raise AddressError(f"the address of Redis is one of: {FORMS}")
    form, tls = _SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    options = _options(query, form, tls)
    userinfo, _, place = rest.rpartition("@")
    user, _, password = userinfo.partition(":")
    if user:
        options.setdefault("username", unquote(user))
    if password:
        options.setdefault("password", unquote(password))
    secrets = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    return msgspec.structs.replace(
        _placed(form, place, options.pop("db", None)),
        **options,
        tls=msgspec.convert(secrets, Tls) if tls else None,
    )


_SCHEMES: Final[dict[str, tuple[Form, bool]]] = {
    "redis": ("redis", False),
    "rediss": ("redis", True),
    "unix": ("unix", False),
    "sentinel": ("sentinel", False),
    "sentinels": ("sentinel", True),
    "cluster": ("cluster", False),
    "clusters": ("cluster", True),
}
_PREFIX: Final = re.compile(r"[0-9A-Za-z._:-]{1,64}")
_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Za-z:.%]+)\]|(?P<host>[^:\[\]/@,\s]+))(?::(?P<port>[0-9]{1,5}))?")
_PORTS: Final[dict[Form, int]] = {"redis": 6379, "sentinel": 26379, "cluster": 6379}


def _placed(form: Form, place: str, db_option: object) -> Address:
    """The address so far: where it is and which database."""
    if form == "unix":
        if not place.startswith("/"):
            raise AddressError("a unix address is unix:// and an absolute path, such as unix:///run/redis.sock")
        return Address(form, path=unquote(place), db=_db(db_option or 0))
    hosts, _, path = place.partition("/")
    nodes = tuple(_host(host, _PORTS[form]) for host in hosts.split(","))
    parts = [unquote(part) for part in path.split("/")] if path else []
    master = ""
    if form == "sentinel":
        master = parts.pop(0) if parts else ""
        if not master:
            raise AddressError(
                "a Sentinel address ends in the master's name: sentinel://host:26379,host:26379/mymaster"
            )
    elif form == "redis" and len(nodes) > 1:
        raise AddressError("redis:// takes one host; for several write cluster:// or sentinel://…/MASTER_NAME")
    if len(parts) > 1:
        raise AddressError("a Redis address has one path, the number of the database")
    db = _db(db_option if db_option is not None else parts[0] if parts and parts[0] else 0)
    if form == "cluster" and db:
        raise AddressError("Redis Cluster has only database 0: leave the number out")
    return Address(form, nodes, master=master, db=db)


def _host(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None or not 0 < int(match["port"] or port) <= 65535:
        raise AddressError(
            f"the address of Redis needs hosts and ports from 1 to 65535, such as 127.0.0.1:6379; "
            f"its forms are: {FORMS}; write %25 for % and %3F for ? in a password"
        )
    return match["ipv6"] or match["host"], int(match["port"] or port)


def _db(text: object) -> int:
    try:
        number = int(str(text))
    except ValueError:
        number = -1
    if number < 0:
        raise AddressError("the database of Redis is a number from 0, such as redis://127.0.0.1:6379/0")
    return number


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise ValueError
    return seconds


def _requirement(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise ValueError
    return text


_OPTIONS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    # redis-py's name -> ours, how to read it
    "db": ("db", _db),
    "username": ("username", str),
    "password": ("password", str),
    "socket_timeout": ("reply_s", _seconds),
    "socket_connect_timeout": ("connect_s", _seconds),
}
_SENTINEL_OPTIONS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "sentinel_username": ("sentinel_username", str),
    "sentinel_password": ("sentinel_password", str),
}
_TLS_OPTIONS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "ssl_ca_certs": ("ssl_ca_certs", str),
    "ssl_certfile": ("ssl_certfile", str),
    "ssl_keyfile": ("ssl_keyfile", str),
    "ssl_cert_reqs": ("ssl_cert_reqs", _requirement),
    "ssl_check_hostname": ("ssl_check_hostname", _truth),
}


def _options(query: str, form: Form, tls: bool) -> dict[str, object]:
    known = _OPTIONS | (_SENTINEL_OPTIONS if form == "sentinel" else {}) | (_TLS_OPTIONS if tls else {})
    options: dict[str, object] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise AddressError(f"an option of the address of Redis is one of: {', '.join(known)}")
        ours, read = known[name]
        try:
            options[ours] = read(value)
        except (KeyError, ValueError) as error:
            if isinstance(error, AddressError):
                raise
            raise AddressError(f"the option {name} of the address of Redis has a value that it cannot take") from None
    return options
