"""Ids of tasks that are gone, and may not come again inside their dedup windows (I14).

Lives here: which ids those are, and in which order they are forgotten. Must not: when one is remembered or forgotten
(effects), ids of tasks that are there (heart).
"""

from typing import Final, final

from moxy.core.order import Key, Order


@final
class Dedup:
    """Id -> (until_ms, number of the task that had it)."""

    __slots__ = ("_names", "ids", "order")

    def __init__(self, ids: dict[str, tuple[int, int]]) -> None:
        """`ids` is kept, not copied."""
        self.ids: Final = ids
        """To be read."""
        self._names: Final = {number: task_id for task_id, (_, number) in ids.items()}
        self.order: Final[Order[Key]] = Order([(until_ms, 0, number) for until_ms, number in ids.values()])
        """Keys (until_ms, 0, number): to be read."""

    def knows(self, task_id: str, now_ms: int) -> bool:
        """Whether the id is still inside its window."""
        memory = self.ids.get(task_id)
        return memory is not None and now_ms < memory[0]

    def remember(self, task_id: str, until_ms: int, number: int) -> None:
        """Keep an id that is not kept yet."""
        self.ids[task_id] = (until_ms, number)
        self.order.add((until_ms, 0, number))
        self._names[number] = task_id

    def forget(self, task_id: str) -> None:
        """Drop an id that is kept."""
        until_ms, number = self.ids.pop(task_id)
        self.order.remove((until_ms, 0, number))
        del self._names[number]

    def lapsed(self, at_ms: int) -> str | None:
        """The id whose window was over first, if it was over then."""
        key = self.order.first()
        return None if key is None or key[0] > at_ms else self._names[key[2]]
