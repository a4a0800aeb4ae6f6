"""What is different between two trees of a volume, each of a snapshot or of now: by name, directory by directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum

import trio

from bitdustfs.core.past import at, split
from bitdustfs.model import ROOT_INO, Cookie, Ino, Inode
from bitdustfs.ports import Catalog

_PAGE = 500  # names in one step


class Change(Enum):
    """What happened to a name from the first tree to the second."""

    CAME = "+"
    WENT = "-"
    CONTENT = "M"  # other content, or something else under the same name
    ATTRIBUTES = "A"  # mode, owner, extended attributes


@dataclass(frozen=True, slots=True)
class Difference:
    """One name that is not the same."""

    change: Change
    path: bytes  # from the root of the volume; of a directory with "/" at its end


async def differences(
    catalog: Catalog, one: int, two: int, *, is_unsent: Callable[[Ino], bool], trusts_ctime: bool = True
) -> AsyncIterator[Difference]:
    """Compare two generations; 0 is now. In the order of the tree.

    Args:
        is_unsent: whether a file of now was written and has no version for that yet; a snapshot has only versions.
        trusts_ctime: whoever changed extended attributes changed that too. Nobody can set it, but in a catalog.
    """
    pending: list[tuple[bytes, Ino | None, Ino | None]] = [(b"", _root(one), _root(two))]
    while pending:
        path, left, right = pending.pop()
        before, after = await _names(catalog, left), await _names(catalog, right)
        below = []
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            is_dir = (now or was or _NEVER).is_dir
            here = path + name + (b"/" if is_dir else b"")
            change = _change(catalog, was, now, is_unsent, trusts_ctime=trusts_ctime)
            if change is not None:
                yield Difference(change, here)
            dirs = [each.ino if each is not None and each.is_dir else None for each in (was, now)]
            if any(dirs):
                below.append((path + name + b"/", dirs[0], dirs[1]))
        pending.extend(reversed(below))


def _root(generation: int) -> Ino:
    return at(generation, ROOT_INO) if generation else ROOT_INO


async def _names(catalog: Catalog, directory: Ino | None) -> dict[bytes, Inode]:
    found: dict[bytes, Inode] = {}
    after = Cookie(0)
    while directory is not None and (page := catalog.names(directory, after, _PAGE)):
        found.update((name.name, inode) for name, inode in page)
        after = page[-1][0].cookie
        await trio.lowlevel.checkpoint()
    return found


def _change(
    catalog: Catalog, was: Inode | None, now: Inode | None, is_unsent: Callable[[Ino], bool], *, trusts_ctime: bool
) -> Change | None:
    if was is None or now is None:
        return Change.CAME if was is None else Change.WENT
    same = split(was.ino)[1] == split(now.ino)[1]
    if was.mode >> 12 != now.mode >> 12 or (was.target, was.rdev) != (now.target, now.rdev):
        return Change.CONTENT
    is_dirty = any(not split(each.ino)[0] and is_unsent(each.ino) for each in (was, now))
    if was.is_file and (not same or was.version != now.version or is_dirty):
        return Change.CONTENT
    if (was.mode, was.uid, was.gid) != (now.mode, now.uid, now.gid):
        return Change.ATTRIBUTES
    if (was.ctime_ns != now.ctime_ns or not trusts_ctime) and catalog.xattrs(was.ino) != catalog.xattrs(now.ino):
        return Change.ATTRIBUTES
    return None


_NEVER = Inode(Ino(0), 0, 0, 0, 0, 0, 0, 0, 0)
