"""The catalog's blocks, their fragments, and the suppliers who hold them.

There are two pairs of tables of the same shape. Blocks of files have positive numbers and are replicated. *Local
blocks* have negative numbers; they hold the catalog's own way to the suppliers (deltas, manifests, snapshots), and
are local because storing the replicated tables must not change them. Whoever looks after blocks need not care: the
sign of a number says where its rows are, and questions about all blocks are answered from both pairs.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from bitdustfs.edges.catalog_outbox import PLACES
from bitdustfs.edges.catalog_store import Store
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.model import (
    NO_BLOCK,
    BlockId,
    BlockNo,
    BlockRow,
    Code,
    FragmentRow,
    FragmentState,
    Root,
    Shortfall,
    Standing,
    Suite,
    Supplier,
    SupplierNo,
    Wanting,
)

_ROOT_BYTES = 32
_BLOCK_COLUMNS = "block, block_id, scope, suite, k, n, length, roots"
_HELD = FragmentState.HELD
_MOST_FRAGMENTS = 256  # of a block, and more
_FIRST_WANTING = Wanting(-_MOST_FRAGMENTS, NO_BLOCK)
_FIRST_BLOCK = -(2**62)  # and less
_ENDS = """
    SELECT coalesce((SELECT min(block) FROM l_block), (SELECT min(block) FROM r_block), 0),
    coalesce((SELECT max(block) FROM r_block), (SELECT max(block) FROM l_block), 0)
"""


class Pair:
    """The statements of a table of blocks, the table of their fragments, and the table of what lies in them."""

    def __init__(self, block: str, fragment: str, content: str, live: str = "") -> None:
        self.held = f"SELECT count(DISTINCT idx) FROM {fragment} WHERE block = ?1 AND state = {_HELD}"
        self.block = f"SELECT {_BLOCK_COLUMNS} FROM {block} WHERE block = ?"
        self.put_block = f"""
            INSERT INTO {block} ({_BLOCK_COLUMNS}, held{live and ", live"})
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ({self.held}){live and ", 0"})
            ON CONFLICT (block) DO UPDATE SET block_id = excluded.block_id, scope = excluded.scope,
            suite = excluded.suite, k = excluded.k, n = excluded.n, length = excluded.length,
            roots = excluded.roots, held = excluded.held
        """
        self.drop_block = f"DELETE FROM {block} WHERE block = ?"
        self.drop_content = f"DELETE FROM {content} WHERE block = ?"
        self.recount = f"UPDATE {block} SET held = ({self.held}) WHERE block = ?1 AND held <> ({self.held})"
        # in two, for with both in one row value the index is walked from its start
        self.wanting_alike = f"""
            SELECT held - k, block FROM {block} WHERE held < n AND held - k = ? AND block > ? ORDER BY block LIMIT ?
        """
        self.wanting_less = f"""
            SELECT held - k, block FROM {block} WHERE held < n AND held - k > ? ORDER BY held - k, block LIMIT ?
        """
        self.takeable = f"""
            SELECT b.value FROM json_each(?1) AS b WHERE EXISTS (
                SELECT 1 FROM json_each(?2) AS s WHERE NOT EXISTS (
                    SELECT 1 FROM {fragment} WHERE block = b.value AND supplier = s.value
                    AND state IN ({_HELD}, {FragmentState.ABSENT})))
            OR (SELECT count(*) > count(DISTINCT idx) FROM {fragment} WHERE block = b.value AND state = {_HELD})
        """
        self.newest = f"SELECT coalesce(max(abs(block)), 0) FROM {block}"  # numbers of local blocks go down
        self.missing = f"SELECT coalesce(sum(n - held), 0) FROM {block} WHERE held < n AND abs(block) <= ?"
        self.histogram = f"SELECT k, n, held, count(*) FROM {block} GROUP BY k, n, held"
        self.shortfall = f"""
            SELECT b.block, b.k, b.n, b.held, b.length FROM json_each(?) AS a JOIN {block} AS b ON b.block = a.value
            WHERE b.held < b.n
        """
        self.least_margin = f"""
            SELECT min((SELECT count(DISTINCT f.idx) FROM {fragment} AS f WHERE f.block = b.block
                AND f.state = {_HELD} AND f.supplier IN (SELECT value FROM json_each(?1))) - b.k), max(b.block)
            FROM (SELECT block, k FROM {block} WHERE block > ?2 ORDER BY block LIMIT ?3) AS b
        """
        self.crowded = f"""
            SELECT block, (SELECT count(*) FROM {fragment} AS f WHERE f.block = b.block AND f.state = {_HELD}) > n
            FROM {block} AS b WHERE block > ? ORDER BY block LIMIT ?
        """
        self.fragments = f"SELECT block, idx, supplier, state FROM {fragment} WHERE block = ? ORDER BY idx, supplier"
        self.put_fragment = f"""
            INSERT INTO {fragment} (block, idx, supplier, state) VALUES (?, ?, ?, ?)
            ON CONFLICT (block, idx, supplier) DO UPDATE SET state = excluded.state
        """
        self.fragments_at = f"""
            SELECT block, idx, supplier, state FROM {fragment}
            WHERE supplier = ? AND state = ? AND block >= ? ORDER BY block LIMIT ?
        """
        self.holding = f"""
            SELECT s.value FROM json_each(?) AS s
            WHERE EXISTS (SELECT 1 FROM {fragment} WHERE supplier = s.value AND state = {_HELD})
        """
        self.drop_fragment = f"DELETE FROM {fragment} WHERE block = ? AND idx = ? AND supplier = ?"
        self.drop_fragments = f"DELETE FROM {fragment} WHERE block = ?"


REPLICATED = Pair("r_block", "r_fragment", "r_chunk", live="live")
LOCAL = Pair("l_block", "l_fragment", "l_image")
_FILE_BYTES_IN = f"""
    SELECT coalesce(sum(c.length), 0) FROM json_each(?) AS a JOIN r_chunk AS c ON c.block = a.value
    JOIN r_map AS m ON m.chunk = c.chunk AND m.chunk <> 0 AND m.died = {LIVE}
