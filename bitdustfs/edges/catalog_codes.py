"""The catalog's view of codes: what the files in a block wish, and which blocks are to be coded anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from bitdustfs.edges.catalog_store import Store
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.model import HOLE, BlockNo, ChunkNo, Code

FILES_MOST = 1024  # of one chunk that are asked for their wish: 4 ms
WISHES_MOST = 4096  # of all chunks of a block that are read in one go: 8 ms
_WISHES_OF_FEW = f"""
    SELECT c.chunk, i.k, i.n FROM r_chunk AS c
    LEFT JOIN r_map AS m ON m.chunk = c.chunk AND m.chunk <> {HOLE} AND m.died = {LIVE}
    LEFT JOIN r_inode AS i ON i.ino = m.ino AND i.died = {LIVE}
    WHERE c.block = ? ORDER BY c.chunk LIMIT {WISHES_MOST}
"""
_WISHES = f"""
    SELECT c.chunk, json_group_array(DISTINCT i.k || '/' || i.n) FILTER (WHERE i.ino IS NOT NULL),
    (SELECT count(*) FROM (SELECT 1 FROM r_map AS m WHERE m.chunk = c.chunk AND m.chunk <> {HOLE} AND m.died = {LIVE}
        LIMIT {FILES_MOST + 1}))
    FROM r_chunk AS c
    LEFT JOIN r_inode AS i ON i.died = {LIVE} AND i.ino IN (
        SELECT m.ino FROM r_map AS m WHERE m.chunk = c.chunk AND m.chunk <> {HOLE} AND m.died = {LIVE}
        LIMIT {FILES_MOST})
    WHERE c.block = ? GROUP BY c.chunk ORDER BY c.chunk
"""
_OWN = "SELECT k, n FROM r_block WHERE block = ?"
_MARK = "INSERT OR IGNORE INTO l_recode (block) VALUES (?)"
_UNMARK = "DELETE FROM l_recode WHERE block = ?"
_MARKED = "SELECT block FROM l_recode WHERE block > ? ORDER BY block LIMIT ?"
_IS_MARKED = "SELECT 1 FROM l_recode WHERE block = ?"
_COUNT_MARKED = """
    SELECT count(*), coalesce(sum(b.live), 0) FROM l_recode AS m JOIN r_block AS b ON b.block = m.block
"""


class CodeTables(Store):
    """Wishes, and marks of blocks."""

    def wishes(self, block: BlockNo) -> Sequence[tuple[ChunkNo, frozenset[Code | None]]]:
        """The chunks in a block, each with the codes of the files it is in; None: the volume's."""
        self._put_behind()
        rows = self._rows(_WISHES_OF_FEW, (block,))
        return self._wishes_of_many(block) if len(rows) == WISHES_MOST else _by_chunk(rows)

    def _wishes_of_many(self, block: BlockNo) -> Sequence[tuple[ChunkNo, frozenset[Code | None]]]:
        """The same where chunks are in very many files: not all of those are asked."""
        own: list[frozenset[Code | None]] = []
        found = []
        for chunk, joined, files in self._rows(_WISHES, (block,)):
            codes = frozenset(_code(text) for text in json.loads(joined))
            if files > FILES_MOST:
                own = own or [frozenset(Code(*row) for row in self._rows(_OWN, (block,)))]
                codes |= own[0]
            found.append((chunk, codes))
        return found

    def mark_blocks(self, blocks: Iterable[BlockNo]) -> None:
        """Note that these blocks are to be coded anew."""
        with self.savepoint():
            for block in blocks:
                self._change(_MARK, (block,))

    def unmark_blocks(self, blocks: Iterable[BlockNo]) -> None:
        """Note no more that they are."""
        with self.savepoint():
            for block in blocks:
                self._change(_UNMARK, (block,))

    def marked_blocks(self, limit: int, after: BlockNo) -> Sequence[BlockNo]:
        """At most `limit` of the blocks above `after` that are to be coded anew."""
        return [row[0] for row in self._rows(_MARKED, (after, limit))]

    def is_marked(self, block: BlockNo) -> bool:
        """Whether a block is to be coded anew."""
        return bool(self._rows(_IS_MARKED, (block,)))

    def count_marked(self) -> tuple[int, int]:
        """(blocks that are to be coded anew, bytes of plaintext in them)."""
        blocks, live_bytes = self._rows(_COUNT_MARKED)[0]
        return blocks, live_bytes


def _by_chunk(rows: Iterable[tuple[ChunkNo, int | None, int]]) -> Sequence[tuple[ChunkNo, frozenset[Code | None]]]:
    """Gather rows of (chunk, k, n), in the order of chunks; no k: no file is in the chunk."""
    alone: dict[tuple[int | None, int], frozenset[Code | None]] = {(None, 0): frozenset(), (0, 0): frozenset([None])}
    found: dict[ChunkNo, frozenset[Code | None]] = {}
    for chunk, k, n in rows:
        codes = alone.get((k, n or 0))
        if codes is None:
            codes = alone[k, n] = frozenset([Code(k or 0, n)])
        known = found.get(chunk)
        found[chunk] = codes if known is None else known | codes
    return list(found.items())


def _code(text: str) -> Code | None:
    k, _, n = text.partition("/")
    return Code(int(k), int(n)) if int(k) else None
