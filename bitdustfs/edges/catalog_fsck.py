"""A catalog whose file is sound is gone through by `catalog_rules`, and what is wrong in it is put right.

Mending never takes away what could be read. What has lost its name gets one in `lost+found`, what has lost its inode
gets another one, and what cannot be known any more (which bytes a chunk had) is only told. Whatever is changed in the
replicated tables is in the outbox as every change is, so the suppliers' copy follows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from bitdustfs.core import adoption, replica
from bitdustfs.core.past import GENERATIONS_MOST
from bitdustfs.core.replica import ManifestNote
from bitdustfs.edges.catalog_rules import (
    BYTES_OF,
    COUNTERS,
    IS_DIR,
    IS_NAMED,
    LINKS,
    LIVE_BYTES,
    LIVE_DIRS,
    LIVE_INOS,
    MAPPED,
    NO_CODE,
    NO_SNAPSHOT,
    NO_TYPE,
    OF_NONE,
    OUT_OF_TIME,
    REACHED,
    RULES,
    STANDINGS,
    STATES,
    SUMS,
    VERSIONED,
    no_root,
)
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.errors import BadFormat
from bitdustfs.model import CHUNK_BYTES, ROOT_INO, FragmentState, Ino, Inode, Standing, Supplier, SupplierNo

FOUND: Final = b"lost+found"
EXAMPLES: Final = 5
_NOT_KNOWN: Final = """
    SELECT supplier FROM r_fragment UNION SELECT supplier FROM l_fragment
    EXCEPT SELECT supplier FROM r_supplier ORDER BY supplier
"""
_HELD_OF_EACH: Final = " UNION ALL ".join(
    f"""SELECT (b.length + b.k - 1) / b.k AS bytes
    FROM {pair}_fragment AS f JOIN {pair}_block AS b ON b.block = f.block
    WHERE f.supplier = ? AND f.state <> {int(FragmentState.WANTED)}"""
    for pair in ("r", "l")
)
_NOTE_RULES: Final = {
    "manifest": "what is noted of the newest snapshot of the catalog is not so: a new one is sent",
    "aside": "what is noted of how far an older state was put aside cannot be read: that begins again",
}
_NOTES: Final = "SELECT key, value FROM l_value WHERE key = 'manifest' OR key GLOB 'aside *' ORDER BY key"
_HELD_THERE: Final = f"SELECT coalesce(sum(bytes), 0), count(*) FROM ({_HELD_OF_EACH})"


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that is wrong."""

    says: str  # a sentence without its count and its full stop
    count: int
    examples: tuple[str, ...]  # up to EXAMPLES
    is_mendable: bool


