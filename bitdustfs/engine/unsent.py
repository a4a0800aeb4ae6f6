"""Unsent: what only an old state of a volume has, compared with the newer one that takes its place.

By name and by content: files that were made or written in the changes that no head ever named, or that are dirty,
and that the newer state does not show with the same content at the same path. Of a file that was only renamed,
removed or given other attributes the newer state has the bytes: a line is said of it.

Where it cannot be told which changes were sent, everything that differs counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitdustfs.core.adoption import Entry
from bitdustfs.core.names import shown
from bitdustfs.core.past import split
from bitdustfs.core.ranges import chunk_count
from bitdustfs.model import NO_INO, ROOT_INO, Cookie, Deeds, Fingerprint, Ino, Inode, Name, RestoreReport
from bitdustfs.ports import Catalog

_PAGE = 1000


def find_entries(old: Catalog, new: Catalog, deeds: Deeds | None) -> list[Entry]:
    """What to put aside, directories before what is in them.

    Args:
        deeds: what was never sent, apart from dirty files; None: that is not known.
    """
    dirty = {row.ino for row in old.local_files() if row.dirty_since_ns}
    found: list[Entry] = []
    for ino in _all_inos(old) if deeds is None else deeds.created | deeds.rewritten | dirty:
        inode = old.inode(ino)
        paths = paths_of(old, ino)
        if inode is None or ino == ROOT_INO or not paths:
            continue  # without a name it was needed by who had it open
        if ino not in dirty and is_same(old, inode, new, find(new, paths[0])):
            continue
        if (
            ino not in dirty
            and deeds is not None
            and ino not in deeds.created
            and _is_named_elsewhere(old, inode, new)
        ):
            continue  # only its name or its attributes are others: after a snapshot that looks as if it was written
        found.append(Entry(ino, tuple(paths)))
    return sorted(found, key=lambda entry: entry.paths)


def find_notes(old: Catalog, new: Catalog, deeds: Deeds | None, entries: list[Entry]) -> list[str]:
    """Lines for a person on what was done to the old state and is not done again; of snapshots see `only_kept`."""
    if deeds is None:
        return ["cannot be told, for it is not known which changes had been sent: all that differs was put aside"]
    aside = {entry.ino for entry in entries}
    notes = [f"hired: {label}; hire it again" for label in deeds.hired]
    told: set[Ino] = set()
    for parent, name, ino in (*deeds.unnamed, *_names_then(old, deeds)):
        above = paths_of(old, parent) if parent != ROOT_INO else [b""]
        if not above or ino in aside:
            continue
        was, now = _join(above[0], name), paths_of(old, ino)
        if now:
            notes.append(f"renamed: {shown(was)} to {', '.join(map(shown, now))}")
        elif old.name(parent, name) is None:
            notes.append(f"removed: {shown(was)}")
        told.add(ino)
    for ino in sorted((deeds.named | _named_since(old, deeds)) - told - aside - deeds.created):
        notes.append(f"given a further name: {', '.join(map(shown, paths_of(old, ino)))}")
    for ino in sorted((deeds.altered | _altered_since(old, deeds) | _marked(old, deeds)) - aside - deeds.created):
        paths = paths_of(old, ino)
        if paths and not _looks_same(old, ino, new, find(new, paths[0])):
            notes.append(f"given another mode, owner or extended attribute: {shown(paths[0])}")
    return sorted(notes)


def _names_then(old: Catalog, deeds: Deeds) -> Iterator[tuple[Ino, bytes, Ino]]:
    """Names that went and that a snapshot has, if it is still there."""
    for directory, cookie in deeds.unnamed_then:
        for name in _names_at(old, directory, cookie):
            yield split(directory)[1], name.name, split(name.ino)[1]


def _named_since(old: Catalog, deeds: Deeds) -> set[Ino]:
    """Inodes with a name that showed another one before; where a fork shows another one, nobody gave a name here."""
    return {
        ino
        for directory, cookie, ino in deeds.named_then
        if all(split(name.ino)[1] != ino for name in _names_at(old, directory, cookie))
    }


def _names_at(old: Catalog, directory: Ino, cookie: Cookie) -> Iterator[Name]:
    """The name at this place of a directory; nothing if it is not there any more."""
    for name, _inode in old.names(directory, Cookie(cookie - 1), 1):
        if name.cookie == cookie:
            yield name


def _altered_since(old: Catalog, deeds: Deeds) -> set[Ino]:
    """Inodes with another mode or owner than before the first snapshot, if what it has is still there."""
    found = set()
    for then in deeds.inodes_then:
        was, now = old.inode(then), old.inode(split(then)[1])
        if was is None or now is None:
            continue
        before = deeds.before.get(now.ino, (None, None, None))
        pairs = zip(before, (was.mode, was.uid, was.gid), strict=True)
        if [there if known is None else known for known, there in pairs] != [now.mode, now.uid, now.gid]:
            found.add(now.ino)
    return found


def _marked(old: Catalog, deeds: Deeds) -> set[Ino]:
    """Inodes that have an extended attribute with another value than before, or no longer, or anew."""
    found = set()
    for (ino, name), was in deeds.xattrs.items():
        before = old.xattr(Ino(was), name) if isinstance(was, int) else was
        if old.xattr(ino, name) != before:
            found.add(ino)
    return found


def _looks_same(old: Catalog, ino: Ino, new: Catalog, other: Inode | None) -> bool:
    """Whether another state shows the same mode, owner and extended attributes."""
    inode = old.inode(ino)
    if inode is None or other is None:
        return False
    one, two = ((each.mode, each.uid, each.gid) for each in (inode, other))
    return one == two and list(old.xattrs(ino)) == list(new.xattrs(other.ino))


def restore_notes(report: RestoreReport) -> list[str]:
    """Lines on what the newer state lacks, because who wrote it had not sent it yet."""
    lost = [f"the file {shown(path)}" for path in report.removed]
    back = [f"the last version of {shown(path)}: it shows an older one" for path in report.reverted]
    return lost + back


def is_same(old: Catalog, inode: Inode, new: Catalog, other: Inode | None) -> bool:
    """Whether another state shows the same published content, or the same thing without content."""
    if other is None or inode.mode >> 12 != other.mode >> 12:
        return False
    if inode.is_file:
        return inode.size == other.size and prints(old, inode) == prints(new, other)
    return (inode.target, inode.rdev) == (other.target, other.rdev)


def _is_named_elsewhere(old: Catalog, inode: Inode, new: Catalog) -> bool:
    """Whether another state has the same inode, which both had from before, and shows it under some name."""
    return is_same(old, inode, new, new.inode(inode.ino)) and bool(paths_of(new, inode.ino))


def prints(catalog: Catalog, inode: Inode) -> dict[int, Fingerprint]:
    """The fingerprints of a published file's chunks, by index, without holes."""
    last = chunk_count(inode.size) - 1  # rows behind the end are of a version that is not published
    return {index: chunk.fingerprint for index, chunk in catalog.placed(inode.ino, 0, last)}


