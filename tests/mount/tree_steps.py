"""Steps that change and look at a tree, done to a model and to a real directory alike.

A step is data, so that a failing list of them can be printed, made shorter, and kept as a test for ever.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.mount.tree_model import Dump, Fill, Kind, Shown, TreeModel, refusal

PAGE_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Step:
    """One call: the name of a method of the model, and its arguments."""

    name: str
    args: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"step({', '.join([repr(self.name), *map(repr, self.args)])})"


def step(name: str, *args: Any) -> Step:
    return Step(name, args)


def outcome(tree: Any, one: Step) -> Any:
    """Do a step. Returns what it returned, or the name of its errno."""
    try:
        return getattr(tree, one.name)(*one.args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def parts(one: Step, model: TreeModel) -> list[Step]:
    """A step cut where a crash may cut it: the kernel hands a long write over in requests of whole pages."""
    if one.name != "pwrite" or one.args[0] not in model.handles:
        return [one]
    slot, offset, fill = one.args
    handle = model.handles[slot]
    at = len(handle.node.content) if handle.flags & os.O_APPEND else offset
    bounds = [0, *range(PAGE_BYTES - at % PAGE_BYTES, fill.length, PAGE_BYTES), fill.length]
    return [
        step("pwrite", slot, offset + start, Fill(fill.seed, end - start, fill.skip + start))
        for start, end in pairwise(bounds)
    ]


class RealTree:
    """The same calls on a real directory."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._fds: dict[int, int] = {}

    def dump(self) -> Dump:
        """All that can be seen, and every byte of it."""
        found = {path: os.lstat(self._at(path)) for path in self._paths()}
        twins: dict[int, str] = {}
        for path in sorted(found):
            twins.setdefault(found[path].st_ino, path)
        return {path: self._shown(path, status, twins[status.st_ino]) for path, status in found.items()}

    def close_all(self) -> None:
        for slot in list(self._fds):
            self.close(slot)

    # -- open files ----------------------------------------------------------------------------------------

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        self.close(slot)
        self._fds[slot] = os.open(self._at(path), flags | os.O_CLOEXEC, mode)

    def close(self, slot: int) -> None:
        if slot in self._fds:
            os.close(self._fds.pop(slot))

    def pread(self, slot: int, offset: int, length: int) -> bytes:
        return os.pread(self._fd(slot), length, offset)

    def pwrite(self, slot: int, offset: int, fill: Fill) -> int:
        return os.pwrite(self._fd(slot), fill.content(), offset)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def map_write(self, slot: int, offset: int, fill: Fill, flush: bool) -> int:
        with self._mapped(slot) as memory:
            content = fill.content()[: max(0, len(memory) - offset)]
            memory[offset : offset + len(content)] = content
            if flush:
                memory.flush()
        return len(content)

    def map_read(self, slot: int, offset: int, length: int) -> bytes:
        with self._mapped(slot) as memory:
            return memory[offset : offset + length]

    def fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    # -- by path -------------------------------------------------------------------------------------------

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def rename(self, old: str, new: str, flags: int) -> None:
        if _libc.renameat2(-1, self._at(old).encode(), -1, self._at(new).encode(), flags) != 0:
            raise refusal(ctypes.get_errno())

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))

    def stat(self, path: str) -> tuple[int, int, int]:
        found = os.stat(self._at(path))
        return found.st_mode, found.st_nlink, found.st_size if stat.S_ISREG(found.st_mode) else 0

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def utime(self, path: str, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(mtime_ns, mtime_ns))

    def setxattr(self, path: str, name: str, value: Fill, flags: int) -> None:
        os.setxattr(self._at(path), name, value.content(), flags)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name)

    # -- private -------------------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _fd(self, slot: int) -> int:
        if slot not in self._fds:
            raise refusal(errno.EBADF)
        return self._fds[slot]

    def _mapped(self, slot: int) -> mmap.mmap:
        fd = self._fd(slot)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            raise refusal(errno.EACCES)
        size = os.fstat(fd).st_size
        if not size:
            raise refusal(errno.EINVAL)
        return mmap.mmap(fd, size)

    def _paths(self) -> Iterator[str]:
        stack = [""]
        while stack:
            path = stack.pop()
            yield path
            if stat.S_ISDIR(os.lstat(self._at(path)).st_mode):
                stack += [f"{path}/{name}".lstrip("/") for name in os.listdir(self._at(path))]

    def _shown(self, path: str, status: os.stat_result, twin: str) -> Shown:
        at = self._at(path)
        kind = Kind(stat.S_IFMT(status.st_mode))
        content = b""
        if kind is Kind.FILE:
            content = Path(at).read_bytes()
            assert len(content) == status.st_size, f"{path}: {len(content)} bytes can be read of {status.st_size}"
        elif kind is Kind.SYMLINK:
            content = os.readlink(at).encode()
        names = os.listxattr(at, follow_symlinks=False)
        xattrs = {name: os.getxattr(at, name, follow_symlinks=False) for name in names}
        mode = stat.S_IMODE(status.st_mode)
        return Shown(kind, mode, status.st_nlink, content, xattrs, status.st_mtime_ns, twin)
