"""Planted bugs as data: small faults in Moxy's source, and which checker should see each.

What lives here: the faults, each a text that is there exactly once and what takes its place. What must not live here:
how a fault meets a checker (`meeting`). A fault that nobody sees is not a fault of this file: a test is missing.
"""

from typing import Final

from spec.mutants.lane import LANE
from spec.mutants.log import LOG
from spec.mutants.lua import LUA
from spec.mutants.mutant import Mutant

_EFFECTS: Final = "moxy/core/effects.py"
_DEDUP: Final = "moxy/core/dedup.py"
_HEART: Final = "moxy/core/heart.py"
_DECIDER: Final = "moxy/core/decider.py"
_SERVICE: Final = "moxy/service.py"
_MEMORY: Final = "moxy/backends/memory.py"
_RESP: Final = "moxy/wire/resp.py"
_ARGUMENTS: Final = "moxy/wire/arguments.py"
_CONNECTION: Final = "moxy/server/connection.py"
_TCP: Final = "moxy/server/tcp.py"
_EPOLL: Final = "moxy/server/epoll.py"
_SCAN: Final = "moxy/wire/scan.py"

_PURE: Final = ("machine", "properties", "explore")
_SHAPE: Final = ("explore", "machine", "properties")

MUTANTS: Final[dict[str, Mutant]] = {
    mutant.name: mutant
    for mutant in (
        *LUA,
        *LANE,
        *LOG,
        # Leases
        Mutant(
            "deadline-one-late",
            "A lease lasts a millisecond longer than was asked for.",
            _DECIDER,
            "        deadline_ms = now_ms + lease_ms\n",
            "        deadline_ms = now_ms + lease_ms + 1\n",
            _PURE,
        ),
        Mutant(
            "expiry-one-late",
            "A lease is still held at its deadline, and expires only after it.",
            _DECIDER,
            "(key := h.by_deadline().first()) and key[0] <= d.now_ms",
            "(key := h.by_deadline().first()) and key[0] < d.now_ms",
            _SHAPE,
        ),
        Mutant(
            "ack-ignores-its-lease",
            "An ACK with a void lease completes a task that another worker holds.",
            _DECIDER,
            "    task, _ = _held(h, c)\n"
            "    event = Acked(h.name, h.seq + 1, now_ms, task.number, task.task_id, c.lease_id)\n",
            "    task = h.task(c.number)\n"
            "    if task is None or task.lease is None:\n"
            "        _refuse_void(h, task, c)\n"
            "    event = Acked(h.name, h.seq + 1, now_ms, task.number, task.task_id, task.lease.lease_id)\n",
            _SHAPE,
        ),
        Mutant(
            "ack-of-the-late-refused",
            "An ACK after the deadline is refused although the lease has not been expired yet.",
            _DECIDER,
            "task.lease is not None and task.lease.lease_id == c.lease_id:\n        return",
            "task.lease is not None and task.lease.lease_id == c.lease_id and task.lease.deadline_ms > h.at_ms:\n"
            "        return",
            _SHAPE,
        ),
        Mutant(
            "token-reused",
            "The counter of fencing tokens stands still, so two leases share one.",
            _EFFECTS,
            "    h.tasks[number] = new\n    h.last_token = token\n",
            "    h.tasks[number] = new\n",
            _SHAPE,
        ),
        Mutant(
            "max-hold-clamped",
            "An EXTEND past max_hold_ms is shortened instead of refused.",
            _DECIDER,
            '        raise Refused(MAXHOLD, f"a lease is held at most {cap_ms} ms here: '
            'at most {left_ms} more can be asked for")\n',
            "        deadline_ms = d.now_ms + left_ms\n",
            ("properties", "core", "machine"),
        ),
        Mutant(
            "max-hold-from-now",
            "max_hold_ms bounds each EXTEND, not the time since the lease began.",
            _DECIDER,
            "if cap_ms and deadline_ms - lease.leased_ms > cap_ms:",
            "if cap_ms and c.lease_ms > cap_ms:",
            ("core", "machine"),
        ),
        # Attempts
        Mutant(
            "attempt-not-counted",
            "An expiry uses up no attempt.",
            _EFFECTS,
            "replace(t, attempts=t.attempts + 1, expiries=",
            "replace(t, attempts=t.attempts, expiries=",
            _SHAPE,
        ),
        Mutant(
            "one-attempt-too-many",
            "A task is set aside only after one attempt more than max_attempts.",
            _DECIDER,
            "return 0 < most <= task.tally.attempts",
            "return 0 < most < task.tally.attempts",
            _SHAPE,
        ),
        Mutant(
            "undelivered-charged",
            "A reply that could not be written costs the task an attempt.",
            _EFFECTS,
            'if e.cause == "disconnect":',
            'if e.cause != "worker":',
            _PURE,
        ),
        Mutant(
            "redrive-keeps-attempts",
            "A redriven task comes back with its attempts used up.",
            _EFFECTS,
            "tally=replace(old.tally, attempts=0),",
            "tally=old.tally,",
            _PURE,
        ),
        Mutant(
            "last-words-lost",
            "A dead letter forgets the REASON of the NACK that killed it.",
            _DECIDER,
            'tally.reason or ("nack"',
            '("nack"',
            ("core", "machine"),
        ),
        # Order
        Mutant(
            "requeued-at-the-end",
            "A task that comes back goes behind the backlog instead of to its place.",
            _EFFECTS,
            'old.state, "requeue_later" if e.due_ms else "requeue", e), due_ms=e.due_ms)',
            'old.state, "requeue_later" if e.due_ms else "requeue", e), due_ms=e.due_ms, place=h.next_number)',
            _SHAPE,
        ),
        Mutant(
            "redriven-at-its-old-place",
            "A redriven task goes to its old place, ahead of fresh work.",
            _EFFECTS,
            "        place=e.place,\n",
            "",
            _PURE,
        ),
        Mutant(
            "priority-reversed",
            "The least urgent task is leased first.",
            _HEART,
            "for lane in reversed(self.urgent):",
            "for lane in self.urgent:",
            _SHAPE,
        ),
        Mutant(
            "redrive-newest-first",
            "A bulk redrive begins with the youngest death.",
            _DECIDER,
            "for key in d.heart.dead.following(None, c.count)]",
            "for key in d.heart.dead.following(None, 1 << 60)[: -c.count - 1 : -1]]",
            _PURE,
        ),
        # Time
        Mutant(
            "backoff-not-doubled",
            "Every retry waits as long as the first.",
            _DECIDER,
            "min(policy.backoff_ms << min(attempts - 1, 32), cap_ms)",
            "min(policy.backoff_ms, cap_ms)",
            _PURE,
        ),
        Mutant(
            "jitter-without-a-floor",
            "The jitter may take off all of a backoff, not only half.",
            _DECIDER,
            "d.nonce() % (full_ms // 2 + 1)",
            "d.nonce() % (full_ms + 1)",
            ("core", "properties"),
        ),
        Mutant(
            "ttl-ignored",
            "A TTL is taken, and forgotten.",
            _DECIDER,
            "now_ms + ttl_ms if ttl_ms else 0,",
            "0,",
            _PURE,
        ),
        Mutant(
            "ttl-revives-in-retry",
            "A task whose TTL ran out while it was leased is requeued after a NACK.",
            _DECIDER,
            '    elif 0 < task.expires_ms <= d.now_ms:\n        _bury(d, number, "ttl", "ttl")\n    else:\n',
            "    else:\n",
            _SHAPE,
        ),
        Mutant(
            "fetch-skips-due-work",
            "A FETCH leases without doing first what is due.",
            _DECIDER,
            "        _do_due_work(d)\n        state, events",
            "        state, events",
            _SHAPE,
        ),
        # Operators and producers
        Mutant(
            "pause-ignored",
            "A paused queue goes on leasing.",
            _DECIDER,
            "while len(given) < c.count and not h.paused:",
            "while len(given) < c.count:",
            _SHAPE,
        ),
        Mutant(
            "dedup-window-ignored",
            "An id is forgotten with its task, whatever its DEDUP says.",
            _DEDUP,
            "return memory is not None and now_ms < memory[0]",
            "return False",
            _SHAPE,
        ),
        Mutant(
            "dedup-window-one-long",
            "An id is still known at the very end of its window.",
            _DEDUP,
            "return memory is not None and now_ms < memory[0]",
            "return memory is not None and now_ms <= memory[0]",
            _SHAPE,
        ),
        Mutant(
            "purge-forgets-dedup",
            "A purge drops the ids of its tasks together with them, so their DEDUP windows end early.",
            _EFFECTS,
            "        _remember(h, task, e.at_ms, changes)\n",
            "        _forget_lapsed(h, e.at_ms, changes)\n",
            _SHAPE,
        ),
        Mutant(
            "purge-leaves-the-name",
            "A deleted or purged task leaves its id behind.",
            _HEART,
            "                self.unname(old.task_id)\n",
            "",
            _SHAPE,
        ),
        Mutant(
            "scheduled-not-counted",
            "max_ready does not count tasks that are delayed.",
            _DECIDER,
            "waiting = h.ready_count() + len(h.scheduled)",
            "waiting = h.ready_count()",
            ("core", "machine", "explore"),
        ),
        Mutant(
            "delete-takes-a-leased-task",
            "DELETE removes a task from under the worker that holds it.",
            _DECIDER,
            "    if task.state == lifecycle.PROCESSING:\n",
            "    if task.state == lifecycle.ACKED:\n",
            _SHAPE,
        ),
        # Waiters and bound leases
        Mutant(
            "lost-wake-up",
            "A task that matures wakes nobody who waits for it.",
            "moxy/core/readiness.py",
            "isinstance(event, Matured | Released | Redriven | QueueResumed)",
            "isinstance(event, Released | Redriven | QueueResumed)",
            ("service", "machine"),
        ),
        Mutant(
            "waiter-order-reversed",
            "The latest of the waiters is served first.",
            _SERVICE,
            "arrival = next(iter(line))",
            "arrival = next(reversed(line))",
            ("service", "machine"),
        ),
        Mutant(
            "newcomer-overtakes",
            "A FETCH that arrives takes what somebody has been waiting for.",
            _SERVICE,
            "            await self._let_waiters_first(intent.queues)\n",
            "",
            ("service", "machine"),
        ),
        Mutant(
            "bound-lease-not-released",
            "A connection closes and its BOUND leases stay.",
            _SERVICE,
            'self._release(self._holds.pop(client, ()), "disconnect")',
            "self._holds.pop(client, ())",
            ("service", "machine"),
        ),
        Mutant(
            "delivered-to-nobody",
            "Leases for a client that went meanwhile are not taken back.",
            _SERVICE,
            "            if client.closed:\n                self.undelivered(leases)\n",
            "            if client.closed:\n                pass\n",
            ("service", "simulate"),
        ),
        Mutant(
            "refusal-swallowed",
            "A turn that the log refused is answered as if it had happened.",
            _SERVICE,
            "            request.outcome = why\n",
            "            pass\n",
            ("service", "backends"),
        ),
        Mutant(
            "take-back-forgets-a-queue",
            "A queue that was born in a refused turn stays.",
            _MEMORY,
            "                del self._queues[queue]\n",
            "                pass\n",
            ("backends", "failures"),
        ),
        # The wire
        Mutant(
            "plus-sign-accepted",
            "'+4' is an integer.",
            _RESP,
            'data[1:] if data[:1] == b"-" else data',
            'data[1:] if data[:1] in (b"-", b"+") else data',
            ("wire", "machine"),
        ),
        Mutant(
            "leading-zero-accepted",
            "'04' is an integer.",
            _RESP,
            ' or (digits[:1] == b"0" and data != b"0")',
            "",
            ("wire", "machine"),
        ),
        Mutant(
            "bulk-limit-off-by-one",
            "The largest bulk string that is legal is refused.",
            _RESP,
            "        if length > self._bulk_bytes_max:\n",
            "        if length >= self._bulk_bytes_max:\n",
            ("wire", "server"),
        ),
        Mutant(
            "parser-waits-for-one-byte-more",
            "An element that came in pieces is complete only one byte after its end.",
            _RESP,
            "self._need_bytes, self._in_line = end + 2 - pos, False",
            "self._need_bytes, self._in_line = end + 3 - pos, False",
            ("wire", "machine"),
        ),
        Mutant(
            "reply-breaks-its-frame",
            "A client's line breaks come back inside an error.",
            _RESP,
            "return _utf8(text.translate(_CONTROLS_TO_SPACES))",
            "return _utf8(text)",
            ("wire",),
        ),
        Mutant(
            "option-given-twice",
            "An option that comes twice is taken, the last one wins.",
            _ARGUMENTS,
            "        if name in self._seen:\n",
            "        if False:\n",
            ("wire", "machine"),
        ),
        # Conversations
        Mutant(
            "replies-overtake",
            "Commands behind a blocked FETCH are carried out before it.",
            _CONNECTION,
            "                self._blocked = call\n",
            "                pass\n",
            ("server", "simulate"),
        ),
        Mutant(
            "password-not-asked",
            "A server with a password carries out the commands of strangers.",
            _CONNECTION,
            'if not session.authenticated and "no_auth" not in row.flags:',
            "if False:",
            ("server",),
        ),
        Mutant(
            "unsent-leases-forgotten",
            "Nobody notes which leases are in a reply, so one that is not written stays leased.",
            _CONNECTION,
            "                    if row.leases:\n                        self._unsent.append(slot)\n",
            "",
            ("server", "simulate"),
        ),
        # Turns and sockets
        Mutant(
            "turns-overlap",
            "A turn begins while the one before is still on its way to the disk.",
            _TCP,
            "        if self._going_on is not None:\n            return False\n",
            "",
            ("tick",),
        ),
        Mutant(
            "reply-when-there-is-room",
            "A slow reader whose socket has room again gets replies of a turn that is not committed yet.",
            _TCP,
            "        if self._server.may_reply:\n",
            "        if True:\n",
            ("tick",),
        ),
        Mutant(
            "rest-of-a-reply-lost",
            "What the kernel does not take of a reply's rest is thrown away.",
            _EPOLL,
            "        return data[sent:]\n",
            "        return data[:0]\n",
            ("tick", "server"),
        ),
        Mutant(
            "reset-not-noticed",
            "A client that is gone stays for as long as nothing is read from it.",
            _EPOLL,
            "        elif happened & (select.EPOLLERR | select.EPOLLHUP):\n",
            "        elif False:\n",
            ("tick",),
        ),
        Mutant(
            "polling-for-ever",
            "Busy polling keeps timers and signals waiting for as long as clients talk.",
            _EPOLL,
            "            if now > give_way:\n",
            "            if False:\n",
            ("tick",),
        ),
        Mutant(
            "size-over-the-limit",
            "The parser's fast path takes what is larger than the limit.",
            _SCAN,
            '            elif told != b"$%d" % size or size > bulk_bytes_max:\n',
            '            elif told != b"$%d" % size:\n',
            ("wire",),
        ),
    )
}
"""By name. Fewer than thirty would be too few to say anything about the checkers."""
