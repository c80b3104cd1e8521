"""Clients in processes of their own that work on one queue until their server dies, and what comes after.

Lives here: a random load with unique payloads, the kill in its midst, the drain. Must not: judge, which `history` does.
"""

import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

from tests.server.history import Op, Recorder
from tests.server.support import Client, Gone

QUEUE = "jobs"
PLAIN = "plain"
"""A queue of tasks without options, fetched without options: what the server carries out in its fast lane."""
DEDUP_MS = "3600000"
STEPS_MAX = 100_000
DRAIN_ROUNDS_MAX = 100
STATES = ("ready", "scheduled", "processing", "dead")
Leases = list[tuple[str, str]]
"""(lease id, payload)"""


class Load:
    """One client: enqueues, fetches, acks, gives back, extends, and now and then uses a lease that is void."""

    def __init__(self, address: tuple[str, int], name: str, seed: str, held: Leases) -> None:
        self.rng = random.Random(seed)
        self.name = name
        self.held = list(held)
        self.void: list[str] = []
        self.number = 0
        self.recorder = Recorder(address, name)

    def step(self, sent: Any = None) -> None:
        """A pipeline of a few commands. Raises Gone."""
        commands = [self._command() for _ in range(self.rng.choice((1, 1, 2, 4)))]
        for words, reply in zip(commands, self.recorder.pipeline(commands, sent), strict=True):
            if words[0] == "MOXY.FETCH" and isinstance(reply, list):
                self.held += [(entry["lease_id"], entry["payload"]) for entry in reply]

    def _command(self) -> tuple[str, ...]:
        rng = self.rng
        roll = rng.random()
        if self.held and roll < (0.45 if len(self.held) < 10 else 0.8):
            return self._about_a_lease()
        if roll > 0.97 and self.void:
            return ("MOXY.ACK", rng.choice(self.void))
        if roll > 0.8:
            lease_ms = rng.choice(("30000", "30000", "600000", "600000", "1", "25"))
            if rng.random() < 0.5:
                return ("MOXY.FETCH", PLAIN, lease_ms)
            return ("MOXY.FETCH", QUEUE, lease_ms, "COUNT", rng.choice("1138"))
        if roll > 0.76:
            return ("MOXY.MENQUEUE", QUEUE, *(self._payload() for _ in range(3)))
        payload = self._payload()
        if roll > 0.66:
            return ("MOXY.ENQUEUE", QUEUE, payload, "ID", payload.rstrip("."), "DEDUP", DEDUP_MS)
        return ("MOXY.ENQUEUE", rng.choice((QUEUE, PLAIN)), payload)

    def _about_a_lease(self) -> tuple[str, ...]:
        rng = self.rng
        index = rng.randrange(len(self.held))
        lease_id, _ = self.held[index]
        roll = rng.random()
        if roll < 0.1:
            return ("MOXY.EXTEND", lease_id, "60000")
        if roll < 0.13:
            return ("MOXY.ACK", lease_id[:-16] + f"{rng.getrandbits(64):016x}")
        del self.held[index]
        self.void.append(lease_id)
        if roll < 0.2:
            return ("MOXY.NACK", lease_id)
        if roll < 0.25:
            return ("MOXY.NACK", lease_id, "RELEASE")
        if roll < 0.27:
            return ("MOXY.NACK", lease_id, "FATAL")
        if roll < 0.35:
            queue = lease_id.split(":")[0]
            return ("MOXY.MACK", lease_id, *(void for void in self.void[-2:-1] if void.startswith(queue + ":")))
        return ("MOXY.ACK", lease_id)

    def _payload(self) -> str:
        self.number += 1
        return f"{self.name}/{self.number}" + "." * self.rng.choice((0, 0, 0, 700))


def work(
    address: tuple[str, int], name: str, seed: str, held: Leases, kill: tuple[int, int] | None
) -> tuple[list[Op], Leases]:
    """Load the server until it is gone; the history, and the leases that are still held.

    `kill`: (process, step): send the commands of that step and kill the process before, while or after it answers.
    """
    try:
        load = Load(address, name, seed, held)
    except OSError:
        return [], held
    try:
        for step in range(STEPS_MAX):
            load.step(partial(_strike, kill[0], load.rng) if kill and step == kill[1] else None)
    except Gone:
        return load.recorder.ops, load.held
    raise AssertionError(f"the server outlived {STEPS_MAX} steps")


