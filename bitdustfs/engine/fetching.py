"""Fetching objects of the replica: what a head names, from its references alone, without a catalog that knows them.

Where the fragments went is told as a hint; whoever denies it is passed over, and then every supplier is asked for
every index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from bitdustfs.core import replica
from bitdustfs.core.replica import ObjectRef
from bitdustfs.core.seal import Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.asks import FragmentSource
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.errors import BitdustError
from bitdustfs.model import BlockNo, BlockRow, FragmentRow, FragmentState, Supplier, SupplierNo
from bitdustfs.ports import Catalog, Crunch, Entropy

LOOK_S = 0.1
_log = logging.getLogger(__name__)


class Fetcher:
    """Fetch what references name.

    Args:
        scratch: an empty catalog that ends with the process.
        suppliers: who may have it.
        source: through whom they are asked.
    """

    def __init__(
        self,
        scratch: Catalog,
        suppliers: Iterable[Supplier],
        source: FragmentSource,
        crunch: Crunch,
        secrets: VolumeSecrets,
        entropy: Entropy | None = None,
    ) -> None:
        self.scratch = scratch
        self._suppliers = tuple(suppliers)
        self._crunch = crunch
        self._secrets = secrets
        self.fragments = Fragments(scratch, Journal(scratch), source, crunch, secrets, entropy)
        self.taken: list[tuple[BlockRow, ObjectRef]] = []  # numbered in `scratch`
        for row in self._suppliers:
            scratch.put_supplier(row)

    async def look(self) -> None:
        """Look after whoever keeps us waiting, until cancelled."""
        while True:
            self.fragments.asks.look()
            await trio.sleep(LOOK_S)

    async def object(self, ref: ObjectRef, kind: Kind) -> tuple[BlockRow, bytes]:
        """The content of an object, and its block. Raises Unavailable and its kin, SealBroken, BadFormat."""
        row = self.take(ref)
        block = await self.block(row)
        return row, await self._crunch.run(replica.join, self._secrets, row, kind, ref.content_bytes, block)

    def take(self, ref: ObjectRef) -> BlockRow:
        """Number a block of the replica, and note who should have it."""
        row = ref.row(self.scratch.new_local_block_no())
        self.scratch.put_block(row)
        listed = {supplier.supplier for supplier in self._suppliers}
        for index, supplier in enumerate(ref.at):
            if supplier in listed:  # who was given up since is not
                self._hold(row.block, index, SupplierNo(supplier))
        self.taken.append((row, ref))
        return row

    async def block(self, row: BlockRow) -> bytes:
        """A whole block that was taken."""
        try:
            return await self.fragments.block_range(row, 0, row.length)
        except BitdustError as error:
            _log.info("a block is not where the head says (%s): everybody is asked", error)
        for index in range(row.code.n):
            for supplier in self._suppliers:
                self._hold(row.block, index, supplier.supplier)
        return await self.fragments.block_range(row, 0, row.length)

    def _hold(self, block: BlockNo, index: int, supplier: SupplierNo) -> None:
        self.scratch.put_fragment(FragmentRow(block, index, supplier, FragmentState.HELD))
