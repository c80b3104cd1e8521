"""The reference model: docs/semantics.md as the plainest program that says the same.

What lives here: one `Model` with the queue commands, their replies, due work, blocked fetches and the canonical state,
over plain lists that are scanned and sorted whenever they are read. A machine drives it in lock-step with a real system
and compares every reply and state. Brackets name the section or invariant of docs/semantics.md that a rule is from.

What must not live here: anything of `moxy`, anything clever or quick, storage, sockets, clocks, random numbers. Nonces
are 0, so a backoff is exactly its `d`; the time is an argument of every call. Names ending in `_ms` are milliseconds:
moments (deadline, due, expires, enqueued, leased, dead, until, now, at) since 1970, all others durations.
INFO, WHY and the BLOCK of EVENTS are not modelled (spec/README.md says why).
"""

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Sequence

from spec.model.limits import (
    ARGUMENTS,
    ENTRY_KEYS,
    EVENTS_COUNT,
    MAX_COUNT,
    MAX_MS,
    MAX_POLICY_NUMBER,
    MAX_SEQ,
    NONCE,
    PEEK_COUNT,
    POLICY,
    QUEUE_EVENTS,
    SHOW_KEYS,
    TASK_EVENTS,
)
from spec.model.queues import Lease, Queue, Task, Waiter
from spec.model.words import (
    BLOCKED,
    Refusal,
    RefusedError,
    Reply,
    check_cursor,
    integer,
    lease_id_of,
    lookup,
    optional,
    options_of,
    payload_of,
    queue_name,
    reason_of,
    refuse,
    state_name,
    task_id_of,
    utf8,
    within,
)


