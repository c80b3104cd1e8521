"""Which server a queue is on: the one server, the master of the day, or a node of a Cluster.

Lives here: the map from keys to nodes and how it is made new. Must not: send a script.
"""

import random
from collections.abc import Callable
from typing import Final, Protocol, final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from moxy.backends.redis.address import Address
from moxy.backends.redis.dial import Dial, ask, dialler, first, reach
from moxy.backends.redis.errors import Missed
from moxy.backends.redis.node import Node

MakeNode = Callable[[Dial], Node]
Place = tuple[str, int]

_ASKED_AT_ONCE: Final = 5


class Route(Protocol):
    """From a key to the node that has it."""

    def slot(self, key: str) -> int:
        """What moves as one: the hash slot of the key; 0 where there are none."""

    def owner(self, slot: int) -> Node | None:
        """The node of a slot; None when nobody has it."""

    def at(self, host: str, port: int, near: Node) -> Node:
        """The node that a redirection from `near` names; an empty host is that of `near`."""

    def moved(self, slot: int, node: Node) -> None:
        """A redirection says that `node` has the slot now."""

    async def refresh(self) -> None:
        """Find out anew who has what. Raises Missed or RedisError."""

    def nodes(self) -> list[Node]:
        """Every node that has a part."""

    def close(self) -> None:
        """Let go of all connections."""


@final
class OneServer:
    """All keys on one server at a time; who that is, the dialler finds out for each new connection."""

    def __init__(self, address: Address, make: MakeNode) -> None:
        self._node: Final = make(dialler(address))

    def slot(self, key: str) -> int:
        return 0

    def owner(self, slot: int) -> Node | None:
        return self._node

    def at(self, host: str, port: int, near: Node) -> Node:
        return near

    def moved(self, slot: int, node: Node) -> None:
        pass

    async def refresh(self) -> None:
        pass

    def nodes(self) -> list[Node]:
        return [self._node]

    def close(self) -> None:
        self._node.drop()


@final
class Cluster:
    """16384 slots over the masters of a Redis Cluster, from CLUSTER SLOTS and redirections."""

    def __init__(self, address: Address, make: MakeNode) -> None:
        self._address: Final = address
        self._make: Final = make
        self._nodes: dict[Place, Node] = {}
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS

    def slot(self, key: str) -> int:
        return int(key_slot(key.encode()))

    def owner(self, slot: int) -> Node | None:
        return self._owners[slot]

    def at(self, host: str, port: int, near: Node) -> Node:
        if host in ("", "?"):
            host = next((place[0] for place, node in self._nodes.items() if node is near), "")
        return self._named((host, port))

    def moved(self, slot: int, node: Node) -> None:
        self._owners[slot] = node

    async def refresh(self) -> None:
        places = list(dict.fromkeys([*self._nodes, *self._address.nodes]))
        random.shuffle(places)
        ranges = await first([self._ask(place) for place in places[:_ASKED_AT_ONCE]])
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for low, high, place in ranges:
            owners[low : high + 1] = [self._named(place)] * (high + 1 - low)
        self._owners = owners
        masters = {id(node) for node in owners}
        for place, node in list(self._nodes.items()):
            if id(node) not in masters and not node.busy:
                node.drop()
                del self._nodes[place]

    def nodes(self) -> list[Node]:
        masters = {id(node) for node in self._owners}
        return [node for node in self._nodes.values() if id(node) in masters]

    def close(self) -> None:
        for node in self._nodes.values():
            node.drop()

    def _named(self, place: Place) -> Node:
        if place not in self._nodes:
            self._nodes[place] = self._make(lambda: reach(self._address, *place))
        return self._nodes[place]

    async def _ask(self, place: Place) -> list[tuple[int, int, Place]]:
        """First slot, last slot and master of each range, as the node at `place` knows them."""
        ranges = []
        for low, high, (host, port, *_), *_replicas in await ask(self._address, *place, "CLUSTER", "SLOTS"):
            name = (host or b"").decode()
            ranges.append((int(low), int(high), (name if name not in ("", "?") else place[0], int(port))))
        if not ranges:
            raise Missed("the Cluster has no slots assigned", sent=False)
        return ranges
