"""The scopes: which small worlds are explored.

What lives here: how many tasks, which commands, under which policy. What must not live here: what is made of them.
"""

from dataclasses import dataclass
from typing import Final, TypedDict

from moxy.core.commands import UNSET, Command, Configure, Enqueue, Fetch, NackKind, Pause, Purge, Redrive, Resume
from moxy.core.policy import Policy

QUEUE: Final = "jobs"

_TWO_ATTEMPTS: Final = Policy(max_attempts=2, lease_ms=2)


@dataclass(frozen=True)
class Scope:
    """A small world: how many tasks are ever enqueued, and which commands there are. `about` is for people.

    `whole`: states are not reduced by symmetry; for the comparison with TLA+, which counts them so.
    """

    name: str
    about: str
    tasks: int
    policy: Policy = _TWO_ATTEMPTS
    enqueues: tuple[Enqueue, ...] = (Enqueue(QUEUE, b""),)
    fetches: tuple[Fetch, ...] = (Fetch(QUEUE, 0),)
    nacks: tuple[tuple[NackKind, int], ...] = ()
    extends: tuple[int, ...] = ()
    undelivers: bool = False
    deletes: bool = False
    redrives: bool = False
    operators: tuple[Command, ...] = ()
    seeds: tuple[int, ...] = (0,)
    whole: bool = False
    deep: bool = False
    states_max: int = 20_000
    """More than any scope has, so that a fault by which something grows for ever ends the exploration too."""

    def __post_init__(self) -> None:
        """What `reduced` relies on when it lets connections change places."""
        offers = [
            sorted((fetch.lease_ms, fetch.count) for fetch in self.fetches if fetch.bound and fetch.worker == worker)
            for worker in {fetch.worker for fetch in self.fetches if fetch.bound}
        ]
        assert all(offer == offers[0] for offer in offers), f"{self.name}: connections that differ"

    @property
    def every_task_ends(self) -> bool:
        """Whether L3 is promised: no attempts without end."""
        own = [enqueue.max_attempts for enqueue in self.enqueues]
        later = [value for c in self.operators if isinstance(c, Configure) for _, value in c.changes]
        return 0 not in own and 0 not in (self.policy.max_attempts, *later)


class _Shared(TypedDict):
    enqueues: tuple[Enqueue, ...]
    nacks: tuple[tuple[NackKind, int], ...]
    operators: tuple[Command, ...]
    whole: bool


_SHARED: Final[_Shared] = {
    "enqueues": tuple(Enqueue(QUEUE, b"", "", priority, delay) for priority in (0, 1) for delay in (0, 1)),
    "nacks": (("retry", UNSET), ("retry", 1), ("fatal", UNSET), ("release", UNSET)),
    "operators": (Redrive(QUEUE, 1), Purge(QUEUE, "dead")),
    "whole": True,
}

_OPERATORS: Final = (Redrive(QUEUE), Redrive(QUEUE, 1), Purge(QUEUE, "dead"))

SCOPES: Final[dict[str, Scope]] = {
    scope.name: scope
    for scope in (
        Scope(
            "dedup",
            "two ids enqueued again and again, one with a window",
            4,
            Policy(max_attempts=2, lease_ms=1),
            enqueues=(
                Enqueue(QUEUE, b"", "a", dedup_ms=2),
                Enqueue(QUEUE, b"", "b", dedup_ms=2),
                Enqueue(QUEUE, b"", "b"),
            ),
            deletes=True,
            operators=(Purge(QUEUE, "dead"),),
        ),
        Scope(
            "own options",
            "tasks with attempts and leases of their own, one that may fail for ever",
            3,
            enqueues=(Enqueue(QUEUE, b"", max_attempts=1, lease_ms=3), Enqueue(QUEUE, b"", max_attempts=0)),
            nacks=(("retry", UNSET),),
        ),
        Scope(
            "plain",
            "enqueue, fetch one or two, ack, expire; leases of two lengths",
            3,
            Policy(max_attempts=3, lease_ms=3),
            fetches=(Fetch(QUEUE, 0), Fetch(QUEUE, 1, 2)),
        ),
        Scope(
            "delay and priority",
            "delays, priorities, a backoff that is drawn",
            3,
            Policy(max_attempts=2, lease_ms=1, backoff_ms=2, backoff_max_ms=3),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", "", 9, 2)),
            seeds=(0, 1),
        ),
        Scope(
            "nack and dead letter",
            "every NACK, undelivered replies, redrive, delete and purge",
            3,
            nacks=(("retry", UNSET), ("retry", 2), ("fatal", UNSET), ("release", UNSET)),
            undelivers=True,
            deletes=True,
            redrives=True,
            operators=_OPERATORS,
        ),
        Scope(
            "ttl",
            "TTLs that run out while ready, scheduled, processing or dead",
            2,
            Policy(max_attempts=2, lease_ms=2, ttl_ms=3),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", "", 0, 2), Enqueue(QUEUE, b"", ttl_ms=0)),
            nacks=(("retry", 1), ("release", UNSET)),
            operators=(Redrive(QUEUE, 1),),
        ),
        Scope(
            "pause",
            "pause and resume, a policy that changes under way, a bound on what waits",
            3,
            Policy(max_attempts=2, lease_ms=2, max_ready=2),
            nacks=(("retry", UNSET),),
            operators=(
                Pause(QUEUE),
                Resume(QUEUE),
                Configure(QUEUE, (("max_attempts", 1),)),
                Configure(QUEUE, (("max_attempts", 2), ("lease_ms", 1))),
                Purge(QUEUE, "ready"),
            ),
        ),
        Scope(
            "full",
            "a bound on what waits, ready and delayed together, and tasks that come back past it",
            4,
            Policy(max_attempts=2, lease_ms=1, max_ready=2),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", delay_ms=1)),
            nacks=(("retry", 1),),
            operators=(Redrive(QUEUE, 1), Purge(QUEUE, "scheduled")),
        ),
        Scope(
            "bound",
            "two connections, leases bound to them, disconnects, EXTEND up to a cap",
            3,
            Policy(max_attempts=2, lease_ms=1, max_hold_ms=2),
            fetches=(Fetch(QUEUE, 0, 1, "w1", True), Fetch(QUEUE, 0, 1, "w2", True)),
            extends=(2,),
        ),
        Scope(
            "shared",
            "the same as Moxy.tla, not reduced by symmetry: TLC must find as many",
            2,
            Policy(max_attempts=3, lease_ms=2),
            **_SHARED,
        ),
        Scope(
            "shared, three tasks",
            "the same with one more, and less of the rest",
            3,
            Policy(max_attempts=2, lease_ms=1),
            **_SHARED,
            deep=True,
            states_max=2_000_000,
        ),
        Scope(
            "everything",
            "four tasks, most of the above together",
            4,
            Policy(max_attempts=2, lease_ms=2),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", "a", 9, 1, dedup_ms=2)),
            fetches=(Fetch(QUEUE, 0, 1, "w1", True), Fetch(QUEUE, 0, 2, "w2")),
            nacks=(("retry", UNSET), ("fatal", UNSET), ("release", UNSET)),
            operators=(Pause(QUEUE), Resume(QUEUE), Redrive(QUEUE, 1), Purge(QUEUE, "dead")),
            deep=True,
            states_max=2_000_000,
        ),
    )
}
