"""What may be wrong in a catalog whose file is sound, and how it is put right.

SQLite keeps no check sums of rows: a bit that a disk turned, or a fault of ours, leaves a file that opens and tells
nonsense. Each `_Rule` is one invariant of `schema.sql`, as the question for the rows that break it.

Mending never takes away what could be read. What has lost its name gets one in `lost+found`, what has lost its inode
gets another one, and what cannot be known any more (which bytes a chunk had) is only told. Whatever is changed in the
replicated tables is in the outbox as every change is, so the suppliers' copy follows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.model import CHUNK_BYTES, ROOT_INO, FragmentState, Ino, Inode, Standing

FOUND: Final = b"lost+found"
EXAMPLES: Final = 5
_STATES = ", ".join(str(int(state)) for state in FragmentState)
_STANDINGS = ", ".join(str(int(standing)) for standing in Standing)
_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_NO_TYPE = f"mode & {0o170000} NOT IN ({', '.join(map(str, _TYPES))})"
_NO_MODE = f"(mode NOT BETWEEN 0 AND {0o177777} OR {_NO_TYPE})"
_IS_DIR = f"mode & {0o170000} = {stat.S_IFDIR}"
_IS_FILE = f"mode & {0o170000} = {stat.S_IFREG}"
_LIVE_DIRS = f"SELECT ino FROM r_inode WHERE died = {LIVE} AND {_IS_DIR}"
_LIVE_INOS = f"SELECT ino FROM r_inode WHERE died = {LIVE}"
_REACHED = f"""
    WITH RECURSIVE reached (ino) AS (
        SELECT {ROOT_INO}
        UNION
        SELECT n.ino FROM reached JOIN r_name n ON n.parent = reached.ino AND n.died = {LIVE}
        JOIN r_inode i ON i.ino = n.ino AND i.died = {LIVE} AND i.{_IS_DIR}
    )
"""
_LINKS = f"""
    CASE WHEN i.{_IS_DIR} THEN 2 + (
        SELECT count(*) FROM r_name n JOIN r_inode c ON c.ino = n.ino AND c.died = {LIVE}
        WHERE n.parent = i.ino AND n.died = {LIVE} AND c.{_IS_DIR}
    ) ELSE (
        SELECT count(*) FROM r_name n WHERE n.ino = i.ino AND n.died = {LIVE}
    ) + (
        SELECT count(*) FROM r_name n WHERE n.superseded = i.ino AND n.superseded <> 0 AND n.died = {LIVE}
    ) END
"""
_IS_NAMED = f"""(i.ino = {ROOT_INO} OR EXISTS (SELECT 1 FROM r_name n WHERE n.died = {LIVE} AND n.ino = i.ino)
    OR EXISTS (SELECT 1 FROM r_name n WHERE n.died = {LIVE} AND n.superseded = i.ino AND n.superseded <> 0))"""
_BYTES_OF = "SELECT ino FROM l_file UNION SELECT ino FROM l_inline UNION SELECT ino FROM l_extent"
_MAPPED = f"SELECT ino FROM r_map WHERE died = {LIVE}"
_COUNTERS = {
    "ino": "SELECT coalesce(max(ino), 0) + 1 FROM r_inode",
    "cookie": "SELECT max(16, coalesce(max(cookie), 0) + 1) FROM r_name",
    "chunk": "SELECT coalesce(max(chunk), 0) + 1 FROM r_chunk",
    "block": "SELECT coalesce(max(block), 0) + 1 FROM r_block",
    "supplier": "SELECT coalesce(max(supplier), 0) + 1 FROM r_supplier",
    "generation": "SELECT 1",
}
_SUMS = {
    "inodes": f"SELECT count(*) FROM r_inode WHERE died = {LIVE}",
    "file_bytes": f"SELECT coalesce(sum(size), 0) FROM r_inode WHERE died = {LIVE} AND {_IS_FILE}",
}


def _no_root(pair: str) -> str:
    """What is true of a row of fragments with an index of which its block has no root; WANTED ones need none yet."""
    roots = f"(SELECT length(b.roots) / 32 FROM {pair}_block b WHERE b.block = {pair}_fragment.block)"
    return f"(idx < 0 OR state <> {int(FragmentState.WANTED)} AND idx >= {roots})"


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that is wrong."""

    says: str  # a sentence without its count and its full stop
    count: int
    examples: tuple[str, ...]  # up to EXAMPLES
    is_mendable: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    says: str
    rows: str  # SELECT of one text column: what breaks it
    is_mendable: bool = True


