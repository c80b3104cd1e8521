"""One system and the reference model in lock-step: a program of steps, and the first difference that it shows.

What lives here: the steps, `Pair`, which takes them and compares, how a program is told in the manner of redis-cli, and
`shorten`. What must not live here: which programs to try (that is `machine`), anything of `moxy` or Hypothesis.

A step is one command, one passing of time, one lost connection or reply, one end and new start of a server. After it,
due work included, the reply, the replies to those who waited, and the whole state of all queues must be those of the
model.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, ParamSpec, TypeAlias, TypeVar

from spec.model import BLOCKED, EVENT_KEYS, Model, Refusal
from spec.system import Answer, Durable, Ending, Plain, System, SystemFactory, plain

P = ParamSpec("P")
T = TypeVar("T")

T0_MS: Final = 1_000_000
_TRIES_MAX: Final = 3_000


@dataclass(frozen=True)
class Say:
    """A command. `late`: so much time has passed before it, and it is there ahead of the timer."""

    client: str
    argv: tuple[bytes, ...]
    late: int = 0


@dataclass(frozen=True)
class SayAll:
    """Commands of one client in one go, none of which waits for anything."""

    client: str
    argvs: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True)
class ListByPage:
    """QUEUES from its first page to its last."""

    client: str
    count: bytes


@dataclass(frozen=True)
class Wait:
    """Time passes, and the timer fires."""

    ms: int


@dataclass(frozen=True)
class Disconnect:
    """The connection of a client closes."""

    client: str


@dataclass(frozen=True)
class LoseReply:
    """The reply with that lease could not be written."""

    lease_id: str


@dataclass(frozen=True)
class Restart:
    """The server ends and is started again, `down_ms` later. `chance` draws what a disk makes of it."""

    how: Ending
    chance: int = 0
    down_ms: int = 0


@dataclass(frozen=True)
class Tear:
    """The power goes while the events of a command are being made durable, ahead of its reply."""

    client: str
    argv: tuple[bytes, ...]
    chance: int = 0


@dataclass(frozen=True)
class Snapshot:
    """A snapshot is taken."""


Step: TypeAlias = Say | SayAll | ListByPage | Wait | Disconnect | LoseReply | Restart | Tear | Snapshot

_ENDINGS: Final[dict[Ending, str]] = {
    "stop": "the server is stopped",
    "kill": "the server is killed",
    "power": "the server loses its power",
}


@dataclass
class Tally:
    """What a run exercised. Failing and shrinking runs count as well."""

    programs: int = 0
    steps: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    replies: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)


class Mismatch(AssertionError):
    """The system and the model disagree about `what`, after `steps`. `transcript` tells it."""

    def __init__(self, what: str, steps: Sequence[Step], transcript: str) -> None:
        super().__init__("\n" + transcript)
        self.what: Final = what
        self.steps: Final = tuple(steps)
        self.transcript: Final = transcript

    @property
    def kind(self) -> tuple[str, ...]:
        """What two programs have in common that show the same difference: its last word, and the last command."""
        last = self.steps[-1]
        return (
            self.what.split()[-1],
            type(last).__name__,
            last.argv[0].decode() if isinstance(last, Say | Tear) else "",
        )


class Pair:
    """A system, the model, and the program that both have run so far."""

    def __init__(self, system: System, tally: Tally) -> None:
        self.system: Final = system
        self.model = Model()
        self.tally: Final = tally
        self.now_ms = T0_MS
        self.leases: list[bytes] = []
        """Every lease that was ever told, live or void."""
        self.waiting: set[str] = set()
        self.seen: Counter[str] = Counter()
        self._steps: list[Step] = []
        self._lines: list[str] = []
        self._state: dict[str, Any] = {}

    def take(self, step: Step) -> None:
        """Have both do it, and compare. Raises Mismatch."""
        self.tally.steps += 1
        self._steps.append(step)
        if isinstance(step, Say):
            self._say(step)
        elif isinstance(step, SayAll):
            self._say_all(step)
        elif isinstance(step, ListByPage):
            self._list(step)
        elif isinstance(step, Wait):
            self.now_ms += step.ms
            self._lines.append(f"{step.ms} ms pass (it is {self.now_ms - T0_MS})")
            self._do(self.system.tick, self.now_ms)
        elif isinstance(step, Disconnect):
            self._lines.append(f"{step.client} disconnects")
            self.waiting.discard(step.client)
            self.model.disconnect(step.client, self.now_ms)
            self._do(self.system.disconnect, step.client, self.now_ms)
        elif isinstance(step, Restart):
            self._restart(step)
        elif isinstance(step, Tear):
            self._tear(step)
        elif isinstance(step, Snapshot):
            self._lines.append("a snapshot is taken")
            self._do(self.durable.snapshot, self.now_ms)
        else:
            self._lines.append(f"the reply with lease {step.lease_id} is lost")
            self.model.undeliver(step.lease_id, self.now_ms)
            self._do(self.system.undeliver, step.lease_id, self.now_ms)
        self._settle()

    def close(self) -> None:
        self.system.close()

    @property
    def durable(self) -> Durable:
        """How to end and start the system, which must be one that outlives that."""
        assert self.system.durable is not None
        return self.system.durable

    def _say(self, step: Say) -> None:
        if step.late:
            self.now_ms += step.late
            self._lines.append(f"{step.late} ms later, before the timer (it is {self.now_ms - T0_MS})")
        self._lines.append(f"{step.client}> {' '.join(map(shown, step.argv))}")
        expected = plain(self.model.execute(step.argv, self.now_ms, step.client))
        self._lines.append("   " + told(expected))
        self._count(expected)
        self._keep_leases(expected)
        if expected is BLOCKED:
            self.waiting.add(step.client)
            self.tally.moves["a wait begins"] += 1
        reply = self._do(self.system.execute, step.client, step.argv, self.now_ms)
        self._compare("the reply", _as_modelled(step.argv, reply), expected)

    def _say_all(self, step: SayAll) -> None:
        assert self.system.pipelining is not None
        expected = [plain(self.model.execute(argv, self.now_ms, step.client)) for argv in step.argvs]
        for argv, reply in zip(step.argvs, expected, strict=True):
            self._lines.append(f"{step.client}>> {' '.join(map(shown, argv))}\n   {told(reply)}")
            self._count(reply)
            self._keep_leases(reply)
        replies = self._do(self.system.pipelining.execute_all, step.client, step.argvs, self.now_ms)
        self._compare("the replies", replies, expected)

    def _restart(self, step: Restart) -> None:
        """Whatever the end, the model loses nothing but its connections: that is what mode `always` promises."""
        self.now_ms += step.down_ms
        fate = f" (disk fate {step.chance})" if step.how == "power" else ""
        self._lines.append(f"{_ENDINGS[step.how]}{fate}, and started again {step.down_ms} ms later")
        self.tally.moves[f"an end by {step.how}"] += 1
        self.tally.moves["a wait lost with the server"] += len(self.waiting)
        self.waiting.clear()
        self.model.restart(self.now_ms)
        self._do(self.durable.restart, step.how, step.chance, self.now_ms)

    def _tear(self, step: Tear) -> None:
        """No reply has left, so both are right: that it happened, and that it did not. But nothing in between."""
        self._lines.append(f"{step.client}> {' '.join(map(shown, step.argv))}")
        self._lines.append(f"   the power goes ahead of the reply (disk fate {step.chance}), and comes back")
        happened = copy.deepcopy(self.model)
        happened.execute(step.argv, self.now_ms, step.client)
        happened.take_answers()
        self.waiting.clear()
        for model in (self.model, happened):
            model.restart(self.now_ms)
            model.tick(self.now_ms)
        self._do(self.durable.tear, step.client, step.argv, step.chance, self.now_ms)
        lost, kept = (model.canonical(self.now_ms) for model in (self.model, happened))
        if lost != kept:
            was_kept = self._do(self.system.canonical, self.now_ms) == kept
            self.tally.moves["a torn command kept" if was_kept else "a torn command lost"] += 1
            self.model = happened if was_kept else self.model

    def _list(self, step: ListByPage) -> None:
        """Each page of the system, and all of them against the one of the model."""
        listed: list[Plain] = []
        cursor: Plain = b"0"
        for _ in range(len(self.model.queues) + 1):
            assert isinstance(cursor, bytes)
            argv = (b"MOXY.QUEUES", b"COUNT", step.count, b"CURSOR", cursor)
            page = self._do(self.system.execute, step.client, argv, self.now_ms)
            self._lines.append(f"{step.client}> {' '.join(map(shown, argv))}\n   {told(page)}")
            if not isinstance(page, list) or not isinstance(page[1], list):
                self._differ("the page", page, "a cursor and names")
            cursor = page[0]
            listed += page[1]
            if cursor == b"0":
                break
        else:
            self._differ("the last cursor", cursor, b"0")
        expected = sorted(name.encode() for name in self.model.queues)
        self._compare("all pages", sorted(listed, key=repr), sorted(expected, key=repr))

    def _settle(self) -> None:
        """What is due, in the model; who was answered; all the state; and what moved."""
        self.model.tick(self.now_ms)
        expected: list[Answer] = [(client, plain(reply)) for client, reply in self.model.take_answers()]
        for client, reply in expected:
            self._lines.append(f"   {client} has waited for: {told(reply)}")
            self.waiting.discard(client)
            self._keep_leases(reply)
            self.tally.moves["a wait is answered" if reply is not None else "a wait times out"] += 1
        answers = self._do(self.system.take_answers)
        for client in sorted({name for name, _ in answers + expected}):
            got = [reply for name, reply in answers if name == client]
            self._compare(f"what {client} is told", got, [reply for name, reply in expected if name == client])
        state = self.model.canonical(self.now_ms)
        for path, left, right in _differences(self._do(self.system.canonical, self.now_ms), state, ""):
            self._differ(f"the state of {path}", left, right)
        for move in _moves(self._state, state):
            self.tally.moves[move] += 1
            self.seen[move] += 1
        self._state = state

    def _do(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have the system do something; whatever it raises is a difference too, and ends its transcript."""
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self._lines.append(f"\nthe system raises {type(error).__name__}: {error}")
            raise Mismatch(f"raises {type(error).__name__}", self._steps, "\n".join(self._lines)) from error

    def _keep_leases(self, reply: Plain) -> None:
        for entry in reply if isinstance(reply, list) else [reply]:
            lease_id = entry.get(b"lease_id") if isinstance(entry, dict) else None
            if isinstance(lease_id, bytes) and lease_id not in self.leases:
                self.leases.append(lease_id)

    def _count(self, reply: Plain) -> None:
        for item in reply if isinstance(reply, list) else [reply]:
            self.tally.replies[item.code if isinstance(item, Refusal) else "done"] += 1

    def _compare(self, what: str, got: Plain, expected: Plain) -> None:
        """Maps must agree in the order of their keys too."""
        if repr(got) != repr(expected):
            self._differ(what, got, expected)

    def _differ(self, what: str, got: object, expected: object) -> NoReturn:
        self._lines.append(f"\n{what} is: {told(got)}\nby the model: {told(expected)}")
        raise Mismatch(what, self._steps, "\n".join(self._lines))


