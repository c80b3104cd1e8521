"""The link to Redis: calls of scripts go out in batches, and for each comes back a reply or a refusal.

Lives here: connecting, the facts, calls and plain commands. Must not: know what a script does. In which order calls
run, and when one is sent again, `delivery` says.
"""

from collections.abc import Sequence
from typing import Final, final

import msgspec
from redis.exceptions import RedisError

from moxy.backends.redis.address import Address
from moxy.backends.redis.delivery import Delivery, Errand, is_fault
from moxy.backends.redis.dial import Dial, reach_any
from moxy.backends.redis.errors import BackendDown, Missed, Unreachable, down, refusal
from moxy.backends.redis.facts import Facts, facts_of
from moxy.backends.redis.listener import Listener
from moxy.backends.redis.node import Node, Script, Word, pack
from moxy.backends.redis.routes import Cluster, OneServer, Route

__all__ = ["Call", "Link", "Script"]


class Call(msgspec.Struct, frozen=True, gc=False):
    """One run of a script.

    `keys`, at least one, share the hash tag of `queue`. `idempotent`: the call may be sent again when it is unknown
    whether it ran. On a server that was paused, the first copy may then run after the second was answered.
    """

    script: Script
    queue: str
    keys: list[str]
    args: list[Word]
    idempotent: bool


@final
class Link:
    """Redis, behind the address of one server, of Sentinels or of nodes of a Cluster.

    `retry_s`: how long a call is kept back while Redis is in trouble, at most and besides the attempt under way.
    """

    def __init__(self, address: Address, scripts: Sequence[Script], retry_s: float = 2.0) -> None:
        self.address: Final = address
        self.reconnects = 0
        """Grows with each connection opened after `connect`: what Redis holds may have gone back since."""
        self._scripts: Final = tuple(scripts)
        self._sha1: Final = {script.name: script.sha1 for script in scripts}
        self._route: Final[Route] = (Cluster if address.form == "cluster" else OneServer)(address, self._make)
        self._delivery: Final = Delivery(self._route, retry_s)
        self._watch: Listener | None = None

    def _make(self, dial: Dial) -> Node:
        return Node(dial, self._scripts, self.address.reply_s, self._opened)

    def _opened(self) -> None:
        self.reconnects += 1

    async def connect(self) -> Facts:
        """Connect to every master, read the facts and load the scripts; nothing is loaded when the facts refuse.

        Raises Unreachable.
        """
        try:
            await self._route.refresh()
            facts = await self.facts()
            if not facts.refusal:
                for node in self._route.nodes():
                    _value((await node.exchange(pack([("PING",)]), 1))[0])
        except (BackendDown, Missed, RedisError) as error:
            await self.close()
            sentence = (error if isinstance(error, BackendDown) else down(error)).sentence
            raise Unreachable(f"{self.address.display}: {sentence}") from None
        self._watch_sentinels()
        self.reconnects = 0
        return facts

    def _watch_sentinels(self) -> None:
        """Leave a master as soon as a Sentinel names another.

        A master that is replaced while it lives (`SENTINEL FAILOVER`) stays one, and takes writes that will be lost,
        for some 8 seconds until the Sentinels turn it around and cut its connections.
        """
        address = self.address
        if address.form != "sentinel" or self._watch is not None:
            return

        def on_switch(channel: str, data: bytes) -> None:
            if data.split(b" ", 1)[0] == address.master.encode():
                renew()

        def renew() -> None:
            for node in self._route.nodes():
                node.renew()

        self._watch = Listener(address, ["+switch-master"], on_switch, renew, dial=lambda: reach_any(address))
        self._watch.start()

    async def facts(self) -> Facts:
        """The facts now; of several masters those of the worst. Raises BackendDown."""
        found = [await self._facts_of(node) for node in self._route.nodes()]
        return max(found, key=lambda facts: (bool(facts.refusal), len(facts.warnings)))

    async def _facts_of(self, node: Node) -> Facts:
        info = _value(await node.ask("INFO"))
        config = {name: await node.ask("CONFIG", "GET", name) for name in ("appendfsync", "save")}
        return facts_of(self.address.form, info, config)

    async def run(self, calls: Sequence[Call]) -> list[object]:
        """Run scripts, one round trip per node. For each call, in order, its reply or a Refused."""
        sha1, slot = self._sha1, self._route.slot
        errands = [
            Errand(
                ("EVALSHA", sha1[call.script.name], len(call.keys), *call.keys, *call.args),
                call.queue,
                slot(call.keys[0]),
                call.idempotent,
            )
            for call in calls
        ]
        return [refusal(reply) if is_fault(reply) else reply for reply in await self._delivery.carry(errands)]

    async def command(self, *words: Word, idempotent: bool = True) -> object:
        """A plain command; in a Cluster it goes where its second word, the key, lives. Raises BackendDown."""
        key = words[1] if len(words) > 1 else ""
        key = key.decode() if isinstance(key, bytes) else str(key)
        return _value((await self._delivery.carry([Errand(words, key, self._route.slot(key), idempotent)]))[0])

    @property
    def in_trouble(self) -> bool:
        """Whether what came last, to some node or about some slot, was turned away."""
        return self._delivery.in_trouble

    async def close(self) -> None:
        """Let go of all connections."""
        if self._watch is not None:
            await self._watch.close()
        self._route.close()


def _value(reply: object) -> object:
    """The reply, if it is one. Raises BackendDown."""
    if is_fault(reply):
        raise down(reply)
    return reply
