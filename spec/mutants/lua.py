"""Planted bugs in the Lua scripts, which hold the rules a second time.

What lives here: the faults, as `faults` has those of the Python code. What must not live here: how they meet a checker.
"""

from typing import Final

from spec.mutants.mutant import Mutant

_SCRIPTS: Final = "moxy/backends/redis/scripts/"
_SEEN: Final = {"wake-up-lost": ("two-servers",), "scheduled-not-counted": ("backends",)}
"""Who sees what the lock-step cannot: each step there begins with a look at all queues, so nobody need be woken."""

LUA: Final = tuple(
    Mutant(f"lua-{name}", about, f"{_SCRIPTS}{file}.lua", old, new, _SEEN.get(name, ("redis",)))
    for name, about, file, old, new in (
        (
            "deadline-one-late",
            "A lease lasts a millisecond longer than was asked for.",
            "fetch",
            "local deadline_ms = now_ms + hold_ms",
            "local deadline_ms = now_ms + hold_ms + 1",
        ),
        (
            "lease-not-compared",
            "An ACK ends whatever lease its task has.",
            "prelude",
            "if t and t.lease_id == lease_id then",
            "if t and t.lease_id then",
        ),
        (
            "attempt-not-counted",
            "A NACK costs no attempt.",
            "nack",
            "t.state, t.attempts, t.failures = '', attempts,",
            "t.state, t.attempts, t.failures = '', t.attempts,",
        ),
        (
            "requeue-behind-the-backlog",
            "A task that comes back goes to the end.",
            "prelude",
            "    wait_in_line(t, due_ms)\n    keep(t)\n    count('requeued')",
            "    t.place = next_number\n    wait_in_line(t, due_ms)\n    keep(t)\n    count('requeued')",
        ),
        (
            "token-reused",
            "A task's second lease has a token that was given before.",
            "fetch",
            "  last_token = token\n",
            "  if not t.deliveries then last_token = token end\n",
        ),
        (
            "dedup-window-ignored",
            "An id is forgotten as soon as its task is gone.",
            "prelude",
            "return until_ms and now_ms < tonumber(until_ms)",
            "return nil",
        ),
        (
            "priorities-upside-down",
            "The least urgent task is leased first.",
            "prelude",
            "(PRIORITY_MAX - (t.priority or 0)) * PLACE_BITS",
            "(t.priority or 0) * PLACE_BITS",
        ),
        (
            "payload-left-behind",
            "The payload of a task that is gone stays.",
            "prelude",
            "  call('HDEL', PAYLOADS, t.n)\n",
            "",
        ),
        (
            "wake-up-lost",
            "Servers whose clients wait are not told of new tasks.",
            "dispatch",
            "if made_ready > 0 and not paused then wake() end",
            "",
        ),
        (
            "orphans-forgotten",
            "Bound leases of a dead server stay until their deadlines.",
            "orphans",
            "release(t, 'disconnect')",
            "local _ = t",
        ),
        (
            "due-work-stops-early",
            "One overdue lease is expired, the others later.",
            "prelude",
            "if not settled then done = done + 1 end",
            "done = done + 1\n    settled = true",
        ),
        (
            "redriven-at-its-old-place",
            "A redriven task goes ahead of fresh work.",
            "redrive",
            "t.place, t.placed_ms, t.expires_ms = next_number, now_ms,",
            "t.placed_ms, t.expires_ms = now_ms,",
        ),
        (
            "scheduled-not-counted",
            "max_ready does not count tasks that are delayed.",
            "enqueue",
            "call('ZCARD', READY) + call('ZCARD', SCHEDULED)",
            "call('ZCARD', READY)",
        ),
        (
            "ttl-forgotten-on-return",
            "A task that comes back after its TTL ran out is ready again.",
            "prelude",
            "return (t.expires_ms or 0) > 0 and t.expires_ms <= now_ms",
            "return false",
        ),
        (
            "extend-shortens",
            "EXTEND can move a deadline earlier.",
            "extend",
            "if deadline_ms <= t.deadline_ms then return t.deadline_ms end",
            "if deadline_ms == t.deadline_ms then return t.deadline_ms end",
        ),
    )
)
"""Beside those of the Python code: see `faults.MUTANTS`, which has them too."""
