"""How a heart is made of an image, as it was before a restart.

Lives here: all structures of a queue, built in one go from what cannot be derived, and what is wrong with an image that
makes none. Must not: bytes, files (journal/snapshots); events that came after the image (folding).
"""

from moxy.core.dedup import Dedup
from moxy.core.heart import NEVER_MS, Heart, place_of, ttl_place_of
from moxy.core.lifecycle import DEAD, EXPIRED, FAILED, PROCESSING, READY, SCHEDULED
from moxy.core.order import Key, Order
from moxy.core.packing import can_be_packed, pack
from moxy.core.shelves import NUMBER_MAX
from moxy.core.tasks import PRIORITY_MAX, Image, Task


def _number(task: Task) -> int:
    return task.number


def heart_of(image: Image) -> Heart:
    """The structures of a queue, made in one go from what cannot be derived.

    Raises ValueError for a task in no state that can be kept, a number that none has, or two of one number or name.
    """
    h = Heart(image.name, image.policy)
    h.seq, h.at_ms, h.born_ms, h.paused = image.seq, image.at_ms, image.born_ms, image.paused
    h.next_number, h.last_token = image.next_number, image.last_token
    t = image.totals
    h.enqueued, h.leased, h.acked = t.enqueued, t.leased, t.acked
    h.counts = [
        t.matured,
        t.extended,
        t.expired,
        t.failed,
        t.released,
        t.requeued,
        t.dead_lettered,
        t.redriven,
        t.deleted,
    ]
    lanes: list[list[int]] = [[] for _ in range(PRIORITY_MAX + 1)]
    places: dict[str, list[Key]] = {SCHEDULED: [], PROCESSING: [], DEAD: []}
    ttls: list[Key] = []
    for task in sorted(image.tasks, key=_number):
        state, number = task.state, task.number
        if not 0 <= number <= NUMBER_MAX:
            raise ValueError(f"task {task.task_id!r} has the number {number}")
        if (task.lease is not None) != (state == PROCESSING) or (task.death is not None) != (state == DEAD):
            raise ValueError(f"task {task.task_id!r} is {state}, its lease {task.lease} and its death {task.death}")
        if state == READY:
            lanes[task.priority].append(task.place)
        elif state in places:
            places[state].append(place_of(task))
        elif state in (EXPIRED, FAILED):
            h.limbo += 1
        else:
            raise ValueError(f"task {task.task_id!r} is {state}")
        if task.place != number:
            h.move(task.place, number)
        if task.expires_ms:
            ttl = ttl_place_of(task)
            if ttl is not None:
                ttls.append(ttl)
        if number in h.tasks or h.number_of(task.task_id) is not None:
            raise ValueError(f"task {task.task_id!r} is there twice, or another one with its number")
        if len(h.tasks) >= h.pack_from and can_be_packed(task):
            h.tasks[number] = pack(task.task_id.encode(), task.payload, task.priority, task.enqueued_ms)
        else:
            h.tasks[number] = task
        h.name_it(task.task_id, number)
    h.plain = Order(lanes[0])
    if any(lanes[1:]):
        h.urgent = [Order(lane) for lane in lanes[1:]]
    h.scheduled, h.processing, h.dead = Order(places[SCHEDULED]), Order(places[PROCESSING]), Order(places[DEAD])
    h.expiring = Order(ttls)
    h.soonest_ms = h.next_due_ms() or NEVER_MS
    h.dedup = Dedup(image.remembered.copy()) if image.remembered else None
    return h
