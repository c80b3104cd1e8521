"""The only door to a file: one small interface, and the real disk behind it.

Lives here: what the journal needs of a disk, and no more, so that a test or a simulation can break every call of it.
Must not: know what is written, retry, or decide what an error means.

Every call may raise OSError. Only what `File.sync` returned for survives a power cut, and a name only after
`sync_names`. A `File` stays open from its first write to its last sync, since the kernel tells a failed write-back to
the descriptors that were open then.
"""

import fcntl
import os
from typing import Final, Protocol, final

from moxy.journal.errors import DirectoryInUse, LogFailed

LOCK_NAME: Final = "lock"
_ZEROS: Final = bytes(1 << 20)


class File(Protocol):
    """One file, open for writing."""

    def write(self, data: bytes, at_bytes: int) -> int:
        """Write `data` at that offset and return how many bytes were written: fewer mean that no more would go."""

    def allocate(self, size_bytes: int) -> None:
        """Fill the file with zeros from its end up to that size, so that later writes need no new space."""

    def truncate(self, size_bytes: int) -> None:
        """Cut the file to that size."""

    def sync(self) -> None:
        """Return when the content and the size are on the medium (fdatasync)."""

    def close(self) -> None:
        """Let go of it. Says nothing about what is durable."""


class Disk(Protocol):
    """One directory without subdirectories."""

    def lock(self) -> None:
        """Take the directory for this process until `close`. Raises DirectoryInUse."""

    def close(self) -> None:
        """Give the directory back."""

    def names(self) -> list[str]:
        """All names, sorted."""

    def size_bytes(self, name: str) -> int:
        """How long the file is."""

    def read(self, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        """Up to `length_bytes` from that offset on, -1 for all; fewer at the end of the file."""

    def create(self, name: str) -> File:
        """A new empty file; one of that name is emptied."""

    def open(self, name: str) -> File:
        """An existing file, for writing."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, atomically; a file that had it is gone."""

    def remove(self, name: str) -> None:
        """Take a name away."""

    def sync_names(self) -> None:
        """Return when every name created, changed or removed so far is so on the medium (fsync of the directory)."""


@final
class OsFile:
    """A file of the operating system."""

    def __init__(self, path: str, flags: int, writes_zeros: bool) -> None:
        self._fd: Final = os.open(path, flags | os.O_CLOEXEC, 0o640)
        self._writes_zeros: Final = writes_zeros

    def write(self, data: bytes, at_bytes: int) -> int:
        return os.pwrite(self._fd, data, at_bytes)

    def allocate(self, size_bytes: int) -> None:
        at = os.fstat(self._fd).st_size
        if at < size_bytes:
            os.posix_fallocate(self._fd, at, size_bytes - at)
        # Written, not only reserved: an fdatasync need not turn reserved blocks into written ones then.
        while self._writes_zeros and at < size_bytes:
            at += os.pwrite(self._fd, _ZEROS[: size_bytes - at], at)

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def sync(self) -> None:
        _sync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


@final
class OsDisk:
    """A directory of the operating system, made when it is not there.

    `writes_zeros`: space is taken by writing zeros, for whoever waits for each sync; else it is only reserved, which
    reads as zeros, too, and leaves half as much to write.
    """

    def __init__(self, path: str, writes_zeros: bool = True) -> None:
        os.makedirs(path, exist_ok=True)
        self.path: Final = path
        self._writes_zeros: Final = writes_zeros
        self._directory_fd: Final = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock_fd = -1
        self._closed = False

    def lock(self) -> None:
        fd = os.open(self._path(LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise DirectoryInUse(f"{self.path} is in use by process {holder}") from None
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        os.close(self._directory_fd)

    def names(self) -> list[str]:
        return sorted(os.listdir(self._directory_fd))

    def size_bytes(self, name: str) -> int:
        return os.stat(self._path(name)).st_size

    def read(self, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        with open(self._path(name), "rb", buffering=0) as file:
            if at_bytes:
                file.seek(at_bytes)
            return file.readall() if length_bytes < 0 else _read_up_to(file.fileno(), at_bytes, length_bytes)

    def create(self, name: str) -> OsFile:
        return OsFile(self._path(name), os.O_RDWR | os.O_CREAT | os.O_TRUNC, self._writes_zeros)

    def open(self, name: str) -> OsFile:
        return OsFile(self._path(name), os.O_RDWR, self._writes_zeros)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._path(old), self._path(new))

    def remove(self, name: str) -> None:
        os.remove(self._path(name))

    def sync_names(self) -> None:
        os.fsync(self._directory_fd)

    def _path(self, name: str) -> str:
        return os.path.join(self.path, name)


def write_all(file: File, data: bytes, at_bytes: int) -> None:
    """Write all of `data`. Raises OSError also when less than all would go."""
    written = file.write(data, at_bytes)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes were written")


def sync_or_fail(file: File) -> None:
    """Sync a file. Raises LogFailed, and never OSError: a failed fsync is not retried (see errors)."""
    try:
        file.sync()
    except OSError as e:
        raise LogFailed(f"fsync failed: {e}") from e


def sync_names_or_fail(disk: Disk) -> None:
    """Sync the directory. Raises LogFailed, and never OSError."""
    try:
        disk.sync_names()
    except OSError as e:
        raise LogFailed(f"fsync of the directory failed: {e}") from e


def _read_up_to(fd: int, at_bytes: int, length_bytes: int) -> bytes:
    pieces: list[bytes] = []
    while length_bytes:
        piece = os.pread(fd, length_bytes, at_bytes)
        if not piece:
            break
        pieces.append(piece)
        at_bytes += len(piece)
        length_bytes -= len(piece)
    return b"".join(pieces)


def _sync(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:  # macOS
        os.fsync(fd)
