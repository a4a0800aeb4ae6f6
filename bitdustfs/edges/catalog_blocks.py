"""The catalog's store of content: maps, chunks, blocks, fragments, suppliers.

(inode, index) -> chunk -> (block, slot) -> fragments at suppliers. Only maps carry generations: chunks, blocks and
fragments are the same for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bitdustfs.edges.catalog_store import Store
from bitdustfs.edges.catalog_versioned import LIVE, Versioned
from bitdustfs.model import (
    HOLE,
    BlockNo,
    BlockRow,
    ChunkNo,
    ChunkRow,
    Code,
    Fingerprint,
    FragmentRow,
    FragmentState,
    Ino,
    MapRow,
    Root,
    Suite,
    Supplier,
    SupplierNo,
)

MAP = Versioned("r_map", ("ino", "idx"), ("count", "chunk"))
_ROOT_BYTES = 32

# the row that covers index ?2, if any: one step to the left, not a walk from the start
_MAP_ROW_BEFORE = f"""
    SELECT idx, count, chunk FROM r_map WHERE ino = ?1 AND idx <= ?2 AND died = {LIVE} ORDER BY idx DESC LIMIT 1
"""
_MAP_ROWS_AFTER = f"""
    SELECT idx, count, chunk FROM r_map WHERE ino = ?1 AND idx > ?2 AND idx <= ?3 AND died = {LIVE} ORDER BY idx
