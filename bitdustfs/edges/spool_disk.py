"""The spool on disk: one sparse file per inode, `SPOOL/<low byte of ino>/<ino>`, both in hex; folders are made when
they are needed.

Reading and writing go through the page cache and are done on the loop. Syncing waits for the disk, and giving space
back takes long where there are many pages, so that happens in workers. Up to `OPEN_FILES` descriptors are kept. One
that a worker uses is never closed meanwhile.

After a failed fsync the kernel may have dropped what it could not write, and a second fsync would succeed: so that
inode never becomes durable again until its file was removed and written anew. What was written before a `kill -9`
may not be on the disk either, so each file that was found or reopened counts as not synced.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import trio

from bitdustfs.core.sums import sums_of
from bitdustfs.edges.durable import NO_DESCRIPTORS, sync_directory, translated
from bitdustfs.edges.shared_sync import SharedSync
from bitdustfs.errors import BitdustError, DiskFault
from bitdustfs.model import SUM_UNIT_BYTES, Ino

OPEN_FILES = 256  # (tune) a quarter of the usual limit of 1024 descriptors
RESERVE_BYTES = 16 * 1024 * 1024  # (tune) of the disk, for the catalog: with it a full disk can be tidied up
LOOK_BYTES = 1024 * 1024  # (tune) written between two looks at the disk, as long as it has plenty
THREAD_BYTES = 256 * 1024  # below this a hop into a worker costs more than summing
PUNCH_BYTES = 8 * 1024 * 1024  # (tune) given back by one call: who writes to the same file waits for it
LEAVING_MOST = 32  # descriptors of removed files that `settle` has to close
_STEP_BYTES = 64 * SUM_UNIT_BYTES  # read at once for summing
_FOLDERS = 256
_STAT_BLOCK_BYTES = 512  # unit of st_blocks, whatever the file system
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class _OpenFile:
    """A descriptor and what is known of its durability."""

    __slots__ = ("descriptor", "sync", "users")

    def __init__(self, descriptor: int, sync: SharedSync) -> None:
        self.descriptor = descriptor
        self.sync = sync
        self.users = 0  # tasks that wait for a sync of it


class DiskSpool:
    """`ports.Spool` in a directory.

    Args:
        root: the directory; made if it is missing. Nobody else may use it.
        open_files: how many descriptors are kept.
        reserve_bytes: of the disk that are left to others.
        sync: makes a descriptor's bytes durable, raises OSError; for tests.
    """

    def __init__(
        self,
        root: Path,
        *,
        open_files: int = OPEN_FILES,
        reserve_bytes: int = RESERVE_BYTES,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self._root = root
        self._root_path = str(root)
        self._reserve_bytes = reserve_bytes
        self._unlooked = 0  # bytes that may be written before the disk is looked at again
        self._most_open = open_files
        self._sync = sync
        self._open: OrderedDict[Ino, _OpenFile] = OrderedDict()
        self._failures: dict[Ino, BitdustError] = {}  # of inodes whose fsync failed
        self._blocks: dict[Ino, int] = {}  # disk blocks of each file
        self._leaving: list[int] = []  # descriptors of removed files: closing the last one gives their space back
        self._total_blocks = 0
        self._folders: set[int] = set()
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._scan()
        except OSError as e:
            raise self._translated(e) from e
        self._unnamed = set(self._blocks)  # files whose name may not survive a power loss
        self._loose = self._folders.copy()  # folders of which the same is true

    def write(self, ino: Ino, at: int, content: bytes | memoryview) -> None:
        """Write at a position. Raises DiskFull, DiskFault; then any part of it may have been written."""
        try:
            descriptor = self._file(ino, create=True).descriptor
            left = memoryview(content)
            while left:
                done = os.pwrite(descriptor, left, at)
                at += done
                left = left[done:]
        except OSError as e:
            raise self._translated(e) from e
        finally:
            self._measure(ino)

    def read(self, ino: Ino, at: int, length: int, *, extra: int = 0) -> bytes:
        """Exactly `length` bytes, and up to `extra` more if there are. Raises DiskFault where the file is shorter."""
        try:
            descriptor = self._file(ino, create=False).descriptor
            content = os.pread(descriptor, length + extra, at)
            while len(content) < length:
                more = os.pread(descriptor, length + extra - len(content), at + len(content))
                if not more:
                    raise DiskFault(path=self._path(ino), why=f"it ends before byte {at + length}")
                content += more
        except OSError as e:
            raise self._translated(e) from e
        return content

    async def harden(self, ino: Ino) -> None:
        """Make what was written survive a power loss. Raises DiskFull, DiskFault: for good, see above."""
        if ino in self._failures:
            raise self._failures[ino].with_traceback(None)  # each raising adds to it
        if ino not in self._blocks:
            await trio.lowlevel.checkpoint()
            return
        try:
            file = self._file(ino, create=False)
        except OSError as e:
            raise self._translated(e) from e
        try:
            with self._in_use(ino, file):
                await file.sync.harden()
        finally:
            if file.sync.failure is not None and self._open.get(ino) is file:
                self._failures[ino] = file.sync.failure

    def distrust(self, ino: Ino) -> None:
        """Have each `harden` fail until the file was removed: one did in an earlier process."""
        self._failures[ino] = DiskFault(path=self._path(ino), why="an earlier sync of it failed")

    async def sums(self, ino: Ino, start: int, end: int) -> bytes:
        """The check sums of [start, end); `start` begins a unit, given-back bytes are zeros. Raises DiskFault."""
        try:
            file = self._file(ino, create=False)
            with self._in_use(ino, file):
                if end - start < THREAD_BYTES:
                    await trio.lowlevel.checkpoint()
                    return _sums(file.descriptor, start, end)
                return await trio.to_thread.run_sync(_sums, file.descriptor, start, end)
        except OSError as e:
            raise self._translated(e) from e

    async def punch(self, ino: Ino, ranges: Sequence[tuple[int, int]]) -> None:
        """Give the space of ranges back, as far as the file system can. Nothing if there is no file."""
        await trio.lowlevel.checkpoint()
        wanted = [(at, length) for at, length in ranges if length > 0]
        if ino not in self._blocks or not wanted:
            return
        try:
            file = self._file(ino, create=False)
            with self._in_use(ino, file):
                try:
                    has_holes = await trio.to_thread.run_sync(_punch_all, file.descriptor, wanted)
                finally:
                    self._measure(ino)
                if not has_holes:  # here, where nobody writes at the end between the look and the cut
                    _cut_end(file.descriptor, wanted)
                    self._measure(ino)
        except OSError as e:
            raise self._translated(e) from e

    def remove(self, ino: Ino) -> None:
        """Forget the inode's file; not an error if there is none. What is large stays until `settle`."""
        if ino not in self._blocks:
            return
        if self._blocks[ino] * _STAT_BLOCK_BYTES >= THREAD_BYTES and len(self._leaving) < LEAVING_MOST:
            with suppress(OSError):  # then removing it takes longer, and that is all
                self._leaving.append(os.open(self._path(ino), os.O_RDONLY | os.O_CLOEXEC))
        self._let_go(ino)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path(ino))
        except OSError as e:
            raise self._translated(e) from e
        self._total_blocks -= self._blocks.pop(ino)
        self._failures.pop(ino, None)
        self._unnamed.discard(ino)

    async def settle(self) -> None:
        """Give the space of removed files back."""
        await trio.lowlevel.checkpoint()
        leaving, self._leaving = self._leaving, []
        if leaving:
            with trio.CancelScope(shield=True):  # nobody else knows of them now
                await trio.to_thread.run_sync(_close_all, leaving)

    def used_bytes(self) -> int:
        """Disk space that the spool takes."""
        return self._total_blocks * _STAT_BLOCK_BYTES

    def fits(self, length: int) -> bool:
        """Say whether the disk takes so many bytes more and keeps the reserve. Looks at it from time to time."""
        if length <= self._unlooked:
            self._unlooked -= length
            return True
        try:
            disk = os.statvfs(self._root)
        except OSError:
            return True  # the write will say what is wrong
        spare = disk.f_bavail * disk.f_frsize - self._reserve_bytes - length
        self._unlooked = LOOK_BYTES if spare >= self._reserve_bytes else 0
        return spare >= 0

    def inos(self) -> Sequence[Ino]:
        """The inodes that have a file."""
        return sorted(self._blocks)

    def close(self) -> None:
        """Let go of all descriptors."""
        for ino in list(self._open):
            self._let_go(ino)
        self._close_leaving()

    # -- private -----------------------------------------------------------------------------------------
    def _path(self, ino: Ino) -> str:  # a Path takes as long as to open it
        return f"{self._root_path}/{_folder(ino):02x}/{ino:x}"

    def _folder_path(self, ino: Ino) -> Path:
        return self._root / f"{_folder(ino):02x}"

    def _file(self, ino: Ino, *, create: bool) -> _OpenFile:
        file = self._open.get(ino)
        if file is not None:
            self._open.move_to_end(ino)
            file_is_written = create
        else:
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            if create and _folder(ino) not in self._folders:
                self._make_folder(ino)
            descriptor = self._open_file(ino, flags)
            file = _OpenFile(descriptor, SharedSync(lambda: self._make_durable(ino, descriptor), self._translated))
            self._open[ino] = file
            if ino not in self._blocks:
                self._blocks[ino] = 0
                self._unnamed.add(ino)
            self._close_oldest(leave=self._most_open)
            file_is_written = True
        if file_is_written:
            file.sync.changed()
        return file

    def _make_folder(self, ino: Ino) -> None:
        self._folder_path(ino).mkdir(mode=0o700)
        self._folders.add(_folder(ino))
        self._loose.add(_folder(ino))

    def _open_file(self, ino: Ino, flags: int) -> int:
        try:
            return os.open(self._path(ino), flags, 0o600)
        except OSError as e:
            if e.errno not in NO_DESCRIPTORS or not (self._open or self._leaving):
                raise
        self._close_oldest(leave=0)  # others need them more
        self._close_leaving()
        return os.open(self._path(ino), flags, 0o600)

    def _close_oldest(self, *, leave: int) -> None:
        surplus = len(self._open) - leave
        if surplus <= 0:
            return
        # a write error that nobody saw yet is kept by the kernel and told to the next descriptor's fsync (Linux 4.16)
        idle = (ino for ino, file in self._open.items() if file.users == 0)
        for ino in list(islice(idle, surplus)):
            self._let_go(ino)

    def _let_go(self, ino: Ino) -> None:
        file = self._open.pop(ino, None)
        if file is not None and file.users == 0:
            os.close(file.descriptor)

    def _close_leaving(self) -> None:
        leaving, self._leaving = self._leaving, []
        _close_all(leaving)

    @contextmanager
    def _in_use(self, ino: Ino, file: _OpenFile) -> Iterator[None]:
        """Keep a descriptor open while a worker uses it, also if the file is removed meanwhile."""
        file.users += 1
        try:
            yield
        finally:
            file.users -= 1
            if file.users == 0 and self._open.get(ino) is not file:
                os.close(file.descriptor)

    def _make_durable(self, ino: Ino, descriptor: int) -> None:
        """In a worker."""
        self._sync(descriptor)
        if ino in self._unnamed:
            sync_directory(self._folder_path(ino))
            loose = self._loose.copy()
            if _folder(ino) in loose:
                sync_directory(self._root)
                self._loose -= loose
            self._unnamed.discard(ino)

    def _measure(self, ino: Ino) -> None:
        file = self._open.get(ino)
        if file is not None:
            blocks = os.fstat(file.descriptor).st_blocks
            self._total_blocks += blocks - self._blocks[ino]
            self._blocks[ino] = blocks

    def _scan(self) -> None:
        for number, folder in enumerate(self._root / f"{number:02x}" for number in range(_FOLDERS)):
            try:
                with os.scandir(folder) as entries:
                    self._folders.add(number)
                    for entry in entries:
                        ino = _ino_of(entry.name)
                        if ino is not None and _folder(ino) == number:
                            self._blocks[ino] = entry.stat(follow_symlinks=False).st_blocks
            except FileNotFoundError:
                continue
        self._total_blocks = sum(self._blocks.values())

    def _translated(self, error: OSError) -> BitdustError:
        return translated(error, self._root)


