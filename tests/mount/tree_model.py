"""A plain model of a file system in memory: what a mount has to answer, with the errno of each refusal.

`TreeModel` has one method for each step; `tests.mount.tree_steps` has the same for a real directory.
The caller is root: permissions never refuse.
"""

from __future__ import annotations

import enum
import errno
import os
import random
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAX_FILE_BYTES = 1 << 44
NOREPLACE = 1  # renameat2(2)
EXCHANGE = 2
_LINKS_FOLLOWED = 40  # MAXSYMLINKS of Linux


class Kind(enum.Enum):
    FILE = stat.S_IFREG
    DIRECTORY = stat.S_IFDIR
    SYMLINK = stat.S_IFLNK


@dataclass(frozen=True, slots=True)
class Fill:
    """Bytes to write, named by a seed; those of seed 0 are zeros."""

    seed: int
    length: int
    skip: int = 0

    def content(self) -> bytes:
        if self.seed == 0:
            return bytes(self.length)
        end = self.skip + self.length
        return random.Random(self.seed).randbytes(end + -end % 4)[
            self.skip : end
        ]  # whole words: any prefix is the same


@dataclass(slots=True, eq=False)
class Node:
    """An inode. `mtime_ns` is None after a change at a time that the model does not know."""

    kind: Kind
    mode: int
    number: int  # of the inode, never used twice
    mtime_ns: int | None = None
    links: int = 0  # names of what is no directory
    content: bytearray = field(default_factory=bytearray)
    target: str = ""
    entries: dict[str, Node] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def nlink(self) -> int:
        if self.kind is not Kind.DIRECTORY:
            return self.links
        return 2 + sum(child.kind is Kind.DIRECTORY for child in self.entries.values())


@dataclass(slots=True)
class Handle:
    """An open file."""

    node: Node
    flags: int