"""
_CHUNK_COLUMNS = "chunk, fingerprint, block, slot, at, length"
_CHUNK = f"SELECT {_CHUNK_COLUMNS} FROM r_chunk WHERE chunk = ?"
_CHUNK_BY_FINGERPRINT = (
    f"SELECT {_CHUNK_COLUMNS} FROM r_chunk WHERE fingerprint = ? ORDER BY chunk DESC LIMIT 1"
)  # fmt: skip
_CHUNKS_OF_BLOCK = f"SELECT {_CHUNK_COLUMNS} FROM r_chunk WHERE block = ? ORDER BY slot, chunk"
_PUT_CHUNK = f"""
    INSERT INTO r_chunk ({_CHUNK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (chunk) DO UPDATE SET
    fingerprint = excluded.fingerprint, block = excluded.block, slot = excluded.slot, at = excluded.at,
    length = excluded.length
"""
_BLOCK = "SELECT block, block_id, scope, suite, k, n, length, roots FROM r_block WHERE block = ?"
_HELD = f"SELECT count(DISTINCT idx) FROM r_fragment WHERE block = ?1 AND state = {FragmentState.HELD}"
_PUT_BLOCK = f"""
    INSERT INTO r_block (block, block_id, scope, suite, k, n, length, roots, held)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ({_HELD}))
    ON CONFLICT (block) DO UPDATE SET block_id = excluded.block_id, scope = excluded.scope, suite = excluded.suite,
    k = excluded.k, n = excluded.n, length = excluded.length, roots = excluded.roots, held = excluded.held
"""
_RECOUNT = f"UPDATE r_block SET held = ({_HELD}) WHERE block = ?1 AND held <> ({_HELD})"
_BLOCKS_OF = f"""
    SELECT DISTINCT c.block FROM r_map AS m CROSS JOIN r_chunk AS c ON c.chunk = m.chunk
    WHERE m.ino = ? AND m.died = {LIVE} AND m.chunk <> {HOLE}
"""
_LEAST_MARGIN = f"""
    SELECT min((SELECT count(DISTINCT f.idx) FROM r_fragment AS f WHERE f.block = b.block
        AND f.state = {FragmentState.HELD} AND f.supplier IN (SELECT value FROM json_each(?1))) - b.k)
    FROM r_block AS b
"""
_FRAGMENTS = "SELECT block, idx, supplier, state FROM r_fragment WHERE block = ? ORDER BY idx, supplier"
_PUT_FRAGMENT = """
    INSERT INTO r_fragment (block, idx, supplier, state) VALUES (?, ?, ?, ?)
    ON CONFLICT (block, idx, supplier) DO UPDATE SET state = excluded.state
"""
_DROP_FRAGMENT = "DELETE FROM r_fragment WHERE block = ? AND idx = ? AND supplier = ?"
_WANTING = "SELECT block FROM r_block WHERE held < n ORDER BY held - k, block LIMIT ?"
_HISTOGRAM = """
    SELECT k, n, held, count(*) FROM r_block GROUP BY k, n, held ORDER BY held - k, held - n, k, n
"""
_SUPPLIER_COLUMNS = (
    "supplier", "node", "owner", "label", "address", "contract",
    "capacity_bytes", "capacity_fragments",
)  # fmt: skip
_SUPPLIERS = f"""
    SELECT {", ".join(f"s.{c}" for c in _SUPPLIER_COLUMNS)}, coalesce(u.bytes, 0), coalesce(u.fragments, 0)
    FROM r_supplier AS s LEFT JOIN l_usage AS u ON u.supplier = s.supplier ORDER BY s.supplier
"""
_PUT_SUPPLIER = (
    f"INSERT INTO r_supplier ({', '.join(_SUPPLIER_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT (supplier) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _SUPPLIER_COLUMNS[1:])}"
)
_PUT_USAGE = """
    INSERT INTO l_usage (supplier, bytes, fragments) VALUES (?, ?, ?)
    ON CONFLICT (supplier) DO UPDATE SET bytes = excluded.bytes, fragments = excluded.fragments
"""
_CHARGE = "UPDATE l_usage SET bytes = bytes + ?2, fragments = fragments + ?3 WHERE supplier = ?1"


class BlockTables(Store):
    """Maps, chunks, blocks, fragments and suppliers."""

    # -- maps --------------------------------------------------------------------------------------------
    def map_rows(self, ino: Ino, first: int, last: int) -> Sequence[MapRow]:
        """The rows that touch chunk indexes first … last, in order. Hole runs come whole."""
        rows = self._rows(_MAP_ROW_BEFORE, (ino, first))
        found = [MapRow(*row) for row in rows if row[0] + row[1] > first]
        if last > first:
            found += [MapRow(*row) for row in self._rows(_MAP_ROWS_AFTER, (ino, first, last))]
        return found

    def replace_map(self, ino: Ino, rows: Iterable[MapRow], *, first: int, last: int) -> None:
        """Put `rows` in place of everything at indexes first … last; hole runs that stick out are cut."""
        new = list(rows)
        self._touched.add(ino)
        with self.savepoint():
            for old in self.map_rows(ino, first, last):
                self.drop_live(MAP, (ino, old.index))
                if old.index < first:
                    new.append(replace(old, count=first - old.index))
                if old.index + old.count - 1 > last:
                    new.append(replace(old, index=last + 1, count=old.index + old.count - 1 - last))
            for row in new:
                self.put_live(MAP, (ino, row.index), (row.count, row.chunk))

    # -- chunks ------------------------------------------------------------------------------------------
    def new_chunk_no(self) -> ChunkNo:
        """Take a chunk number that was never given out."""
        return ChunkNo(self._take("chunk"))

    def chunk(self, chunk: ChunkNo) -> ChunkRow | None:
        """Where a chunk lies."""
        rows = self._rows(_CHUNK, (chunk,))
        return ChunkRow(*rows[0]) if rows else None

    def chunk_by_fingerprint(self, fingerprint: Fingerprint) -> ChunkRow | None:
        """The newest chunk with this content."""
        rows = self._rows(_CHUNK_BY_FINGERPRINT, (fingerprint,))
        return ChunkRow(*rows[0]) if rows else None

    def put_chunk(self, row: ChunkRow) -> None:
        """Insert or replace."""
        self._change(_PUT_CHUNK, (row.chunk, row.fingerprint, row.block, row.slot, row.offset, row.length))

    def redirect_chunk(self, old: ChunkNo, new: ChunkRow) -> None:
        """Let chunk `old` lie where `new` lies: older references move to a better placed copy."""
        self.put_chunk(replace(new, chunk=old))

    # -- blocks ------------------------------------------------------------------------------------------
    def new_block_no(self) -> BlockNo:
        """Take a block number that was never given out."""
        return BlockNo(self._take("block"))

    def block(self, block: BlockNo) -> BlockRow | None:
        """A placed block."""
        rows = self._rows(_BLOCK, (block,))
        if not rows:
            return None
        number, block_id, scope, suite, k, n, length, joined = rows[0]
        roots = tuple(Root(joined[at : at + _ROOT_BYTES]) for at in range(0, len(joined), _ROOT_BYTES))
        return BlockRow(number, block_id, scope, Suite(suite), Code(k, n), length, roots)

    def put_block(self, row: BlockRow) -> None:
        """Insert or replace."""
        self._change(
            _PUT_BLOCK,
            (
                row.block,
                row.block_id,
                row.scope,
                int(row.suite),
                row.code.k,
                row.code.n,
                row.length,
                b"".join(row.roots),
            ),
        )

    def blocks_of(self, ino: Ino) -> Sequence[BlockNo]:
        """The blocks that a published file's chunks lie in, each once."""
        return [row[0] for row in self._rows(_BLOCKS_OF, (ino,))]

    def chunks_of_block(self, block: BlockNo) -> Sequence[ChunkRow]:
        """All chunks that lie in a block, by slot; several may share one."""
        return [ChunkRow(*row) for row in self._rows(_CHUNKS_OF_BLOCK, (block,))]

    def wanting_blocks(self, limit: int) -> Sequence[BlockNo]:
        """Blocks with fewer held fragments than their code's n, fewest above k first."""
        return [row[0] for row in self._rows(_WANTING, (limit,))]

    def count_blocks(self) -> int:
        """How many blocks there are."""
        count: int = self._rows("SELECT count(*) FROM r_block")[0][0]
        return count

    def held_histogram(self) -> Sequence[tuple[Code, int, int]]:
        """(code, held, how many blocks) over all blocks, worst first."""
        return [(Code(k, n), held, count) for k, n, held, count in self._rows(_HISTOGRAM)]

    def least_margin(self, answering: Iterable[SupplierNo]) -> int | None:
        """The least, over all blocks, of held fragments at these suppliers minus k; None without a block."""
        rows = self._rows(_LEAST_MARGIN, (json.dumps([int(number) for number in answering]),))
        least: int | None = rows[0][0]
        return least

    # -- fragments ---------------------------------------------------------------------------------------
    def fragments(self, block: BlockNo) -> Sequence[FragmentRow]:
        """All fragments of a block, by index."""
        return [FragmentRow(b, i, s, FragmentState(state)) for b, i, s, state in self._rows(_FRAGMENTS, (block,))]

    def put_fragment(self, row: FragmentRow) -> None:
        """Insert or replace the fragment `index` of a block at that supplier."""
        with self.savepoint():
            self._change(_PUT_FRAGMENT, (row.block, row.index, row.supplier, int(row.state)))
            self._change(_RECOUNT, (row.block,))

    def drop_fragment(self, block: BlockNo, index: int, supplier: SupplierNo) -> None:
        """Forget a fragment at one supplier."""
        with self.savepoint():
            self._change(_DROP_FRAGMENT, (block, index, supplier))
            self._change(_RECOUNT, (block,))

    def held(self, block: BlockNo) -> int:
        """How many different fragments of the block are HELD."""
        count: int = self._rows(_HELD, (block,))[0][0]
        return count

    # -- suppliers ---------------------------------------------------------------------------------------
    def suppliers(self) -> Sequence[Supplier]:
        """All hired suppliers, by number."""
        return [Supplier(*row) for row in self._rows(_SUPPLIERS)]

    def put_supplier(self, supplier: Supplier) -> None:
        """Insert or replace by number; a number of 0 takes a new one."""
        number = supplier.supplier or self._take("supplier")
        names = (supplier.node, supplier.owner, supplier.label, supplier.address, supplier.contract)
        with self.savepoint():
            capacity = (supplier.capacity_bytes, supplier.capacity_fragments)
            self._change(_PUT_SUPPLIER, (number, *names, *capacity))
            self._change(_PUT_USAGE, (number, supplier.used_bytes, supplier.used_fragments))

    def charge_supplier(self, supplier: SupplierNo, bytes_more: int, fragments_more: int) -> None:
        """Count what a supplier holds for us."""
        self._change(_CHARGE, (supplier, bytes_more, fragments_more))