_VERSIONED: Final = {"r_inode": "ino", "r_name": "parent, cookie", "r_xattr": "ino, name", "r_map": "ino, idx"}
_GENERATION = "(SELECT coalesce(max(value), 1) FROM r_counter WHERE name = 'generation')"
_OUT_OF_TIME = f"(born NOT BETWEEN 1 AND {_GENERATION} OR died <> {LIVE} AND (died <= born OR died > {_GENERATION}))"
_NO_CODE = "NOT (k = 0 AND n = 0 OR 1 <= k AND k <= n AND n <= 255)"
_LIVE_BYTES = """(SELECT coalesce(sum(length), 0) FROM (
    SELECT max(length) AS length FROM r_chunk c WHERE c.block = r_block.block GROUP BY slot))"""
_NAME = "n.parent || '/' || hex(n.name)"
_RULES: Final = (
    *(
        _Rule(
            f"rows of {table} belong to no generation",
            f"SELECT {key.split(', ')[0]} FROM {table} WHERE {_OUT_OF_TIME}",
        )
        for table, key in _VERSIONED.items()
    ),
    _Rule("inodes have a code that cannot be", f"SELECT ino FROM r_inode WHERE {_NO_CODE}"),
    _Rule(
        "inodes have a type or mode that there is not",
        f"SELECT ino FROM r_inode WHERE {_NO_MODE}",
    ),
    _Rule(
        "suppliers have a standing that there is not",
        f"SELECT label FROM r_supplier WHERE standing NOT IN ({_STANDINGS})",
    ),
    *(
        _Rule(
            f"fragments{of} have a state that there is not",
            f"SELECT block || '/' || idx FROM {table} WHERE state NOT IN ({_STATES})",
        )
        for of, table in (("", "r_fragment"), (" of the replica", "l_fragment"))
    ),
    *(
        _Rule(
            f"fragments{of} belong to no block or no supplier",
            f"""SELECT block || '/' || idx FROM {pair}_fragment WHERE block NOT IN (SELECT block FROM {pair}_block)
            OR supplier NOT IN (SELECT supplier FROM r_supplier)""",
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    *(
        _Rule(
            f"blocks{of} count their held fragments wrong",
            f"""SELECT block FROM {pair}_block b WHERE held <> (SELECT count(DISTINCT idx) FROM {pair}_fragment f
            WHERE f.block = b.block AND state = {int(FragmentState.HELD)})""",
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    _Rule("blocks count their live bytes wrong", f"SELECT block FROM r_block WHERE live <> {_LIVE_BYTES}"),
    *(
        _Rule(
            f"blocks{of} have a code, a suite or roots that cannot be",
            f"""SELECT block FROM {pair}_block WHERE NOT (1 <= k AND k <= n AND n <= 255 AND suite IN (1, 2)
            AND length(roots) % 32 = 0 AND length(roots) BETWEEN 32 * k AND 32 * 255
            AND length(block_id) = 32)""",
            is_mendable=False,
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    *(
        _Rule(
            f"fragments{of} have nothing that they can be checked by",
            f"SELECT block || '/' || idx FROM {pair}_fragment WHERE {_no_root(pair)}",
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    _Rule(
        "blocks are to be coded anew that are not there",
        "SELECT block FROM l_recode WHERE block NOT IN (SELECT block FROM r_block)",
    ),
    _Rule("the root directory is gone", f"SELECT 1 WHERE {ROOT_INO} NOT IN ({_LIVE_DIRS})"),
    _Rule(
        "files have bytes and no inode",
        f"SELECT ino FROM ({_MAPPED} UNION {_BYTES_OF}) WHERE ino NOT IN ({_LIVE_INOS})",
    ),
    _Rule(
        "directories have names in them and no inode",
        f"SELECT DISTINCT parent FROM r_name WHERE died = {LIVE} AND parent NOT IN ({_LIVE_INOS})",
    ),
    _Rule(
        "names show nothing",
        f"SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.ino NOT IN ({_LIVE_INOS})",
    ),
    _Rule(
        "names keep a file that is gone",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.superseded <> 0
        AND n.superseded NOT IN ({_LIVE_INOS})""",
    ),
    _Rule(
        "names are not possible, or twice in one directory",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND (length(n.name) NOT BETWEEN 1 AND 255
        OR n.name IN (x'2e', x'2e2e') OR instr(n.name, x'2f') OR instr(n.name, x'00') OR EXISTS (
            SELECT 1 FROM r_name o WHERE o.parent = n.parent AND o.name = n.name AND o.died = {LIVE}
            AND o.cookie < n.cookie))""",
    ),
    _Rule(
        "names lie in what is no directory",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.parent IN ({_LIVE_INOS})
        AND n.parent NOT IN ({_LIVE_DIRS})""",
    ),
    _Rule(
        "directories have more than one name",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.ino IN ({_LIVE_DIRS}) AND (n.ino = {ROOT_INO}
        OR EXISTS (SELECT 1 FROM r_name o WHERE o.ino = n.ino AND o.died = {LIVE} AND o.cookie < n.cookie))""",
    ),
    _Rule(
        "directories lie in themselves",
        f"""{_REACHED} SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.{_IS_DIR} AND i.nlink > 0
        AND {_IS_NAMED} AND i.ino NOT IN (SELECT ino FROM reached)""",
    ),
    _Rule(
        "files and directories have no name",
        f"SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.nlink > 0 AND NOT {_IS_NAMED}",
    ),
    _Rule(
        "inodes count their names wrong",
        f"SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND {_IS_NAMED} AND i.nlink <> {_LINKS}",
    ),
    _Rule(
        "directories count what is in them wrong",
        f"""SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.{_IS_DIR} AND i.size <>
        (SELECT count(*) FROM r_name n WHERE n.parent = i.ino AND n.died = {LIVE})""",
    ),
    *(
        _Rule(
            f"the counter {name} is behind",
            f"SELECT '{name}' WHERE coalesce((SELECT value FROM r_counter WHERE name = '{name}'), 0) < ({least})",
        )
        for name, least in _COUNTERS.items()
    ),
    *(
        _Rule(
            f"the sum {name} is wrong",
            f"SELECT '{name}' WHERE (SELECT value FROM r_counter WHERE name = '{name}') IS NOT ({sum_})",
        )
        for name, sum_ in _SUMS.items()
    ),
    _Rule(
        "files have a chunk that is not where it should be: these bytes cannot be read",
        f"""SELECT m.ino || '@' || m.idx FROM r_map m WHERE m.died = {LIVE} AND m.chunk <> 0 AND NOT EXISTS (
            SELECT 1 FROM r_chunk c JOIN r_block b ON b.block = c.block WHERE c.chunk = m.chunk
            AND c.at >= 0 AND c.length BETWEEN 1 AND {CHUNK_BYTES} AND c.at + c.length <= b.length)""",
        is_mendable=False,
    ),
    _Rule(
        "files have a gap in their map: these bytes cannot be read",
        f"""SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.{_IS_FILE} AND i.version > 0 AND (
            SELECT coalesce(sum(min(m.idx + m.count, (i.size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES}) - m.idx), 0)
            FROM r_map m WHERE m.ino = i.ino AND m.died = {LIVE}
            AND m.idx < (i.size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES}
        ) <> (i.size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES}""",
        is_mendable=False,
    ),
)


class CheckedCatalog(SqliteCatalog):
    """A catalog that can be gone through, and mended, while nobody else uses it."""

    def findings(self) -> list[Finding]:
        """Everything that is wrong. Reads the whole catalog. Raises CatalogDamaged: its file is not sound."""
        found = []
        for rule in _RULES:
            count = self._rows(f"SELECT count(*) FROM ({rule.rows})")[0][0]
            if count:
                examples = tuple(str(row[0]) for row in self._rows(f"SELECT * FROM ({rule.rows}) LIMIT {EXAMPLES}"))
                found.append(Finding(rule.says, count, examples, rule.is_mendable))
        return found

    def mend(self, now_ns: int) -> None:
        """Put right what can be. All in one transaction; the caller commits.

        Args:
            now_ns: wall time, for what is made.
        """
        self._mend_values()
        self._mend_inodes(now_ns)
        self._mend_names()
        self._name_the_nameless(now_ns)
        self._mend_counts()
        self._undone()  # what was cached is not so any more

    def forget_the_replica(self) -> None:
        """Have a whole new snapshot sent: the change sets do not continue what the suppliers have. Then commit."""
        self.drop_outbox(self.last_change)
        self.put_local_value("gap", self.last_change.to_bytes(8, "big"))

    # -- private -----------------------------------------------------------------------------------------
    def _mend_values(self) -> None:
        for table, key in _VERSIONED.items():
            self._change(
                f"UPDATE OR IGNORE {table} SET born = 1, died = {LIVE} WHERE {_OUT_OF_TIME} AND ({key}) NOT IN "
                f"(SELECT {key} FROM {table} WHERE died = {LIVE} AND NOT {_OUT_OF_TIME})"
            )
            self._change(f"DELETE FROM {table} WHERE {_OUT_OF_TIME}")  # others are in their place
        self._change(f"UPDATE r_inode SET k = 0, n = 0 WHERE {_NO_CODE}")
        self._change(f"UPDATE r_inode SET mode = mode & {0o177777} WHERE mode NOT BETWEEN 0 AND {0o177777}")
        self._change(f"UPDATE r_inode SET mode = mode & {0o7777} | {stat.S_IFREG} WHERE {_NO_TYPE}")
        self._change(f"UPDATE r_supplier SET standing = {int(Standing.HIRED)} WHERE standing NOT IN ({_STANDINGS})")
        for pair in ("r", "l"):
            lost = int(FragmentState.LOST)
            self._change(f"UPDATE {pair}_fragment SET state = {lost} WHERE state NOT IN ({_STATES})")
            self._change(
                f"DELETE FROM {pair}_fragment WHERE block NOT IN (SELECT block FROM {pair}_block) "
                "OR supplier NOT IN (SELECT supplier FROM r_supplier)"
            )
            self._change(f"DELETE FROM {pair}_fragment WHERE {_no_root(pair)}")  # they are made again
            held = (
                f"SELECT count(DISTINCT idx) FROM {pair}_fragment f WHERE f.block = {pair}_block.block AND state = 1"
            )
            self._change(f"UPDATE {pair}_block SET held = ({held}) WHERE held <> ({held})")
        self._change("DELETE FROM l_recode WHERE block NOT IN (SELECT block FROM r_block)")
        self._change(f"UPDATE r_block SET live = {_LIVE_BYTES} WHERE live <> {_LIVE_BYTES}")
        self._raise_counters()
        self._undone()

    def _raise_counters(self) -> None:
        for name, least in _COUNTERS.items():
            self._raise(name, self._rows(least)[0][0])

    def _raise(self, counter: str, least: int) -> None:
        if self._counters.get(counter, 0) < least:
            self._set(counter, least)

    def _set(self, counter: str, value: int) -> None:
        self._counters[counter] = value
        self._stale.discard(counter)
        self._change(
            "INSERT INTO r_counter (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            (counter, value),
        )

    def _mend_inodes(self, now_ns: int) -> None:
        self._count_again()
        root = self.inode(ROOT_INO)
        if root is None:
            self.put_inode(_directory(ROOT_INO, now_ns, os.getuid(), os.getgid()))
        elif not root.is_dir:
            self.put_inode(replace(root, mode=stat.S_IFDIR | 0o700, target=b"", rdev=0))
        root = self.inode(ROOT_INO)
        assert root is not None
        for (ino,) in self._rows(
            f"SELECT DISTINCT parent FROM r_name WHERE died = {LIVE} AND parent NOT IN ({_LIVE_INOS})"
        ):
            self.put_inode(_directory(Ino(ino), now_ns, root.uid, root.gid))
        for (ino,) in self._rows(f"SELECT ino FROM ({_MAPPED} UNION {_BYTES_OF}) WHERE ino NOT IN ({_LIVE_INOS})"):
            size, is_published = self._size_of(ino)
            made = _directory(Ino(ino), now_ns, root.uid, root.gid)
            self.put_inode(replace(made, mode=stat.S_IFREG | 0o600, size=size, version=int(is_published)))
        self._raise_counters()

    def _size_of(self, ino: int) -> tuple[int, bool]:
        """The published size of a file, as far as its map tells, and whether it has one."""
        rows = self._rows(
            f"""SELECT m.idx, m.count, coalesce(c.length, 0) FROM r_map m LEFT JOIN r_chunk c ON c.chunk = m.chunk
            WHERE m.ino = ? AND m.died = {LIVE} ORDER BY m.idx DESC LIMIT 1""",
            (ino,),
        )
        if not rows:
            return 0, False
        index, count, length = rows[0]
        return index * CHUNK_BYTES + (length or count * CHUNK_BYTES), True

    def _mend_names(self) -> None:
        bad = " UNION ".join(
            f"SELECT parent, cookie FROM r_name n WHERE died = {LIVE} AND {wrong}"
            for wrong in (
                f"n.ino NOT IN ({_LIVE_INOS})",
                f"n.parent NOT IN ({_LIVE_DIRS})",
                "(length(n.name) NOT BETWEEN 1 AND 255 OR n.name IN (x'2e', x'2e2e') "
                "OR instr(n.name, x'2f') OR instr(n.name, x'00'))",
                f"""EXISTS (SELECT 1 FROM r_name o WHERE o.parent = n.parent AND o.name = n.name
                AND o.died = {LIVE} AND o.cookie < n.cookie)""",
                f"""n.ino IN ({_LIVE_DIRS}) AND (n.ino = {ROOT_INO} OR EXISTS (
                SELECT 1 FROM r_name o WHERE o.ino = n.ino AND o.died = {LIVE} AND o.cookie < n.cookie))""",
            )
        )
        self._change(f"DELETE FROM r_name WHERE died = {LIVE} AND (parent, cookie) IN ({bad})")
        self._change(
            f"UPDATE r_name SET superseded = 0 WHERE died = {LIVE} AND superseded <> 0 "
            f"AND superseded NOT IN ({_LIVE_INOS})"
        )
        for ino in iter(self._one_in_a_circle, None):
            self._change(f"DELETE FROM r_name WHERE ino = ? AND died = {LIVE}", (ino,))

    def _one_in_a_circle(self) -> int | None:
        """A directory that lies in itself, below or above other ones; None: there is none."""
        rows = self._rows(
            f"""{_REACHED} SELECT n.ino, n.parent FROM r_name n WHERE n.died = {LIVE} AND n.ino IN ({_LIVE_DIRS})
            AND n.ino NOT IN (SELECT ino FROM reached)"""
        )
        parents = dict(rows)
        for start in parents:
            seen, at = {start}, parents[start]
            while at in parents and at not in seen:
                seen.add(at)
                at = parents[at]
            if at in seen:
                return int(at)
        return None

    def _name_the_nameless(self, now_ns: int) -> None:
        nameless = self._rows(
            f"SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND NOT {_IS_NAMED} AND (i.nlink > 0 OR {_LINKS} > 2)"
        )
        if not nameless:
            return
        self._undone()
        place = self._found_directory(now_ns)
        for (ino,) in nameless:
            name = next(name for name in _names_for(ino) if self.name(place, name) is None)
            self.put_name(place, name, Ino(ino))

    def _found_directory(self, now_ns: int) -> Ino:
        for name in (FOUND, *(FOUND + b"-%d" % number for number in range(1, 1000))):
            known = self.name(ROOT_INO, name)
            inode = self.inode(known.ino) if known is not None else None
            if inode is not None and inode.is_dir:
                return inode.ino
            if known is None:
                root = self.inode(ROOT_INO)
                assert root is not None
                made = _directory(self.new_ino(), now_ns, root.uid, root.gid)
                self.put_inode(made)
                self.put_name(ROOT_INO, name, made.ino)
                return made.ino
        raise RuntimeError("a thousand names are taken")

    def _mend_counts(self) -> None:
        self._change(
            f"UPDATE r_inode AS i SET nlink = {_LINKS} WHERE i.died = {LIVE} AND {_IS_NAMED} AND i.nlink <> {_LINKS}"
        )
        size = f"(SELECT count(*) FROM r_name n WHERE n.parent = i.ino AND n.died = {LIVE})"
        self._change(
            f"UPDATE r_inode AS i SET size = {size} WHERE i.died = {LIVE} AND i.{_IS_DIR} AND i.size <> {size}"
        )
        self._count_again()

    def _count_again(self) -> None:
        for name, sum_ in _SUMS.items():
            value = self._rows(sum_)[0][0]
            if self._counters.get(name) != value or name in self._stale:
                self._set(name, value)


def _directory(ino: Ino, now_ns: int, uid: int, gid: int) -> Inode:
    return Inode(
        ino=ino,
        mode=stat.S_IFDIR | 0o700,
        uid=uid,
        gid=gid,
        nlink=2,
        size=0,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
    )


def _names_for(ino: int) -> Iterator[bytes]:
    yield b"#%d" % ino
    number = 1
    while True:
        yield b"#%d-%d" % (ino, number)
        number += 1
