"""Queues, tasks and leases of the model: plain lists, scanned and sorted whenever they are read.

What lives here: what a queue holds, and what can be asked of it. What must not live here: what changes it (`model`).
"""

from dataclasses import dataclass, field

from spec.model.limits import MAX_MS


@dataclass
class Lease:
    """A live lease. `worker` is the client that fetched it; a `bound` one ends with the connection of that client."""

    lease_id: str
    deadline_ms: int
    leased_ms: int
    worker: str
    bound: bool
    order: int
    """Which lease of all queues it is: what a disconnect releases, it releases in the order of leasing."""


@dataclass(eq=False)
class Task:
    """A task that its queue still has: scheduled, ready, processing or dead. Gone ones are in no list."""

    task_id: str
    number: int
    place: int
    payload: bytes
    priority: int
    enqueued_ms: int
    state: str = "ready"
    due_ms: int | None = None
    expires_ms: int | None = None
    dedup_ms: int | None = None
    own_max_attempts: int | None = None
    own_lease_ms: int | None = None
    attempts: int = 0
    deliveries: int = 0
    expiries: int = 0
    failures: int = 0
    releases: int = 0
    disconnects: int = 0
    token: int = 0
    lease: Lease | None = None
    last_reason: str | None = None
    dead_cause: str | None = None
    dead_reason: str | None = None
    dead_ms: int | None = None
    death: int = 0
    """Which `DeadLettered` of its queue buried it: tells deaths of the same millisecond apart."""

    @property
    def deadline_ms(self) -> int | None:
        return self.lease.deadline_ms if self.lease else None

    def ttl_ran_out(self, at_ms: int) -> bool:
        return self.expires_ms is not None and self.expires_ms <= at_ms


@dataclass
class Queue:
    """One queue: its policy, its tasks, the ids it remembers after their tasks are gone, and what was counted."""

    name: str
    policy: dict[str, int]
    paused: bool = False
    next_number: int = 1
    """The next number or place to be given: both come from this one counter."""
    last_token: int = 0
    tasks: list[Task] = field(default_factory=list)
    remembered: list[tuple[str, int]] = field(default_factory=list)
    """(task id, until_ms): known until that time is reached [Enqueue, DEDUP]."""
    log: list[dict[str, object]] = field(default_factory=list)
    """Every event so far, as far as it is modelled [Events]. Its place in the list, from 1, is its `seq` [I15]."""
    last_ms: int = 0
    """The time of the last event [I15]."""
    purged_tasks: int = 0
    """Tasks removed by `Purged` events, which are one event for many tasks [Operators]."""

    def now(self, now_ms: int) -> int:
        """The time in this queue: never before its last event [Time, I15]."""
        return max(now_ms, self.last_ms)

    def in_state(self, state: str) -> list[Task]:
        """The tasks of one state in the order of PEEK [Order]; for ready ones it is the order of leasing [I7]."""
        tasks = [task for task in self.tasks if task.state == state]
        if state == "ready":
            return sorted(tasks, key=lambda task: (-task.priority, task.place))
        if state == "scheduled":
            return sorted(tasks, key=lambda task: (task.due_ms or 0, task.place))
        if state == "processing":
            return sorted(tasks, key=lambda task: (task.deadline_ms or 0, task.token))
        return sorted(tasks, key=lambda task: task.death)

    def find(self, task_id: str) -> Task | None:
        return next((task for task in self.tasks if task.task_id == task_id), None)

    def knows(self, task_id: str, at_ms: int) -> bool:
        """Whether an ENQUEUE with this id creates nothing: a live or dead task has it, or its window is open [I14]."""
        return self.find(task_id) is not None or any(i == task_id and at_ms < until for i, until in self.remembered)

    def may_lease(self) -> bool:
        return not self.paused and bool(self.in_state("ready"))

    def max_attempts(self, task: Task) -> int:
        """The task's own, else the policy's as it stands now; 0 is unlimited [Enqueue]."""
        return self.policy["max_attempts"] if task.own_max_attempts is None else task.own_max_attempts

    def attempts_used_up(self, task: Task) -> bool:
        return 0 < self.max_attempts(task) <= task.attempts

    def backoff_ms(self, attempts: int) -> int:
        """How long a task waits after its `attempts`-th charged delivery [Coming back]. The draw is 0, so it is `d`."""
        cap_ms = self.policy["backoff_max_ms"] or MAX_MS
        return min(self.policy["backoff_ms"] * int(2 ** (attempts - 1)), cap_ms)


@dataclass(eq=False)
class Waiter:
    """A FETCH: who asks, what for, and until when it waits if it has to (`until_ms` None: for ever)."""

    client: str
    queues: list[str]
    count: int
    timeout_ms: int | None
    """The visibility timeout; None is DEFAULT."""
    bound: bool
    until_ms: int | None = None