def _as_modelled(argv: Sequence[bytes], reply: Plain) -> Plain:
    """A reply without what the model does not know of events."""
    if argv[0].upper() not in (b"MOXY.EVENTS", b"MOXY.HISTORY") or not isinstance(reply, list):
        return reply
    known = [key.encode() for key in EVENT_KEYS]
    return [{k: e[k] for k in known if k in e} if isinstance(e, dict) else e for e in reply]


def _moves(before: dict[str, Any], after: dict[str, Any]) -> Iterable[str]:
    """What became of each task between two states, in the words of `MOVES`."""
    for name, queue in after.items():
        old = {task["number"]: task for task in before[name]["tasks"]} if name in before else {}
        for task in queue["tasks"]:
            was = old.pop(task["number"], None)
            if was is None or was["state"] != task["state"]:
                cause = f" by {task['dead_cause']}" if task["state"] == "dead" else ""
                yield f"{was['state'] if was else 'new'} -> {task['state']}{cause}"
            if was is not None:
                yield from (end for end in ("expiries", "failures", "releases", "disconnects") if task[end] > was[end])
                if was["lease_id"] and was["lease_id"] == task["lease_id"] and was["deadline_ms"] < task["deadline_ms"]:
                    yield "a lease extended"
                if (
                    was["state"] == "processing"
                    and task["state"] == "ready"
                    and task["place"] < queue["next_number"] - 1
                ):
                    yield "a place kept"
        for gone in old.values():
            yield f"{gone['state']} -> gone"
        if queue["remembered"]:
            yield "an id remembered"


