"""The catalog's maps of files: (inode, index) -> chunk -> (block, slot).

Only maps carry generations: chunks are the same for all of them.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Collection, Iterable, Sequence

from bitdustfs.core.past import FIRST_PAST, split
from bitdustfs.edges.catalog_store import Store
from bitdustfs.edges.catalog_versioned import LIVE, Versioned
from bitdustfs.model import (
    CHUNK_BYTES,
    FIRST_BROUGHT,
    HOLE,
    BlockNo,
    ChunkNo,
    ChunkPlace,
    ChunkRow,
    Code,
    Fingerprint,
    Ino,
    MapRow,
)

PLACES_MOST = 16  # of one chunk that are told: many files may have it
MAP = Versioned("r_map", ("ino", "idx"), ("count", "chunk"))

# the row that covers index ?2, if any: one step to the left, not a walk from the start
_MAP_ROW_BEFORE = f"""
    SELECT idx, count, chunk FROM r_map WHERE ino = ?1 AND idx <= ?2 AND died = {LIVE} ORDER BY idx DESC LIMIT 1
"""
_MAP_ROWS_AFTER = f"""
    SELECT idx, count, chunk FROM r_map WHERE ino = ?1 AND idx > ?2 AND idx <= ?3 AND died = {LIVE} ORDER BY idx
"""
_MAP_ROW_BEFORE_AT = """
    SELECT idx, count, chunk FROM r_map WHERE ino = ?1 AND idx <= ?2 AND born <= ?3 AND died > ?3
    ORDER BY idx DESC LIMIT 1
"""
_MAP_ROWS_AFTER_AT = """
    SELECT idx, count, chunk FROM r_map WHERE ino = ?1 AND idx > ?2 AND idx <= ?3 AND born <= ?4 AND died > ?4
    ORDER BY idx
"""
_MAP_END = f"SELECT idx + count FROM r_map WHERE ino = ? AND died = {LIVE} ORDER BY idx DESC LIMIT 1"
# the last row of each file alone is looked at: most have few, but some have very many
_OVERHANGS = f"""
    SELECT * FROM (
        SELECT i.ino, (i.size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES} AS shown, (
            SELECT m.idx + m.count FROM r_map AS m WHERE m.ino = i.ino AND m.died = {LIVE} ORDER BY m.idx DESC LIMIT 1
        ) AS until
        FROM r_inode AS i WHERE i.died = {LIVE} AND i.mode & 0xF000 = {stat.S_IFREG}
    ) WHERE until > shown ORDER BY ino
"""
_CHUNK_COLUMNS = "chunk, fingerprint, block, slot, at, length"
_CHUNK = f"SELECT {_CHUNK_COLUMNS} FROM r_chunk WHERE chunk = ?"
_PLACED = f"""
    SELECT m.idx, c.chunk, c.fingerprint, c.block, c.slot, c.at, c.length
    FROM r_map AS m CROSS JOIN r_chunk AS c ON c.chunk = m.chunk
    WHERE m.ino = ?1 AND m.idx BETWEEN ?2 AND ?3 AND m.died = {LIVE} AND m.chunk <> {HOLE} ORDER BY m.idx
"""
_PLACED_AT = _PLACED.replace(f"m.died = {LIVE}", "m.born <= ?4 AND m.died > ?4")
_CHUNK_BY_FINGERPRINT = f"""
    SELECT {_CHUNK_COLUMNS} FROM r_chunk WHERE fingerprint = ? AND chunk < {FIRST_BROUGHT} ORDER BY chunk DESC LIMIT 1
