"""The catalog's snapshots of the volume: which generations are kept, what they hold, and how they go.

A deleted snapshot is `gone` first: nothing shows it any more. Closed rows that only it has are then taken away in
small steps, found by the indexes of closed rows, and what they named is loose (`catalog_unneeded`). Its own row goes
last, so that what was begun goes on after a restart, and after a recovery.
"""

from __future__ import annotations

import stat
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

from bitdustfs.edges.catalog_maps import MAP
from bitdustfs.edges.catalog_store import Store
from bitdustfs.edges.catalog_tree import INODES, NAMES, XATTRS
from bitdustfs.edges.catalog_versioned import FIRST_GENERATION, LIVE, Versioned
from bitdustfs.model import CHUNK_BYTES, HOLE, ROOT_INO, DeadKey, Ino, Snapshot, SnapshotKind

_COLUMNS = "generation, name, made_ns, kind, gone"
_SNAPSHOTS = f"SELECT {_COLUMNS} FROM r_snapshot ORDER BY generation"
_PUT = f"INSERT INTO r_snapshot ({_COLUMNS}) VALUES (?, ?, ?, ?, 0)"
_END = "UPDATE r_snapshot SET gone = 1 WHERE generation = ?"
_DROP = "DELETE FROM r_snapshot WHERE generation = ? AND gone"
_LOOSEN = f"""
    INSERT OR IGNORE INTO l_loose (chunk) SELECT chunk FROM r_map WHERE ino = ?1 AND idx = ?2 AND born = ?3
    AND chunk <> {HOLE}
"""
_CHANGED = f"SELECT 1 FROM r_inode INDEXED BY r_inode_dead WHERE died <> {LIVE} AND died = ? LIMIT 1"
# of a file all that any snapshot up to generation ?2 may show lies below the largest size that it had by then
_LEAVE_OUT = f"""
    UPDATE r_map SET born = ?2 + 1 WHERE ino = ?1 AND idx BETWEEN ?3 AND ?4 AND died = {LIVE} AND born <= ?2
    AND idx >= coalesce((
        SELECT max((size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES}) FROM r_inode
        WHERE ino = ?1 AND born <= ?2 AND version > 0), 0)
"""
_TABLES: Final = (INODES, NAMES, XATTRS, MAP)


def _dead(table: Versioned) -> str:
    """Closed rows with died in (?1, ?2] behind a key, in order: died, key …, born."""
    order = ", ".join(("died", *table.key, "born"))
    places = ", ".join(f"?{number}" for number in range(4, 4 + 2 + len(table.key)))
    return (
        f"SELECT {order} FROM {table.table} INDEXED BY {table.table}_dead "
        f"WHERE died <> {LIVE} AND died > ?1 AND died <= ?2 AND ({order}) > ({places}) ORDER BY {order} LIMIT ?3"
    )


_DEAD: Final = {table.table: _dead(table) for table in _TABLES}
_FREE: Final = {
    table.table: f"DELETE FROM {table.table} WHERE {' AND '.join(f'{key} = ?' for key in (*table.key, 'born'))}"
    for table in _TABLES
}
# closed rows in one page, each with its chunk if no row of now has that, and no closed row before it
_HELD = f"""
    WITH page AS (
        SELECT died, ino, idx, born, chunk FROM r_map INDEXED BY r_map_dead
        WHERE died <> {LIVE} AND (died, ino, idx, born) > (?2, ?3, ?4, ?5) ORDER BY died, ino, idx, born LIMIT ?1
    )
    SELECT died, ino, idx, born, CASE WHEN page.chunk <> {HOLE} AND NOT EXISTS (
        SELECT 1 FROM r_map AS m WHERE m.chunk = page.chunk AND m.chunk <> {HOLE} AND (m.died = {LIVE}
        OR (m.died, m.ino, m.idx, m.born) < (page.died, page.ino, page.idx, page.born))
    ) THEN page.chunk ELSE {HOLE} END
    FROM page ORDER BY died, ino, idx, born
"""
# closed inodes in one page, each with whether a generation shows it, and now nothing with its content is shown
_ONLY_THEN = f"""
    WITH page AS (
        SELECT died, ino, born FROM r_inode INDEXED BY r_inode_dead
        WHERE died <> {LIVE} AND died > ?1 AND (died, ino, born) > (?3, ?4, ?5) ORDER BY died, ino, born LIMIT ?2
    )
    SELECT page.died, page.ino, page.born, was.version,
        page.born <= ?1 AND page.ino <> {ROOT_INO} AND (was.mode & 0xF000 <> {stat.S_IFREG} OR was.version > 0)
        AND (now.version IS NOT was.version
            OR NOT EXISTS (SELECT 1 FROM r_name AS n WHERE n.ino = page.ino AND n.died = {LIVE}))
    FROM page JOIN r_inode AS was ON was.ino = page.ino AND was.born = page.born
    LEFT JOIN r_inode AS now ON now.ino = page.ino AND now.died = {LIVE}
    ORDER BY page.died, page.ino, page.born
"""
_SPANS = f"SELECT born, died FROM r_map WHERE chunk = ? AND chunk <> {HOLE}"
_LENGTH = "SELECT length FROM r_chunk WHERE chunk = ?"