def _strike(pid: int, rng: random.Random) -> None:
    """Let a random bit of the server's turn pass by counting, then kill it."""
    for _ in range(rng.choice((0, 0, rng.randrange(60_000)))):
        pass
    os.kill(pid, signal.SIGKILL)


class Crew:
    """Client processes, kept from crash to crash with the leases that each holds, and all that they saw."""

    def __init__(self, pool: ProcessPoolExecutor, clients: int, seed: str) -> None:
        self.pool = pool
        self.rng = random.Random(seed)
        self.seed = seed
        self.ops: list[Op] = []
        self.held: list[Leases] = [[] for _ in range(clients)]
        self.rounds = 0
        self.working: list[Future[tuple[list[Op], Leases]]] = []

    def until_killed(self, address: tuple[str, int], pid: int, steps_max: int = 150) -> None:
        """All clients load the server; one of them kills it at a random step."""
        self.begin(address, (pid, self.rng.randrange(steps_max)))
        self.finish()

    def begin(self, address: tuple[str, int], kill: tuple[int, int] | None = None) -> None:
        """Let all clients load the server. Unless one of them has it to `kill`, somebody else does."""
        self.rounds += 1
        killer = len(self.held) - 1
        self.working = [
            self.pool.submit(
                work,
                address,
                f"{index}.{self.rounds}",
                f"{self.seed}/{index}/{self.rounds}",
                held,
                kill if index == killer else None,
            )
            for index, held in enumerate(self.held)
        ]

    def finish(self) -> None:
        """Wait until every client has noticed that the server is gone."""
        for index, future in enumerate(self.working):
            ops, self.held[index] = future.result(timeout=90)
            self.ops += ops

    def drain(self, address: tuple[str, int]) -> dict[str, str]:
        """Repeat the enqueues of unknown outcome that have an ID, then fetch and ack all there is.

        The payloads that are left, which somebody holds or which are dead, with their states.
        """
        recorder = Recorder(address, f"drain.{self.rounds}")
        try:
            for words in [op.command for op in self.ops if op.is_unknown and "ID" in op.command[3:4]][-50:]:
                recorder(*words)
            for queue in (QUEUE, PLAIN):
                for _ in range(DRAIN_ROUNDS_MAX):  # a queue that takes acked tasks back never ends
                    tasks = recorder("MOXY.FETCH", queue, "600000", "COUNT", "200")
                    if not tasks:
                        break
                    recorder("MOXY.MACK", *(task["lease_id"] for task in tasks))
            return look(recorder)
        finally:
            recorder.close()
            self.ops += recorder.ops


def look(recorder: Recorder) -> dict[str, str]:
    """All that the queues hold, at one moment."""
    questions = [("MOXY.PEEK", queue, "STATE", state, "COUNT", "1000") for queue in (QUEUE, PLAIN) for state in STATES]
    left: dict[str, str] = {}
    for state, tasks in zip(STATES * 2, recorder.pipeline(questions), strict=True):
        assert len(tasks) < 1000, "more than can be looked at"
        left |= {task["payload"]: state for task in tasks}
    return left


def check_books(client: Client, left: dict[str, str]) -> list[dict[str, Any]]:
    """The server's own books must say the same as the clients (I1). They are given back, a queue each."""
    books = [client.map("MOXY.INFO", queue) for queue in (QUEUE, PLAIN)]
    assert sum(info["total_enqueued"] for info in books) == len(left) + sum(info["total_acked"] for info in books)
    return books


@contextmanager
def crew_pool(clients: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, all there from the first load on."""
    context = get_context("spawn")
    everybody = context.Barrier(clients)
    with ProcessPoolExecutor(clients, context, everybody.wait) as pool:
        wait([pool.submit(int) for _ in range(clients)])
        yield pool