@dataclass(frozen=True, slots=True)
class Shown:
    """What can be seen at one path. `twin` is the first path of the same inode."""

    kind: Kind
    mode: int
    nlink: int
    content: bytes | bytearray
    xattrs: Mapping[str, bytes]
    mtime_ns: int | None
    twin: str
    number: int = 0

    def difference(self, real: Shown, overwritten: Sequence[Written] = ()) -> str | None:
        """What `real` shows otherwise than this model does."""
        if len(self.content) != len(real.content):
            return f"{len(real.content)} bytes, not {len(self.content)}"
        for name in ("kind", "mode", "nlink", "xattrs", "twin"):
            if getattr(self, name) != getattr(real, name):
                return f"{name}: {getattr(real, name)!r}, not {getattr(self, name)!r}"
        if self.mtime_ns not in (None, real.mtime_ns):
            return f"mtime: {real.mtime_ns}, not {self.mtime_ns}"
        if self.content != real.content:
            later = [each for each in overwritten if each.number == self.number]
            wrong = [at for at in _different(self.content, real.content) if real.content[at] not in _at(later, at)]
            return f"byte {wrong[0]} of {len(self.content)}, and {len(wrong) - 1} more" if wrong else None
        return None


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that were written to an inode."""

    number: int
    offset: int
    content: bytes


Dump = Mapping[str, Shown]


def difference(model: Dump, real: Dump, overwritten: Sequence[Written] = ()) -> str | None:
    """The first thing in which a real tree differs from the model; None: they are the same.

    Args:
        overwritten: such bytes may be there already, whatever the model says.
    """
    for path in sorted({*model, *real}):
        if path not in real:
            return f"{path} is missing"
        if path not in model:
            return f"{path} should not be there"
        found = model[path].difference(real[path], overwritten)
        if found is not None:
            return f"{path}: {found}"
    return None


def refusal(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class TreeModel:
    """A tree of names and inodes, and open files in numbered slots."""

    def __init__(self) -> None:
        self._numbers = 0
        self.root = self._node(Kind.DIRECTORY, 0o755)
        self.written: list[Written] = []
        self.handles: dict[int, Handle] = {}

    # -- what is there -------------------------------------------------------------------------------------

    def walk(self) -> Iterator[tuple[str, Node]]:
        """All paths, the root as "", parents first."""
        stack = [("", self.root)]
        while stack:
            path, node = stack.pop()
            yield path, node
            stack += [(f"{path}/{name}".lstrip("/"), child) for name, child in sorted(node.entries.items())][::-1]

    def dump(self) -> Dump:
        """What can be seen. Shares the contents: compare it before the next step."""
        twins: dict[int, str] = {}
        for path, node in self.walk():
            twins[id(node)] = min(path, twins.get(id(node), path))
        return {
            path: Shown(
                node.kind,
                node.mode,
                node.nlink,
                node.target.encode() if node.kind is Kind.SYMLINK else node.content,
                node.xattrs,
                node.mtime_ns,
                twins[id(node)],
                node.number,
            )
            for path, node in self.walk()
        }

    def settle(self, real: Dump) -> None:
        """Learn the times that were seen: without a change they must stay."""
        for path, node in self.walk():
            node.mtime_ns = real[path].mtime_ns

    # -- open files ----------------------------------------------------------------------------------------

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        self.close(slot)
        directory, name, node = self._find(path, follow=not flags & os.O_EXCL)
        if node is None:
            if not flags & os.O_CREAT:
                raise refusal(errno.ENOENT)
            node = self._make(directory, name, self._node(Kind.FILE, mode))
        elif flags & os.O_EXCL:
            raise refusal(errno.EEXIST)
        elif node.kind is Kind.DIRECTORY and flags & (os.O_CREAT | os.O_ACCMODE):
            raise refusal(errno.EISDIR)
        elif flags & os.O_TRUNC:
            _resize(node, 0)
        self.handles[slot] = Handle(node, flags)

    def close(self, slot: int) -> None:
        self.handles.pop(slot, None)

    def pread(self, slot: int, offset: int, length: int) -> bytes:
        handle = self._handle(slot)
        if handle.flags & os.O_ACCMODE == os.O_WRONLY:
            raise refusal(errno.EBADF)
        if handle.node.kind is Kind.DIRECTORY:
            raise refusal(errno.EISDIR)
        return bytes(handle.node.content[offset : offset + length])

    def pwrite(self, slot: int, offset: int, fill: Fill) -> int:
        handle = self._handle(slot)
        if handle.flags & os.O_ACCMODE == os.O_RDONLY:
            raise refusal(errno.EBADF)
        node, content = handle.node, fill.content()
        at = len(node.content) if handle.flags & os.O_APPEND else offset
        if at + len(content) > MAX_FILE_BYTES:
            raise refusal(errno.EFBIG)
        if content:
            _resize(node, max(len(node.content), at))
            self._put(node, at, content)
        return len(content)

    def ftruncate(self, slot: int, size: int) -> None:
        handle = self._handle(slot)
        if handle.flags & os.O_ACCMODE == os.O_RDONLY:
            raise refusal(errno.EINVAL)
        _check_size(size)
        _resize(handle.node, size)

    def map_write(self, slot: int, offset: int, fill: Fill, flush: bool) -> int:
        """Write through a shared memory map, as far as the file reaches."""
        node = self._mappable(slot)
        content = fill.content()[: max(0, len(node.content) - offset)]
        if content:
            self._put(node, offset, content)
        return len(content)

    def map_read(self, slot: int, offset: int, length: int) -> bytes:
        return bytes(self._mappable(slot).content[offset : offset + length])

    def fsync(self, slot: int) -> None:
        self._handle(slot)

    # -- by path -------------------------------------------------------------------------------------------

    def truncate(self, path: str, size: int) -> None:
        node = self._there(path)
        if node.kind is Kind.DIRECTORY:
            raise refusal(errno.EISDIR)
        _check_size(size)
        _resize(node, size)

    def mkdir(self, path: str, mode: int) -> None:
        self._make(*self._free(path), self._node(Kind.DIRECTORY, mode))

    def symlink(self, target: str, path: str) -> None:
        self._make(*self._free(path), self._node(Kind.SYMLINK, 0o777, target=target))

    def link(self, old: str, new: str) -> None:
        node = self._there(old, follow=False)
        directory, name = self._free(new)
        if node.kind is Kind.DIRECTORY:
            raise refusal(errno.EPERM)
        mtime_ns = node.mtime_ns
        self._make(directory, name, node)
        node.mtime_ns = mtime_ns

    def unlink(self, path: str) -> None:
        directory, name, node = self._find(path, follow=False)
        if node is None:
            raise refusal(errno.ENOENT)
        if node.kind is Kind.DIRECTORY:
            raise refusal(errno.EISDIR)
        self._take(directory, name)

    def rmdir(self, path: str) -> None:
        directory, name, node = self._find(path, follow=False)
        if node is None:
            raise refusal(errno.ENOENT)
        if node.kind is not Kind.DIRECTORY:
            raise refusal(errno.ENOTDIR)
        if node.entries:
            raise refusal(errno.ENOTEMPTY)
        self._take(directory, name)

    def rename(self, old: str, new: str, flags: int) -> None:
        old_directory, old_name, moved = self._find(old, follow=False)
        new_directory, new_name, there = self._find(new, follow=False)
        if moved is None:
            raise refusal(errno.ENOENT)
        if flags == NOREPLACE and there is not None:
            raise refusal(errno.EEXIST)
        if flags == EXCHANGE and there is None:
            raise refusal(errno.ENOENT)
        if _contains(moved, new_directory):
            raise refusal(errno.EINVAL)
        if there is not None and _contains(there, old_directory):
            raise refusal(errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY)
        if there is moved:
            return
        if flags == EXCHANGE:
            assert there is not None
            old_directory.entries[old_name], new_directory.entries[new_name] = there, moved
            old_directory.mtime_ns = new_directory.mtime_ns = None
            return
        if there is not None:
            _check_replaceable(there, moved)
            self._take(new_directory, new_name)
        self._take(old_directory, old_name)
        mtime_ns = moved.mtime_ns
        self._make(new_directory, new_name, moved)
        moved.mtime_ns = mtime_ns

    def readlink(self, path: str) -> str:
        node = self._there(path, follow=False)
        if node.kind is not Kind.SYMLINK:
            raise refusal(errno.EINVAL)
        return node.target

    def listdir(self, path: str) -> list[str]:
        node = self._there(path)
        if node.kind is not Kind.DIRECTORY:
            raise refusal(errno.ENOTDIR)
        return sorted(node.entries)

    def stat(self, path: str) -> tuple[int, int, int]:
        node = self._there(path)
        return node.kind.value | node.mode, node.nlink, len(node.content)

    def chmod(self, path: str, mode: int) -> None:
        self._there(path).mode = mode

    def utime(self, path: str, mtime_ns: int) -> None:
        self._there(path).mtime_ns = mtime_ns

    def setxattr(self, path: str, name: str, value: Fill, flags: int) -> None:
        xattrs = self._there(path).xattrs
        if flags == os.XATTR_CREATE and name in xattrs:
            raise refusal(errno.EEXIST)
        if flags == os.XATTR_REPLACE and name not in xattrs:
            raise refusal(errno.ENODATA)
        xattrs[name] = value.content()

    def removexattr(self, path: str, name: str) -> None:
        xattrs = self._there(path).xattrs
        if name not in xattrs:
            raise refusal(errno.ENODATA)
        del xattrs[name]

    # -- private -------------------------------------------------------------------------------------------

    def _node(self, kind: Kind, mode: int, *, target: str = "") -> Node:
        self._numbers += 1
        return Node(kind, mode, self._numbers, target=target)

    def _put(self, node: Node, offset: int, content: bytes) -> None:
        node.content[offset : offset + len(content)] = content
        node.mtime_ns = None
        self.written.append(Written(node.number, offset, content))

    def _find(self, path: str, *, follow: bool) -> tuple[Node, str, Node | None]:
        """The directory of the last name, that name, and what it shows."""
        directory, parts, followed = self.root, path.split("/"), 0
        while True:
            if directory.kind is not Kind.DIRECTORY:
                raise refusal(errno.ENOTDIR)
            name, *rest = parts
            node = directory.entries.get(name)
            if node is not None and node.kind is Kind.SYMLINK and (rest or follow):
                followed += 1
                if followed > _LINKS_FOLLOWED:
                    raise refusal(errno.ELOOP)
                parts = node.target.split("/") + rest
                continue
            if not rest:
                return directory, name, node
            if node is None:
                raise refusal(errno.ENOENT)
            directory, parts = node, rest

    def _there(self, path: str, *, follow: bool = True) -> Node:
        node = self._find(path, follow=follow)[2]
        if node is None:
            raise refusal(errno.ENOENT)
        return node

    def _free(self, path: str) -> tuple[Node, str]:
        directory, name, node = self._find(path, follow=False)
        if node is not None:
            raise refusal(errno.EEXIST)
        return directory, name

    def _make(self, directory: Node, name: str, node: Node) -> Node:
        directory.entries[name] = node
        directory.mtime_ns = node.mtime_ns = None
        node.links += 1
        return node

    def _take(self, directory: Node, name: str) -> None:
        directory.entries.pop(name).links -= 1
        directory.mtime_ns = None

    def _handle(self, slot: int) -> Handle:
        if slot not in self.handles:
            raise refusal(errno.EBADF)
        return self.handles[slot]

    def _mappable(self, slot: int) -> Node:
        handle = self._handle(slot)
        if handle.flags & os.O_ACCMODE != os.O_RDWR:
            raise refusal(errno.EACCES)
        if not handle.node.content:
            raise refusal(errno.EINVAL)
        return handle.node


def _resize(node: Node, size: int) -> None:
    del node.content[size:]
    node.content.extend(bytes(size - len(node.content)))
    node.mtime_ns = None


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise refusal(errno.EFBIG)


def _contains(above: Node, below: Node) -> bool:
    return above is below or any(_contains(child, below) for child in above.entries.values())


def _check_replaceable(there: Node, moved: Node) -> None:
    if moved.kind is Kind.DIRECTORY and there.kind is not Kind.DIRECTORY:
        raise refusal(errno.ENOTDIR)
    if moved.kind is not Kind.DIRECTORY and there.kind is Kind.DIRECTORY:
        raise refusal(errno.EISDIR)
    if there.entries:
        raise refusal(errno.ENOTEMPTY)


def _different(one: bytes | bytearray, other: bytes | bytearray) -> list[int]:
    return [at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


def _at(written: Sequence[Written], at: int) -> set[int]:
    """The values that were written to one byte."""
    return {each.content[at - each.offset] for each in written if 0 <= at - each.offset < len(each.content)}