class Model:
    """All queues, the blocked fetches, and the answers that nobody has taken yet."""

    def __init__(self, default_max_attempts: int = 25) -> None:
        self.born_with = {name: default for name, (default, _, _) in POLICY.items()}
        self.born_with["max_attempts"] = default_max_attempts
        self.queues: dict[str, Queue] = {}
        self.waiters: list[Waiter] = []
        self.answers: list[tuple[str, Reply]] = []
        self.leases = 0
        """How many leases there have been, over all queues."""

    # What the machine drives

    def execute(self, argv: Sequence[str | bytes], now_ms: int, client: str = "c1") -> Reply:
        """One command as on the wire; its reply. Then whoever waits for what it made available is served."""
        name, *args = [word.encode() if isinstance(word, str) else word for word in argv]
        handlers: dict[bytes, Callable[[list[bytes], int], Reply]] = {
            b"MOXY.ENQUEUE": self._enqueue,
            b"MOXY.MENQUEUE": self._menqueue,
            b"MOXY.FETCH": lambda args, now_ms: self._fetch(args, now_ms, client),
            b"MOXY.ACK": self._ack,
            b"MOXY.MACK": self._mack,
            b"MOXY.NACK": self._nack,
            b"MOXY.EXTEND": self._extend,
            b"MOXY.STATS": self._stats,
            b"MOXY.PEEK": self._peek,
            b"MOXY.SHOW": self._show,
            b"MOXY.QUEUES": self._queues,
            b"MOXY.CONFIG": self._config,
            b"MOXY.PAUSE": self._pause,
            b"MOXY.RESUME": self._resume,
            b"MOXY.REDRIVE": self._redrive,
            b"MOXY.DELETE": self._delete,
            b"MOXY.PURGE": self._purge,
            b"MOXY.EVENTS": self._events,
            b"MOXY.HISTORY": self._history,
        }
        if name.upper() in (b"MOXY.INFO", b"MOXY.WHY") or (name.upper() == b"MOXY.EVENTS" and b"BLOCK" in args):
            raise NotImplementedError(f"{name!r} is not modelled")
        if name.upper() not in handlers:
            return Refusal("ERR")
        least, most = ARGUMENTS[name.upper()]
        if not least <= len(args) <= (len(args) if most is None else most):
            return Refusal("ERR")
        try:
            reply = handlers[name.upper()](args, now_ms)
        except RefusedError as refused:
            reply = Refusal(refused.code)
        self._serve_waiters(now_ms)
        return reply

    def tick(self, now_ms: int) -> None:
        """The timer: all due work of all queues, then the waiters: first served, then timed out [Time, L4]."""
        while self._do_due_work(list(self.queues), now_ms):
            pass
        self._serve_waiters(now_ms)
        timed_out = [waiter for waiter in self.waiters if waiter.until_ms is not None and waiter.until_ms <= now_ms]
        for waiter in sorted(timed_out, key=lambda waiter: waiter.until_ms or 0):
            self.waiters.remove(waiter)
            self.answers.append((waiter.client, None))

    def next_due_ms(self) -> int | None:
        """The earliest time at which `tick` has something to do, or None."""
        times = [waiter.until_ms for waiter in self.waiters]
        for queue in self.queues.values():
            times += [task.deadline_ms for task in queue.in_state("processing")]
            times += [task.expires_ms for task in queue.in_state("ready") + queue.in_state("scheduled")]
            times += [task.due_ms for task in queue.in_state("scheduled")]
        return min((time for time in times if time is not None), default=None)

    def take_answers(self) -> list[tuple[str, Reply]]:
        """(client, reply) of every waiter answered since the last call, in the order of the answers."""
        answers, self.answers = self.answers, []
        return answers

    def disconnect(self, client: str, now_ms: int) -> None:
        """A connection closed: its waiter goes first, then its BOUND leases are released, charged [Lease].

        One after the other in the order of leasing, and each goes to who waits for it before the next is released.
        """
        self.waiters = [waiter for waiter in self.waiters if waiter.client != client]
        held = [
            (task.lease.order, queue, task)
            for queue in self.queues.values()
            for task in queue.in_state("processing")
            if task.lease and task.lease.bound and task.lease.worker == client
        ]
        for _, queue, task in sorted(held, key=lambda entry: entry[0]):
            self._release(queue, task, "disconnect", queue.now(now_ms))
            self._serve_waiters(now_ms)

    def undeliver(self, lease_id: str, now_ms: int) -> None:
        """The reply that carried this lease could not be written: released, uncharged. A void lease: nothing [I4]."""
        for queue, task in self._holders(lease_id):
            self._release(queue, task, "undelivered", queue.now(now_ms))
        self._serve_waiters(now_ms)

    def restart(self, now_ms: int) -> None:
        """The server ended, however, and was started again: nothing that was promised is lost [I5, I10, I13].

        Connections are: nobody waits, and BOUND leases are released, charged; in each queue in the order of PEEK. All
        other leases go on, with the deadlines that they had.
        """
        self.waiters = []
        for queue in self.queues.values():
            for task in queue.in_state("processing"):
                if task.lease and task.lease.bound:
                    self._release(queue, task, "disconnect", queue.now(now_ms))

    def events_count(self, name: str) -> dict[str, int]:
        """How many events of each type the queue has had [Events, I8]; all 0 for a queue that does not exist."""
        types = [entry["event"] for entry in self._queue(name).log]
        return {event: types.count(event) for event in (*TASK_EVENTS, *QUEUE_EVENTS)}

    def canonical(self, now_ms: int) -> dict[str, object]:
        """The whole state in a form that two systems can compare, at a time that decides which ids are remembered."""
        return {name: self._canonical_queue(queue, queue.now(now_ms)) for name, queue in self.queues.items()}

    def _canonical_queue(self, queue: Queue, at_ms: int) -> dict[str, object]:
        counts = Counter(entry["event"] for entry in queue.log)
        counters = {re.sub("(?<=[a-z])(?=[A-Z])", "_", event).lower(): counts[event] for event in TASK_EVENTS}
        counters["deleted"] += queue.purged_tasks  # it counts tasks, so that I1 holds
        keys = (*SHOW_KEYS, "number", "place", "dedup_ms")
        return {
            "seq": len(queue.log),
            "paused": queue.paused,
            "policy": dict(queue.policy),
            "next_number": queue.next_number,
            "last_token": queue.last_token,
            "counters": counters,
            "tasks": [self._fields(queue, task, keys) for task in sorted(queue.tasks, key=lambda task: task.number)],
            "remembered": sorted((task_id, until) for task_id, until in queue.remembered if at_ms < until),
        }

    # Events: a queue exists from its first one on

    def _queue(self, name: str) -> Queue:
        """The queue, or what it would be born as: reading one that does not exist creates nothing [Names and ids]."""
        return self.queues.get(name) or Queue(name, dict(self.born_with))

    def _record(self, queue: Queue, event: str, at_ms: int, task: Task | None = None) -> None:
        """Log an event. The first of a queue makes it exist; a default of another kind is configured before it."""
        if queue.name not in self.queues:
            self.queues[queue.name] = queue
            if self.born_with["max_attempts"] != POLICY["max_attempts"][0]:
                self._record(queue, "QueueConfigured", at_ms)
        assert at_ms >= queue.last_ms, "I15: at_ms never decreases"
        whom = {"number": task.number, "task_id": task.task_id} if task else {}
        entry = {"event": event, "queue": queue.name, "seq": len(queue.log) + 1, "at_ms": at_ms, **whom}
        queue.log.append(entry)
        queue.last_ms = at_ms

    # Enqueue

    def _enqueue(self, args: list[bytes], now_ms: int) -> Reply:
        """ENQUEUE queue payload [ID] [PRIORITY] [DELAY] [TTL] [MAXATTEMPTS] [LEASE] [DEDUP]."""
        queue, payload = self._queue(queue_name(args[0])), payload_of(args[1])
        given = options_of(
            args[2:],
            {
                "ID": task_id_of,
                "PRIORITY": within(0, 9),
                "DELAY": within(0, MAX_MS),
                "TTL": within(1, MAX_MS),
                "MAXATTEMPTS": within(0, MAX_POLICY_NUMBER),
                "LEASE": within(1, MAX_MS, "BADTIMEOUT"),
                "DEDUP": within(1, MAX_MS),
            },
        )
        task_id = task_id_of(given["ID"]) if "ID" in given else None
        priority = optional(given, "PRIORITY") or 0
        delay_ms = optional(given, "DELAY") or 0
        ttl_ms = optional(given, "TTL")
        own_max_attempts = optional(given, "MAXATTEMPTS")
        own_lease_ms = optional(given, "LEASE")
        dedup_ms = optional(given, "DEDUP")
        if dedup_ms is not None and task_id is None:
            refuse("ERR")
        at_ms = queue.now(now_ms)
        if task_id is not None and queue.knows(task_id, at_ms):  # before FULL: a repeat is never refused
            return {"task_id": task_id}
        self._refuse_when_full(queue, 1)
        task = self._create(queue, payload, task_id, ttl_ms, at_ms)
        task.priority, task.dedup_ms = priority, dedup_ms
        task.own_max_attempts, task.own_lease_ms = own_max_attempts, own_lease_ms
        if delay_ms > 0:
            task.state, task.due_ms = "scheduled", at_ms + delay_ms
        return {"task_id": task.task_id}

    def _menqueue(self, args: list[bytes], now_ms: int) -> Reply:
        """MENQUEUE queue payload...: all or nothing, in order, without options."""
        queue, payloads = self._queue(queue_name(args[0])), [payload_of(payload) for payload in args[1:]]
        self._refuse_when_full(queue, len(payloads))
        return [self._create(queue, payload, None, None, queue.now(now_ms)).task_id for payload in payloads]

    def _refuse_when_full(self, queue: Queue, more: int) -> None:
        """`max_ready` bounds the tasks that wait, ready and scheduled together; 0 is no bound [Enqueue]."""
        waiting = len(queue.in_state("ready")) + len(queue.in_state("scheduled"))
        if queue.policy["max_ready"] and waiting + more > queue.policy["max_ready"]:
            refuse("FULL")

    def _create(self, queue: Queue, payload: bytes, task_id: str | None, ttl_ms: int | None, at_ms: int) -> Task:
        """A ready task at the end; its number is its first place. Without TTL the policy's of this moment; 0: none."""
        number = queue.next_number
        task = Task(task_id or f"{number}-{NONCE}", number, number, payload, priority=0, enqueued_ms=at_ms)
        ttl_ms = ttl_ms or queue.policy["ttl_ms"]
        task.expires_ms = at_ms + ttl_ms if ttl_ms else None
        queue.next_number += 1
        queue.tasks.append(task)
        self._record(queue, "Enqueued", at_ms, task)
        return task

    # Lease

    def _fetch(self, args: list[bytes], now_ms: int, client: str) -> Reply:
        """FETCH queue timeout_ms|DEFAULT [COUNT n] [BLOCK ms] [BOUND] [WITH queue...]; WITH takes all that follows."""
        first, timeout, *options = args
        names = [queue_name(first)]
        timeout_ms = None if timeout.upper() == b"DEFAULT" else integer(timeout, 1, MAX_MS, "BADTIMEOUT")
        words = [option.upper() for option in options]
        before_with = options[: words.index(b"WITH")] if b"WITH" in words else options
        given = options_of(before_with, {"COUNT": within(1, MAX_COUNT), "BLOCK": within(0, MAX_MS)}, flags="BOUND")
        count = optional(given, "COUNT") or 1
        block_ms = optional(given, "BLOCK")
        if b"WITH" in words:
            names += [queue_name(name) for name in options[len(before_with) + 1 :]] or refuse("ERR")
        fetch = Waiter(client, names, count, timeout_ms, "BOUND" in given)
        self._do_due_work(names, now_ms)
        self._serve_waiters(now_ms)  # what became ready by that is for who waited before
        entries = self._lease_for(fetch, now_ms)
        if not entries and block_ms is not None:
            fetch.until_ms = now_ms + block_ms if block_ms else None
            self.waiters.append(fetch)
            return BLOCKED
        if options:
            return entries or None
        return {key: entries[0][key] for key in ("lease_id", "task_id", "payload")} if entries else None

    def _lease_for(self, fetch: Waiter, now_ms: int) -> list[dict[str, object]]:
        """Lease up to COUNT tasks, filled across the queues in the order given [Lease, I7]."""
        entries: list[dict[str, object]] = []
        for queue in map(self._queue, fetch.queues):
            while len(entries) < fetch.count and queue.may_lease():
                task = queue.in_state("ready")[0]
                self._lease(queue, task, fetch, queue.now(now_ms))
                entries.append(self._fields(queue, task, ENTRY_KEYS))
        return entries

    def _lease(self, queue: Queue, task: Task, fetch: Waiter, at_ms: int) -> None:
        """A new lease under the next fencing token [I2, I3]; the deadline is now + the visibility timeout."""
        queue.last_token += 1
        timeout_ms = fetch.timeout_ms or task.own_lease_ms or queue.policy["lease_ms"]
        lease_id = f"{queue.name}:{task.number}:{queue.last_token}:{NONCE}"
        self.leases += 1
        task.lease = Lease(lease_id, at_ms + timeout_ms, at_ms, fetch.client, fetch.bound, self.leases)
        task.state, task.token, task.deliveries = "processing", queue.last_token, task.deliveries + 1
        self._record(queue, "Leased", at_ms, task)

    def _holders(self, lease_id: str) -> list[tuple[Queue, Task]]:
        """The one task under this lease with its queue; empty when the lease is void or was never seen."""
        return [
            (q, task)
            for q in self.queues.values()
            for task in q.tasks
            if task.lease and task.lease.lease_id == lease_id
        ]

    def _held(self, raw: bytes, now_ms: int) -> tuple[Queue, Task, Lease, int]:
        """Queue, task, live lease and time in the queue, or NOLEASE [I4]. An overdue lease is live until expired."""
        for queue, task in self._holders(lease_id_of(raw)):
            if task.lease:
                return queue, task, task.lease, queue.now(now_ms)
        refuse("NOLEASE")

    def _ack(self, args: list[bytes], now_ms: int) -> Reply:
        queue, task, _, at_ms = self._held(args[0], now_ms)
        self._record(queue, "Acked", at_ms, task)
        self._forget(queue, task, at_ms)
        return "OK"

    def _mack(self, args: list[bytes], now_ms: int) -> Reply:
        """MACK lease_id...: one ACK each, not all or nothing."""
        replies: list[Reply] = []
        for lease_id in args:
            try:
                replies.append(self._ack([lease_id], now_ms))
            except RefusedError as refused:
                replies.append(Refusal(refused.code))
        return replies

    def _extend(self, args: list[bytes], now_ms: int) -> Reply:
        """EXTEND lease_id ms: counts from now, never moves a deadline earlier, is refused past `max_hold_ms`."""
        lease_id_of(args[0])
        extend_ms = integer(args[1], 1, MAX_MS, "BADTIMEOUT")
        queue, task, lease, at_ms = self._held(args[0], now_ms)
        if at_ms + extend_ms <= lease.deadline_ms:
            return lease.deadline_ms
        max_hold_ms = queue.policy["max_hold_ms"]
        if max_hold_ms and at_ms + extend_ms > lease.leased_ms + max_hold_ms:
            refuse("MAXHOLD")
        lease.deadline_ms = at_ms + extend_ms
        self._record(queue, "Extended", at_ms, task)
        return lease.deadline_ms

    # Coming back

    def _nack(self, args: list[bytes], now_ms: int) -> Reply:
        """NACK lease_id [DELAY ms] [REASON text] [FATAL | RELEASE]; DELAY and REASON belong to a charged failure."""
        lease_id_of(args[0])
        checks = {"DELAY": within(0, MAX_MS), "REASON": reason_of}
        given = options_of(args[1:], checks, flags="FATAL RELEASE", either="FATAL RELEASE")
        delay_ms, reason = optional(given, "DELAY"), utf8(given.get("REASON", b""))
        fatal, release = "FATAL" in given, "RELEASE" in given
        if ("DELAY" in given and (fatal or release)) or ("REASON" in given and release):
            refuse("ERR")
        queue, task, _, at_ms = self._held(args[0], now_ms)
        if release:
            self._release(queue, task, "worker", at_ms)
            return "OK"
        task.lease, task.attempts, task.failures = None, task.attempts + 1, task.failures + 1
        task.last_reason = reason or task.last_reason
        self._record(queue, "Failed", at_ms, task)
        if fatal:
            self._bury(queue, task, "fatal", reason or "fatal", at_ms)
        else:
            self._requeue(queue, task, reason or "nack", delay_ms, at_ms)
        return "OK"

    def _expire(self, queue: Queue, task: Task, at_ms: int) -> None:
        """The deadline has come: charged, then requeued in the same batch [I6]."""
        task.lease, task.attempts, task.expiries = None, task.attempts + 1, task.expiries + 1
        self._record(queue, "Expired", at_ms, task)
        self._requeue(queue, task, "lease expired", None, at_ms)

    def _requeue(self, queue: Queue, task: Task, reason: str, delay_ms: int | None, at_ms: int) -> None:
        """The first that applies: attempts used up, TTL run out, back to its place after NACK's DELAY or a backoff."""
        if queue.attempts_used_up(task):
            self._bury(queue, task, "attempts", reason, at_ms)
        elif task.ttl_ran_out(at_ms):
            self._bury(queue, task, "ttl", "ttl", at_ms)
        else:
            delay_ms = queue.backoff_ms(task.attempts) if delay_ms is None else delay_ms
            task.state, task.due_ms = ("scheduled", at_ms + delay_ms) if delay_ms else ("ready", None)
            self._record(queue, "Requeued", at_ms, task)

    def _release(self, queue: Queue, task: Task, cause: str, at_ms: int) -> None:
        """Back to ready at its place. Only a disconnect charges an attempt, so only it can use the attempts up."""
        task.lease, task.state = None, "ready"
        if cause == "disconnect":
            task.attempts, task.disconnects = task.attempts + 1, task.disconnects + 1
        else:
            task.releases += 1
        self._record(queue, "Released", at_ms, task)
        if cause == "disconnect" and queue.attempts_used_up(task):
            self._bury(queue, task, "attempts", "disconnect", at_ms)
        elif task.ttl_ran_out(at_ms):
            self._bury(queue, task, "ttl", "ttl", at_ms)

    def _bury(self, queue: Queue, task: Task, cause: str, reason: str, at_ms: int) -> None:
        """Dead, with one of the three causes and always a reason [I9]."""
        task.state, task.due_ms = "dead", None
        task.dead_cause, task.dead_reason, task.dead_ms = cause, reason, at_ms
        self._record(queue, "DeadLettered", at_ms, task)
        task.death = len(queue.log)

    # Time

    def _do_due_work(self, names: list[str], now_ms: int) -> int:
        """One go for each queue, paused or not; how many tasks were handled."""
        return sum(self._one_go(queue, queue.now(now_ms)) for queue in map(self._queue, names))

    def _one_go(self, queue: Queue, at_ms: int) -> int:
        """Overdue leases, then run out TTLs, then maturing; at most 1,000 tasks in all [Time]."""
        overdue = [task for task in queue.in_state("processing") if (task.deadline_ms or 0) <= at_ms][:MAX_COUNT]
        for task in overdue:
            self._expire(queue, task, at_ms)
        done = len(overdue)
        run_out = [task for task in queue.tasks if task.state in ("ready", "scheduled") and task.ttl_ran_out(at_ms)]
        run_out = sorted(run_out, key=lambda task: (task.expires_ms or 0, task.place))[: MAX_COUNT - done]
        for task in run_out:
            self._bury(queue, task, "ttl", "ttl", at_ms)
        done += len(run_out)
        mature = [task for task in queue.in_state("scheduled") if (task.due_ms or 0) <= at_ms][: MAX_COUNT - done]
        for task in mature:
            task.state, task.due_ms = "ready", None
            self._record(queue, "Matured", at_ms, task)
        return done + len(mature)

    def _serve_waiters(self, now_ms: int) -> None:
        """Whoever waits longest among those for whom something is ready comes first, until nothing is [Lease, L4]."""
        while True:
            lucky = [w for w in self.waiters if any(self._queue(name).may_lease() for name in w.queues)]
            if not lucky:
                return
            fetch = lucky[0]
            if self._do_due_work(fetch.queues, now_ms):
                continue  # it may have buried that task, or made one ready for an earlier waiter: look again
            self.waiters.remove(fetch)
            self.answers.append((fetch.client, self._lease_for(fetch, now_ms)))

    # Operators

    def _config(self, args: list[bytes], now_ms: int) -> Reply:
        """CONFIG queue: the policy. CONFIG queue field value...: all together or none; what already holds: no event."""
        queue = self._queue(queue_name(args[0]))
        if len(args) == 1:
            return dict(queue.policy)
        checks = {name.upper(): within(low, high) for name, (_, low, high) in POLICY.items()}
        given = options_of(args[1:], checks)
        wanted = {word.lower(): int(value) for word, value in given.items()}
        if any(queue.policy[name] != value for name, value in wanted.items()):
            queue.policy.update(wanted)
            self._record(queue, "QueueConfigured", queue.now(now_ms))
        return "OK"

    def _pause(self, args: list[bytes], now_ms: int) -> Reply:
        queue = self._queue(queue_name(args[0]))
        if not queue.paused:
            queue.paused = True
            self._record(queue, "QueuePaused", queue.now(now_ms))
        return "OK"

    def _resume(self, args: list[bytes], now_ms: int) -> Reply:
        queue = self._queue(queue_name(args[0]))
        if queue.paused:
            queue.paused = False
            self._record(queue, "QueueResumed", queue.now(now_ms))
        return "OK"

    def _redrive(self, args: list[bytes], now_ms: int) -> Reply:
        """REDRIVE queue [COUNT n | ID id]: dead tasks, oldest death first, ready at new places with 0 attempts."""
        queue = self._queue(queue_name(args[0]))
        given = options_of(args[1:], {"COUNT": within(1, MAX_COUNT), "ID": lookup}, either="COUNT ID")
        dead = queue.in_state("dead")[: optional(given, "COUNT") or MAX_COUNT]
        if "ID" in given:
            task_id = lookup(given["ID"])
            dead = [task for task in queue.in_state("dead") if task.task_id == task_id] or refuse("NOTASK")
        at_ms = queue.now(now_ms)
        for task in dead:
            task.state, task.attempts, task.place = "ready", 0, queue.next_number
            task.dead_cause, task.dead_reason, task.dead_ms = None, None, None
            task.expires_ms = None if task.ttl_ran_out(at_ms) else task.expires_ms
            queue.next_number += 1
            self._record(queue, "Redriven", at_ms, task)
        return len(dead)

    def _delete(self, args: list[bytes], now_ms: int) -> Reply:
        queue = self._queue(queue_name(args[0]))
        task = queue.find(lookup(args[1]))
        if task is None:
            return 0
        if task.state == "processing":
            refuse("LEASED")
        self._record(queue, "Deleted", queue.now(now_ms), task)
        self._forget(queue, task, queue.now(now_ms))
        return 1

    def _purge(self, args: list[bytes], now_ms: int) -> Reply:
        """PURGE queue ready|scheduled|dead: every task of the state in one event; none of it, no event."""
        queue, state = self._queue(queue_name(args[0])), state_name(args[1])
        if state == "processing":
            refuse("LEASED")
        tasks = queue.in_state(state)
        if tasks:
            self._record(queue, "Purged", queue.now(now_ms))
        for task in tasks:
            queue.purged_tasks += 1
            self._forget(queue, task, queue.now(now_ms))
        return len(tasks)

    def _forget(self, queue: Queue, task: Task, at_ms: int) -> None:
        """The task is gone for ever [I5]; its id stays known for its DEDUP window, counted from now [Enqueue]."""
        queue.tasks.remove(task)
        if task.dedup_ms is not None:
            queue.remembered.append((task.task_id, at_ms + task.dedup_ms))

    # Reading: no event, nothing created [I12]

    def _stats(self, args: list[bytes], now_ms: int) -> Reply:
        """STATS queue. Each processing task has one live lease [I2], and each lease one deadline to watch."""
        queue = self._queue(queue_name(args[0]))
        ready, processing, dead = (len(queue.in_state(state)) for state in ("ready", "processing", "dead"))
        return {"ready": ready, "processing": processing, "dead": dead, "active_leases": processing, "heap": processing}

    def _peek(self, args: list[bytes], now_ms: int) -> Reply:
        """PEEK queue [STATE ready|scheduled|processing|dead] [COUNT n]."""
        queue = self._queue(queue_name(args[0]))
        given = options_of(args[1:], {"STATE": state_name, "COUNT": within(1, MAX_COUNT)})
        state, count = state_name(given.get("STATE", b"ready")), optional(given, "COUNT") or PEEK_COUNT
        return [self._fields(queue, task, ENTRY_KEYS) for task in queue.in_state(state)[:count]]

    def _show(self, args: list[bytes], now_ms: int) -> Reply:
        queue = self._queue(queue_name(args[0]))
        task = queue.find(lookup(args[1]))
        return self._fields(queue, task, SHOW_KEYS) if task else None

    def _events(self, args: list[bytes], now_ms: int) -> Reply:
        """EVENTS queue from_seq [COUNT n]: committed events from a sequence number on [Events]."""
        queue, from_seq = self._queue(queue_name(args[0])), integer(args[1], 1, MAX_SEQ)
        given = options_of(args[2:], {"COUNT": within(1, MAX_COUNT)})
        return queue.log[from_seq - 1 :][: optional(given, "COUNT") or EVENTS_COUNT]

    def _history(self, args: list[bytes], now_ms: int) -> Reply:
        """HISTORY queue task_id: the events of one task; if several have had the id, of the latest [Events]."""
        queue, task_id = self._queue(queue_name(args[0])), lookup(args[1])
        numbers = [entry["number"] for entry in queue.log if entry.get("task_id") == task_id]
        if not numbers:
            refuse("NOTASK")
        return [entry for entry in queue.log if entry.get("number") == numbers[-1]]

    def _queues(self, args: list[bytes], now_ms: int) -> Reply:
        """QUEUES [MATCH glob] [COUNT n] [CURSOR c]: all names at once, so the cursor is always 0."""
        given = options_of(args, {"MATCH": lookup, "COUNT": within(1, MAX_COUNT), "CURSOR": check_cursor})
        pattern = lookup(given.get("MATCH", b"*"))
        return ["0", sorted(name for name in self.queues if fnmatch.fnmatchcase(name, pattern))]

    def _fields(self, queue: Queue, task: Task, keys: Sequence[str]) -> dict[str, object]:
        """What a reply or the state shows of a task; the token is the latest, 0 if there was no lease yet."""
        known = {
            **vars(task),
            "queue": queue.name,
            "max_attempts": queue.max_attempts(task),
            "lease_id": task.lease.lease_id if task.lease else None,
            "deadline_ms": task.deadline_ms,
            "leased_ms": task.lease.leased_ms if task.lease else None,
            "worker": task.lease.worker if task.lease else None,
            "bound": task.lease is not None and task.lease.bound,
        }
        return {key: known[key] for key in keys}
