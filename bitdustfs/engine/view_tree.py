"""The tree of a view: names and files as the head that is shown has them, to be read only.

A file that was never published has no content at the suppliers: its name shows what it superseded, or nothing.

**Open files keep their version.** The kernel knows files by numbers, and what it keeps of one belongs to its number.
When a step makes another content of a file that is open, the number that the kernel has for it goes on to stand for
the old one (a *pinned* version), and whoever looks the file up from then on is told another number. Of a pinned
version the chunks are remembered, and copies of what changed, as far as they are here and few. The others are fetched
as long as the catalog still knows them; what the writer has let go of can be read nowhere any more (ESTALE). Open
directories keep their names: see `engine/view_listings`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bitdustfs.core.past import FIRST_PAST
from bitdustfs.core.ranges import chunk_count, chunk_parts
from bitdustfs.engine.files import Files
from bitdustfs.engine.reader import Reader
from bitdustfs.engine.tree import Tree
from bitdustfs.engine.view import View
from bitdustfs.engine.view_listings import Listings
from bitdustfs.errors import FileError
from bitdustfs.model import NO_INO, ROOT_INO, ChunkRow, Cookie, Ino, Inode, Name, Touches
from bitdustfs.ports import Catalog

PINNED_CHUNKS = 100_000  # (tune) of all pinned versions: 25 GiB, in about 30 MB; of more, what changed is stale
PINNED_BYTES = 16 * 1024 * 1024  # (tune) of copies of what changed


@dataclass(slots=True)
class Pinned:
    """A file as it was when somebody opened it."""

    ino: Ino  # of the catalog
    inode: Inode
    rows: Mapping[int, ChunkRow] | None  # by index, without holes; None: too many
    kept: dict[int, bytes] = field(default_factory=dict)


class ViewTree:
    """Looking at the view of a reader.

    Args:
        view: says what changes. Its steps and what is asked here are on one loop.

    What the kernel knows and has open is taken over from `tree`: it may have been the tree of a writer up to now.
    """

    def __init__(self, catalog: Catalog, tree: Tree, files: Files, reader: Reader, view: View) -> None:
        self._catalog = catalog
        self._tree = tree
        self._files = files
        self._reader = reader
        self._known, self._opens = tree.lives.hand_over()  # lookups, opens: by the kernel's numbers
        self._numbers: dict[Ino, Ino] = {}  # of inodes that have another number than their own
        self._inodes: dict[Ino, Ino] = {}  # and back
        self._last_number = Ino(FIRST_PAST)
        self._pinned: dict[Ino, Pinned] = {}  # by number
        self._ready: dict[Ino, Pinned] = {}  # by number: to be pinned with the step that is being made
        self._names: set[tuple[Ino, bytes]] = set()  # directory and name: of what the kernel may know otherwise
        self._stale: set[Ino] = set()  # numbers of which the kernel may have other pages and attributes
        self.listings = Listings(catalog, self)
        view.prepare.append(self._prepare)
        view.before.append(self._before)
        view.after.append(self._after)

    # -- what the kernel knows -----------------------------------------------------------------------------------

    def remember(self, number: Ino) -> None:
        """The kernel is told of a number once more."""
        self._known.add(number)

    def forget(self, number: Ino, count: int) -> None:
        """The kernel takes back `count` of its lookups."""
        if self._known.subtract(number, count) == 0:
            self._let_go(number)

    def known(self) -> Iterator[Ino]:
        """The numbers that the kernel knows."""
        return (Ino(number) for number in self._known)

    def is_stale(self, number: Ino) -> bool:
        """Whether the kernel may still have pages of another content under this number."""
        return number in self._stale

    def take_stale(self) -> tuple[set[tuple[Ino, bytes]], set[Ino]]:
        """What the kernel is to forget: names, and numbers. They count as stale until `settled`."""
        names, self._names = self._names, set()
        return names, set(self._stale)

    def settled(self, numbers: set[Ino]) -> None:
        """The kernel has forgotten what it had of these numbers."""
        self._stale -= numbers

    def opened(self, number: Ino) -> None:
        """A file was opened. Raises FileError: it is not there any more."""
        if number not in self._pinned:
            self.attributes(number)
            self._files.open(self._ino(number))
        self._opens[number] += 1

    def closed(self, number: Ino) -> None:
        """A file was closed for good by one of those who opened it."""
        self._opens[number] -= 1
        if self._opens[number] <= 0:
            del self._opens[number]
        if number not in self._pinned:
            self._files.close(self._ino(number))
        self._let_go(number)

    # -- looking -------------------------------------------------------------------------------------------------

    def lookup(self, parent: Ino, name: bytes) -> Inode | None:
        """What a name shows, with the kernel's number; None: nothing."""
        if name in (b".", b".."):
            return self.attributes(parent if name == b"." else self.parent_of(parent))
        found = self._catalog.name(parent, name)
        inode = self._shown(found) if found is not None else None
        if inode is None and not self.attributes(parent).is_dir:
            raise FileError(errno=errno.ENOTDIR, what="not a directory")
        return inode

    def attributes(self, number: Ino) -> Inode:
        """An inode as it is shown, or was when it was opened. Raises FileError: ESTALE."""
        pinned = self._pinned.get(number)
        if pinned is not None:
            return pinned.inode
        inode = self._catalog.inode(self._ino(number))
        if inode is None:
            raise FileError(errno=errno.ESTALE, what="it is not in this volume any more")
        return replace(inode, ino=number)

    def listing(self, directory: Ino, after: Cookie, limit: int) -> Sequence[tuple[Name, Inode]]:
        """Up to `limit` names of a directory with cookies above `after`, in their order, without `.` and `..`."""
        found: list[tuple[Name, Inode]] = []
        while not found and (page := self._catalog.names(directory, after, limit)):
            after = page[-1][0].cookie
            shown = ((name, self._shown(name)) for name, _ in page)
            found = [(name, inode) for name, inode in shown if inode is not None]
        return found

    def at(self, directory: Ino, cookie: Cookie) -> tuple[Name, Inode] | None:
        """What is shown at a place of a directory, with the catalog's inode; None: nothing."""
        for name, _ in self._catalog.names(directory, Cookie(cookie - 1), 1):
            inode = self._shown(name) if name.cookie == cookie else None
            return (name, replace(inode, ino=self._ino(inode.ino))) if inode is not None else None
        return None

    def number_of(self, ino: Ino) -> Ino:
        """The kernel's number for an inode of the catalog."""
        return self._numbers.get(ino, ino)

    def parent_of(self, directory: Ino) -> Ino:
        """The directory that a directory is in; the root is in itself."""
        return self._tree.parent_of(directory)

    def readlink(self, number: Ino) -> bytes:
        """The target of a symlink."""
        inode = self.attributes(number)
        if not inode.is_symlink:
            raise FileError(errno=errno.EINVAL, what="not a symlink")
        return inode.target

    def ino_of(self, number: Ino) -> Ino:
        """The inode of the catalog that a number stands for. Raises FileError: ESTALE, for an old version."""
        if number in self._pinned:
            raise FileError(errno=errno.ESTALE, what="an older version has no attributes of its own")
        return self._ino(number)

    async def read(self, number: Ino, offset: int, length: int) -> bytes:
        """Read up to `length` bytes. Raises what `Files.read` does; FileError: ESTALE."""
        pinned = self._pinned.get(number)
        if pinned is None:
            content = await self._files.read(self._ino(number), offset, length)
            pinned = self._pinned.get(number)
            if pinned is None:
                return content
        end = min(pinned.inode.size, offset + length)
        if offset >= end:
            return b""
        out = []
        for part in chunk_parts(offset, end - offset):
            chunk = await self._pinned_chunk(pinned, part.index)
            out.append(chunk[part.start : part.end].ljust(part.end - part.start, b"\0"))
        return b"".join(out)

    # -- steps ---------------------------------------------------------------------------------------------------

    def _prepare(self, touches: Touches, spans: Mapping[Ino, Sequence[tuple[int, int]]]) -> None:
        """Before copies are let go of: remember those of open files, as far as they are few."""
        self._ready.clear()
        self._make_ready(touches)
        room = PINNED_BYTES - sum(len(each) for pinned in self._pinned.values() for each in pinned.kept.values())
        for pinned in self._ready.values():
            for index in _indexes(spans.get(pinned.ino, ()), pinned.inode.size, whole=pinned.ino in touches.gone):
                row = (pinned.rows or {}).get(index)
                if row is None or row.length > room:
                    continue
                copy = self._files.cache.chunk(pinned.ino, index, row.length)
                if copy is not None:
                    pinned.kept[index] = copy
                    room -= len(copy)

    def _before(self, touches: Touches) -> None:
        """Just before the commit: those that were opened since, too; and the names that are shown now."""
        self._make_ready(touches)
        self.listings.before(touches)
        self._note_names(touches)

    def _after(self, touches: Touches) -> None:
        """Just after the commit: pin what is open, and note what the kernel may know otherwise."""
        for number, pinned in self._ready.items():
            if self._opens[number] > 0:
                self._pin(number, pinned)
        self._ready.clear()
        self._note_names(touches)
        for ino in touches.contents.keys() | touches.gone:
            self._names.update((name.parent, name.name) for name in self._catalog.names_of(ino))
        for ino in touches.contents.keys() | touches.inodes:
            self._stale.add(self._numbers.get(ino, ino))

    def _make_ready(self, touches: Touches) -> None:
        room = PINNED_CHUNKS - sum(len(each.rows or ()) for each in (*self._pinned.values(), *self._ready.values()))
        for ino in touches.contents.keys() | touches.gone:
            number = self._numbers.get(ino, ino)
            inode = self._catalog.inode(ino)
            if not self._opens[number] or number in self._ready or number in self._pinned or inode is None:
                continue
            count = chunk_count(inode.size)
            rows = dict(self._catalog.placed(ino, 0, count - 1)) if count <= room else None
            room -= count if rows is not None else 0
            left = replace(inode, ino=number, nlink=0) if ino in touches.gone else replace(inode, ino=number)
            self._ready[number] = Pinned(ino, left, rows)

    def _pin(self, number: Ino, pinned: Pinned) -> None:
        self._pinned[number] = pinned
        for _ in range(self._opens[number]):
            self._files.close(pinned.ino)
        self._inodes.pop(number, None)
        self._last_number = fresh = Ino(self._last_number - 1)
        self._numbers[pinned.ino], self._inodes[fresh] = fresh, pinned.ino

    def _note_names(self, touches: Touches) -> None:
        for parent, cookie in touches.names:
            name = self._catalog.name_at(parent, cookie)
            if name is not None:
                self._names.add((parent, name))

    # -- private -------------------------------------------------------------------------------------------------

    def _ino(self, number: Ino) -> Ino:
        return self._inodes.get(number, number)

    def _shown(self, name: Name) -> Inode | None:
        for ino in (name.ino, name.superseded):
            inode = self._catalog.inode(ino) if ino != NO_INO else None
            if inode is not None and not (inode.is_file and inode.version == 0):
                return replace(inode, ino=self._numbers.get(ino, ino))
        return None

    def _let_go(self, number: Ino) -> None:
        """Forget a number that nobody has any more."""
        if number in self._opens or number in self._known or number == ROOT_INO:
            return
        self._pinned.pop(number, None)
        ino = self._inodes.pop(number, None)
        if ino is not None and self._numbers.get(ino) == number:
            if ino in self._pinned or ino in self._known:
                self._inodes[number] = ino  # its own number still stands for an older version
            else:
                del self._numbers[ino]

    async def _pinned_chunk(self, pinned: Pinned, index: int) -> bytes:
        kept = pinned.kept.get(index)
        if kept is not None:
            return kept
        if pinned.rows is None:
            raise _stale()
        row = pinned.rows.get(index)
        if row is None:
            return b""
        now = self._catalog.chunk(row.chunk)
        if now is None or now.fingerprint != row.fingerprint:
            raise _stale()
        return await self._reader.of_row(now)


def _indexes(spans: Sequence[tuple[int, int]], size: int, *, whole: bool) -> Iterator[int]:
    count = chunk_count(size)
    if whole:
        yield from range(count)
        return
    for first, length in spans:
        yield from range(first, min(first + length, count))


def _stale() -> FileError:
    return FileError(errno=errno.ESTALE, what="the version that was opened is not there any more: open it again")
