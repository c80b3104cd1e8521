"""A queue's keys, read back as one value: for comparison with the fold of its events.

Lives here: reading every key of a queue and putting an Image of it together. Must not: write, or judge.

The orders are not taken from the keys but made from the records; that each sorted set says the same is checked here,
since it is the sorted sets that the scripts follow.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from moxy.backends.redis.calls import TOTALS
from moxy.backends.redis.link import Link
from moxy.backends.redis.records import task_of
from moxy.backends.redis.scripts import key_of
from moxy.core.lifecycle import DEAD, PROCESSING, READY, SCHEDULED
from moxy.core.policy import RANGES, Policy
from moxy.core.tasks import Image, Task, Totals

_PLACE_BITS: Final = 10**15


class Dump(msgspec.Struct, frozen=True):
    """What the keys of a queue say, and in which sentences they contradict each other."""

    image: Image
    tasks: dict[int, Task]
    epoch: int
    token_floor: int
    contradictions: list[str]


async def read_dump(link: Link, prefix: str, queue: str) -> Dump:
    """Read a queue's keys, a thousand entries at a time, so that Redis is not held up.

    That takes more than a moment: what was read is one state only if `stored_seq` is still the image's afterwards.
    Raises BackendDown.
    """
    meta = await _hash(link, prefix, queue, "meta")
    policy = await _hash(link, prefix, queue, "policy")
    records = await _hash(link, prefix, queue, "tasks")
    payloads = await _hash(link, prefix, queue, "payloads")
    ids = await _hash(link, prefix, queue, "ids")
    numbers = {name: int(meta.get(name.encode(), b"0")) for name in (*TOTALS, *_SCALARS)}
    memories = await _sorted_set(link, prefix, queue, "remembered")
    found: list[str] = []
    tasks: dict[int, Task] = {}
    for number, record in records.items():
        if number not in payloads:
            found.append(f"task {number.decode()} has a record and no payload")
        tasks[int(number)] = task_of(int(number), record, payloads.get(number, b""))
    if len(payloads) != len(records):
        found.append(f"{len(payloads)} payloads for {len(records)} records")
    found += _ids_contradict(ids, tasks)
    holders = _holders(records)
    for name in ("ready", "scheduled", "processing", "dead", "expiring", "bound"):
        told = dict(await _sorted_set(link, prefix, queue, name))
        expected = _expected(name, tasks, holders)
        if told != expected:
            odd = sorted({*told.items()} ^ {*expected.items()})[:3]
            found.append(f"the sorted set :{name} differs from the records, first in {odd}")
    image = Image(
        name=queue,
        policy=Policy(**{field: int(policy[field.encode()]) for field in RANGES if field.encode() in policy}),
        seq=numbers["seq"],
        at_ms=numbers["at_ms"],
        born_ms=numbers["born_ms"],
        paused=bool(numbers["paused"]),
        next_number=numbers["next_number"] or 1,
        last_token=numbers["last_token"],
        totals=Totals(**{name: numbers[name] for name in TOTALS}),
        tasks=tuple(tasks.values()),
        # Redis does not keep the number that a remembered id had, and nothing needs it: any that are unique will do.
        remembered={member.decode(): (until_ms, -1 - at) for at, (member, until_ms) in enumerate(memories)},
    )
    return Dump(image, tasks, numbers["epoch"], numbers["token_floor"], found)


_SCALARS: Final = (
    "seq",
    "at_ms",
    "born_ms",
    "paused",
    "next_number",
    "last_token",
    "epoch",
    "token_floor",
)


def _holders(records: Mapping[bytes, bytes]) -> dict[int, str]:
    """Number -> the server that holds it, of bound tasks."""
    fields = {int(number): msgspec.json.decode(record) for number, record in records.items() if b'"bound"' in record}
    return {number: record["bound"] for number, record in fields.items()}


def _expected(name: str, tasks: Mapping[int, Task], holders: Mapping[int, str]) -> dict[bytes, int]:
    """What the sorted set must hold, going by the records."""
    if name == "bound":
        return {f"{holder}:{number}".encode(): 0 for number, holder in holders.items()}
    if name == "expiring":
        waiting = [task for task in tasks.values() if task.expires_ms and task.state in (READY, SCHEDULED)]
        return {_member(task.place, task): task.expires_ms for task in waiting}
    members: dict[bytes, int] = {}
    for task in tasks.values():
        if name == task.state == READY:
            members[b"%d" % task.number] = (9 - task.priority) * _PLACE_BITS + task.place
        elif name == task.state == SCHEDULED:
            members[_member(task.place, task)] = task.due_ms
        elif name == task.state == PROCESSING and task.lease is not None:
            members[_member(task.lease.token, task)] = task.lease.deadline_ms
        elif name == task.state == DEAD and task.death is not None:
            members[_member(task.death.seq, task)] = task.death.at_ms
    return members


def _member(rank: int, task: Task) -> bytes:
    return b"%016d:%d" % (rank, task.number)


def _ids_contradict(ids: Mapping[bytes, bytes], tasks: Mapping[int, Task]) -> list[str]:
    """Ids that clients chose must lead to their tasks."""
    return [
        f"the id {task_id.decode()!r} leads to task {number.decode()}, which is not that one"
        for task_id, number in ids.items()
        if int(number) not in tasks or tasks[int(number)].task_id.encode() != task_id
    ]


async def stored_seq(link: Link, prefix: str, queue: str) -> int:
    """The sequence number of the queue's last event, by its keys; 0 when there is no such queue. Raises BackendDown."""
    reply = await link.command("HGET", key_of(prefix, queue, "meta"), "seq")
    return int(reply) if isinstance(reply, bytes) else 0


async def _hash(link: Link, prefix: str, queue: str, name: str) -> dict[bytes, bytes]:
    return dict(await _scan(link, "HSCAN", key_of(prefix, queue, name)))


async def _sorted_set(link: Link, prefix: str, queue: str, name: str) -> list[tuple[bytes, int]]:
    return [(member, int(float(score))) for member, score in await _scan(link, "ZSCAN", key_of(prefix, queue, name))]


async def _scan(link: Link, verb: str, key: str) -> list[tuple[bytes, bytes]]:
    """All entries of a key, page by page; an entry can come twice, and is there once."""
    found: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        reply = await link.command(verb, key, cursor, "COUNT", 1000)
        assert isinstance(reply, list), reply
        cursor, page = reply
        found.update(zip(page[::2], page[1::2], strict=True))
        if cursor == b"0":
            return list(found.items())
