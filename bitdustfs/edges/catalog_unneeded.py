"""The catalog's view of what nobody needs any more: chunks, blocks, and fragments to be let go.

A chunk is needed while any row of a map names it, whatever the generation of that row. Chunks that may have lost
their last one are noted by whoever takes the row away, in the same transaction; those that never got one are found
by going once over each new chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set

from bitdustfs.edges.catalog_store import Store
from bitdustfs.model import FIRST_BROUGHT, HOLE, BlockNo, ChunkNo, Code, FragmentName, Sparse, SupplierNo

_IS_NEEDED = f"EXISTS (SELECT 1 FROM r_map AS m WHERE m.chunk = c.chunk AND m.chunk <> {HOLE})"
_NOTE_NEW = f"""
    INSERT OR IGNORE INTO l_loose (chunk)
    SELECT c.chunk FROM r_chunk AS c WHERE c.chunk > ?1 AND c.chunk <= ?2 AND NOT {_IS_NEEDED} UNION ALL
    SELECT c.chunk FROM r_chunk AS c WHERE c.chunk > ?1 + {FIRST_BROUGHT} AND c.chunk <= ?2 + {FIRST_BROUGHT}
    AND NOT {_IS_NEEDED}
"""
_LOOSE = f"SELECT c.chunk, {_IS_NEEDED} FROM l_loose AS c WHERE c.chunk > ? ORDER BY c.chunk LIMIT ?"
_SETTLE = "DELETE FROM l_loose WHERE chunk IN (SELECT value FROM json_each(?))"
_BLOCKS_OF = "SELECT DISTINCT block FROM r_chunk WHERE chunk IN (SELECT value FROM json_each(?))"
_DROP_CHUNKS = "DELETE FROM r_chunk WHERE chunk IN (SELECT value FROM json_each(?))"
_DEAD = "SELECT block FROM r_block WHERE live = 0 AND block > ? ORDER BY block LIMIT ?"
_SPARSE = """
    SELECT block, k, n, live, length FROM r_block
    WHERE live * 2 < length AND live > 0 AND block > ? ORDER BY block LIMIT ?
"""
_SMALL = """
    SELECT block, k, n, live, length FROM r_block WHERE live < 1048576 AND live > 0 ORDER BY live LIMIT ?
"""
_PUT_RELEASE = """
    INSERT INTO l_release (supplier, name, change) VALUES (?, ?, ?)
    ON CONFLICT (supplier, name) DO UPDATE SET change = max(change, excluded.change)
"""
_RELEASES = "SELECT name FROM l_release WHERE supplier = ? AND change <= ? ORDER BY change LIMIT ?"
_DROP_RELEASE = "DELETE FROM l_release WHERE supplier = ? AND name = ?"
_IS_RELEASING = "SELECT 1 FROM l_release WHERE supplier = ? AND name = ?"
_COUNT_RELEASES = "SELECT supplier, count(*) FROM l_release GROUP BY supplier"


_MAP_CHUNKS = """
    SELECT ino, idx, born, chunk FROM r_map WHERE (ino, idx, born) > (?, ?, ?) ORDER BY ino, idx, born LIMIT ?
