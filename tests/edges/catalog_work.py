"""Random work on a catalog through its port: commits, savepoints that are undone, generations, every table."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import HOLE, ROOT_INO, BlockNo, ChunkNo, Code, FragmentState, Ino, MapRow, SupplierNo
from tests.edges.catalog_rows import SUPPLIER, block, chunk, file, fragment, keep_generation

FEW = 6  # numbers of each kind, so that the same rows are changed again and again


class Undone(Exception):
    pass


class Work:
    """Does random things, the same for the same seed."""

    def __init__(self, catalog: SqliteCatalog, seed: int) -> None:
        self._catalog = catalog
        self._dice = random.Random(seed)
        self._steps: list[Callable[[], object]] = [
            self._put_inode,
            self._put_inode,
            self._drop_inode,
            self._put_name,
            self._drop_name,
            self._xattr,
            self._map,
            self._chunk,
            self._block,
            self._fragment,
            self._supplier,
            self._value,
            self._local,
        ]

    def do(self, commits: int) -> None:
        """Work through so many transactions."""
        for _ in range(commits):
            for _ in range(self._dice.randrange(12)):
                self._step()
            if self._dice.random() < 0.1:
                keep_generation(self._catalog)
            self._catalog.commit()

    def _step(self) -> None:
        if self._dice.random() < 0.8:
            self._dice.choice(self._steps)()
            return
        try:
            with self._catalog.savepoint():
                for _ in range(3):
                    self._dice.choice(self._steps)()
                if self._dice.random() < 0.5:
                    raise Undone
        except Undone:
            pass

    def _ino(self) -> Ino:
        return Ino(100 + self._dice.randrange(FEW))

    def _few(self) -> int:
        return 1 + self._dice.randrange(FEW)

    def _put_inode(self) -> None:
        ino = self._catalog.new_ino() if self._dice.random() < 0.3 else self._ino()
        inode = file(ino, size=self._few(), mtime_ns=self._few(), version=self._dice.randrange(2))
        self._catalog.put_inode(inode)

    def _drop_inode(self) -> None:
        self._catalog.drop_inode(self._ino())

    def _put_name(self) -> None:
        self._catalog.put_name(
            ROOT_INO, b"%d" % self._few(), self._ino(), superseded=Ino(self._dice.choice([0, 101]))
        )

    def _drop_name(self) -> None:
        self._catalog.drop_name(ROOT_INO, b"%d" % self._few())

    def _xattr(self) -> None:
        name = b"user.%d" % self._few()
        if self._dice.random() < 0.4:
            self._catalog.drop_xattr(self._ino(), name)
        else:
            self._catalog.put_xattr(self._ino(), name, b"%d" % self._few())

    def _map(self) -> None:
        first = self._dice.randrange(20)
        last = self._dice.randrange(first, 20)
        rows = self._dice.choice(
            [
                [],
                [MapRow(first, last - first + 1, HOLE)],
                [MapRow(at, 1, ChunkNo(self._few())) for at in range(first, last + 1)],
            ]
        )
        self._catalog.replace_map(self._ino(), rows, first=first, last=last)

    def _chunk(self) -> None:
        number = self._catalog.new_chunk_no() if self._dice.random() < 0.3 else ChunkNo(self._few())
        self._catalog.put_chunks([chunk(number, block=self._few(), fingerprint=bytes([self._few()]) * 32)])

    def _block(self) -> None:
        if self._dice.random() < 0.3:
            self._catalog.drop_block(BlockNo(self._few()))
        else:
            self._catalog.put_block(block(self._few(), Code(1, self._few())))

    def _fragment(self) -> None:
        number, index, supplier = self._few(), self._dice.randrange(2), self._dice.randrange(2)
        if self._dice.random() < 0.3:
            self._catalog.drop_fragment(BlockNo(number), index, SupplierNo(supplier))
        else:
            self._catalog.put_fragment(fragment(number, index, supplier, self._dice.choice(list(FragmentState))))

    def _supplier(self) -> None:
        number = SupplierNo(self._dice.randrange(3))
        self._catalog.put_supplier(replace(SUPPLIER, supplier=number, label=str(self._few())))

    def _value(self) -> None:
        self._catalog.put_value(f"key {self._few()}", b"%d" % self._few())

    def _local(self) -> None:
        self._catalog.put_inline(self._ino(), bytes([self._few()]) * 500, b"")
        self._catalog.charge_supplier(SupplierNo(self._few()), 10, 1)
        self._catalog.put_block(replace(block(self._few()), block=BlockNo(-self._few())))
        if self._dice.random() < 0.3:
            self._catalog.drop_block(BlockNo(-self._few()))
