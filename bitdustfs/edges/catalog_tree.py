"""The catalog's tree: inodes, names, extended attributes, as they are now and as snapshots have them (core/past).

Inodes are read far more often than written, so the last used ones are kept as objects. The cache is right because
every change of an inode goes through `put_inode` and `drop_inode`, and a rollback empties it. Whoever makes, moves or
removes a name asks for it two to four times, so what was found for the last names, or that nothing was, is kept too.

Changed inodes are put late (`catalog_behind`). What reads their table in the file calls `_put_behind` before.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bitdustfs.core.past import FIRST_PAST, at, split
from bitdustfs.edges.catalog_store import Store
from bitdustfs.edges.catalog_versioned import LIVE, Versioned
from bitdustfs.model import NO_INO, ROOT_INO, Code, Cookie, Ino, Inode, Name

CACHED_INODES = 16384  # (tune) about 8 MB
CACHED_NAMES = 4096  # (tune) about 1 MB

_INODE_VALUES = (
    "mode", "uid", "gid", "nlink", "size", "atime_ns", "mtime_ns", "ctime_ns", "k", "n", "version", "rdev", "target",
)  # fmt: skip
INODES = Versioned("r_inode", ("ino",), _INODE_VALUES)
NAMES = Versioned("r_name", ("parent", "cookie"), ("name", "ino", "superseded"))
XATTRS = Versioned("r_xattr", ("ino", "name"), ("value",))

_INODE = f"SELECT {', '.join(_INODE_VALUES)} FROM r_inode WHERE ino = ? AND died = {LIVE}"
_ORPHANS = f"""
    SELECT ino FROM r_inode AS i WHERE died = {LIVE} AND ino <> {ROOT_INO}
    AND NOT EXISTS (SELECT 1 FROM r_name AS n WHERE n.ino = i.ino AND n.died = {LIVE})
    AND NOT EXISTS (
        SELECT 1 FROM r_name AS n WHERE n.superseded = i.ino AND n.superseded <> 0 AND n.died = {LIVE})
"""
_UNBORN = (
    f"SELECT ino FROM r_inode WHERE died = {LIVE} AND version = 0 AND mode & 0xF000 = {stat.S_IFREG} ORDER BY ino"
)
# left alone, SQLite takes the key's first column alone and walks the whole directory
_NAME = f"""
    SELECT ino, cookie, superseded FROM r_name INDEXED BY r_name_by_name
    WHERE parent = ? AND name = ? AND died = {LIVE}
"""
_NAMES = f"""
    SELECT n.name, n.ino, n.cookie, n.superseded, {", ".join(f"i.{v}" for v in _INODE_VALUES)}
    FROM r_name AS n CROSS JOIN r_inode AS i ON i.ino = n.ino AND i.died = {LIVE}
    WHERE n.parent = ? AND n.cookie > ? AND n.died = {LIVE} ORDER BY n.cookie LIMIT ?
"""
_NAME_AT_PLACE = f"SELECT name FROM r_name WHERE parent = ? AND cookie = ? AND died = {LIVE}"
_NAMES_OF = f"""
    SELECT parent, name, ino, cookie, superseded FROM r_name WHERE ino = ? AND died = {LIVE}
    ORDER BY parent, cookie
"""
_THEN = "born <= ?{0} AND died > ?{0}"  # rows of the generation that the parameter with this number says
_INODE_AT = f"SELECT {', '.join(_INODE_VALUES)} FROM r_inode WHERE ino = ?1 AND {_THEN.format(2)}"
_NAME_AT = f"""
    SELECT ino, cookie, superseded FROM r_name INDEXED BY r_name_by_name
    WHERE parent = ?1 AND name = ?2 AND {_THEN.format(3)}
"""
_NAMES_AT = f"""
    SELECT name, ino, cookie, superseded FROM r_name
    WHERE parent = ?1 AND {_THEN.format(2)} AND cookie > ?3 ORDER BY cookie LIMIT ?4
"""
_NAMES_OF_AT = f"""
    SELECT parent, name, ino, cookie, superseded FROM r_name
    WHERE (ino = ?1 OR (superseded = ?1 AND superseded <> 0)) AND {_THEN.format(2)} ORDER BY parent, cookie
