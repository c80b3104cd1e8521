"""The server as a process with anything in front of it: strace, a planted fault, a disk that is too small.

Lives here: starting it, whether or not it comes up, and directories that are compared. Must not: what ought to happen.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from typing import Any

from tests.server.support import Process, clean_environment

ROOT = Path(__file__).resolve().parents[2]
MOXY = (sys.executable, "-m", "moxy")
PATIENCE_S = 30.0


class Launched(Process):
    """A `Process` of any command line. `is_up` is false when it ended before it listened."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = clean_environment({"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])})
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.logs: list[str] = []
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.is_up = self._wait_until_listening()

    def __exit__(self, *how: object) -> None:
        if self.child.poll() is None:
            os.kill(self.server_pid(), signal.SIGKILL)  # a strace that is killed lets its child go on
        super().__exit__(*how)

    def said(self, event: str) -> list[dict[str, Any]]:
        """All log lines of that event so far."""
        entries = [json.loads(line) for line in self.logs if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == event]

    def server_pid(self) -> int:
        """The server's own process: the child, or the child of the strace in front of it."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return int(children[0]) if children else self.child.pid

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.child.terminate()
        return self.end()[0]

    def _wait_until_listening(self) -> bool:
        while line := self._lines.get(timeout=PATIENCE_S):
            if line.startswith("{") and (entry := json.loads(line))["event"] == "server.listening":
                self.address = (entry["host"], entry["port"])
                return True
        return False


def serve(directory: Path | str, mode: str, *flags: str, before: Sequence[str] = MOXY, up: bool = True) -> Launched:
    """A durable server, which must come up unless `up` says that it may not."""
    server = Launched(
        [*before, "serve", "--addr", "127.0.0.1:0", "--data-dir", str(directory), "--durability", mode, *flags]
    )
    if up and not server.is_up:
        with server:
            raise AssertionError(f"the server does not come up, exit code {server.end()[0]}: {server.logs}")
    return server


def broken(fault: str) -> tuple[str, ...]:
    """What to put before `serve` for a server with that fault (see `broken`)."""
    return (sys.executable, "-m", "tests.server.broken", fault)


def moxy(*words: str) -> subprocess.CompletedProcess[str]:
    """Another command of the command line, in a pipe."""
    return subprocess.run(
        [*MOXY, *words], capture_output=True, encoding="utf-8", env=clean_environment(), timeout=PATIENCE_S
    )


def contents(directory: Path) -> dict[str, bytes]:
    """Every file, byte for byte, but for the lock, which names its last holder."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.name != "lock"}
