"""Servers that tests share: those of a session are never broken, and each test uses queues of its own."""

from collections.abc import Iterator

import pytest

from tests.redis.support import Cluster, Server, Watched, any_address, binaries, clustering, kinds, serving, watching


@pytest.fixture(scope="session", params=kinds())
def redis_addr(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a Redis, one after the other of all there are; see `MOXY_REDIS_INTEGRATION` in tests/README.md."""
    with any_address(request.param) as address:
        yield address


@pytest.fixture(scope="session", params=binaries())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server of each kind, for the session."""
    with serving(request.param) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Cluster for the session. Slots may be moved, and a node killed by whoever starts it again."""
    with clustering(appendonly="yes", cluster_require_full_coverage="no") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def watched() -> Iterator[Watched]:
    """A master, a replica and a Sentinel for the session. They may change roles, not die."""
    with watching() as watched:
        yield watched


@pytest.fixture(params=binaries())
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of server, for tests that break theirs."""
    return str(request.param)
