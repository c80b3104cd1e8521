"""Messages of Redis, heard across deaths of the server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.listener import Listener
from tests.redis.links import run
from tests.redis.support import WAIT_S, Cluster, Server, Watched, serving, until


class Ear:
    """What a listener heard."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.reconnects = 0
        self.troubles: list[str] = []
        self._news = asyncio.Event()

    def on_message(self, channel: str, data: bytes) -> None:
        self.messages.append((channel, data))
        self._news.set()

    def on_reconnect(self) -> None:
        self.reconnects += 1
        self._news.set()

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not wanted():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def listening(address: str, *channels: str, quiet_s: float = 15.0) -> AsyncIterator[Ear]:
    ear = Ear()
    listener = Listener(
        parse_redis_address(address), channels, ear.on_message, ear.on_reconnect, ear.troubles.append, quiet_s
    )
    listener.start()
    try:
        async with asyncio.timeout(WAIT_S):
            await listener.listening()
        yield ear
    finally:
        await listener.close()


def test_it_hears_its_channels_in_order(server: Server) -> None:
    def listened_to() -> list[str]:
        return sorted(server.ask("PUBSUB", "CHANNELS", "[abc]"))

    async def story() -> None:
        async with listening(server.address, "a", "b") as ear:
            for i in range(50):
                server.ask("PUBLISH", "ab"[i % 2], i)
                server.ask("PUBLISH", "c", i)
            await ear.until(lambda: len(ear.messages) == 50)
            assert ear.messages == [("ab"[i % 2], str(i).encode()) for i in range(50)]
            assert (ear.reconnects, ear.troubles) == (0, [])
            assert listened_to() == ["a", "b"]
        await asyncio.to_thread(until, listened_to, lambda channels: not channels)

    run(story())


def test_it_comes_back_after_the_server_died_again_and_again(kind: str) -> None:
    async def story(server: Server) -> None:
        async with listening(server.address, "a") as ear:
            for i in range(1, 4):
                server.kill()
                await asyncio.to_thread(server.start)
                await ear.until(lambda i=i: ear.reconnects == i)
                assert len(ear.troubles) == i, "one sentence per loss"
                server.ask("PUBLISH", "a", i)
                await ear.until(lambda i=i: len(ear.messages) == i)

    with serving(kind) as server:
        run(story(server))


def test_it_waits_for_a_server_that_is_not_there_yet(kind: str) -> None:
    async def story(server: Server) -> None:
        server.kill()
        ear = Ear()
        address = parse_redis_address(server.address)
        listener = Listener(address, ["a"], ear.on_message, ear.on_reconnect, ear.troubles.append)
        listener.start()
        while not ear.troubles:
            await asyncio.sleep(0)
        await asyncio.to_thread(server.start)
        await listener.listening()
        assert ear.reconnects == 0, "nothing was missed: nothing was heard before"
        assert len(ear.troubles) == 1
        assert ear.troubles[0].startswith("Redis cannot be reached")
        await listener.close()

    with serving(kind) as server:
        run(story(server))


def test_a_server_that_went_silent_is_left(kind: str) -> None:
    async def story(server: Server) -> None:
        address = f"{server.address}?socket_timeout=0.05&socket_connect_timeout=0.05"
        async with listening(address, "a", quiet_s=0.05) as ear:
            asked = server.ask("INFO", "commandstats").get("cmdstat_ping", {}).get("calls", 0)
            while server.ask("INFO", "commandstats").get("cmdstat_ping", {}).get("calls", 0) < asked + 4:
                await asyncio.sleep(0.01)
            assert ear.reconnects == 0, "a server that answers is kept"
            server.pause()
            while not ear.troubles:
                await asyncio.sleep(0.01)
            assert "no answer within 0.05 s" in ear.troubles[0]
            server.resume()
            await ear.until(lambda: ear.reconnects == 1)
            server.ask("PUBLISH", "a", "x")
            await ear.until(lambda: ear.messages == [("a", b"x")])

    with serving(kind) as server:
        run(story(server))


def test_any_node_of_a_cluster_hears_all(cluster: Cluster) -> None:
    async def story() -> None:
        async with listening(cluster.address, "a") as ear:
            for node in cluster.nodes:
                node.ask("PUBLISH", "a", node.port)
            await ear.until(lambda: len(ear.messages) == 3)
            assert {data for _, data in ear.messages} == {str(node.port).encode() for node in cluster.nodes}

    run(story())


def test_it_follows_a_fail_over(watched: Watched) -> None:
    async def story() -> None:
        async with listening(watched.address, "a") as ear:
            old = watched.master
            await asyncio.to_thread(watched.fail_over)
            old.ask("CLIENT", "KILL", "TYPE", "pubsub")  # as Sentinel does when it turns the old master around
            await ear.until(lambda: ear.reconnects == 1)
            assert watched.master.ask("PUBSUB", "CHANNELS", "a") == ["a"], "a replica would hear the message, too"
            watched.master.ask("PUBLISH", "a", "x")
            await ear.until(lambda: ear.messages == [("a", b"x")])

    run(story())


def test_what_a_callback_raises_is_not_swallowed(server: Server) -> None:
    async def story() -> None:
        def burst(channel: str, data: bytes) -> None:
            raise ZeroDivisionError

        listener = Listener(parse_redis_address(server.address), ["a"], burst, lambda: None)
        listener.start()
        await listener.listening()
        server.ask("PUBLISH", "a", "x")
        while server.ask("PUBSUB", "CHANNELS", "a"):
            await asyncio.sleep(0.01)
        with pytest.raises(ZeroDivisionError):
            await listener.close()

    run(story())