"""
_CHUNK_BLOCKS = "SELECT chunk, block FROM r_chunk WHERE chunk > ? ORDER BY chunk LIMIT ?"
_FIRST_KEY = (-1, -1, -1)


class UnneededTables(Store):
    """Loose chunks, dead and sparse blocks, releases."""

    # -- chunks ------------------------------------------------------------------------------------------
    def last_chunk_no(self) -> ChunkNo:
        """The chunk number that was given out last, without what marks those that came with another line."""
        return ChunkNo(self._counters["chunk"] - 1)

    def note_loose_chunks(self, after: ChunkNo, until: ChunkNo) -> None:
        """Note those of the chunks with these numbers that no map names, whichever line they came with."""
        self._change(_NOTE_NEW, (after, until))

    def loose_chunks(self, after: ChunkNo, limit: int) -> Sequence[tuple[ChunkNo, bool]]:
        """The noted chunks above `after`, in order, each with whether a map names it all the same."""
        return [(chunk, bool(needed)) for chunk, needed in self._rows(_LOOSE, (after, limit))]

    def settle_chunks(self, chunks: Iterable[ChunkNo]) -> None:
        """Note no more that these may be loose."""
        self._change(_SETTLE, (_json(chunks),))

    def drop_chunks(self, chunks: Iterable[ChunkNo]) -> None:
        """Forget chunks, also that they were loose. No map may name them."""
        numbers = _json(chunks)
        with self.savepoint():
            blocks = [block for (block,) in self._rows(_BLOCKS_OF, (numbers,))]
            self._change(_DROP_CHUNKS, (numbers,))
            self._change(_SETTLE, (numbers,))
            self._recount_live(blocks)

    # -- blocks ------------------------------------------------------------------------------------------
    def dead_blocks(self, limit: int, after: BlockNo) -> Sequence[BlockNo]:
        """At most `limit` blocks of files above `after` in which no chunk lies."""
        return [row[0] for row in self._rows(_DEAD, (after, limit))]

    def sparse_blocks(self, limit: int, after: BlockNo) -> Sequence[Sparse]:
        """At most `limit` blocks of files above `after`, less than half of which is chunks."""
        return [Sparse(block, Code(k, n), *sizes) for block, k, n, *sizes in self._rows(_SPARSE, (after, limit))]

    def small_blocks(self, limit: int) -> Sequence[Sparse]:
        """At most `limit` blocks of files with less than 1 MiB of chunks, the smallest first."""
        return [Sparse(block, Code(k, n), *sizes) for block, k, n, *sizes in self._rows(_SMALL, (limit,))]

    # -- what the tables themselves say ------------------------------------------------------------------
    def mapped_chunks(
        self, after: tuple[int, int, int] | None, limit: int
    ) -> tuple[Set[ChunkNo], tuple[int, int, int] | None]:
        """The chunks that the next `limit` rows of maps name, and the key of the last row. No index is asked."""
        rows = self._rows(_MAP_CHUNKS, (*(after or _FIRST_KEY), limit))
        return {row[3] for row in rows}, rows[-1][:3] if rows else None

    def filled_blocks(self, after: ChunkNo, limit: int) -> tuple[Set[BlockNo], ChunkNo | None]:
        """The blocks that the next `limit` chunks lie in, and the last chunk. No index is asked."""
        rows = self._rows(_CHUNK_BLOCKS, (after, limit))
        return {row[1] for row in rows}, rows[-1][0] if rows else None

    # -- releases ----------------------------------------------------------------------------------------
    def put_releases(self, fragments: Iterable[tuple[SupplierNo, FragmentName]], change: int) -> None:
        """Note fragments that are to be let go once a change is safe; 0: at once. The later change counts."""
        with self.savepoint():
            for supplier, name in fragments:
                self._change(_PUT_RELEASE, (supplier, name, change))

    def releases(self, supplier: SupplierNo, change: int, limit: int) -> Sequence[FragmentName]:
        """At most `limit` of the fragments that may go at a supplier when this change is safe."""
        return [row[0] for row in self._rows(_RELEASES, (supplier, change, limit))]

    def drop_releases(self, supplier: SupplierNo, names: Iterable[FragmentName]) -> None:
        """They are let go."""
        with self.savepoint():
            for name in names:
                self._change(_DROP_RELEASE, (supplier, name))

    def is_releasing(self, supplier: SupplierNo, name: FragmentName) -> bool:
        """Whether a fragment is noted to be let go there."""
        return bool(self._rows(_IS_RELEASING, (supplier, name)))

    def count_releases(self) -> Mapping[SupplierNo, int]:
        """How many fragments are to be let go, for each supplier that has any."""
        return dict(self._rows(_COUNT_RELEASES))


def _json(numbers: Iterable[int]) -> str:
    return json.dumps([int(number) for number in numbers])