class CheckedCatalog(SqliteCatalog):
    """A catalog that can be gone through, and mended, while nobody else uses it."""

    def findings(self) -> list[Finding]:
        """Everything that is wrong. Reads the whole catalog. Raises CatalogDamaged: its file is not sound."""
        found = []
        for rule in RULES:
            count = self._rows(f"SELECT count(*) FROM ({rule.rows})")[0][0]
            if count:
                examples = tuple(str(row[0]) for row in self._rows(f"SELECT * FROM ({rule.rows}) LIMIT {EXAMPLES}"))
                found.append(Finding(rule.says, count, examples, rule.is_mendable))
        for kind, keys in self._damaged_notes().items():
            found.append(Finding(_NOTE_RULES[kind], len(keys), tuple(keys[:EXAMPLES]), is_mendable=True))
        return found

    def _keep_behind(self, ino: Ino, inode: Inode, *, is_new: bool) -> None:
        """Put it at once: many statements here read and change inodes."""
        super()._keep_behind(ino, inode, is_new=is_new)
        self._put_behind()

    def drop_inode(self, ino: Ino) -> None:
        """Have it dropped at once, likewise."""
        super().drop_inode(ino)
        self._put_behind()

    def mend(self, now_ns: int) -> None:
        """Put right what can be. All in one transaction; the caller commits.

        Args:
            now_ns: wall time, for what is made.
        """
        self._mend_generation()
        self._mend_values()
        self._forget_damaged_notes()
        self._mend_snapshots(now_ns)
        self._mend_inodes(now_ns)
        self._mend_names()
        self._undone()  # names are asked for next
        self._name_the_nameless(now_ns)
        self._mend_counts()
        self._undone()  # what was cached is not so any more

    def suppliers_not_known(self) -> list[SupplierNo]:
        """Those that hold something by what the fragments say, and of which nothing else is known."""
        return [row[0] for row in self._rows(_NOT_KNOWN)]

    def bring_back_suppliers(self, listed: Iterable[Supplier]) -> None:
        """Take suppliers that are not known any more from a list, as a head has it. Then `mend`; the caller commits.

        One that is known under another number gets its own again: fragments go by it.
        """
        gone = set(self.suppliers_not_known())
        for row in (row for row in listed if row.supplier in gone):
            known = next((each for each in self.suppliers() if each.node == row.node), row)
            if known is not row:
                if self._rows(_HELD_THERE, (known.supplier, known.supplier))[0][1]:
                    continue  # it is another's number, whatever the list says
                self._change("DELETE FROM r_supplier WHERE supplier = ?", (known.supplier,))
            used_bytes, used_fragments = self._rows(_HELD_THERE, (row.supplier, row.supplier))[0]
            self.put_supplier(
                replace(known, supplier=row.supplier, used_bytes=used_bytes, used_fragments=used_fragments)
            )

    def forget_the_replica(self) -> None:
        """Have a whole new snapshot sent: the change sets do not continue what the suppliers have. Then commit."""
        self.drop_outbox(self.last_change)
        self.put_local_value("gap", self.last_change.to_bytes(8, "big"))

    # -- private -----------------------------------------------------------------------------------------
    def _mend_generation(self) -> None:
        """Before rows are judged by the counter: where it is lost, they tell what it was at least."""
        if "generation" not in self._counters:
            for table in VERSIONED:
                for column in ("born", "died"):
                    seen = f"SELECT coalesce(max({column}), 1) FROM {table} WHERE {column} < {GENERATIONS_MOST}"
                    self._raise("generation", self._rows(seen)[0][0])
        self._raise("generation", self._rows(COUNTERS["generation"])[0][0])

    def _mend_values(self) -> None:
        for table, key in VERSIONED.items():
            self._change(
                f"UPDATE OR IGNORE {table} SET born = 1, died = {LIVE} WHERE {OUT_OF_TIME} AND ({key}) NOT IN "
                f"(SELECT {key} FROM {table} WHERE died = {LIVE} AND NOT {OUT_OF_TIME})"
            )
            self._change(f"DELETE FROM {table} WHERE {OUT_OF_TIME}")  # others are in their place
        self._change(f"UPDATE r_inode SET k = 0, n = 0 WHERE {NO_CODE}")
        self._change(f"UPDATE r_inode SET mode = mode & {0o177777} WHERE mode NOT BETWEEN 0 AND {0o177777}")
        self._change(f"UPDATE r_inode SET mode = mode & {0o7777} | {stat.S_IFREG} WHERE {NO_TYPE}")
        self._change(f"UPDATE r_supplier SET standing = {int(Standing.HIRED)} WHERE standing NOT IN ({STANDINGS})")
        for pair in ("r", "l"):
            lost = int(FragmentState.LOST)
            self._change(f"UPDATE {pair}_fragment SET state = {lost} WHERE state NOT IN ({STATES})")
            self._change(
                f"DELETE FROM {pair}_fragment WHERE block NOT IN (SELECT block FROM {pair}_block) "
                "OR supplier NOT IN (SELECT supplier FROM r_supplier)"
            )
            self._change(f"DELETE FROM {pair}_fragment WHERE {no_root(pair)}")  # they are made again
            held = (
                f"SELECT count(DISTINCT idx) FROM {pair}_fragment f WHERE f.block = {pair}_block.block AND state = 1"
            )
            self._change(f"UPDATE {pair}_block SET held = ({held}) WHERE held <> ({held})")
        self._change("DELETE FROM l_recode WHERE block NOT IN (SELECT block FROM r_block)")
        self._change(f"UPDATE r_block SET live = {LIVE_BYTES} WHERE live <> {LIVE_BYTES}")
        self._raise_counters()
        self._undone()

    def _damaged_notes(self) -> dict[str, list[str]]:
        """The keys of local values that tell nothing, or of blocks that are not there, by kind."""
        found: dict[str, list[str]] = {}
        for key, value in self._rows(_NOTES):
            try:
                if key != "manifest":
                    adoption.decode_progress(value)
                elif not self._knows_all_of(replica.decode_note(value)):
                    found.setdefault(key, []).append(key)
            except BadFormat:
                found.setdefault(key.partition(" ")[0], []).append(key)
        return found

    def _knows_all_of(self, note: ManifestNote) -> bool:
        named = {number for number, _ in note.blocks} | set(note.image_blocks)
        return named <= {row.block for row in self.local_blocks()}

    def _forget_damaged_notes(self) -> None:
        """What the suppliers have stays there until a new snapshot is safe; what was put aside stays as well."""
        found = self._damaged_notes()
        for key in (key for keys in found.values() for key in keys):
            self._change("DELETE FROM l_value WHERE key = ?", (key,))
        if "manifest" in found:
            self.forget_the_replica()

    def _mend_snapshots(self, now_ns: int) -> None:
        """What is not of now, and of no snapshot, gets one: it was made right before the row was closed."""
        self._change("DELETE FROM r_snapshot WHERE generation < 1")
        for table in VERSIONED:
            self._change(
                "INSERT OR IGNORE INTO r_snapshot (generation, name, made_ns, kind, gone) "
                f"SELECT DISTINCT died - 1, 'found-' || (died - 1), ?, 1, 0 FROM {table} AS t WHERE {OF_NONE}",
                (now_ns,),
            )
        self._change("UPDATE r_snapshot SET kind = 1 WHERE kind NOT IN (1, 2, 3, 4)")
        self._change("UPDATE r_snapshot SET gone = 0 WHERE gone NOT IN (0, 1)")
        self._change(f"UPDATE r_snapshot AS s SET name = 'found-' || generation WHERE {NO_SNAPSHOT}")
        self._raise_counters()
        self._undone()

    def _raise_counters(self) -> None:
        for name, least in COUNTERS.items():
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
            f"SELECT DISTINCT parent FROM r_name WHERE died = {LIVE} AND parent NOT IN ({LIVE_INOS})"
        ):
            self.put_inode(_directory(Ino(ino), now_ns, root.uid, root.gid))
        for (ino,) in self._rows(f"SELECT ino FROM ({MAPPED} UNION {BYTES_OF}) WHERE ino NOT IN ({LIVE_INOS})"):
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
                f"n.ino NOT IN ({LIVE_INOS})",
                f"n.parent NOT IN ({LIVE_DIRS})",
                "(length(n.name) NOT BETWEEN 1 AND 255 OR n.name IN (x'2e', x'2e2e') "
                "OR instr(n.name, x'2f') OR instr(n.name, x'00'))",
                f"""EXISTS (SELECT 1 FROM r_name o WHERE o.parent = n.parent AND o.name = n.name
                AND o.died = {LIVE} AND o.cookie < n.cookie)""",
                f"""n.ino IN ({LIVE_DIRS}) AND (n.ino = {ROOT_INO} OR EXISTS (
                SELECT 1 FROM r_name o WHERE o.ino = n.ino AND o.died = {LIVE} AND o.cookie < n.cookie))""",
            )
        )
        self._change(f"DELETE FROM r_name WHERE died = {LIVE} AND (parent, cookie) IN ({bad})")
        self._change(
            f"UPDATE r_name SET superseded = 0 WHERE died = {LIVE} AND superseded <> 0 "
            f"AND superseded NOT IN ({LIVE_INOS})"
        )
        for ino in iter(self._one_in_a_circle, None):
            self._change(f"DELETE FROM r_name WHERE ino = ? AND died = {LIVE}", (ino,))

    def _one_in_a_circle(self) -> int | None:
        """A directory that lies in itself, below or above other ones; None: there is none."""
        rows = self._rows(
            f"""{REACHED} SELECT n.ino, n.parent FROM r_name n WHERE n.died = {LIVE} AND n.ino IN ({LIVE_DIRS})
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
            f"SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND NOT {IS_NAMED} AND (i.nlink > 0 OR {LINKS} > 2)"
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
            f"UPDATE r_inode AS i SET nlink = {LINKS} WHERE i.died = {LIVE} AND {IS_NAMED} AND i.nlink <> {LINKS}"
        )
        size = f"(SELECT count(*) FROM r_name n WHERE n.parent = i.ino AND n.died = {LIVE})"
        self._change(
            f"UPDATE r_inode AS i SET size = {size} WHERE i.died = {LIVE} AND i.{IS_DIR} AND i.size <> {size}"
        )
        self._count_again()

    def _count_again(self) -> None:
        for name, sum_ in SUMS.items():
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