def _folder(ino: Ino) -> int:
    return ino % _FOLDERS


def _ino_of(name: str) -> Ino | None:
    try:
        ino = Ino(int(name, 16))
    except ValueError:
        return None
    return ino if f"{ino:x}" == name else None


def _sums(descriptor: int, start: int, end: int) -> bytes:
    """Maybe in a worker."""
    parts = []
    for at in range(start, end, _STEP_BYTES):
        length = min(_STEP_BYTES, end - at)
        content = os.pread(descriptor, length, at)
        parts.append(sums_of(content.ljust(length, b"\0")))
    return b"".join(parts)


def _punch_all(descriptor: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """In a worker. Says whether there can be holes."""
    for start, whole in ranges:
        for at in range(start, start + whole, PUNCH_BYTES):
            length = min(PUNCH_BYTES, start + whole - at)
            if _libc.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, at, length) != 0:
                code = ctypes.get_errno()
                if code in (errno.EOPNOTSUPP, errno.ENOSYS):
                    return False
                raise OSError(code, os.strerror(code))
    return True


def _cut_end(descriptor: int, ranges: Sequence[tuple[int, int]]) -> None:
    """There are no holes here, but an end that nobody needs can go."""
    size = end = os.fstat(descriptor).st_size
    for at, length in sorted(ranges, reverse=True):
        if at < end <= at + length:
            end = at
    if end < size:
        os.ftruncate(descriptor, end)


def _close_all(descriptors: Sequence[int]) -> None:
    """Maybe in a worker."""
    for descriptor in descriptors:
        os.close(descriptor)