"""
_ENOUGH_HELD = """
    SELECT count(*) FROM json_each(?) AS a JOIN r_block AS b ON b.block = json_extract(a.value, '$[0]')
    WHERE b.held >= json_extract(a.value, '$[1]')
"""
_UNMARK = "DELETE FROM l_recode WHERE block = ?"
_BLOCKS = f"SELECT {_BLOCK_COLUMNS} FROM r_block WHERE block > ? ORDER BY block LIMIT ?"
_LOCAL_BLOCKS = f"SELECT {_BLOCK_COLUMNS} FROM l_block ORDER BY block DESC"

_SUPPLIER_COLUMNS = (
    "supplier", "node", "owner", "label", "address", "contract",
    "capacity_bytes", "capacity_fragments", "standing",
)  # fmt: skip
_SUPPLIERS = f"""
    SELECT {", ".join(f"s.{c}" for c in _SUPPLIER_COLUMNS[:-1])}, coalesce(u.bytes, 0), coalesce(u.fragments, 0),
    s.standing
    FROM r_supplier AS s LEFT JOIN l_usage AS u ON u.supplier = s.supplier ORDER BY s.supplier
"""
_PUT_SUPPLIER = (
    f"INSERT INTO r_supplier ({', '.join(_SUPPLIER_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT (supplier) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _SUPPLIER_COLUMNS[1:])}"
)
_PUT_USAGE = """
    INSERT INTO l_usage (supplier, bytes, fragments) VALUES (?, ?, ?)
    ON CONFLICT (supplier) DO UPDATE SET bytes = excluded.bytes, fragments = excluded.fragments
"""
_CHARGE = "UPDATE l_usage SET bytes = bytes + ?2, fragments = fragments + ?3 WHERE supplier = ?1"
_CODES = """
    WITH RECURSIVE code (k, n) AS (
        SELECT * FROM (SELECT k, n FROM r_block ORDER BY k, n LIMIT 1)
        UNION ALL
        SELECT b.k, b.n FROM code JOIN r_block b ON b.block = (
            SELECT block FROM r_block WHERE (k, n) > (code.k, code.n) ORDER BY k, n LIMIT 1
        )
    )
    SELECT k, n FROM code
