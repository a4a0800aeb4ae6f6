"""Rows for catalog tests."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import (
    ROOT_INO,
    BlockId,
    BlockNo,
    BlockRow,
    ChunkNo,
    ChunkRow,
    Code,
    Fingerprint,
    FragmentRow,
    FragmentState,
    Ino,
    Inode,
    NodeId,
    OwnerId,
    Root,
    SnapshotKind,
    Suite,
    Supplier,
    SupplierNo,
    Wanting,
)

CODE = Code(3, 5)
FILE = Inode(Ino(7), stat.S_IFREG | 0o644, 1000, 100, 1, 4096, 11, 12, 13, CODE, 1)
DIRECTORY = replace(FILE, ino=ROOT_INO, mode=stat.S_IFDIR | 0o755, size=0, version=0)
SUPPLIER = Supplier(
    SupplierNo(0), NodeId(b"n" * 32), OwnerId(b"o" * 32), "s1", "127.0.0.1:1", b"contract", 1000, 10, 0, 0
)  # fmt: skip


def file(ino: int, **changes: Any) -> Inode:
    return replace(FILE, ino=Ino(ino), **changes)


def chunk(number: int, block: int = 1, slot: int = 0, fingerprint: bytes = b"f" * 32) -> ChunkRow:
    return ChunkRow(ChunkNo(number), Fingerprint(fingerprint), BlockNo(block), slot, slot * 4112, 4096)


def block(number: int, code: Code = CODE) -> BlockRow:
    roots = tuple(Root(bytes([i]) * 32) for i in range(code.n))
    return BlockRow(BlockNo(number), BlockId(bytes([number]) * 32), 1, Suite.AES_256_GCM, code, 12288, roots)


def fragment(block_no: int, index: int, supplier: int = 1, state: FragmentState = FragmentState.HELD) -> FragmentRow:
    return FragmentRow(BlockNo(block_no), index, SupplierNo(supplier), state)


def keep_generation(catalog: SqliteCatalog) -> int:
    """Make a snapshot of what there is now. Returns its generation."""
    return catalog.make_snapshot(f"s{catalog.generation}", 0, SnapshotKind.BY_PERSON).generation


def rows_of(catalog: SqliteCatalog, table: str) -> Sequence[tuple[Any, ...]]:
    return catalog.connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()


def replicated_tables(catalog: SqliteCatalog) -> Sequence[str]:
    found = catalog.connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'r\\_%' ESCAPE '\\'"
    )
    return [str(row[0]) for row in found.fetchall()]


def replicated_rows(catalog: SqliteCatalog) -> dict[str, Sequence[tuple[Any, ...]]]:
    """All rows of all replicated tables, in the order of their keys."""
    return {
        table: sorted(catalog.connection.execute(f"SELECT * FROM {table}").fetchall())
        for table in replicated_tables(catalog)
    }


def blocks_of(wanting: Sequence[Wanting]) -> list[BlockNo]:
    return [each.block for each in wanting]