class SnapshotTables(Store):
    """Snapshots of the volume."""

    def snapshots(self) -> Sequence[Snapshot]:
        """All of them, the oldest first, also those that are gone and still hold something."""
        if self._snapshots is None:  # each request for something of the past asks whether its snapshot is kept
            self._snapshots = tuple(
                Snapshot(generation, name, made_ns, SnapshotKind(kind), bool(gone))
                for generation, name, made_ns, kind, gone in self._rows(_SNAPSHOTS)
            )
        return self._snapshots

    def make_snapshot(self, name: str, made_ns: int, kind: SnapshotKind) -> Snapshot:
        """Keep what there is now under a name that no other has. The caller commits.

        Raises:
            RuntimeError: inside a savepoint.
        """
        made = Snapshot(self._end_generation(), name, made_ns, kind)
        self._change(_PUT, (made.generation, name, made_ns, int(kind)))
        self._kept, self._snapshots = made.generation, None
        return made

    def leave_out(self, generation: int, ino: Ino, first: int, last: int) -> None:
        """Have map rows at indexes first … last that a snapshot has, and no snapshot shows, be of after it."""
        self._put_gone_of(ino)
        self._change(_LEAVE_OUT, (ino, generation, first, last))

    def end_snapshot(self, generation: int) -> None:
        """Let a snapshot be gone: nothing is kept for it any more."""
        self._put_behind()  # what was dropped before is kept for it
        self._change(_END, (generation,))
        self._kept = self._snapshots = None

    def free_snapshot(self, generation: int, after: DeadKey | None, limit: int) -> DeadKey | None:
        """Look at `limit` closed rows behind `after`, and take away those that only this and other gone ones have.

        Returns:
            The last row that was looked at, for the next call; None: that was all, and the snapshot is forgotten.
        """
        before, behind = self._neighbours(generation)
        number, key = after or (0, ())
        while number < len(_TABLES):
            table = _TABLES[number]
            start = key or (-1,) * (2 + len(table.key))
            rows = self._rows(_DEAD[table.table], (generation, behind, limit, *start))
            with self.savepoint():
                for row in rows:
                    if before < row[-1]:  # of gone neighbours too: each would go through the same rows
                        self._free(table, row[1:])
            if rows:
                return number, rows[-1]
            number, key = number + 1, ()
        self._change(_DROP, (generation,))
        self._snapshots = None
        return None

    def held_chunks(
        self, after: DeadKey | None, limit: int
    ) -> tuple[Sequence[tuple[tuple[int, int] | None, int]], DeadKey | None]:
        """What snapshots or forks have and nothing of now, in the next `limit` closed rows.

        Returns:
            For each chunk, once: the oldest and the newest snapshot that has it, or None if a fork does; and its
            bytes. And the last row that was looked at; None: there was none.
        """
        there = [each for each in self.snapshots() if not each.is_gone]
        kept = [each.generation for each in there if not each.is_fork]
        forks = [each.generation for each in there if each.is_fork]
        key = after[1] if after is not None else (-1, -1, -1, -1)
        rows = self._rows(_HELD, (limit, *key))
        found = list[tuple[tuple[int, int] | None, int]]()
        for *_, chunk in rows:
            if chunk == HOLE:
                continue
            in_fork = bool(forks) and self._held_by(chunk, forks) is not None
            run = self._held_by(chunk, kept)
            if in_fork or run is not None:
                length = sum(length for (length,) in self._rows(_LENGTH, (chunk,)))
                found.append((None if in_fork else run, length))
        return found, (len(_TABLES) - 1, rows[-1][:4]) if rows else None

    def only_then(
        self, generation: int, after: DeadKey | None, limit: int
    ) -> tuple[Sequence[tuple[Ino, int]], DeadKey | None]:
        """What a snapshot shows and now nothing does, among the next `limit` inodes that were changed since.

        Returns:
            Inodes by their numbers of now, each with its version then. And the last row that was looked at, for the
            next call; None: that was all.
        """
        self._put_behind()
        key = after[1] if after is not None else (-1, -1, -1)
        rows = self._rows(_ONLY_THEN, (generation, limit, *key))
        return [(Ino(row[1]), row[3]) for row in rows if row[4]], (0, rows[-1][:3]) if rows else None

    def is_changed_since_snapshot(self) -> bool:
        """Whether anything of the tree may be different from the newest snapshot."""
        self._put_behind()
        generation = self._counters["generation"]
        return (
            self.kept_generation != generation - 1
            or generation == FIRST_GENERATION
            or bool(self._rows(_CHANGED, (generation,)))
        )

    # -- private -----------------------------------------------------------------------------------------
    def _neighbours(self, generation: int) -> tuple[int, int]:
        """The kept generations beside one: the next older one, or 0; the next newer one, or the largest number."""
        kept = [each.generation for each in self.snapshots() if not each.is_gone]
        older = [each for each in kept if each < generation]
        newer = [each for each in kept if each > generation]
        return max(older, default=0), min(newer, default=LIVE - 1)

    def _held_by(self, chunk: int, kept: Sequence[int]) -> tuple[int, int] | None:
        """The oldest and the newest of the kept generations that have a chunk."""
        seen = [
            (kept[first], kept[end - 1])
            for born, died in self._rows(_SPANS, (chunk,))
            if (first := bisect_left(kept, born)) < (end := bisect_left(kept, died))
        ]
        return (min(oldest for oldest, _ in seen), max(newest for _, newest in seen)) if seen else None

    def _free(self, table: Versioned, key: Sequence[Any]) -> None:
        if table is MAP:
            self._change(_LOOSEN, key)
        self._change(_FREE[table.table], key)