def _differences(got: Any, expected: Any, path: str) -> Iterable[tuple[str, object, object]]:
    """Where two states differ, deepest first."""
    if got == expected:
        return
    if isinstance(got, dict) and isinstance(expected, dict) and got.keys() == expected.keys():
        for key in expected:
            yield from _differences(got[key], expected[key], f"{path} {key}".strip())
    elif isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        for at, (left, right) in enumerate(zip(got, expected, strict=True)):
            name = right["task_id"] if isinstance(right, dict) else at
            yield from _differences(left, right, f"{path} {name}")
    elif got != expected:
        yield path or "all queues", got, expected


# The shortest program


def play(factory: SystemFactory, steps: Iterable[Step]) -> Mismatch | None:
    """Run a program on a new system. Commands of a client that waits are left out."""
    pair = Pair(factory(), Tally())
    try:
        for step in steps:
            if not isinstance(step, Say | SayAll | ListByPage | Tear) or step.client not in pair.waiting:
                pair.take(step)
    except Mismatch as mismatch:
        return mismatch
    finally:
        pair.close()
    return None


def shorten(factory: SystemFactory, mismatch: Mismatch) -> Mismatch:
    """The same difference by a program from which nothing can be left out: no step, no option, no delay."""
    tries = 0
    found = True
    while found:
        found = False
        for steps in _shorter(mismatch.steps):
            tries += 1
            if tries > _TRIES_MAX:
                return mismatch
            shorter = play(factory, steps)
            if shorter is not None and shorter.kind == mismatch.kind:
                mismatch, found = shorter, True
                break
    return mismatch


