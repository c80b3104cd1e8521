"""A disk in memory that keeps what is durable apart from what is only written, and one whose calls fail.

Lives here: `SimDisk`, which on `crash(seed)` comes back as any disk might after a power cut, and `FaultyDisk`, which
wraps another and fails its N-th call. Nothing here knows what the journal writes.

The model: a sector of 512 bytes is written whole or not at all; between two syncs of a file any version that a sector
had may be the one on the medium, and any size that the file had may be its size; between two syncs of the directory
any of the changes of names may have happened and any not. After a failed sync the pages count as clean: what was not
written then never will be, whatever a later sync says, unless it is written again.
"""

import errno
import random
from collections.abc import Callable
from typing import Any, Literal

from moxy.journal.errors import DirectoryInUse

SECTOR_BYTES = 512
Flavour = Literal["none", "all", "random"]


class Inode:
    """The content of a file, with the versions that each sector had since it was last surely on the medium."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.versions: dict[int, list[bytes]] = {}
        self.sizes = [len(content)]
        self.stuck: dict[int, list[bytes]] = {}

    def write(self, data: bytes, at: int) -> None:
        self._change(at, at + len(data), lambda: self._put(data, at))

    def truncate(self, size: int) -> None:
        old = len(self.content)
        if size < old:
            self._change(size, old, lambda: self.content.__delitem__(slice(size, None)))
        else:
            self.content.extend(bytes(size - old))
        self.sizes.append(size)

    def sync(self) -> None:
        for sector in self.versions:
            self.stuck.pop(sector, None)
        self.versions.clear()
        self.sizes = self.sizes[-1:]

    def fail_sync(self) -> None:
        """The pages are marked clean and nothing was written: those sectors stay in doubt until written again."""
        for sector, versions in self.versions.items():
            self.stuck.setdefault(sector, []).extend(versions)
        self.versions.clear()

    def after_crash(self, rng: random.Random, flavour: Flavour) -> bytes:
        size = {"none": self.sizes[0], "all": self.sizes[-1]}.get(flavour) if flavour != "random" else None
        size = rng.choice(self.sizes) if size is None else size
        out = bytearray(self.content[:size].ljust(size, b"\0"))
        for sector, versions in {**self.versions, **self.stuck}.items():
            pick = {"none": versions[0], "all": versions[-1]}.get(flavour) or rng.choice(versions)
            at = sector * SECTOR_BYTES
            if at < size:
                out[at : at + SECTOR_BYTES] = pick
        return bytes(out[:size])

    def _put(self, data: bytes, at: int) -> None:
        if len(self.content) < at + len(data):
            self.content.extend(bytes(at + len(data) - len(self.content)))
            self.sizes.append(len(self.content))
        self.content[at : at + len(data)] = data

    def _change(self, start: int, end: int, change: Callable[[], object]) -> None:
        sectors = range(start // SECTOR_BYTES, -(-end // SECTOR_BYTES))
        for sector in sectors:
            self.versions.setdefault(sector, [self._sector(sector)])
        change()
        for sector in sectors:
            self.versions[sector].append(self._sector(sector))

    def _sector(self, sector: int) -> bytes:
        at = sector * SECTOR_BYTES
        return bytes(self.content[at : at + SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")


class SimFile:
    def __init__(self, disk: "SimDisk", inode: Inode) -> None:
        self.disk = disk
        self.inode = inode

    def write(self, data: bytes, at_bytes: int) -> int:
        room = self.disk.room(self.inode, at_bytes + len(data))
        fits = len(data) if room is None else max(0, min(len(data), len(data) + room))
        if not fits and data:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self.inode.write(data[:fits], at_bytes)
        return fits

    def allocate(self, size_bytes: int) -> None:
        room = self.disk.room(self.inode, size_bytes)
        if room is not None and room < 0:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        if size_bytes > len(self.inode.content):
            self.inode.truncate(size_bytes)

    def truncate(self, size_bytes: int) -> None:
        self.inode.truncate(size_bytes)

    def sync(self) -> None:
        self.inode.sync()

    def close(self) -> None:
        pass


class SimDisk:
    """One directory. `space_bytes` None: endless. The lock is per object: a crash or a kill gives a new one."""

    def __init__(self, files: dict[str, bytes] | None = None, space_bytes: int | None = None) -> None:
        self.durable = {name: Inode(content) for name, content in (files or {}).items()}
        self.current = dict(self.durable)
        self.pending: list[tuple[str, str, Inode | None]] = []
        self.space_bytes = space_bytes
        self.locked = False

    def room(self, inode: Inode, size: int) -> int | None:
        """Bytes that would be left, negative when too many, if `inode` grew to `size`."""
        if self.space_bytes is None:
            return None
        used = sum(len(other.content) for other in set(self.current.values()) if other is not inode)
        return self.space_bytes - used - max(size, len(inode.content))

    def crash(self, seed: int) -> "SimDisk":
        """What is found after a power cut. Every seed has its own fate; the disk itself is not changed."""
        rng = random.Random(seed)
        flavour: Flavour = rng.choice(["none", "all", "random", "random", "random"])
        names = dict(self.durable)
        for kind, name, inode in self.pending:
            if flavour == "none" or (flavour == "random" and rng.random() < 0.5):
                continue
            if kind == "remove":
                names.pop(name, None)
            else:
                assert inode is not None
                if kind != "create" and names.get(kind) is inode:
                    del names[kind]
                names[name] = inode
        return SimDisk({name: inode.after_crash(rng, flavour) for name, inode in names.items()}, self.space_bytes)

    def kill(self) -> "SimDisk":
        """What is found after kill -9: everything written. It is still not durable."""
        disk = SimDisk(space_bytes=self.space_bytes)
        disk.durable, disk.current, disk.pending = dict(self.durable), dict(self.current), list(self.pending)
        return disk

    def files(self) -> dict[str, bytes]:
        return {name: bytes(inode.content) for name, inode in self.current.items()}

    def lock(self) -> None:
        if self.locked:
            raise DirectoryInUse("the simulated disk is in use")
        self.locked = True

    def close(self) -> None:
        self.locked = False

    def names(self) -> list[str]:
        return sorted(self.current)

    def size_bytes(self, name: str) -> int:
        return len(self._inode(name).content)

    def read(self, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        content = self._inode(name).content
        return bytes(content[at_bytes:] if length_bytes < 0 else content[at_bytes : at_bytes + length_bytes])

    def create(self, name: str) -> SimFile:
        inode = Inode()
        self.current[name] = inode
        self.pending.append(("create", name, inode))
        return SimFile(self, inode)

    def open(self, name: str) -> SimFile:
        return SimFile(self, self._inode(name))

    def rename(self, old: str, new: str) -> None:
        inode = self._inode(old)
        self.current[new] = self.current.pop(old)
        self.pending.append((old, new, inode))

    def remove(self, name: str) -> None:
        self._inode(name)
        del self.current[name]
        self.pending.append(("remove", name, None))

    def sync_names(self) -> None:
        self.durable = dict(self.current)
        self.pending.clear()

    def _inode(self, name: str) -> Inode:
        if name not in self.current:
            raise FileNotFoundError(errno.ENOENT, "no such simulated file", name)
        return self.current[name]


Kind = Literal["EIO", "ENOSPC", "EINTR", "short"]
Call = tuple[str, str]


class FaultyFile:
    def __init__(self, disk: "FaultyDisk", name: str, file: Any) -> None:
        self.disk, self.name, self.file = disk, name, file
        self.syncs_now = 0

    def write(self, data: bytes, at_bytes: int) -> int:
        if not self.disk.fails("write", self.name):
            return int(self.file.write(data, at_bytes))
        half = len(data) // 2
        self.file.write(data[:half], at_bytes)  # the worst of both: an error, and half of it is there
        if self.disk.kind == "short":
            return half
        raise self.disk.error()

    def allocate(self, size_bytes: int) -> None:
        self.disk.call("allocate", self.name, lambda: self.file.allocate(size_bytes))

    def truncate(self, size_bytes: int) -> None:
        self.disk.call("truncate", self.name, lambda: self.file.truncate(size_bytes))

    def sync(self) -> None:
        if self.disk.fails("sync", self.name):
            if isinstance(self.file, SimFile):
                self.file.inode.fail_sync()
            raise self.disk.error()
        self.syncs_now += 1
        self.disk.syncs_at_once = max(self.disk.syncs_at_once, self.syncs_now)
        self.file.sync()
        self.syncs_now -= 1

    def close(self) -> None:
        self.file.close()


class FaultyDisk:
    """Passes every call on, but fails call number `fail_at` (from 1), and all later ones if `for_good`.

    `done_anyway`: a failing call of names or sizes does its work and then says that it did not. `only` narrows the
    count to some kinds of call. `calls` lists what was called, `syncs_at_once` is the most at a time on one file.
    """

    def __init__(
        self,
        disk: Any,
        fail_at: int = 0,
        kind: Kind = "EIO",
        for_good: bool = False,
        done_anyway: bool = False,
        only: tuple[str, ...] = (),
    ) -> None:
        self.disk = disk
        self.fail_at, self.kind, self.for_good, self.done_anyway, self.only = fail_at, kind, for_good, done_anyway, only
        self.count = 0
        self.calls: list[Call] = []
        self.syncs_at_once = 0

    def fails(self, call: str, name: str) -> bool:
        self.calls.append((call, name))
        if self.only and call not in self.only:
            return False
        self.count += 1
        return 0 < self.fail_at <= self.count if self.for_good else self.count == self.fail_at

    def error(self) -> OSError:
        number = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR, "short": errno.EIO}[self.kind]
        return OSError(number, f"made to fail with {self.kind}")

    def call(self, call: str, name: str, action: Callable[[], Any]) -> Any:
        if not self.fails(call, name):
            return action()
        if self.done_anyway:
            action()
        raise self.error()

    def lock(self) -> None:
        self.call("lock", "", self.disk.lock)

    def close(self) -> None:
        self.disk.close()

    def names(self) -> list[str]:
        return list(self.call("names", "", self.disk.names))

    def size_bytes(self, name: str) -> int:
        return int(self.call("size_bytes", name, lambda: self.disk.size_bytes(name)))

    def read(self, name: str, at_bytes: int = 0, length_bytes: int = -1) -> bytes:
        return bytes(self.call("read", name, lambda: self.disk.read(name, at_bytes, length_bytes)))

    def create(self, name: str) -> FaultyFile:
        return FaultyFile(self, name, self.call("create", name, lambda: self.disk.create(name)))

    def open(self, name: str) -> FaultyFile:
        return FaultyFile(self, name, self.call("open", name, lambda: self.disk.open(name)))

    def rename(self, old: str, new: str) -> None:
        self.call("rename", old, lambda: self.disk.rename(old, new))

    def remove(self, name: str) -> None:
        self.call("remove", name, lambda: self.disk.remove(name))

    def sync_names(self) -> None:
        self.call("sync_names", "", self.disk.sync_names)