"""
_CHUNKS_LIKE = f"SELECT {_CHUNK_COLUMNS} FROM r_chunk WHERE fingerprint = ? ORDER BY chunk DESC LIMIT ?"
_CHUNKS_OF_BLOCK = f"SELECT {_CHUNK_COLUMNS} FROM r_chunk WHERE block = ? ORDER BY slot, chunk"
_PUT_CHUNK = f"""
    INSERT INTO r_chunk ({_CHUNK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (chunk) DO UPDATE SET
    fingerprint = excluded.fingerprint, block = excluded.block, slot = excluded.slot, at = excluded.at,
    length = excluded.length
"""
_LOOSEN = "INSERT OR IGNORE INTO l_loose (chunk) VALUES (?)"
_LOOSEN_ALL = f"""
    INSERT OR IGNORE INTO l_loose (chunk) SELECT chunk FROM r_map
    WHERE ino BETWEEN ? AND ? AND died = {LIVE} AND chunk <> {HOLE}
"""
_BLOCKS_OF_CHUNKS = "SELECT DISTINCT block FROM r_chunk WHERE chunk IN (SELECT value FROM json_each(?))"
_PLACE = """
    SELECT c.block, b.k, b.n, b.held FROM r_chunk AS c CROSS JOIN r_block AS b ON b.block = c.block WHERE c.chunk = ?
"""
_PLACES_OF = f"SELECT ino, idx FROM r_map WHERE chunk = ?1 AND chunk <> {HOLE} AND died = {LIVE} LIMIT {PLACES_MOST}"
_ALL_PLACES_OF = f"SELECT ino, idx FROM r_map WHERE chunk = ?1 AND chunk <> {HOLE} AND died = {LIVE}"
_BLOCKS_OF = f"""
    SELECT DISTINCT c.block FROM r_map AS m CROSS JOIN r_chunk AS c ON c.chunk = m.chunk
    WHERE m.ino = ? AND m.died = {LIVE} AND m.chunk <> {HOLE}
"""
_HELD_OF = f"""
    SELECT DISTINCT b.k, b.n, b.held FROM ({_BLOCKS_OF}) AS a LEFT JOIN r_block AS b ON b.block = a.block
"""
_HELD_OF_CHUNKS = """
    SELECT DISTINCT b.k, b.n, b.held FROM json_each(?) AS a
    LEFT JOIN r_chunk AS c ON c.chunk = a.value LEFT JOIN r_block AS b ON b.block = c.block
"""


class MapTables(Store):
    """Maps and chunks."""

    # -- maps --------------------------------------------------------------------------------------------
    def map_rows(self, ino: Ino, first: int, last: int) -> Sequence[MapRow]:
        """The rows that touch chunk indexes first … last, in order. Hole runs come whole."""
        return [MapRow(*row) for row in self._map_rows(ino, first, last)]

    def _map_rows(self, ino: Ino, first: int, last: int) -> Sequence[tuple[int, int, ChunkNo]]:
        """The same as (index, count, chunk): `MapRow` takes as long as to read one."""
        if ino >= FIRST_PAST:
            generation, then = split(ino)
            rows = self._rows(_MAP_ROW_BEFORE_AT, (then, first, generation))
            after = self._rows(_MAP_ROWS_AFTER_AT, (then, first, last, generation)) if last > first else []
        else:
            rows = self._rows(_MAP_ROW_BEFORE, (ino, first))
            after = self._rows(_MAP_ROWS_AFTER, (ino, first, last)) if last > first else []
        return [(index, count, chunk) for index, count, chunk in (*rows, *after) if index + count > first]

    def replace_map(self, ino: Ino, rows: Iterable[MapRow], *, first: int, last: int, is_empty: bool = False) -> None:
        """Put `rows` in place of everything at indexes first … last; hole runs that stick out are cut.

        Args:
            is_empty: nothing is there, and it need not be looked for.
        """
        new = [(row.index, row.count, row.chunk) for row in rows]
        self._put_gone_of(ino)
        self._touched.add(ino)
        with self.savepoint():
            old = () if is_empty else self._map_rows(ino, first, last)
            for index, count, chunk in old:
                if index < first:
                    new.append((index, first - index, chunk))
                if index + count - 1 > last:
                    new.append((last + 1, index + count - 1 - last, chunk))
            self._change_all(_LOOSEN, [(chunk,) for _, _, chunk in old if chunk != HOLE])
            stay = {index for index, _, _ in old}.difference(index for index, _, _ in new)
            if old and (stay or not self.has_one_generation):
                self._drop_live_part(MAP, ino, old[0][0], old[-1][0])
            self._put_live_all(MAP, [((ino, index), (count, chunk)) for index, count, chunk in new])

    def map_end(self, ino: Ino) -> int:
        """The index behind the last row of now; 0: there is none."""
        rows = self._rows_of(ino, _MAP_END, (ino,))
        return int(rows[0][0]) if rows else 0

    def overhangs(self) -> Sequence[tuple[Ino, int, int]]:
        """Files with rows behind their published size: each with its chunks, and the index behind its last row.

        Looks at every file: once, at a recovery.
        """
        self._put_behind()
        return [(Ino(ino), shown, until) for ino, shown, until in self._rows(_OVERHANGS)]

    # -- chunks ------------------------------------------------------------------------------------------
    def new_chunk_no(self, *, is_brought: bool = False) -> ChunkNo:
        """Take a chunk number that was never given out; from FIRST_BROUGHT on for one that another line wrote."""
        return ChunkNo(self._take("chunk") + (FIRST_BROUGHT if is_brought else 0))

    def chunk(self, chunk: ChunkNo) -> ChunkRow | None:
        """Where a chunk lies."""
        rows = self._rows(_CHUNK, (chunk,))
        return ChunkRow(*rows[0]) if rows else None

    def placed(self, ino: Ino, first: int, last: int) -> Sequence[tuple[int, ChunkRow]]:
        """The chunks at indexes first … last, each with its index, in order; without holes and what is missing."""
        if ino >= FIRST_PAST:
            generation, then = split(ino)
            rows = self._rows(_PLACED_AT, (then, first, last, generation))
        else:
            rows = self._rows(_PLACED, (ino, first, last))
        return [(row[0], ChunkRow(*row[1:])) for row in rows]

    def chunk_by_fingerprint(self, fingerprint: Fingerprint) -> ChunkRow | None:
        """The newest chunk with this content that was sealed on this line: of others somebody else says so."""
        rows = self._rows(_CHUNK_BY_FINGERPRINT, (fingerprint,))
        return ChunkRow(*rows[0]) if rows else None

    def chunks_like(self, fingerprint: Fingerprint, limit: int = 16) -> Sequence[ChunkRow]:
        """Chunks with this content, whoever says so, the last ones first."""
        return [ChunkRow(*row) for row in self._rows(_CHUNKS_LIKE, (fingerprint, limit))]

    def put_chunks(self, chunks: Iterable[ChunkRow]) -> None:
        """Insert or replace: a chunk that is there already lies elsewhere from now on."""
        rows = [(c.chunk, c.fingerprint, c.block, c.slot, c.offset, c.length) for c in chunks]
        with self.savepoint():
            left = self._rows(_BLOCKS_OF_CHUNKS, (json.dumps([row[0] for row in rows]),))
            self._change_all(_PUT_CHUNK, rows)
            self._recount_live({block for (block,) in left} | {row[2] for row in rows})

    def place_of(self, chunk: ChunkNo) -> ChunkPlace | None:
        """The block of files in which a chunk lies, and how well it is placed."""
        rows = self._rows(_PLACE, (chunk,))
        return ChunkPlace(rows[0][0], Code(*rows[0][1:3]), rows[0][3]) if rows else None

    def blocks_of(self, ino: Ino) -> Sequence[BlockNo]:
        """The blocks that a published file's chunks lie in, each once."""
        return [row[0] for row in self._rows(_BLOCKS_OF, (ino,))]

    def held_of(self, ino: Ino) -> Sequence[tuple[Code, int] | None]:
        """Each code with each count of held fragments among the same blocks, once; None: one is not there."""
        rows = self._rows(_HELD_OF, (ino,))
        return [(Code(k, n), held) if k is not None else None for k, n, held in rows]

    def held_of_chunks(self, chunks: Collection[ChunkNo]) -> Sequence[tuple[Code, int] | None]:
        """The same of the blocks of files that these chunks lie in; None: a chunk, or its block, is not there."""
        rows = self._rows(_HELD_OF_CHUNKS, (json.dumps(list(chunks)),)) if chunks else ()
        return [(Code(k, n), held) if k is not None else None for k, n, held in rows]

    def places_of(self, chunk: ChunkNo) -> Sequence[tuple[Ino, int]]:
        """Some of the places (inode, chunk index) where a chunk is, at most PLACES_MOST."""
        return [(ino, index) for ino, index in self._rows(_PLACES_OF, (chunk,))]

    def all_places_of(self, chunk: ChunkNo) -> Sequence[tuple[Ino, int]]:
        """All places (inode, chunk index) of now where a chunk is."""
        return [(ino, index) for ino, index in self._rows(_ALL_PLACES_OF, (chunk,))]

    def chunks_of_block(self, block: BlockNo) -> Sequence[ChunkRow]:
        """All chunks that lie in a block, by slot; several may share one."""
        return [ChunkRow(*row) for row in self._rows(_CHUNKS_OF_BLOCK, (block,))]

    def _loosen_maps(self, first: int, last: int) -> None:
        self._change(_LOOSEN_ALL, (first, last))