def find(catalog: Catalog, path: bytes) -> Inode | None:
    """What lies at a path from the root of a volume."""
    ino = ROOT_INO
    for part in path.split(b"/"):
        name = catalog.name(ino, part)
        if name is None:
            return None
        ino = name.ino
    return catalog.inode(ino)


def paths_of(catalog: Catalog, ino: Ino) -> list[bytes]:
    """All paths of an inode from the root of the volume; none if nothing leads to it."""
    found = (_path(catalog, name) for name in catalog.names_of(ino))
    return sorted(path for path in found if path)


def _path(catalog: Catalog, name: Name) -> bytes:
    parts, seen = [name.name], set[Ino]()
    while name.parent != ROOT_INO:
        above = catalog.names_of(name.parent)
        if not above or name.parent in seen:
            return b""
        seen.add(name.parent)
        name = above[0]  # a directory has one name
        parts.append(name.name)
    return b"/".join(reversed(parts))


def _all_inos(catalog: Catalog) -> Iterator[Ino]:
    seen, directories = {ROOT_INO}, [ROOT_INO]
    while directories:
        parent, after = directories.pop(), Cookie(0)
        while page := catalog.names(parent, after, _PAGE):
            for name, inode in page:
                if name.ino != NO_INO and name.ino not in seen:
                    seen.add(name.ino)
                    yield name.ino
                    if inode.is_dir:
                        directories.append(name.ino)
            after = page[-1][0].cookie


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
