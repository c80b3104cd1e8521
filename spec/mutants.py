"""Planted bugs: small faults in Moxy's source, and which of the checkers sees each.

What lives here: the faults as data (`MUTANTS`), the checkers as commands (`CHECKERS`), and how a fault meets a checker:
always in a copy of the clone in a temporary directory, never in the working tree. What must not live here: a check of
its own. A fault that nobody sees is not a fault of this file: a test is missing, and it says so.

    python -m spec.mutants --list            the faults, and the checkers
    python -m spec.mutants NAME              plant one; say who saw it, and what it looked like
    python -m spec.mutants --all [--every]   a table: each fault against the checkers, up to the first that sees it

A checker is a command that ends with 0 when nothing is wrong. `--all` also runs each on a copy without a fault first:
one that is red there proves nothing and is left out.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_COPIED: Final = ("moxy", "spec", "tests", "docs", "demo", "README.md", "pyproject.toml")
_REASON_LINES_MAX: Final = 24
_WIDTH: Final = 200


# Checkers


@dataclass(frozen=True)
class Checker:
    """A command for the interpreter, run in the copy. `needs`: a file without which it is not there yet."""

    about: str
    command: tuple[str, ...]
    needs: str
    patience_s: float = 150
    """A run that takes longer counts as red: the fault made it hang."""

    @property
    def is_there(self) -> bool:
        return (ROOT / self.needs).exists()


def _tests(path: str, about: str) -> Checker:
    return Checker(about, ("-m", "pytest", "-xq", "--tb=short", "--no-header", "-p", "no:cacheprovider", path), path)


_LOCKSTEP: Final = """
import sys
from spec.adapters import SYSTEMS
from spec.machine import check
for name, examples in (("core", 100), ("memory", 120), ("connection-resp2", 60)):
    report = check(SYSTEMS[name], examples, at_seed=1)
    if report.failure is not None:
        sys.exit(f"{name}: {report.format()}")
"""

_SCOPES: Final = [word for name in ("dedup", "plain", "nack and dead letter", "pause") for word in ("--scope", name)]

CHECKERS: Final[dict[str, Checker]] = {
    "failures": _tests("tests/spec/test_failures.py", "every row of the failure matrix, on a simulated disk"),
    "service": _tests("tests/service", "waiters, turns, bound leases by example"),
    "backends": _tests("tests/backends", "the memory and the durable backend by example"),
    "wire": _tests("tests/wire", "the parser, the encoder, the verb table"),
    "properties": _tests("tests/core/test_properties.py", "random commands on the core against all invariants"),
    "machine": Checker(
        "lock-step with the reference model: core, service, connection", ("-c", _LOCKSTEP), "spec/machine.py"
    ),
    "explore": Checker(
        "every state of small queues: the scopes that take seconds", ("-m", "spec.explore", *_SCOPES), "spec/explore.py"
    ),
    "simulate": Checker(
        "crashes under virtual time", ("-m", "spec.simulate", "--seed", "1", "--count", "60"), "spec/simulate.py"
    ),
    "core": _tests("tests/core", "the core by example"),
    "journal": _tests("tests/journal", "the log under faults"),
    "server": _tests("tests/server/test_conversation.py", "conversations over a socket"),
    "tick": _tests("tests/server/test_tick.py", "turns, sockets and what the kernel says of them"),
}
"""By name, the quick ones first: in this order they are tried when those that a fault names see nothing."""


# Faults


@dataclass(frozen=True)
class Mutant:
    """One fault: in `file`, `old`, which is there exactly once, becomes `new`. `seen_by`: who should see it first."""

    name: str
    about: str
    file: str
    old: str
    new: str
    seen_by: tuple[str, ...]

    def mutated(self, root: Path = ROOT) -> str:
        """The source with the fault in it. Raises ValueError when `old` is not there exactly once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the old text is {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)


