"""What it costs to find that a long file is the same on both lines of a fork: statements, and in one turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.grafting import Grafting
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.releases import Releases
from bitdustfs.model import CHUNK_BYTES, ROOT_INO, MapRow, SnapshotKind
from bitdustfs.testing.suppliers import MemorySuppliers
from tests.edges.catalog_rows import CODE, DIRECTORY, SUPPLIER, block, chunk, file, fragment

CHUNKS = 4000
BLOCKS = 20
IN_ONE = CHUNKS // BLOCKS


@contextmanager
def holding_a_long_file(path: Path, *, first_block: int, held: int) -> Iterator[SqliteCatalog]:
    """A catalog with one file, of whose blocks each has so many fragments."""
    catalog = SqliteCatalog(path, create=True)
    try:
        catalog.put_supplier(SUPPLIER)
        catalog.put_inode(DIRECTORY)
        inode = file(7, size=CHUNKS * CHUNK_BYTES)
        catalog.put_inode(inode)
        catalog.put_name(ROOT_INO, b"long", inode.ino)
        for number in range(first_block, first_block + BLOCKS):
            catalog.put_block(block(number))
            for index in range(held):
                catalog.put_fragment(fragment(number, index))
        rows = [
            chunk(first_block * CHUNKS + at, first_block + at // IN_ONE, at % IN_ONE, at.to_bytes(32))
            for at in range(CHUNKS)
        ]
        catalog.put_chunks(rows)
        maps = [MapRow(at, 1, row.chunk) for at, row in enumerate(rows)]
        catalog.replace_map(inode.ino, maps, first=0, last=CHUNKS - 1)
        catalog.commit()
        yield catalog
    finally:
        catalog.close()


class Statements:
    """Counts what catalogs are asked, and how much of that between two turns of others."""

    def __init__(self, *catalogs: SqliteCatalog) -> None:
        self.all = self.most = self._turn = 0
        for each in catalogs:
            each.connection.exec_trace = self._count

    def _count(self, _cursor: object, _sql: str, _bindings: object) -> bool:
        self.all += 1
        self._turn += 1
        self.most = max(self.most, self._turn)
        return True

    async def run(self) -> None:
        while True:
            self._turn = 0
            await trio.lowlevel.checkpoint()


async def test_long_file_in_blocks_that_few_hold_costs_by_its_blocks_and_leaves_turns_to_others(
    tmp_path: Path,
) -> None:
    with (
        holding_a_long_file(tmp_path / "ours", first_block=1, held=CODE.k) as ours,
        holding_a_long_file(tmp_path / "theirs", first_block=101, held=CODE.k) as theirs,
    ):
        journal = Journal(ours)
        releases = Releases(ours, journal, MemorySuppliers(1), VolumeSecrets(b"v" * 32))
        grafting = Grafting(ours, theirs, journal, releases, lambda: None)
        made = ours.make_snapshot("coming", 0, SnapshotKind.COMING)
        counted = Statements(ours, theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counted.run)
            await grafting.prepare()
            await grafting.run(made.generation)
            nursery.cancel_scope.cancel()
        assert grafting.adopted == []
        assert counted.all < CHUNKS // 2
        assert counted.most < 200
