"""The names of all queues under a prefix, so that nobody needs KEYS or SCAN.

Lives here: reading the sorted set `PREFIX:queues`. Must not: know what a queue holds.
"""

from collections.abc import AsyncIterator
from typing import Final

from moxy.backends.redis.link import Link

_PAGE: Final = 1_000


async def page_of_names(link: Link, prefix: str, after: str, count: int) -> list[str]:
    """Up to `count` names after `after` ("": from the first), in the order of their bytes. Raises BackendDown."""
    start = f"({after}" if after else "-"
    reply = await link.command("ZRANGEBYLEX", f"{prefix}:queues", start, "+", "LIMIT", 0, count)
    assert isinstance(reply, list), reply
    return [name.decode() for name in reply]


async def all_names(link: Link, prefix: str) -> AsyncIterator[str]:
    """Every name, page by page. Raises BackendDown."""
    after = ""
    while True:
        names = await page_of_names(link, prefix, after, _PAGE)
        for name in names:
            yield name
        if len(names) < _PAGE:
            return
        after = names[-1]