"""  # one step for each code, however many blocks there are


class BlockTables(Store):
    """Blocks, fragments and suppliers."""

    _suppliers: tuple[Supplier, ...] | None = None  # as they are now, once asked for: everybody asks all the time

    # -- blocks ------------------------------------------------------------------------------------------
    def new_block_no(self) -> BlockNo:
        """Take a block number that was never given out."""
        return BlockNo(self._take("block"))

    def new_local_block_no(self) -> BlockNo:
        """Take a number for a local block that was never given out: a negative one."""
        return BlockNo(-self._take_local("block"))

    def block(self, block: BlockNo) -> BlockRow | None:
        """A placed block, or a local one."""
        rows = self._rows(_pair(block).block, (block,))
        return _block(*rows[0]) if rows else None

    def local_blocks(self) -> Sequence[BlockRow]:
        """All local blocks, the one made first first."""
        return [_block(*row) for row in self._rows(_LOCAL_BLOCKS)]

    def blocks(self, *, after: BlockNo = NO_BLOCK, limit: int = -1) -> Sequence[BlockRow]:
        """Blocks of files with numbers above `after`, in order; at most `limit`, or all."""
        return [_block(*row) for row in self._rows(_BLOCKS, (after, limit))]

    def put_block(self, row: BlockRow) -> None:
        """Insert or replace."""
        code = (row.code.k, row.code.n)
        values = (row.block, row.block_id, row.scope, int(row.suite), *code, row.length, b"".join(row.roots))
        with self.savepoint():
            self._change(_pair(row.block).put_block, values)
            if row.block > 0:
                self._recount_live([row.block])

    def drop_block(self, block: BlockNo) -> None:
        """Forget a block, its fragments and the chunks in it."""
        pair = _pair(block)
        with self.savepoint():
            for statement in (pair.drop_content, pair.drop_fragments, pair.drop_block):
                self._change(statement, (block,))
            if block > 0:
                self._change(_UNMARK, (block,))

    def wanting_blocks(self, limit: int, after: Wanting | None = None) -> Sequence[Wanting]:
        """Blocks with fewer held fragments than their code's n, fewest above k first, local ones before others."""
        start = after if after is not None else _FIRST_WANTING
        rows = heapq.merge(*(self._wanting(pair, limit, start) for pair in (LOCAL, REPLICATED)))
        return [Wanting(spare, block) for spare, block in rows][:limit]

    def blocks_for(self, takers: Iterable[SupplierNo], blocks: Iterable[BlockNo]) -> set[BlockNo]:
        """Those of the blocks of which one of these suppliers has nothing, or somebody has what another has too."""
        numbers, given = json.dumps([int(number) for number in takers]), list(blocks)
        found: set[BlockNo] = set()
        for pair in (LOCAL, REPLICATED):
            some = json.dumps([int(block) for block in given if _pair(block) is pair])
            found |= {BlockNo(block) for (block,) in self._rows(pair.takeable, (some, numbers))}
        return found

    def crowded_blocks(self, after: BlockNo | None, limit: int) -> tuple[Sequence[BlockNo], BlockNo | None]:
        """Look at the next `limit` blocks: those with more held fragments than their n, and the last one."""
        for pair in (LOCAL, REPLICATED):
            rows = self._rows(pair.crowded, (_FIRST_BLOCK if after is None else after, limit))
            if rows:
                return [block for block, is_crowded in rows if is_crowded], rows[-1][0]
        return [], None

    def newest_blocks(self) -> tuple[int, int]:
        """What tells the blocks that there are now, for `missing_fragments`."""
        local, replicated = (self._rows(pair.newest)[0][0] for pair in (LOCAL, REPLICATED))
        return local, replicated

    def missing_fragments(self, until: tuple[int, int]) -> int:
        """How many fragments are not held of the blocks that there were when `newest_blocks` was asked."""
        return sum(self._rows(pair.missing, (no,))[0][0] for pair, no in zip((LOCAL, REPLICATED), until, strict=True))

    def count_blocks(self) -> int:
        """How many blocks of files there are."""
        count: int = self._rows("SELECT count(*) FROM r_block")[0][0]
        return count

    def codes(self) -> Sequence[Code]:
        """Every code that a block has, local blocks apart."""
        return [Code(k, n) for k, n in self._rows(_CODES)]

    def count_codes(self) -> Mapping[Code, int]:
        """How many blocks have each code, local blocks apart."""
        rows = self._rows("SELECT k, n, count(*) FROM r_block GROUP BY k, n ORDER BY k, n")
        return {Code(k, n): count for k, n, count in rows}

    def held_histogram(self, *, of_files: bool = False) -> Sequence[tuple[Code, int, int]]:
        """(code, held, how many blocks) over all blocks, or over those of files only, worst first."""
        counts: Counter[tuple[int, int, int, int]] = Counter()
        for pair in (REPLICATED,) if of_files else (LOCAL, REPLICATED):
            for k, n, held, count in self._rows(pair.histogram):
                counts[held - k, held - n, k, n] += count
        return [(Code(k, n), margin + k, count) for (margin, _, k, n), count in sorted(counts.items())]

    def shortfalls(self, blocks: Iterable[BlockNo]) -> Sequence[Shortfall]:
        """Which of some blocks lack fragments, and how many."""
        numbers = json.dumps([int(number) for number in blocks])
        return [
            Shortfall(BlockNo(block), Code(k, n), held, length)
            for pair in (LOCAL, REPLICATED)
            for block, k, n, held, length in self._rows(pair.shortfall, (numbers,))
        ]

    def file_bytes_in(self, blocks: Iterable[BlockNo]) -> int:
        """Bytes of user data of files as they are now that lie in some blocks; what two files share counts twice."""
        numbers = json.dumps([int(number) for number in blocks])
        total: int = self._rows(_FILE_BYTES_IN, (numbers,))[0][0]
        return total

    def least_margin(
        self, answering: Iterable[SupplierNo], after: BlockNo | None = None, limit: int = -1
    ) -> tuple[int | None, BlockNo | None]:
        """Look at the next `limit` blocks, or all: the least of held fragments at these suppliers minus k, and the
        last block that was looked at."""
        numbers = json.dumps([int(number) for number in answering])
        start, least, last = _FIRST_BLOCK if after is None else after, None, None
        for pair in (LOCAL, REPLICATED):
            margin, block = self._rows(pair.least_margin, (numbers, start, limit))[0]
            if block is not None:
                least, last = margin if least is None else min(least, margin), BlockNo(block)
                if limit >= 0:
                    break
        return least, last

    def holding(self, suppliers: Iterable[SupplierNo]) -> Sequence[SupplierNo]:
        """Those of some suppliers of which some fragment is HELD, in order of number."""
        numbers = json.dumps([int(number) for number in suppliers])
        found = {no for pair in (LOCAL, REPLICATED) for (no,) in self._rows(pair.holding, (numbers,))}
        return sorted(map(SupplierNo, found))

    # -- fragments ---------------------------------------------------------------------------------------
    def fragments(self, block: BlockNo) -> Sequence[FragmentRow]:
        """All fragments of a block, by index."""
        rows = self._rows(_pair(block).fragments, (block,))
        return [FragmentRow(b, i, s, FragmentState(state)) for b, i, s, state in rows]

    def put_fragment(self, row: FragmentRow) -> None:
        """Insert or replace the fragment `index` of a block at that supplier."""
        pair = _pair(row.block)
        if row.block > 0 and row.state is FragmentState.HELD:
            self._touched.add(PLACES)
        with self.savepoint():
            self._change(pair.put_fragment, (row.block, row.index, row.supplier, int(row.state)))
            self._change(pair.recount, (row.block,))

    def drop_fragment(self, block: BlockNo, index: int, supplier: SupplierNo) -> None:
        """Forget a fragment at one supplier."""
        pair = _pair(block)
        if block > 0:
            self._touched.add(PLACES)
        with self.savepoint():
            self._change(pair.drop_fragment, (block, index, supplier))
            self._change(pair.recount, (block,))

    def held(self, block: BlockNo) -> int:
        """How many different fragments of the block are HELD."""
        count: int = self._rows(_pair(block).held, (block,))[0][0]
        return count

    def are_held(self, least: Mapping[BlockNo, int]) -> bool:
        """Whether there are all these blocks of files, each with at least so many different fragments HELD."""
        pairs = json.dumps([(int(block), count) for block, count in least.items()])
        return bool(self._rows(_ENOUGH_HELD, (pairs,))[0][0] == len(least)) if least else True

    def fragments_at(
        self, supplier: SupplierNo, state: FragmentState, limit: int, start: BlockNo | None = None
    ) -> Sequence[FragmentRow]:
        """At most `limit` of the fragments at a supplier that are in that state, by block, from block `start` on."""
        bound = _FIRST_BLOCK if start is None else start
        rows: list[tuple[Any, ...]] = []
        for pair in (LOCAL, REPLICATED):
            if len(rows) < limit:
                rows += self._rows(pair.fragments_at, (supplier, state, bound, limit - len(rows)))
        return [FragmentRow(b, i, s, FragmentState(kept)) for b, i, s, kept in rows]

    def block_numbers(self) -> tuple[BlockNo, BlockNo]:
        """The least and the greatest number of a block, local or not; (0, 0) without one."""
        least, greatest = self._rows(_ENDS)[0]
        return BlockNo(least), BlockNo(greatest)

    def _wanting(self, pair: Pair, limit: int, after: Wanting) -> list[tuple[int, BlockNo]]:
        is_first = after is _FIRST_WANTING  # nothing is that bad
        alike = [] if is_first else self._rows(pair.wanting_alike, (after.spare, after.block, limit))
        return [*alike, *self._rows(pair.wanting_less, (after.spare, limit - len(alike)))]

    # -- suppliers ---------------------------------------------------------------------------------------
    def suppliers(self) -> Sequence[Supplier]:
        """All suppliers, whatever their standing, by number."""
        if self._suppliers is None:
            self._suppliers = tuple(_supplier(row) for row in self._rows(_SUPPLIERS))
        return list(self._suppliers)

    def put_supplier(self, supplier: Supplier) -> None:
        """Insert or replace by number; a number of 0 takes a new one."""
        number = supplier.supplier or self._take("supplier")
        names = (supplier.node, supplier.owner, supplier.label, supplier.address, supplier.contract)
        self._suppliers = None
        with self.savepoint():
            capacity = (supplier.capacity_bytes, supplier.capacity_fragments)
            self._change(_PUT_SUPPLIER, (number, *names, *capacity, int(supplier.standing)))
            self._change(_PUT_USAGE, (number, supplier.used_bytes, supplier.used_fragments))

    def charge_supplier(self, supplier: SupplierNo, bytes_more: int, fragments_more: int) -> None:
        """Count what a supplier holds for us."""
        self._suppliers = None
        self._change(_CHARGE, (supplier, bytes_more, fragments_more))

    def _undone(self) -> None:
        super()._undone()
        self._suppliers = None


@lru_cache(maxsize=256)  # they are asked for again and again, and seldom change
def _supplier(row: tuple[Any, ...]) -> Supplier:
    return Supplier(*row[:10], *map(Standing, row[10:]))


def _pair(block: BlockNo) -> Pair:
    return LOCAL if block < 0 else REPLICATED


def _block(
    number: BlockNo, block_id: BlockId, scope: int, suite: int, k: int, n: int, length: int, joined: bytes
) -> BlockRow:
    roots = tuple(Root(joined[at : at + _ROOT_BYTES]) for at in range(0, len(joined), _ROOT_BYTES))
    return BlockRow(number, block_id, scope, Suite(suite), Code(k, n), length, roots)
