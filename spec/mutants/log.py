"""Planted bugs in the event log: what is written, synced, cut off, believed at a start.

What lives here: the faults, as `faults` has those of the rest. What must not live here: how they meet a checker.
"""

from typing import Final

from spec.mutants.mutant import Mutant

_RESTORING: Final = "moxy/core/restoring.py"
_DURABLE: Final = "moxy/backends/durable.py"
_JOURNAL: Final = "moxy/journal/journal.py"
_FRAMES: Final = "moxy/journal/frames.py"
_SEGMENTS: Final = "moxy/journal/segments.py"
_SNAPSHOTS: Final = "moxy/journal/snapshots.py"
_RECOVERY: Final = "moxy/journal/recovery.py"
_OPENING: Final = "moxy/journal/opening.py"

LOG: Final = (
    Mutant(
        "fsync-dropped",
        "A sync says that it did, and does nothing.",
        _JOURNAL,
        "                self._sync_locked()\n                self._synced = sequence\n",
        "                self._synced = sequence\n",
        ("failures", "simulate", "journal"),
    ),
    Mutant(
        "reply-before-fsync",
        "The reply leaves while the sync is still under way.",
        _DURABLE,
        "        await asyncio.get_running_loop().run_in_executor(self._syncer, self._sync_turn)\n",
        "        asyncio.get_running_loop().run_in_executor(self._syncer, self._sync_turn)\n",
        ("backends", "simulate", "failures"),
    ),
    Mutant(
        "small-turn-not-synced",
        "A turn that is small enough to be synced where it is is not synced at all.",
        _DURABLE,
        "        if syncs:\n            self._sync_turn()\n",
        "",
        ("failures", "backends", "simulate"),
    ),
    Mutant(
        "reply-before-write",
        "A turn is accepted, and written only with the next one.",
        _DURABLE,
        "            self._journal.flush()\n        except",
        "        except",
        ("failures", "backends", "simulate"),
    ),
    Mutant(
        "refused-turn-stays",
        "The queues keep what the log refused.",
        _DURABLE,
        "        except LogRefused as refused:\n            memory.take_back()\n",
        "        except LogRefused as refused:\n",
        ("failures", "backends"),
    ),
    Mutant(
        "failed-write-not-cut-off",
        "What a failed write left in the file stays there.",
        _JOURNAL,
        "                self._file.truncate(self._place.at_bytes)\n",
        "                pass\n",
        ("journal", "failures"),
    ),
    Mutant(
        "failed-sync-tried-again",
        "A failed fsync is not final: the next one is believed.",
        _JOURNAL,
        "        self._failure = self._failure or text\n        raise",
        "        raise",
        ("backends", "journal", "failures"),
    ),
    Mutant(
        "truncation-at-a-bad-checksum",
        "Damage in the midst of the log is taken for its end, and what follows is thrown away.",
        _FRAMES,
        'return Damaged("the checksum of a complete record is wrong")',
        'return Torn("the checksum of a complete record is wrong")',
        ("journal",),
    ),
    Mutant(
        "torn-tail-not-cut-off",
        "A start goes on writing over a torn record without cutting it off.",
        _OPENING,
        "        if recovered.torn:\n            file.truncate(place.at_bytes)\n",
        "",
        ("journal", "simulate"),
    ),
    Mutant(
        "chain-not-checked",
        "A segment that does not go on from the one before is read all the same.",
        _SEGMENTS,
        "if self._known and segment.head is not None and segment.head.chain != place.chain:",
        "if False:",
        ("journal",),
    ),
    Mutant(
        "sequence-not-checked",
        "A sound record in the place of another is believed.",
        _FRAMES,
        "if header.sequence != place.sequence:",
        "if False:",
        ("journal",),
    ),
    Mutant(
        "foreign-snapshot-believed",
        "A snapshot that does not belong to the log is not noticed.",
        _RECOVERY,
        "if last > head.sequence or (last == head.sequence and record.next.chain != head.chain):",
        "if last > head.sequence:",
        ("journal",),
    ),
    Mutant(
        "snapshot-ahead-of-the-log",
        "A snapshot is written of what the log might still lose.",
        _JOURNAL,
        "        if self._synced < mark.sequence:\n            self.sync()\n",
        "",
        ("journal", "simulate"),
    ),
    Mutant(
        "snapshot-misses-scheduled-tasks",
        "A state from a snapshot does not know which of its tasks are scheduled.",
        _RESTORING,
        "Order(places[SCHEDULED])",
        "Order()",
        ("failures", "journal", "simulate"),
    ),
    Mutant(
        "snapshot-misses-dedup",
        "Ids inside their DEDUP window are not in snapshots.",
        _SNAPSHOTS,
        "            yield MemoryRow(task_id, until_ms, number)\n",
        "            continue\n",
        ("journal",),
    ),
    Mutant(
        "snapshot-name-not-synced",
        "The directory is not synced after a snapshot got its name.",
        _SNAPSHOTS,
        "    file.close()\n    sync_names_or_fail(disk)\n    return name\n",
        "    file.close()\n    return name\n",
        ("journal",),
    ),
)
