"""Planted bugs in the fast lane, which says a second time what plain commands do.

What lives here: the faults, as `faults` has those of the rest. What must not live here: how they meet a checker.
"""

from typing import Final

from spec.mutants.mutant import Mutant

_BATCH: Final = "moxy/core/batch.py"
_FOLDING: Final = "moxy/core/folding.py"
_LANE: Final = "moxy/server/lane.py"
_CONNECTION: Final = "moxy/server/connection.py"
_NOTES: Final = "moxy/core/notes.py"
_MEMORY: Final = "moxy/backends/memory.py"
_DURABLE: Final = "moxy/backends/durable.py"
_SERVICE: Final = "moxy/service.py"
_TCP: Final = "moxy/server/tcp.py"

_RULES: Final = ("batch", "machine")

LANE: Final = tuple(
    Mutant(f"lane-{name}", about, file, old, new, seen_by)
    for name, about, file, old, new, seen_by in (
        (
            "ack-ignores-its-lease",
            "An ACK with a void lease completes a task that another worker holds.",
            _BATCH,
            " or held.bound or held.lease_id != lease_id:",
            " or held.bound:",
            _RULES,
        ),
        (
            "fetch-while-paused",
            "A paused queue gives out tasks.",
            _BATCH,
            "            or h.paused\n",
            "",
            _RULES,
        ),
        (
            "fetch-before-due-work",
            "A FETCH takes the next task although one that is due back stands before it.",
            _BATCH,
            "            or h.soonest_ms <= at_ms\n",
            "",
            _RULES,
        ),
        (
            "past-forgotten",
            "A task that was delivered before is leased as if it were the first time: its attempts are not counted.",
            _BATCH,
            "if fresh.tally is not NO_TALLY or fresh.options is not NO_OPTIONS or fresh.expires_ms:",
            "if False:",
            _RULES,
        ),
        (
            "run-draws-once",
            "All leases of one run of FETCHes end in the same nonce: who knows one can guess the others.",
            _BATCH,
            "            nonce = nonces[drawn : drawn + ids.NONCE_DIGITS]\n",
            "            nonce = nonces[-ids.NONCE_DIGITS :]\n",
            ("batch",),
        ),
        (
            "run-skips-what-it-declines",
            "An ACK that is refused in the midst of a run is passed over: the OK of the next one is read as its own.",
            _BATCH,
            " or held.bound or held.lease_id != lease_id:\n                break\n",
            " or held.bound or held.lease_id != lease_id:\n                continue\n",
            ("batch",),
        ),
        (
            "run-without-end",
            "One read full of FETCHes of long payloads makes replies of any size, all of them in memory at once.",
            _BATCH,
            "        while count > 0 and bytes_max > 0:\n",
            "        while count > 0:\n",
            ("batch", "lane"),
        ),
        (
            "piece-without-end",
            "One read full of FETCHes of short payloads makes replies of any size, all of them in memory at once.",
            "moxy/wire/habit.py",
            "        while count < most and data",
            "        while data",
            ("lane", "wire"),
        ),
        (
            "run-cut-short-in-the-wrong-place",
            "What was carried out of a run that ends early is carried out a second time.",
            _LANE,
            "                used = habit.find(data, used, taken)[2]\n",
            "",
            ("lane",),
        ),
        (
            "bound-ignored",
            "A queue takes more ready tasks than its policy allows.",
            _BATCH,
            "not (h.policy.max_ready or h.policy.ttl_ms)",
            "not h.policy.ttl_ms",
            _RULES,
        ),
        (
            "time-goes-back",
            "An event is dated by the clock although it went back.",
            _BATCH,
            "        at_ms = max(now_ms, h.at_ms)\n        if h.dedup is not None or not h.born_ms",
            "        at_ms = now_ms\n        if h.dedup is not None or not h.born_ms",
            ("batch", "simulate"),
        ),
        (
            "ack-cannot-be-undone",
            "A turn that is taken back leaves an acked task away.",
            _BATCH,
            "            befores.append(held)\n            count += 1\n",
            "            befores.append(None)\n            count += 1\n",
            ("batch", "failures"),
        ),
        (
            "notes-told-twice",
            "What happened before a batch's notes were cut is noted again.",
            _NOTES,
            "            self._events = []\n",
            "",
            ("core", "backends"),
        ),
        (
            "bound-lease-not-let-go",
            "A bound lease is acked by the lane, and the service, which is not told, keeps it in mind for ever.",
            _BATCH,
            " or held.bound or held.lease_id",
            " or held.lease_id",
            ("batch", "lane"),
        ),
        (
            "start-believes-any-lease",
            "A start takes an Acked of another lease than the task has.",
            _FOLDING,
            "            or held.lease_id != lease_id\n",
            "",
            ("core",),
        ),
        (
            "start-keeps-the-worker-before",
            "A start gives a lease to the worker of the lease before.",
            _FOLDING,
            "            self._worker, self._worker_raw = worker_raw.decode(), worker_raw\n",
            "            self._worker_raw = worker_raw\n",
            ("core",),
        ),
        (
            "reply-before-the-commit",
            "The replies leave before the turn that they belong to is over.",
            _LANE,
            "        self.ready = False\n",
            "        self.ready = True\n",
            ("lane", "simulate"),
        ),
        (
            "refusal-swallowed",
            "Commands of a turn that the log refused are answered as if they had happened.",
            _LANE,
            "            if refused is not None:\n",
            "            if False:\n",
            ("lane",),
        ),
        (
            "waiter-not-woken",
            "A task is enqueued beside a FETCH that waits for it, which goes on waiting.",
            _LANE,
            "            if self._waiting.awaits(queue):\n",
            "            if False:\n",
            ("machine", "lane"),
        ),
        (
            "overtakes",
            "A plain command is carried out before an earlier one of its client.",
            _CONNECTION,
            "(last is None or last.outcome is not None) and self.session.authenticated",
            "self.session.authenticated",
            ("machine", "lane"),
        ),
        (
            "known-by-heart-in-the-midst-of-a-command",
            "A payload that looks like what its client always says is carried out.",
            _CONNECTION,
            "if self._parser.is_midway or not self._may_overtake():",
            "if not self._may_overtake():",
            ("lane",),
        ),
        (
            "known-by-heart-overtakes-what-is-held-back",
            "What a client always says is carried out before what it said while its FETCH waited.",
            _CONNECTION,
            " or self._held_back or self.closing:",
            " or self.closing:",
            ("lane",),
        ),
        (
            "strangers-served",
            "Who has not given the password is served all the same.",
            _CONNECTION,
            " and self.session.authenticated and not self.closed",
            " and not self.closed",
            ("lane",),
        ),
        (
            "unsent-leases-forgotten",
            "Nobody notes which leases are in the replies, so one that is not written stays leased.",
            _CONNECTION,
            "                if slot.leases:\n                    self._unsent.append(slot)\n",
            "",
            ("lane", "simulate"),
        ),
        (
            "events-not-told",
            "What plain commands did is no part of the turn: its readers and observers do not hear of it.",
            _MEMORY,
            "                self._settled += written\n",
            "",
            ("machine", "simulate"),
        ),
        (
            "refusal-of-a-turn-at-once-swallowed",
            "The log refuses a turn of plain commands, which are answered as if they had happened.",
            _SERVICE,
            "            return Turn(self._answered, (), self._events, refused)\n",
            "            return Turn(self._answered, (), self._events)\n",
            ("lane",),
        ),
        (
            "turn-at-once-in-spite-of-waiters",
            "A turn that nothing arrived for is over at once, although somebody's time to wait is up.",
            _SERVICE,
            "self._inbox or self._waiters or ",
            "self._inbox or ",
            ("service",),
        ),
        (
            "not-in-the-log-yet",
            "The turn is written before what plain commands did is part of it.",
            _DURABLE,
            "        self._memory.settle()\n        happened",
            "        happened",
            ("simulate", "machine"),
        ),
        (
            "held-back-without-a-turn",
            "Plain commands that were held back are carried out, and no turn is asked for that commits them.",
            _TCP,
            "            if requests or connection.awaits_turn:\n",
            "            if requests:\n",
            ("lane",),
        ),
        (
            "answered-with-the-turn-before",
            "What is carried out while a turn is on its way to the disk is answered when that turn is over.",
            _LANE,
            "        for told in self._told_in_turn:\n",
            "        for told in [*self._told_in_turn, *self._told]:\n",
            ("lane",),
        ),
        (
            "carried-out-after-the-last-turn",
            "Plain commands are carried out although no other turn will come that commits them.",
            _TCP,
            "        if self.service.is_committing and not is_last:\n",
            "        if self.service.is_committing:\n",
            ("tick",),
        ),
        (
            "carried-out-without-bound",
            "While a turn is on its way to the disk everything that comes is carried out, however much it is.",
            _TCP,
            "            self._room_bytes = AHEAD_BYTES_MAX\n",
            "            self._room_bytes = _NO_BOUND\n",
            ("lane",),
        ),
        (
            "leased-before-it-was-asked-for",
            "What is carried out while a turn is on its way to the disk has the time of the first such command.",
            _LANE,
            "        if self._is_turn_under_way or not self.commands:\n",
            "        if not self.commands:\n",
            ("lane",),
        ),
    )
)
