"""Every conversation is held twice: over the tick, and over asyncio's own transports."""

from collections.abc import Iterator
from typing import get_args

import pytest

from moxy.server.doors import Form
from tests.server import support

FORMS: list[Form] = [form for form in get_args(Form) if form != "auto"]


@pytest.fixture(params=FORMS, autouse=True, scope="module")
def form(request: pytest.FixtureRequest) -> Iterator[Form]:
    support.FORM = request.param
    yield request.param
    support.FORM = "auto"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes, and is about the log rather than sockets, is done over both only in the deep profile."""
    for item in items:
        if item.path.name in ("test_crash.py", "test_history.py") and "[asyncio" in item.name:
            item.add_marker(pytest.mark.deep)
