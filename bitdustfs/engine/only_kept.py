"""What only a snapshot of an old state shows: one that was made in it, and that the newer state does not have.

Found from the rows that the snapshot has and now has not, so what it costs goes by what was changed since, and not by
the size of the tree. A snapshot shows published content alone: its chunks lie at suppliers, in blocks that nothing
lets go before the old state is gone.

What the newer state shows with the same content is not meant, at the same path or as the same inode, and neither is
what the old state shows still, whatever it is called there: either it was sent, or `unsent` finds it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import trio

from bitdustfs.core.adoption import Entry, numbered
from bitdustfs.core.names import NAME_BYTES
from bitdustfs.core.past import at, split
from bitdustfs.core.ranges import chunk_count
from bitdustfs.engine.unsent import find, is_same
from bitdustfs.model import ROOT_INO, DeadKey, Deeds, Ino, Inode, Snapshot, SnapshotKind
from bitdustfs.ports import Catalog

_PAGE = 100  # (tune) rows in one step: a few milliseconds
_PREFIX = b"Snapshot "
_UNCUT = NAME_BYTES - 15  # bytes of a name to which a number does not come: " (999999999999)"


@dataclass(frozen=True, slots=True)
class OnlyKept:
    """What is put aside of snapshots.

    Attributes:
        folders: what is put into a folder of its own, below that of everything: by generation, its name.
        entries: inodes by their numbers of the past; each version once, directories before what is in them.
        notes: lines for a person.
    """

    folders: dict[int, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def unsent_snapshots(old: Catalog, new: Catalog, deeds: Deeds | None) -> list[Snapshot]:
    """The snapshots of an old state that the newer one never had, the oldest first.

    Args:
        deeds: what was never sent; None: that is not known, and all count that the newer state does not have.
    """
    there = [each for each in new.snapshots() if not each.is_gone]
    own = [each for each in old.snapshots() if not each.is_gone and not each.is_fork]
    made = [each for each in own if deeds is None or each.name in deeds.kept]
    return [each for each in made if not any(_is_one(each, other) for other in there)]


def _is_one(ours: Snapshot, theirs: Snapshot) -> bool:
    """Whether both are one that came with a fork, to here or there: its name, cut for it, may have got a number."""
    one, two = (each.name.encode() for each in (ours, theirs))
    return ours.made_ns == theirs.made_ns and (one.startswith(two[:_UNCUT]) or two.startswith(one[:_UNCUT]))


async def find_only_kept(old: Catalog, new: Catalog, deeds: Deeds | None, live: list[Entry]) -> OnlyKept:
    """What to put aside of snapshots that were made and never sent.

    Args:
        live: what is put aside of the old state as it is now: no folder gets the name of something there.
    """
    found = OnlyKept()
    taken = {path.split(b"/", 1)[0] for entry in live for path in entry.paths}
    passed: dict[tuple[Ino, int], int] = {}  # versions, with the oldest snapshot of which each is put aside, or 0
    for each in unsent_snapshots(old, new, deeds):
        entries, shared = list[Entry](), set[int]()
        newer, paths = _Newer(old, new), _Paths(old, each.generation)
        async for version in _only_then(old, each.generation):
            if version in passed:
                shared.add(passed[version])
                continue
            inode, shown = old.inode(at(each.generation, version[0])), paths.of(version[0])
            if inode is None or not shown:
                continue
            is_put = not newer.shows(inode, shown[0])
            passed[version] = each.generation if is_put else 0
            if is_put:
                entries.append(Entry(inode.ino, tuple(shown), _was_sent(old, inode, deeds)))
        if entries:
            found.folders[each.generation] = _folder(each.name, taken)
            found.entries.extend(sorted(entries, key=lambda entry: entry.paths))
        where = [name for number, name in found.folders.items() if number in shared or number == each.generation]
        if where or each.kind is SnapshotKind.BY_PERSON:
            found.notes.append(_note(each, where))
    return found


def _was_sent(old: Catalog, inode: Inode, deeds: Deeds | None) -> bool:
    """Whether a head named all blocks that a file lies in: then the newer state knew them, and may not any more."""
    if deeds is None:
        return False
    first, last = deeds.first_block, chunk_count(inode.size) - 1
    return first is None or all(chunk.block < first for _index, chunk in old.placed(inode.ino, 0, last))


async def _only_then(old: Catalog, generation: int) -> AsyncIterator[tuple[Ino, int]]:
    """(inode, version) of what a snapshot has and the old state does not show any more, each once."""
    seen = set[Ino]()
    for ino in _hidden(old):
        then = old.inode(at(generation, ino))
        if then is not None and then.version:
            seen.add(ino)
            yield ino, then.version
    await trio.lowlevel.checkpoint()
    after: DeadKey | None = None
    while True:
        page, after = old.only_then(generation, after, _PAGE)
        for ino, version in page:
            if ino not in seen:
                yield ino, version
        if after is None:
            return
        await trio.lowlevel.checkpoint()


def _hidden(old: Catalog) -> Iterator[Ino]:
    """Inodes whose published content is not what the old state shows: newer bytes lie over it, or a newer file."""
    for row in old.local_files():  # every unborn file has one
        if row.dirty_since_ns:
            yield row.ino
        for name in old.superseding(row.ino):
            yield name.superseded


class _Paths:
    """The paths of inodes in a snapshot; those of directories are kept."""

    def __init__(self, catalog: Catalog, generation: int) -> None:
        self._catalog = catalog
        self._generation = generation
        self._known: dict[Ino, bytes | None] = {
            at(generation, ROOT_INO): b""
        }  # of directories, each with a "/" behind

    def of(self, ino: Ino) -> list[bytes]:
        """All paths of an inode, by its number of now, in their order; none if nothing leads to it."""
        names = self._catalog.names_of(at(self._generation, ino))
        found = ((self._directory(name.parent), name.name) for name in names)
        return sorted(above + name for above, name in found if above is not None)

    def _directory(self, ino: Ino) -> bytes | None:
        climbed: list[tuple[Ino, bytes]] = []
        while ino not in self._known:
            self._known[ino] = None  # also for who comes by again
            names = self._catalog.names_of(ino)
            if not names:
                break
            climbed.append((ino, names[0].name))  # a directory has one name
            ino = names[0].parent
        path = self._known[ino]
        for below, name in reversed(climbed):
            path = self._known[below] = path + name + b"/" if path is not None else None
        return path


class _Newer:
    """What the newer state shows; where its directories are is kept."""

    def __init__(self, old: Catalog, catalog: Catalog) -> None:
        self._old = old
        self._catalog = catalog
        self._known: dict[bytes, Inode | None] = {b"": catalog.inode(ROOT_INO)}

    def shows(self, inode: Inode, path: bytes) -> bool:
        """Whether it shows what a snapshot has at a path there, or a file of one number and content elsewhere."""
        if is_same(self._old, inode, self._catalog, self._find(path)):
            return True
        _, ino = split(inode.ino)
        if not inode.is_file or not self._catalog.names_of(ino):
            return False
        return is_same(self._old, inode, self._catalog, self._catalog.inode(ino))

    def _find(self, path: bytes) -> Inode | None:
        above, _, name = path.rpartition(b"/")
        if above not in self._known:
            self._known[above] = find(self._catalog, above)
        directory = self._known[above]
        shown = self._catalog.name(directory.ino, name) if directory is not None else None
        return self._catalog.inode(shown.ino) if shown is not None else None


def _folder(name: str, taken: set[bytes]) -> str:
    """How the folder of a snapshot is called; it is taken then."""
    wanted, number = (_PREFIX + name.encode())[:NAME_BYTES].decode(errors="ignore").encode(), 1
    while (free := numbered(wanted, number).decode(errors="ignore").encode()) in taken:
        number += 1
    taken.add(free)
    return free.decode()


def _note(snapshot: Snapshot, folders: list[str]) -> str:
    by_itself = " by itself" if snapshot.kind is SnapshotKind.BY_ITSELF else ""
    where = f"; what only it still had lies in {' and '.join(folders)}" if folders else ""
    return f"snapshot made{by_itself}: {snapshot.name}; that state does not have it{where}"