_REDUCER: Final = "moxy/core/reducer.py"
_DECIDER: Final = "moxy/core/decider.py"
_STATE: Final = "moxy/core/state.py"
_SERVICE: Final = "moxy/service.py"
_MEMORY: Final = "moxy/backends/memory.py"
_DURABLE: Final = "moxy/backends/durable.py"
_JOURNAL: Final = "moxy/journal/journal.py"
_FRAMES: Final = "moxy/journal/frames.py"
_SEGMENTS: Final = "moxy/journal/segments.py"
_SNAPSHOTS: Final = "moxy/journal/snapshots.py"
_RECOVERY: Final = "moxy/journal/recovery.py"
_OPENING: Final = "moxy/journal/opening.py"
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
        # Leases
        Mutant(
            "deadline-one-late",
            "A lease lasts a millisecond longer than was asked for.",
            _DECIDER,
            "deadline_ms = d.now_ms + lease_ms\n",
            "deadline_ms = d.now_ms + lease_ms + 1\n",
            _PURE,
        ),
        Mutant(
            "expiry-one-late",
            "A lease is still held at its deadline, and expires only after it.",
            _DECIDER,
            "(key := state.processing.first()) and key[0] <= d.now_ms",
            "(key := state.processing.first()) and key[0] < d.now_ms",
            _SHAPE,
        ),
        Mutant(
            "ack-ignores-its-lease",
            "An ACK with a void lease completes a task that another worker holds.",
            _DECIDER,
            "    task, _ = _held(d.state, c)\n"
            "    d.happened(Acked(d.queue, d.seq, d.now_ms, task.number, task.task_id, c.lease_id))\n",
            "    task = d.state.tasks.get(c.number)\n"
            "    if task is None or task.lease is None:\n"
            "        _refuse_void(d.state, task, c)\n"
            "    d.happened(Acked(d.queue, d.seq, d.now_ms, task.number, task.task_id, task.lease.lease_id))\n",
            _SHAPE,
        ),
        Mutant(
            "ack-of-the-late-refused",
            "An ACK after the deadline is refused although the lease has not been expired yet.",
            _DECIDER,
            "task.lease is not None and task.lease.lease_id == c.lease_id:\n        return",
            "task.lease is not None and task.lease.lease_id == c.lease_id and task.lease.deadline_ms > state.at_ms:\n"
            "        return",
            _SHAPE,
        ),
        Mutant(
            "token-reused",
            "The counter of fencing tokens stands still, so two leases share one.",
            _REDUCER,
            "leased=s.totals.leased + 1), last_token=e.token)",
            "leased=s.totals.leased + 1))",
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
            _REDUCER,
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
            _REDUCER,
            'if e.cause == "disconnect":',
            'if e.cause != "worker":',
            _PURE,
        ),
        Mutant(
            "redrive-keeps-attempts",
            "A redriven task comes back with its attempts used up.",
            _REDUCER,
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
            _REDUCER,
            'old.state, "requeue_later" if e.due_ms else "requeue", e), due_ms=e.due_ms)',
            'old.state, "requeue_later" if e.due_ms else "requeue", e), due_ms=e.due_ms, place=s.next_number)',
            _SHAPE,
        ),
        Mutant(
            "redriven-at-its-old-place",
            "A redriven task goes to its old place, ahead of fresh work.",
            _REDUCER,
            "        place=e.place,\n",
            "",
            _PURE,
        ),
        Mutant(
            "priority-reversed",
            "The least urgent task is leased first.",
            _STATE,
            "(PRIORITY_MAX - task.priority, task.place, task.number)",
            "(task.priority, task.place, task.number)",
            _SHAPE,
        ),
        Mutant(
            "redrive-newest-first",
            "A bulk redrive begins with the youngest death.",
            _DECIDER,
            "zip(d.state.in_state(lifecycle.DEAD), range(c.count), strict=False)",
            "zip(reversed(list(d.state.in_state(lifecycle.DEAD))), range(c.count), strict=False)",
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
            "d.now_ms + ttl_ms if ttl_ms else 0,",
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
            "    _do_due_work(d)\n    deliveries: list",
            "    deliveries: list",
            _SHAPE,
        ),
        # Operators and producers
        Mutant(
            "pause-ignored",
            "A paused queue goes on leasing.",
            _DECIDER,
            "while len(deliveries) < c.count and not d.state.paused:",
            "while len(deliveries) < c.count:",
            _SHAPE,
        ),
        Mutant(
            "dedup-window-ignored",
            "An id is forgotten with its task, whatever its DEDUP says.",
            _STATE,
            "return memory is not None and now_ms < memory[0]",
            "return False",
            _SHAPE,
        ),
        Mutant(
            "dedup-window-one-long",
            "An id is still known at the very end of its window.",
            _STATE,
            "return memory is not None and now_ms < memory[0]",
            "return memory is not None and now_ms <= memory[0]",
            _SHAPE,
        ),
        Mutant(
            "purge-forgets-dedup",
            "A purge drops the ids of its tasks together with them, so their DEDUP windows end early.",
            _REDUCER,
            "        s = _keep(s, e, task, None, replace(s.totals, deleted=s.totals.deleted + 1))\n",
            "        s = _keep(s, e, task, None, replace(s.totals, deleted=s.totals.deleted + 1))\n"
            "        s = _without_memory_of(s, task.task_id)\n",
            _SHAPE,
        ),
        Mutant(
            "purge-leaves-the-name",
            "A deleted or purged task leaves its id behind.",
            _REDUCER,
            "        numbers = numbers.delete(old.task_id)\n",
            "",
            _SHAPE,
        ),
        Mutant(
            "scheduled-not-counted",
            "max_ready does not count tasks that are delayed.",
            _DECIDER,
            "waiting = len(state.ready) + len(state.scheduled)",
            "waiting = len(state.ready)",
            ("core", "machine"),
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
            _SERVICE,
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
            "            request.outcome = Refused(IOERR, why)\n",
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
        # The log
        Mutant(
            "fsync-dropped",
            "A sync says that it did, and does nothing.",
            _JOURNAL,
            "                self._sync_locked()\n                self._synced = sequence\n",
            "                self._synced = sequence\n",
            ("failures", "simulate", "journal"),
        ),
        Mutant(
            "reply-before-fsync",
            "The reply leaves while the sync is still under way.",
            _DURABLE,
            "                await asyncio.get_running_loop().run_in_executor(self._syncer, self._journal.sync)\n"
            "            self._sync_took_ms",
            "                asyncio.get_running_loop().run_in_executor(self._syncer, self._journal.sync)\n"
            "            self._sync_took_ms",
            ("backends", "simulate", "failures"),
        ),
        Mutant(
            "reply-before-write",
            "A turn is accepted, and written only with the next one.",
            _DURABLE,
            "            self._journal.flush()\n        except",
            "        except",
            ("failures", "backends", "simulate"),
        ),
        Mutant(
            "refused-turn-stays",
            "The queues keep what the log refused.",
            _DURABLE,
            "        except LogRefused as refused:\n            self._memory.take_back()\n",
            "        except LogRefused as refused:\n",
            ("failures", "backends"),
        ),
        Mutant(
            "failed-write-not-cut-off",
            "What a failed write left in the file stays there.",
            _JOURNAL,
            "                self._file.truncate(self._place.at_bytes)\n",
            "                pass\n",
            ("journal", "failures"),
        ),
        Mutant(
            "failed-sync-tried-again",
            "A failed fsync is not final: the next one is believed.",
            _JOURNAL,
            "        self._failure = self._failure or text\n        raise",
            "        raise",
            ("backends", "journal", "failures"),
        ),
        Mutant(
            "truncation-at-a-bad-checksum",
            "Damage in the midst of the log is taken for its end, and what follows is thrown away.",
            _FRAMES,
            'return Damaged("the checksum of a complete record is wrong")',
            'return Torn("the checksum of a complete record is wrong")',
            ("journal",),
        ),
        Mutant(
            "torn-tail-not-cut-off",
            "A start goes on writing over a torn record without cutting it off.",
            _OPENING,
            "        if recovered.torn:\n            file.truncate(place.at_bytes)\n",
            "",
            ("journal", "simulate"),
        ),
        Mutant(
            "chain-not-checked",
            "A segment that does not go on from the one before is read all the same.",
            _SEGMENTS,
            "if self._known and segment.head is not None and segment.head.chain != place.chain:",
            "if False:",
            ("journal",),
        ),
        Mutant(
            "sequence-not-checked",
            "A sound record in the place of another is believed.",
            _FRAMES,
            "if header.sequence != place.sequence:",
            "if False:",
            ("journal",),
        ),
        Mutant(
            "foreign-snapshot-believed",
            "A snapshot that does not belong to the log is not noticed.",
            _RECOVERY,
            "if last > head.sequence or (last == head.sequence and record.next.chain != head.chain):",
            "if last > head.sequence:",
            ("journal",),
        ),
        Mutant(
            "snapshot-ahead-of-the-log",
            "A snapshot is written of what the log might still lose.",
            _JOURNAL,
            "        if self._synced < mark.sequence:\n            self.sync()\n",
            "",
            ("journal", "simulate"),
        ),
        Mutant(
            "snapshot-misses-scheduled-tasks",
            "A state from a snapshot does not know which of its tasks are scheduled.",
            _SNAPSHOTS,
            "            ordered.ordered(places[SCHEDULED]),\n",
            "            ordered.EMPTY,\n",
            ("failures", "journal", "simulate"),
        ),
        Mutant(
            "snapshot-misses-dedup",
            "Ids inside their DEDUP window are not in snapshots.",
            _SNAPSHOTS,
            "            yield MemoryRow(task_id, until_ms, number)\n",
            "            continue\n",
            ("journal",),
        ),
        Mutant(
            "snapshot-name-not-synced",
            "The directory is not synced after a snapshot got its name.",
            _SNAPSHOTS,
            "    file.close()\n    sync_names_or_fail(disk)\n    return name\n",
            "    file.close()\n    return name\n",
            ("journal",),
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
            "self.unsent.append(slot)",
            "pass",
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


# How they meet


@dataclass(frozen=True)
class Verdict:
    """What a checker said about a copy: `reason` is "" when it saw nothing."""

    reason: str
    seconds: float

    @property
    def gist(self) -> str:
        """One line of it: the explorer's comes last, everybody else's first."""
        lines = self.reason.splitlines()
        return next((line.strip() for line in lines if line.lstrip().startswith("=> ")), lines[0] if lines else "")


@contextmanager
def planted(mutant: Mutant | None) -> Iterator[Path]:
    """A copy of the clone with that fault in it; None: without any. Gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="moxy-mutant-") as name:
        copy = Path(name).resolve()
        for part in _COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
            elif source.exists():
                shutil.copy2(source, copy / part)
        if mutant is not None:
            (copy / mutant.file).write_text(mutant.mutated(copy), encoding="utf-8")
        yield copy


def judge(checker: Checker, copy: Path) -> Verdict:
    """Run a checker in a copy."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *checker.command],
        cwd=copy,
        env=environment(copy),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=checker.patience_s)
        except BaseException as error:
            # With all that it started: a server of a test would outlive it.
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            process.communicate()
            return Verdict(f"it hangs: no end after {checker.patience_s:.0f} s", time.monotonic() - began)
    reason = "" if process.returncode == 0 else _reason(out, err) or f"exit code {process.returncode}"
    return Verdict(reason, time.monotonic() - began)


def environment(copy: Path) -> dict[str, str]:
    """Ours, but that `moxy`, `spec` and `tests` are those of the copy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOXY_", "PYTEST_"))}
    more = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": str(_WIDTH), "NO_COLOR": "1"}
    return {**kept, **more}


def _reason(out: str, err: str) -> str:
    """What is worth reading of the output of a checker that is red."""
    lines = [line.rstrip() for line in out.splitlines()]
    failed = [line for line in lines if line.startswith(("FAILED tests", "ERROR tests"))]
    if failed:
        said = [line[1:].strip() for line in lines if line.startswith("E  ")]
        return _cut([failed[0].partition(" - ")[0].removeprefix("FAILED "), *(f"  {line}" for line in said if line)])
    told = [line for line in (out if err.startswith("Traceback") and out else err or out).splitlines() if line.strip()]
    if told and told[0].startswith("Traceback"):
        told = told[-1:]
    return _cut(told)


def _cut(lines: Sequence[str]) -> str:
    shown = [line[:_WIDTH] for line in lines]
    if len(shown) > _REASON_LINES_MAX:
        half = _REASON_LINES_MAX // 2
        shown = [*shown[:half], f"  ... {len(shown) - 2 * half} lines ...", *shown[-half:]]
    return "\n".join(shown)


def order_for(mutant: Mutant, checkers: Iterable[str]) -> list[str]:
    """Those that should see it first, then the rest."""
    known = list(checkers)
    return [name for name in mutant.seen_by if name in known] + [name for name in known if name not in mutant.seen_by]


def try_mutant(mutant: Mutant, checkers: Iterable[str], every: bool = False) -> dict[str, Verdict]:
    """What each checker says of the fault, up to the first that sees it."""
    verdicts: dict[str, Verdict] = {}
    with planted(mutant) as copy:
        for name in order_for(mutant, checkers):
            verdicts[name] = judge(CHECKERS[name], copy)
            if verdicts[name].reason and not every:
                break
    return verdicts


def sound_checkers(names: Iterable[str], tell: Callable[[str], object] = str) -> list[str]:
    """Those that see nothing where nothing is, in a copy without a fault."""
    sound: list[str] = []
    with planted(None) as copy:
        for name in names:
            verdict = judge(CHECKERS[name], copy)
            if verdict.reason:
                tell(f"{name} is red without any fault, and is left out: {verdict.gist}\n")
            else:
                sound.append(name)
    return sound


def available() -> list[str]:
    """The checkers that are there."""
    return [name for name, checker in CHECKERS.items() if checker.is_there]


# The command line


def _list(write: Callable[[str], object]) -> None:
    for mutant in MUTANTS.values():
        write(f"{mutant.name:<32} {mutant.about}\n{'':<32} in {mutant.file}; should be seen by {mutant.seen_by[0]}\n")
    write(f"\n{len(MUTANTS)} faults. The checkers, the quick ones first:\n")
    for name, checker in CHECKERS.items():
        write(f"{name:<12} {checker.about}{'' if checker.is_there else ' (not there yet)'}\n")


def _tell_one(mutant: Mutant, checkers: Sequence[str], every: bool, write: Callable[[str], object]) -> bool:
    write(f"{mutant.name}: {mutant.about}\n\n{_diff(mutant)}\n")
    seen = False
    for name, verdict in try_mutant(mutant, checkers, every).items():
        seen = seen or bool(verdict.reason)
        if verdict.reason:
            write(f"{name} is RED after {verdict.seconds:.1f} s:\n\n{_indented(verdict.reason)}\n\n")
        else:
            write(f"{name} saw nothing in {verdict.seconds:.1f} s\n")
    if not seen:
        write("nobody saw it: a test is missing\n")
    return seen


def _diff(mutant: Mutant) -> str:
    minus = [f"  - {line}\n" for line in mutant.old.splitlines()]
    plus = [f"  + {line}\n" for line in mutant.new.splitlines()]
    return f"  {mutant.file}\n{''.join(minus)}{''.join(plus)}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def table(
    mutants: Sequence[Mutant], checkers: Sequence[str], every: bool, jobs: int, write: Callable[[str], object]
) -> list[str]:
    """A row for each fault, as soon as it is known; the names of those that nobody saw."""
    write(f"{'fault':<32} " + " ".join(f"{name:>10}" for name in checkers) + "\n")
    unseen: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda mutant: try_mutant(mutant, checkers, every), mutants)
        for mutant, verdicts in zip(mutants, results, strict=True):
            write(f"{mutant.name:<32} {' '.join(_cell(verdicts.get(name)) for name in checkers)}\n")
            if not any(verdict.reason for verdict in verdicts.values()):
                unseen.append(mutant.name)
    write(f"\n{len(mutants) - len(unseen)} of {len(mutants)} were seen\n")
    for name in unseen:
        write(f"nobody saw {name}: {MUTANTS[name].about}\n")
    return unseen


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return f"{'.':>10}"
    return f"{'RED' if verdict.reason else 'ok'} {verdict.seconds:3.0f} s".rjust(10)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 1 when a fault was seen by nobody."""
    parser = argparse.ArgumentParser(prog="python -m spec.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", nargs="*", metavar="NAME", help="the faults to plant, each in a copy of its own")
    parser.add_argument("--list", action="store_true", help="the faults and the checkers")
    parser.add_argument("--all", action="store_true", help="all faults, as a table")
    parser.add_argument("--every", action="store_true", help="go on after the first checker that sees the fault")
    parser.add_argument("--checker", action="append", choices=CHECKERS, help="only this one (may be repeated)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many copies at a time, for --all")
    options = parser.parse_args(arguments)
    write = sys.stdout.write
    if options.list:
        _list(write)
        return 0
    if unknown := set(options.name) - set(MUTANTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; see --list")
    checkers = [name for name in options.checker or available() if CHECKERS[name].is_there]
    if options.all:
        return (
            1
            if table(list(MUTANTS.values()), sound_checkers(checkers, write), options.every, options.jobs, write)
            else 0
        )
    if not options.name:
        parser.error("name a fault, or give --all or --list")
    seen = [_tell_one(MUTANTS[name], checkers, options.every, write) for name in options.name]
    return 0 if all(seen) else 1


if __name__ == "__main__":
    sys.exit(main())