def _shorter(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Programs with less in them, the boldest cuts first."""
    size = len(steps) // 2
    while size:
        for start in range(0, len(steps) - size, size):
            yield steps[:start] + steps[start + size :]
        size //= 2
    for at, step in enumerate(steps):
        for less in _less(step):
            yield (*steps[:at], less, *steps[at + 1 :])


def _less(step: Step) -> Iterator[Step]:
    if isinstance(step, Restart) and step.down_ms:
        yield replace(step, down_ms=0)
    if isinstance(step, SayAll):
        for at in range(len(step.argvs)):
            yield replace(step, argvs=step.argvs[:at] + step.argvs[at + 1 :])
    if not isinstance(step, Say):
        return
    if step.late:
        yield replace(step, late=0)
    for words in (2, 1):
        for start in range(2, len(step.argv) - words + 1):
            rest = step.argv[start + words :]
            if b"" not in rest:  # it would become the name of an option, which is another matter
                yield replace(step, argv=step.argv[:start] + rest)


# How it is told


def shown(word: bytes) -> str:
    """A word as one would type it into redis-cli."""
    if len(word) > 150:
        return f"<{word[:1].decode()} {len(word)} times>"
    text = word.decode(errors="backslashreplace")
    if word and all(char.isprintable() and char not in " \"'\\" for char in text):
        return text
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word) + '"'


def told(reply: object) -> str:
    """A reply, or a part of a state, in one line."""
    if reply is None:
        return "(nil)"
    if isinstance(reply, Refusal):
        return f"(error) {reply.code}"
    if isinstance(reply, bytes):
        return shown(reply)
    if isinstance(reply, int):
        return f"(integer) {reply}"
    if isinstance(reply, dict):
        return "{" + ", ".join(f"{told(key)}: {told(value)}" for key, value in reply.items()) + "}"
    if isinstance(reply, list | tuple):
        return "[" + ", ".join(map(told, reply)) + "]"
    return "(it waits)" if reply is BLOCKED else str(reply)
