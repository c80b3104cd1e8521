"""What can go wrong with the log. Each error knows the exit code of a process that ends by it.

Lives here: one class per thing that a caller treats differently. Must not: decide what to do about it. The codes are
those of the operations page: 2 configuration, 3 log damaged, 4 disk failed while running, 6 data directory in use.
"""

from typing import Final, final


class JournalError(Exception):
    """Something about the log."""

    @property
    def exit_code(self) -> int:
        """The exit code of a process that ends by it."""
        return 4


@final
class LogRefused(JournalError):
    """The write did not happen and left no trace: answer IOERR and go on. The gathered events are dropped."""


@final
class LogFailed(JournalError):
    """The disk failed in a way after which nothing can be promised: stop acknowledging, for good, and exit.

    After a failed fsync the kernel marks the pages clean, so that a second one which succeeds proves nothing.
    """


@final
class LogDamaged(JournalError):
    """The log is not what was written. Nothing was changed or deleted.

    `file` and `at_bytes` say where; `sequence` is the first event (global sequence) that cannot be trusted.
    """

    @property
    def exit_code(self) -> int:
        return 3

    def __init__(self, file: str, at_bytes: int, sequence: int, text: str) -> None:
        super().__init__(f"{file}, offset {at_bytes}, sequence {sequence}: {text}")
        self.file: Final = file
        self.at_bytes: Final = at_bytes
        self.sequence: Final = sequence
        self.text: Final = text


@final
class LogTooNew(JournalError):
    """Written by a later version of this program, in a format that this one cannot read."""

    @property
    def exit_code(self) -> int:
        return 2


@final
class DirectoryInUse(JournalError):
    """Another process holds the data directory."""

    @property
    def exit_code(self) -> int:
        return 6


@final
class HorizonPassed(JournalError):
    """The log no longer reaches back that far: `horizon` is the oldest sequence that it still holds."""

    def __init__(self, asked: int, horizon: int) -> None:
        super().__init__(f"the log begins at sequence {horizon}, {asked} was asked for")
        self.horizon: Final = horizon
