"""A process that works on one file, or on its part of one, and compares every byte it reads with what it wrote.

    python -m tests.mount.exerciser FILE SEED OPERATIONS LAST [FIRST_BYTE END]

With two more arguments the file is shared: only bytes FIRST_BYTE … END - 1 are ours, and its size is left alone.
What FILE must contain in the end goes to the file LAST. Exit code 1: a read was wrong; what was done last is printed.
After fsx of Apple and its descendants.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bitdustfs.model import CHUNK_BYTES, INLINE_BYTES

MOST_BYTES = 3 * CHUNK_BYTES + 50_000  # of a file of our own
_PUNCH_AND_KEEP_SIZE = 3  # fallocate(2)
_SHOWN = 30
_EDGES = (0, 4096, INLINE_BYTES, CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Wrong(Exception):
    """A read returned other bytes than were written."""


class Exerciser:
    """One file and what it must contain. `first` and `end` are set if it is shared."""

    def __init__(self, path: str, seed: int, first: int = 0, end: int = 0) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._first, self._shared = first, end > 0
        self.content = bytearray(end - first)
        self.done: deque[str] = deque(maxlen=_SHOWN)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        both: dict[Callable[[], None], int] = {
            self._read: 20,
            self._write: 30,
            self._map_read: 8,
            self._map_write: 10,
            self._sync: 2,
            self._reopen: 3,
            self._punch: 1,
            self._check_size: 3,
        }
        alone: dict[Callable[[], None], int] = {
            self._truncate: 10,
            self._append: 8,
            self._allocate: 3,
            self._renew: 1,
        }
        chosen = both if self._shared else {**both, **alone}
        self._operations, self._weights = list(chosen), list(chosen.values())

    def run(self, count: int) -> None:
        """Do so many operations, and read everything at the end."""
        for operation in self._random.choices(self._operations, self._weights, k=count):
            operation()
        self._compare("all", 0, len(self.content), os.pread(self._fd, len(self.content), self._first))
        os.close(self._fd)

    # -- operations ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        at, length = self._place()
        got = os.pread(self._fd, length, self._first + at)
        wanted = len(self.content) - at if self._shared else length  # what follows may be of another process
        self._compare("read", at, length, got[:wanted])

    def _write(self) -> None:
        at, length = self._place(grow=True)
        content = self._bytes(length)
        self.done.append(f"write {length} at {at}")
        os.pwrite(self._fd, content, self._first + at)
        self._put(at, content)

    def _append(self) -> None:
        content = self._bytes(self._length())
        if len(self.content) + len(content) > MOST_BYTES:
            return
        self.done.append(f"append {len(content)} at {len(self.content)}")
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, content)
        os.close(fd)
        self.content += content

    def _map_read(self) -> None:
        at, length = self._place()
        length = min(length, len(self.content) - at)
        if length > 0:
            with self._mapped() as memory:
                got = memory[self._first + at : self._first + at + length]
            self._compare("map read", at, length, got)

    def _map_write(self) -> None:
        at, length = self._place()
        content = self._bytes(min(length, len(self.content) - at))
        if content:
            self.done.append(f"map write {len(content)} at {at}")
            with self._mapped() as memory:
                memory[self._first + at : self._first + at + len(content)] = content
                if self._random.random() < 0.3:
                    memory.flush()
            self._put(at, content)

    def _truncate(self) -> None:
        size = self._position() if self._random.random() < 0.9 else 0
        self.done.append(f"truncate {len(self.content)} to {size}")
        os.ftruncate(self._fd, size)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def _renew(self) -> None:
        """Truncate by open."""
        self.done.append("open with truncation")
        os.close(os.open(self._path, os.O_WRONLY | os.O_TRUNC))
        self.content.clear()

    def _allocate(self) -> None:
        """The C library makes up for the missing fallocate; no byte may change by it."""
        at, length = self._place(grow=True)
        self.done.append(f"allocate {length} at {at}")
        os.posix_fallocate(self._fd, at, length)
        self.content.extend(bytes(max(0, at + length - len(self.content))))

    def _punch(self) -> None:
        failed = _libc.fallocate(self._fd, _PUNCH_AND_KEEP_SIZE, self._first, 4096) != 0
        if not failed or ctypes.get_errno() != errno.EOPNOTSUPP:
            raise Wrong(f"punching a hole ended with {ctypes.get_errno() if failed else 0}")

    def _sync(self) -> None:
        self.done.append("fsync")
        self._random.choice((os.fsync, os.fdatasync))(self._fd)

    def _reopen(self) -> None:
        self.done.append("close and open")
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)

    def _check_size(self) -> None:
        size = os.fstat(self._fd).st_size
        if not self._shared and size != len(self.content):
            raise Wrong(f"the file has {size} bytes, not {len(self.content)}")

    # -- parts ---------------------------------------------------------------------------------------------

    def _mapped(self) -> mmap.mmap:
        return mmap.mmap(self._fd, os.fstat(self._fd).st_size)

    def _compare(self, what: str, at: int, length: int, got: bytes) -> None:
        self.done.append(f"{what} {length} at {at}")
        wanted = self.content[at : at + length]
        if got != wanted:
            pairs = enumerate(zip(got, wanted, strict=False))
            wrong = next((i for i, (a, b) in pairs if a != b), min(len(got), len(wanted)))
            raise Wrong(f"{what} of {length} at {at}: {len(got)} bytes, wrong from {at + wrong} on")

    def _put(self, at: int, content: bytes) -> None:
        self.content.extend(bytes(max(0, at - len(self.content))))
        self.content[at : at + len(content)] = content

    def _place(self, *, grow: bool = False) -> tuple[int, int]:
        """An offset and a length of at least 1; beyond the end only where the file may grow."""
        most = MOST_BYTES if grow and not self._shared else max(1, len(self.content))
        at = min(self._position(), most - 1)
        return at, min(self._length(), most - at)

    def _position(self) -> int:
        if self._random.random() < 0.5:
            return self._random.randrange(len(self.content) + 1)
        at = self._random.choice(_EDGES) - self._first % CHUNK_BYTES + self._random.randint(-200, 200)
        return min(max(0, at), MOST_BYTES)

    def _length(self) -> int:
        return self._random.choice((self._random.randint(1, 300), self._random.randint(1, 9000), 4096, 70_000))

    def _bytes(self, length: int) -> bytes:
        return bytes(length) if self._random.random() < 0.05 else self._random.randbytes(length)


def main(path: str, seed: str, count: str, last: str, *part: str) -> int:
    exerciser = Exerciser(path, int(seed), *map(int, part))
    try:
        exerciser.run(int(count))
    except Wrong as error:
        print(f"seed {seed}: {error}; before it:", *exerciser.done, sep="\n    ")
        return 1
    Path(last).write_bytes(exerciser.content)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