"""
_XATTRS_AT = f"SELECT name, value FROM r_xattr WHERE ino = ?1 AND {_THEN.format(2)} ORDER BY name"
_XATTR = f"SELECT value FROM r_xattr WHERE ino = ? AND name = ? AND died = {LIVE}"
_XATTRS = f"SELECT name, value FROM r_xattr WHERE ino = ? AND died = {LIVE} ORDER BY name"


class TreeTables(Store):
    """Inodes, names and extended attributes."""

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__(path, **options)
        self._inodes: OrderedDict[Ino, Inode | None] = OrderedDict()
        self._looked: dict[tuple[Ino, bytes], tuple[Ino, Cookie, Ino] | None] = {}  # as _NAME has it; None: no name

    # -- inodes ------------------------------------------------------------------------------------------
    def new_ino(self) -> Ino:
        """Take an inode number that was never given out."""
        ino = Ino(self._take("ino"))
        self._keep(ino, None)
        return ino

    def inode(self, ino: Ino) -> Inode | None:
        """The live inode, or one of the past, if there is one."""
        try:
            self._inodes.move_to_end(ino)
        except KeyError:
            behind = self._behind.get(ino)
            if behind is not None:
                self._keep(ino, behind[0])
                return behind[0]
            if ino >= FIRST_PAST:
                generation, then = split(ino)
                rows = self._rows(_INODE_AT, (then, generation))
            else:
                rows = self._read(_INODE, (ino,)) if ino not in self._gone else []
            self._keep(ino, _inode(ino, rows[0]) if rows else None)
        return self._inodes[ino]

    def put_inode(self, inode: Inode) -> None:
        """Insert or replace."""
        old = self.inode(inode.ino)
        if old == inode:
            return
        self._put_gone_of(inode.ino)
        self._keep_behind(inode.ino, inode, is_new=old is None)
        self._touched.add(inode.ino)
        self._count("inodes", 1 if old is None else 0)
        self._count("file_bytes", _file_bytes(inode) - _file_bytes(old))
        self._keep(inode.ino, inode)

    def _drop_inode_row(self, ino: Ino) -> None:
        old = self.inode(ino)
        if old is None:
            return
        self._touched.add(ino)
        self._behind.drop(ino, is_marked=bool(self._savepoints))
        self._count("inodes", -1)
        self._count("file_bytes", -_file_bytes(old))
        self._keep(ino, None)

    def orphans(self) -> Sequence[Ino]:
        """Inodes without a name that no name supersedes. Looks at every inode: once, at a mount."""
        self._put_behind()
        return [Ino(row[0]) for row in self._rows(_ORPHANS)]

    def unborn_files(self) -> Sequence[Ino]:
        """Regular files that were never published, in order. Looks at every inode: once, at a recovery."""
        self._put_behind()
        return [Ino(row[0]) for row in self._rows(_UNBORN)]

    def count_inodes(self) -> int:
        """How many live inodes there are."""
        return self._counters["inodes"]

    def file_bytes(self) -> tuple[int, int]:
        """(sum of published sizes of regular files, number of live inodes)."""
        return self._counters["file_bytes"], self._counters["inodes"]

    # -- names -------------------------------------------------------------------------------------------
    def name(self, parent: Ino, name: bytes) -> Name | None:
        """The name in a directory, if it is there. In the past it shows what was published, or is not there."""
        if parent >= FIRST_PAST:
            generation, then = split(parent)
            found = self._rows(_NAME_AT, (then, name, generation))
            return self._as_it_was(generation, parent, name, *found[0]) if found else None
        row = self._name_row(parent, name)
        return Name(parent, name, *row) if row is not None else None

    def put_name(self, parent: Ino, name: bytes, ino: Ino, *, superseded: Ino = NO_INO) -> Name:
        """Insert with a new cookie, or replace in place and keep the cookie."""
        row = self._name_row(parent, name)
        cookie = row[1] if row is not None else Cookie(self._take("cookie"))
        for shown in (row[0], ino) if row is not None else (ino,):
            self._touched.add(shown)
        self.put_live(NAMES, (parent, cookie), (name, ino, superseded), is_new=row is None)
        self._note_looked(parent, name, (ino, cookie, superseded))
        return Name(parent, name, ino, cookie, superseded)

    def drop_name(self, parent: Ino, name: bytes) -> None:
        """Forget a name; nothing if it is not there."""
        row = self._name_row(parent, name)
        if row is not None:
            self._touched.add(row[0])
            self.drop_live(NAMES, (parent, row[1]))
            self._note_looked(parent, name, None)

    def names(self, parent: Ino, after: Cookie, limit: int) -> Sequence[tuple[Name, Inode]]:
        """The names of a directory with cookies above `after`, in cookie order, with their inodes."""
        if parent >= FIRST_PAST:
            return self._names_of_past(parent, after, limit)
        self._put_behind()
        rows = self._rows(_NAMES, (parent, after, limit))
        for row in rows:  # whoever lists a directory to remove or move what is in it asks for each name next
            self._note_looked(parent, row[0], row[1:4])
        return [(Name(parent, *row[:4]), _inode(row[1], row[4:])) for row in rows]

    def name_at(self, parent: Ino, cookie: Cookie) -> bytes | None:
        """What the name at this place of a directory is called; None: there is none."""
        rows = self._read(_NAME_AT_PLACE, (parent, cookie))
        return rows[0][0] if rows else None

    def last_cookie(self) -> Cookie:
        """The cookie that was given out last."""
        return Cookie(self._counters["cookie"] - 1)

    def names_of(self, ino: Ino) -> Sequence[Name]:
        """All names that show this inode."""
        if ino >= FIRST_PAST:
            generation, then = split(ino)
            rows = self._rows(_NAMES_OF_AT, (then, generation))
            names = (self._as_it_was(generation, at(generation, above), *row) for above, *row in rows)
            return [name for name in names if name is not None and name.ino == ino]
        return [Name(*row) for row in self._read(_NAMES_OF, (ino,))]

    def superseding(self, ino: Ino) -> Sequence[Name]:
        """The names that show `ino` (unborn) and keep a superseded inode."""
        return [name for name in self.names_of(ino) if name.superseded != NO_INO]

    # -- xattrs ------------------------------------------------------------------------------------------
    def xattr(self, ino: Ino, name: bytes) -> bytes | None:
        """The value of an extended attribute, if it is set."""
        if ino >= FIRST_PAST:
            return dict(self.xattrs(ino)).get(name)
        rows = self._rows_of(ino, _XATTR, (ino, name))
        return rows[0][0] if rows else None

    def put_xattr(self, ino: Ino, name: bytes, value: bytes) -> None:
        """Insert or replace."""
        self._put_gone_of(ino)
        self._touched.add(ino)
        self.put_live(XATTRS, (ino, name), (value,))

    def drop_xattr(self, ino: Ino, name: bytes) -> bool:
        """Forget an attribute. False: it was not set."""
        if self.xattr(ino, name) is None:
            return False
        self._touched.add(ino)
        self.drop_live(XATTRS, (ino, name))
        return True

    def xattrs(self, ino: Ino) -> Sequence[tuple[bytes, bytes]]:
        """All (name, value) of an inode, by name."""
        if ino >= FIRST_PAST:
            generation, then = split(ino)
            return [(name, value) for name, value in self._rows(_XATTRS_AT, (then, generation))]
        return [(name, value) for name, value in self._rows_of(ino, _XATTRS, (ino,))]

    # -- private -----------------------------------------------------------------------------------------
    def _as_it_was(
        self, generation: int, parent: Ino, name: bytes, ino: Ino, cookie: Cookie, superseded: Ino
    ) -> Name | None:
        """A name of the past. A file that was not published then has no content: what it superseded is shown."""
        for shown in (ino, superseded):
            then = self.inode(at(generation, shown)) if shown != NO_INO else None
            if then is not None and not (then.is_file and then.version == 0):
                return Name(parent, name, then.ino, cookie)
        return None

    def _names_of_past(self, parent: Ino, after: Cookie, limit: int) -> Sequence[tuple[Name, Inode]]:
        generation, then = split(parent)
        found: list[tuple[Name, Inode]] = []
        while not found and (page := self._rows(_NAMES_AT, (then, generation, after, limit))):
            after = page[-1][2]
            for row in page:
                name = self._as_it_was(generation, parent, *row)
                inode = self.inode(name.ino) if name is not None else None
                if name is not None and inode is not None:
                    found.append((name, inode))
        return found

    def _put_behind(self) -> None:
        if not self._behind:
            return
        pending = self._pending  # they were counted when they were kept
        for ino, (inode, is_new) in self._behind.each():
            self.put_live(INODES, (ino,), inode_values(inode), is_new=is_new)
            self._behind.drop(ino, is_marked=bool(self._savepoints))
        self._pending = pending

    def _name_row(self, parent: Ino, name: bytes) -> tuple[Ino, Cookie, Ino] | None:
        """(inode, cookie, superseded) of a name of now."""
        try:
            return self._looked[parent, name]
        except KeyError:
            rows = self._read(_NAME, (parent, name))
            row: tuple[Ino, Cookie, Ino] | None = (rows[0][0], rows[0][1], rows[0][2]) if rows else None
            self._note_looked(parent, name, row)
            return row

    def _note_looked(self, parent: Ino, name: bytes, row: tuple[Ino, Cookie, Ino] | None) -> None:
        if len(self._looked) >= CACHED_NAMES:
            self._looked.clear()
        self._looked[parent, name] = row

    def _keep(self, ino: Ino, inode: Inode | None) -> None:
        self._inodes[ino] = inode
        self._inodes.move_to_end(ino)
        if len(self._inodes) > CACHED_INODES:
            self._inodes.popitem(last=False)

    def _undone(self) -> None:
        super()._undone()
        self._inodes.clear()
        self._looked.clear()


def _file_bytes(inode: Inode | None) -> int:
    return inode.size if inode is not None and inode.is_file else 0


_code: Callable[[int, int], Code] = lru_cache(maxsize=256)(Code)


def inode_values(inode: Inode) -> tuple[Any, ...]:
    """An inode as its row has it, behind key and generations."""
    code = inode.code
    return (
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.size,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
        code.k if code else 0,
        code.n if code else 0,
        inode.version,
        inode.rdev,
        inode.target,
    )


def _inode(ino: Ino, values: Sequence[Any]) -> Inode:
    mode, uid, gid, nlink, size, atime_ns, mtime_ns, ctime_ns, k, n, version, rdev, target = values
    code = _code(k, n) if k else None
    return Inode(
        ino, mode, uid, gid, nlink, size, atime_ns, mtime_ns, ctime_ns, code, version, rdev, target
    )  # fmt: skip
