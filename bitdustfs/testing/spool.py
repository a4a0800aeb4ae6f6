"""Spools for tests: one in memory that can lose power, and a coat that fails by a script."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from bitdustfs.core.sums import sums_of
from bitdustfs.errors import DiskFault, DiskFull
from bitdustfs.model import Ino
from bitdustfs.ports import Spool

_PAGE = 4096
_ZEROS = bytes(_PAGE)


class _File:
    """Pages that were written, and where the file ends."""

    def __init__(self, pages: dict[int, bytes] | None = None, end: int = 0) -> None:
        self.pages = dict(pages or {})
        self.end = end

    def copy(self) -> _File:
        return _File(self.pages, self.end)


class MemorySpool:
    """`ports.Spool` in memory, page by page, so that holes cost nothing."""

    def __init__(self) -> None:
        self.disk_bytes: int | None = None  # of the disk under it; None: endless
        self._files: dict[Ino, _File] = {}
        self._hard: dict[Ino, _File] = {}
        self._distrusted: set[Ino] = set()

    def write(self, ino: Ino, at: int, content: bytes | memoryview) -> None:
        """Write at a position."""
        file = self._files.setdefault(ino, _File())
        self._patch(file, at, bytes(content))
        file.end = max(file.end, at + len(content))

    def read(self, ino: Ino, at: int, length: int, *, extra: int = 0) -> bytes:
        """Exactly `length` bytes, and up to `extra` more if there are. Raises DiskFault where the file is shorter."""
        file = self._files.get(ino)
        if file is None or (length and at + length > file.end):
            raise DiskFault(path=f"memory spool, inode {ino}", why=f"it ends before byte {at + length}")
        length = min(length + extra, max(0, file.end - at))
        first = at // _PAGE
        joined = b"".join(file.pages.get(p, _ZEROS) for p in range(first, (at + length - 1) // _PAGE + 1))
        return joined[at - first * _PAGE :][:length]

    async def harden(self, ino: Ino) -> None:
        """Make what was written survive a power loss."""
        await trio.lowlevel.checkpoint()
        if ino in self._distrusted:
            raise DiskFault(path=f"memory spool, inode {ino}", why="an earlier sync of it failed")
        if ino in self._files:
            self._hard[ino] = self._files[ino].copy()

    def distrust(self, ino: Ino) -> None:
        """Have each `harden` fail until the file was removed."""
        self._distrusted.add(ino)

    async def sums(self, ino: Ino, start: int, end: int) -> bytes:
        """The check sums of [start, end)."""
        await trio.lowlevel.checkpoint()
        file = self._files.get(ino)
        if file is None:
            raise DiskFault(path=f"memory spool, inode {ino}", why="it does not exist")
        there = max(start, min(end, file.end))
        return sums_of((self.read(ino, start, there - start) if there > start else b"").ljust(end - start, b"\0"))

    async def punch(self, ino: Ino, ranges: Sequence[tuple[int, int]]) -> None:
        """Give the space of ranges back, here and in what survives."""
        await trio.lowlevel.checkpoint()
        for file in (self._files.get(ino), self._hard.get(ino)):
            if file is not None:
                for at, length in ranges:
                    self._punch(file, at, min(length, file.end - at))

    def remove(self, ino: Ino) -> None:
        """Forget the inode's file, also in what survives."""
        self._files.pop(ino, None)
        self._hard.pop(ino, None)
        self._distrusted.discard(ino)

    async def settle(self) -> None:
        """Nothing is left of a removed file."""
        await trio.lowlevel.checkpoint()

    def used_bytes(self) -> int:
        """Bytes of all pages that hold something."""
        return sum(len(file.pages) for file in self._files.values()) * _PAGE

    def fits(self, length: int) -> bool:
        """By the size that a test gave the disk."""
        return self.disk_bytes is None or self.used_bytes() + length <= self.disk_bytes

    def inos(self) -> Sequence[Ino]:
        """The inodes that have a file."""
        return sorted(self._files)

    def close(self) -> None:
        """Nothing to let go of: the same spool may be used again."""

    def flip(self, ino: Ino, at: int) -> None:
        """Change one bit of a byte, as a failing disk would."""
        for file in (self._files.get(ino), self._hard.get(ino)):
            if file is not None and at < file.end:
                page, place = divmod(at, _PAGE)
                content = bytearray(file.pages.get(page, _ZEROS))
                content[place] ^= 1
                file.pages[page] = bytes(content)

    def lose_power(self) -> None:
        """Forget what was not hardened. Removed and punched is gone: the worst that a disk can do."""
        self._files = {ino: file.copy() for ino, file in self._hard.items()}
        self._distrusted.clear()

    def drop_soft(self, ino: Ino) -> None:
        """Show what was hardened last in place of what came later, as a kernel may after it failed to write that."""
        end, self._files[ino] = self._files[ino].end, self._hard.get(ino, _File()).copy()
        self._files[ino].end = end

    def _punch(self, file: _File, at: int, length: int) -> None:
        if length <= 0:
            return
        self._patch(file, at, bytes(length))
        for page in range(at // _PAGE, (at + length - 1) // _PAGE + 1):
            if file.pages[page] == _ZEROS:
                del file.pages[page]

    @staticmethod
    def _patch(file: _File, at: int, content: bytes) -> None:
        done = 0
        while done < len(content):
            page, start = divmod(at + done, _PAGE)
            part = content[done : done + _PAGE - start]
            old = file.pages.get(page, _ZEROS)
            file.pages[page] = old[:start] + part + old[start + len(part) :]
            done += len(part)


class FaultySpool:
    """A coat around a spool that fails by a script: one letter for each call that can fail.

    "." the call is done, "E" it fails like a broken disk, "N" like a full one. After the script all is well.
    """

    def __init__(self, spool: Spool, script: str = "") -> None:
        self._spool = spool
        self._script = iter(script)

    def write(self, ino: Ino, at: int, content: bytes | memoryview) -> None:
        """Write, or fail without having written."""
        self._step()
        self._spool.write(ino, at, content)

    def read(self, ino: Ino, at: int, length: int, *, extra: int = 0) -> bytes:
        """Read, or fail."""
        self._step()
        return self._spool.read(ino, at, length, extra=extra)

    async def harden(self, ino: Ino) -> None:
        """Harden, or fail without having hardened."""
        await trio.lowlevel.checkpoint()
        self._step()
        await self._spool.harden(ino)

    def distrust(self, ino: Ino) -> None:
        """Pass it on; never fails."""
        self._spool.distrust(ino)

    async def sums(self, ino: Ino, start: int, end: int) -> bytes:
        """Sum, or fail."""
        await trio.lowlevel.checkpoint()
        self._step()
        return await self._spool.sums(ino, start, end)

    async def punch(self, ino: Ino, ranges: Sequence[tuple[int, int]]) -> None:
        """Punch, or fail without having punched."""
        await trio.lowlevel.checkpoint()
        self._step()
        await self._spool.punch(ino, ranges)

    def remove(self, ino: Ino) -> None:
        """Remove, or fail without having removed."""
        self._step()
        self._spool.remove(ino)

    async def settle(self) -> None:
        """As the spool does; never fails."""
        await self._spool.settle()

    def used_bytes(self) -> int:
        """As the spool says; never fails."""
        return self._spool.used_bytes()

    def fits(self, length: int) -> bool:
        """As the spool says; never fails."""
        return self._spool.fits(length)

    def inos(self) -> Sequence[Ino]:
        """As the spool says; never fails."""
        return self._spool.inos()

    def close(self) -> None:
        """Close the spool; never fails."""
        self._spool.close()

    def _step(self) -> None:
        match next(self._script, "."):
            case ".":
                return
            case "E":
                raise DiskFault(path="faulty spool", why="the script says so")
            case "N":
                raise DiskFull(path="faulty spool")
            case letter:
                raise ValueError(f"a script has the letters '.', 'E' and 'N', not {letter!r}")
