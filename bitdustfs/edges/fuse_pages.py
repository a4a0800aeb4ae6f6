"""Making the kernel forget pages of files, and names, without ever waiting for it on the loop.

To drop a page the kernel waits until a read of it has been answered, and writes it first if it is dirty (mmap). Both
need our loop. So it is told in a worker thread, in batches, and no thread may be left with it when the mount ends:
such a thread could neither be stopped nor end, and the process with it.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import trio

from bitdustfs.model import Ino

BATCH = 256  # inodes for one hop into a worker thread
_log = logging.getLogger(__name__)


class Pages:
    """The pages that the kernel keeps of files.

    Args:
        invalidate: makes the kernel forget those of one inode; may block; raises OSError.
        invalidate_name: the same of a name in a directory.
    """

    def __init__(
        self, invalidate: Callable[[int], None], invalidate_name: Callable[[int, bytes], None] | None = None
    ) -> None:
        self._invalidate = invalidate
        self._invalidate_name = invalidate_name
        self._telling = trio.Lock()  # held while a worker thread talks to the kernel
        self._leaving = threading.Event()

    async def drop(self, inodes: Iterator[Ino]) -> int:
        """Make the kernel forget the pages of these inodes. Returns how many they were."""
        total = 0
        while batch := list(islice(inodes, BATCH)):
            async with self._telling:
                if self._leaving.is_set():
                    break
                await trio.to_thread.run_sync(self._tell, batch)
            total += len(batch)
        return total

    async def drop_names(self, names: Iterator[tuple[Ino, bytes]]) -> None:
        """Make the kernel forget these names, by directory, also that they are missing."""
        while batch := list(islice(names, BATCH)):
            async with self._telling:
                if self._leaving.is_set():
                    break
                await trio.to_thread.run_sync(self._tell_names, batch)

    async def leave(self) -> None:
        """Let no worker thread talk to the kernel any more; wait for one that does."""
        self._leaving.set()
        async with self._telling:
            return

    def _tell(self, batch: Sequence[Ino]) -> None:
        for ino in batch:
            if self._leaving.is_set():
                return
            try:
                self._invalidate(ino)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTCONN):  # it forgot the inode meanwhile, or left
                    _log.warning("the kernel did not drop the pages of inode %d: %s", ino, error)

    def _tell_names(self, batch: Sequence[tuple[Ino, bytes]]) -> None:
        assert self._invalidate_name is not None
        for parent, name in batch:
            if self._leaving.is_set():
                return
            try:
                self._invalidate_name(parent, name)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTCONN, errno.ENOTDIR):  # it knows none, or left
                    _log.warning("the kernel did not forget a name in directory %d: %s", parent, error)
