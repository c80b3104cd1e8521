"""Commands brought to their nodes, again and again while that is safe and there is time.

Lives here: what may be sent again, in which order, and for how long. Must not: know what a command does.

Order. Commands on one queue go out in the order given, and Redis runs them in that order. A command that Redis turned
away is sent again only while no later one of the batch on its queue has run or may have; otherwise it fails, and
nothing of it happened. So no batch runs out of order on a queue, whatever fails. Lost scripts (`SCRIPT FLUSH`) turn
away all that comes after the flush, so the rest is sent again, in order, and nobody notices.

Doubt. A command that may have run stays one that may have run: when it is sent again and then turned away for good, it
is the earlier fault that is told.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, TypeGuard, final

import msgspec
from redis.exceptions import AskError, RedisError

from moxy.backends.redis.errors import Fault, Missed, Remedy, code_of, row_of
from moxy.backends.redis.node import Node, Word, pack
from moxy.backends.redis.routes import Route

_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.25
_HOMELESS: Final = Missed("no node of the Cluster has this queue", sent=False)
_FAULTS: Final = (RedisError, Missed)
_AT_ONCE: Final = (Remedy.SCRIPTS, Remedy.MOVED, Remedy.ASK)


class Errand(msgspec.Struct, frozen=True, gc=False):
    """One command on a queue. `idempotent`: it may be sent again when it is unknown whether it ran."""

    words: tuple[Word, ...]
    queue: str
    slot: int
    idempotent: bool


class _Way(msgspec.Struct, frozen=True, gc=False):
    """Where an errand goes, and whether a redirection sends it there for this once."""

    node: Node | None
    asking: bool = False


def is_fault(reply: object) -> TypeGuard[Fault]:
    """Whether this is no reply but what came in its place."""
    return isinstance(reply, _FAULTS)


@final
class Delivery:
    """Carries batches of errands over a route.

    `retry_s` bounds how long an errand is kept back while Redis is in trouble; an attempt under way is not cut short.
    Trouble that lasts longer is met by one attempt per batch: an outage is answered soon and its end noticed soon.
    """

    def __init__(self, route: Route, retry_s: float) -> None:
        self._route: Final = route
        self._retry_s: Final = retry_s
        self._troubled: Final[dict[object, float]] = {}  # a node or the number of a slot -> since when, loop time

    @property
    def in_trouble(self) -> bool:
        """Whether some node or slot turned away what came last."""
        return bool(self._troubled)

    async def carry(self, errands: Sequence[Errand]) -> list[object]:
        """For each errand, in order, its reply or the fault that is left when nothing more can be done."""
        return await _Batch(self._route, self._troubled, self._retry_s, errands).carry()


@final
class _Batch:
    """One batch on its way: what came back so far, and where a redirection sent whom."""

    def __init__(self, route: Route, troubled: dict[object, float], retry_s: float, errands: Sequence[Errand]) -> None:
        self._route: Final = route
        self._troubled: Final = troubled
        self._retry_s: Final = retry_s
        self._errands: Final = errands
        self._outcomes: Final[list[object]] = [None] * len(errands)
        self._began_s: Final = asyncio.get_running_loop().time()
        self._attempts = 0
        self._doubts: Final[dict[int, Fault]] = {}  # by position: an earlier attempt that may have run
        self._redirected: dict[int, _Way] = {}  # by position, for the next attempt only

    async def carry(self) -> list[object]:
        """Attempt after attempt, until every errand has an outcome that stays."""
        todo: Sequence[int] = range(len(self._errands))
        pause_s = _FIRST_PAUSE_S
        while todo:
            self._attempts += 1
            ways = self._plan(todo)
            await self._attempt(ways)
            again = self._sort_out(ways)
            if again:
                remedies = {row_of(fault).remedy for fault in again.values()}
                if Remedy.ROUTE in remedies:
                    await self._refresh()
                if self._attempts > 1 or not remedies.issubset(_AT_ONCE):
                    await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            todo = sorted(again)
        for i, doubt in self._doubts.items():
            reply = self._outcomes[i]
            if is_fault(reply) and row_of(reply).certain:  # of the last attempt; the earlier one may have run
                self._outcomes[i] = doubt
        return self._outcomes

    def _plan(self, todo: Sequence[int]) -> dict[_Way, list[int]]:
        """Who goes where now. Only redirections can send a queue two ways, and then one of them turns it away."""
        slots: dict[int, list[int]] = {}
        ways: dict[_Way, list[int]] = {}
        for i in todo:
            if i in self._redirected:
                ways.setdefault(self._redirected[i], []).append(i)
            else:
                slots.setdefault(self._errands[i].slot, []).append(i)
        for slot, positions in slots.items():
            ways.setdefault(_Way(self._route.owner(slot)), []).extend(positions)
        self._redirected = {}
        return ways

    async def _attempt(self, ways: dict[_Way, list[int]]) -> None:
        """One round trip to each node, all at the same time."""
        if len(ways) == 1:
            [(way, positions)] = ways.items()
            await self._exchange(way, positions)
        else:
            async with asyncio.TaskGroup() as group:
                for way, positions in ways.items():
                    group.create_task(self._exchange(way, positions))

    async def _exchange(self, way: _Way, positions: list[int]) -> None:
        if way.node is None:
            replies: Sequence[object] = [_HOMELESS] * len(positions)
        elif way.asking:
            words = [words for i in positions for words in (("ASKING",), self._errands[i].words)]
            replies = (await way.node.exchange(pack(words), len(words)))[1::2]
        else:
            packed = pack([self._errands[i].words for i in positions])
            replies = await way.node.exchange(packed, len(positions))
        demoted: object = None
        for i, reply in zip(positions, replies, strict=True):
            # What a server answers after it said that it is a replica are reads of old data, if anything.
            if demoted is None and isinstance(reply, RedisError) and code_of(reply) == "READONLY":
                demoted = reply
            self._outcomes[i] = reply if demoted is None else demoted

    def _sort_out(self, ways: dict[_Way, list[int]]) -> dict[int, Fault]:
        """Which of those just sent are to be sent again, and why; the outcome of the others stays."""
        if not self._troubled and not any(map(is_fault, self._outcomes)):
            return {}
        again: dict[int, Fault] = {}
        ran: set[str] = set()  # queues on which a later errand has run, or may have and is over
        perhaps: set[str] = set()  # queues on which a later errand may have run and is sent again
        way_of = {i: way for way, positions in ways.items() for i in positions}
        for i in sorted(way_of, reverse=True):
            way, errand, reply = way_of[i], self._errands[i], self._outcomes[i]
            if not is_fault(reply):
                ran.add(errand.queue)
                self._at_ease(way, errand)
                continue
            row = row_of(reply)
            hopeful = row.remedy is not Remedy.NONE and self._treat(way, errand, i, reply)
            over = not hopeful or errand.queue in ran
            if row.certain:
                if not over and errand.queue not in perhaps:
                    again[i] = reply
            elif errand.idempotent and not over:
                again[i] = reply
                perhaps.add(errand.queue)
                self._doubts[i] = reply
            else:
                ran.add(errand.queue)
        return again

    def _at_ease(self, way: _Way, errand: Errand) -> None:
        if self._troubled:
            self._troubled.pop(way.node, None)
            self._troubled.pop(errand.slot, None)

    def _treat(self, way: _Way, errand: Errand, i: int, fault: Fault) -> bool:
        """Do what the fault asks for. False: the trouble has lasted too long to wait for its end."""
        remedy = row_of(fault).remedy
        now_s = asyncio.get_running_loop().time()
        if remedy in _AT_ONCE:  # no trouble yet, unless it goes on and on
            since_s = self._began_s if self._attempts > 1 else now_s
        else:
            trouble = errand.slot if remedy is Remedy.SLOT or way.node is None else way.node
            since_s = self._troubled.setdefault(trouble, now_s)
        if way.node is not None:
            if remedy is Remedy.SCRIPTS:
                way.node.forget_scripts()
            elif remedy is Remedy.ROUTE and not isinstance(fault, Missed):
                way.node.renew()
            elif isinstance(fault, AskError):  # and MovedError, which is one
                target = self._route.at(fault.host, fault.port, way.node)
                if remedy is Remedy.MOVED:
                    self._route.moved(errand.slot, target)
                else:
                    self._redirected[i] = _Way(target, asking=True)
        return now_s < since_s + self._retry_s

    async def _refresh(self) -> None:
        with contextlib.suppress(Missed, RedisError):  # nobody knows better; the next attempt says what is wrong
            await self._route.refresh()
