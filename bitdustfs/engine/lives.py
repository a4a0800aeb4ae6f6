"""Lives: which inodes are still needed, and by whom.

An inode stays while a name shows it, while an unborn file supersedes it (see `Name.superseded`), while the kernel
knows it (its lookup count), or while it is open. The catalog's `nlink` of anything but a directory counts the first
two together: the names that show it and the names that keep it. So one number in the catalog decides, also after a
crash, whether anything stored refers to an inode; what the kernel is told is that number without the keepers.

Everything in memory here can be lost: an inode that only the kernel or an open file needed is an orphan of the next
start, and is dropped then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from bitdustfs.core.tally import Tally
from bitdustfs.engine.journal import Journal
from bitdustfs.model import NO_INO, ROOT_INO, FileState, Ino, Inode, Name
from bitdustfs.ports import Catalog


class Contents(Protocol):
    """What the name space needs of the live content of regular files. `engine.files.Files` is one."""

    def attributes(self, ino: Ino) -> Inode:
        """The catalog's row with live size and times. Raises NotFound."""
        ...

    def as_it_lives(self, inode: Inode) -> Inode:
        """The same for a row that is at hand."""
        ...

    def created(self, inode: Inode) -> None: ...

    def dropped(self, ino: Ino) -> None: ...

    def open(self, ino: Ino) -> None: ...

    def close(self, ino: Ino) -> None: ...

    def touch(self, ino: Ino, *, mtime_ns: int | None, ctime_ns: int) -> None: ...

    def state(self, ino: Ino) -> FileState: ...

    async def truncate(self, ino: Ino, size: int) -> None: ...

    async def settle(self, ino: Ino) -> None: ...


class Lives:
    """Who needs which inode."""

    def __init__(self, catalog: Catalog, journal: Journal, files: Contents) -> None:
        self._catalog = catalog
        self._journal = journal
        self._files = files
        self._known = Tally()  # kernel lookup counts
        self._opens: Counter[Ino] = Counter()
        self._keepers: Counter[Ino] = Counter()  # how many names keep an inode as superseded
        self._nameless: set[Ino] = set()  # nothing stored refers to it; the kernel or an open file does

    def start(self) -> int:
        """Drop what only the kernel needed when the last process ended. Returns how many inodes."""
        orphans = [ino for ino in self._catalog.orphans() if ino != ROOT_INO]
        for ino in orphans:
            with self._journal.operation():
                self._drop(ino)
        for row in self._catalog.local_files():  # every unborn file has one
            for name in self._catalog.superseding(row.ino):
                self._keepers[name.superseded] += 1
        return len(orphans)

    # -- the kernel and open files -------------------------------------------------------------------------

    def remember(self, ino: Ino) -> None:
        """The kernel is told of an inode once more."""
        self._known.add(ino)

    def forget(self, ino: Ino, count: int) -> None:
        """The kernel takes back `count` of its lookups."""
        if self._known.subtract(ino, count) == 0:
            self._collect(ino)

    def forget_all(self) -> None:
        """The kernel is gone, and with it all open files."""
        self._known.clear()
        for ino in list(self._opens):
            self._opens[ino] = 1
            self.closed(ino)
        for ino in list(self._nameless):
            self._collect(ino)

    def known(self) -> Iterator[Ino]:
        """The inodes that the kernel knows."""
        return (Ino(number) for number in self._known)

    def hand_over(self) -> tuple[Tally, Counter[Ino]]:
        """Let somebody else count on, in these same tallies: lookups and opens. Nothing is dropped from here on."""
        self._nameless.clear()
        self._keepers.clear()
        return self._known, self._opens

    def opened(self, ino: Ino) -> None:
        """A regular file was opened."""
        self._files.open(ino)
        self._opens[ino] += 1

    def closed(self, ino: Ino) -> None:
        """A regular file was closed for good by one of those who opened it."""
        self._opens[ino] -= 1
        if self._opens[ino] <= 0:
            del self._opens[ino]
        self._files.close(ino)
        self._collect(ino)

    # -- names ---------------------------------------------------------------------------------------------

    def shown(self, inode: Inode) -> Inode:
        """The inode as the kernel is told of it: its links without those that only keep it."""
        if self._keepers:
            keepers = self._keepers.get(inode.ino)
            if keepers:
                return inode.changed(nlink=max(0, inode.nlink - keepers))
        return inode

    @property
    def keeps(self) -> bool:
        """Whether any name keeps an inode as superseded."""
        return bool(self._keepers)

    def kept(self, *, before: Iterable[Name], after: Ino = NO_INO) -> None:
        """Note, after the operation, that the names `before` were replaced by one that keeps `after`."""
        for name in before:
            if name.superseded != NO_INO:
                self._keepers[name.superseded] -= 1
                if self._keepers[name.superseded] <= 0:
                    del self._keepers[name.superseded]
        if after != NO_INO:
            self._keepers[after] += 1

    def let_go(self, ino: Ino, *, now_ns: int) -> None:
        """A stored reference to an inode is gone. Called last in the operation that removed it.

        A directory has one name: without it nothing is left.
        """
        inode = self._catalog.inode(ino)
        if inode is None:
            return
        nlink = 0 if inode.is_dir else max(0, inode.nlink - 1)
        if nlink == 0 and not self._held(ino):
            self._drop(ino)
            return
        self._catalog.put_inode(inode.changed(nlink=nlink, ctime_ns=now_ns))
        if nlink == 0:
            self._nameless.add(ino)

    def nameless(self, ino: Ino) -> None:
        """An inode was made that has no name yet: it goes with its last close, unless it gets one."""
        self._nameless.add(ino)

    # -- private -------------------------------------------------------------------------------------------

    def _held(self, ino: Ino) -> bool:
        return ino in self._opens or ino in self._known

    def _collect(self, ino: Ino) -> None:
        if ino not in self._nameless or self._held(ino):
            return
        self._nameless.discard(ino)
        inode = self._catalog.inode(ino)
        if inode is not None and inode.nlink == 0:  # the operation that took its last name may have been undone
            with self._journal.operation(admitted=True):  # nobody would ask for it again
                self._drop(ino)

    def _drop(self, ino: Ino) -> None:
        inode = self._catalog.inode(ino)
        if inode is None:
            return
        if inode.is_file:
            self._files.dropped(ino)
        self._catalog.drop_inode(ino)
