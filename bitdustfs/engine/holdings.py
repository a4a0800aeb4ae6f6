"""Holdings: what each supplier holds for us now, by our own catalog, for the ledger (engine/ledger).

Held is what was acknowledged, without what is proven lost or waits to be shown again. The catalog counts what was
acknowledged; the rest are few rows most of the time, and are gone through only when some became lost, or an hour
later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from math import inf
from typing import Final

import trio

from bitdustfs.core import erasure
from bitdustfs.engine.auditor import Auditor
from bitdustfs.engine.holder_pages import holder_pages
from bitdustfs.engine.leaves import LeafReader
from bitdustfs.engine.ledger import Holding, Ledger
from bitdustfs.model import FragmentState, Standing, SupplierNo
from bitdustfs.ports import Catalog

PAGE: Final = 100  # rows looked at in one turn
AGAIN_S: Final = 3600.0
_NOT_HELD = (FragmentState.LOST, FragmentState.ABSENT)


class Holdings:
    """What suppliers hold.

    Args:
        reachable: the suppliers that answer now.
    """

    def __init__(self, catalog: Catalog, reachable: Callable[[], Set[SupplierNo]]) -> None:
        self._catalog = catalog
        self._reachable = reachable
        self._missing: dict[
            SupplierNo, tuple[float, int]
        ] = {}  # when it was counted, and how many bytes are not held

    async def now(self) -> Sequence[Holding]:
        """Each supplier that holds something, or is lost."""
        found = []
        for row in self._catalog.suppliers():
            if row.standing is Standing.FIRED or not (row.used_bytes or row.is_lost):
                continue
            held = max(0, row.used_bytes - await self._missing_bytes(row.supplier)) if row.is_listed else 0
            answers = row.supplier in self._reachable()
            found.append(Holding(row.owner, row.node, held, answers, counts=not row.is_lost))
        return found

    def note_lost(self, supplier: SupplierNo) -> None:
        """Something is held no more."""
        self._missing.pop(supplier, None)

    async def _missing_bytes(self, supplier: SupplierNo) -> int:
        counted_at, missing = self._missing.get(supplier, (-inf, 0))
        if trio.current_time() - counted_at < AGAIN_S:
            return missing
        self._missing[supplier] = trio.current_time(), 0
        counted_at, missing = trio.current_time(), 0
        for state in _NOT_HELD:
            for page in holder_pages(self._catalog, supplier, state, PAGE):
                blocks = (self._catalog.block(each.block) for each in page)
                missing += sum(erasure.fragment_length(each.length, each.code.k) for each in blocks if each)
                await trio.lowlevel.checkpoint()
        if supplier in self._missing:  # else more was lost meanwhile: again at the next look
            self._missing[supplier] = counted_at, missing
        return missing


def keep_ledger(ledger: Ledger, catalog: Catalog, leaves: LeafReader, auditor: Auditor) -> None:
    """Let a ledger count what the suppliers of a volume keep."""
    holdings = Holdings(catalog, leaves.reachable)

    def proven(supplier: SupplierNo) -> None:
        row = next((each for each in catalog.suppliers() if each.supplier == supplier), None)
        if row is not None:
            ledger.proven(row.owner, row.node)

    def lost(supplier: SupplierNo, lost_bytes: int) -> None:
        holdings.note_lost(supplier)
        row = next((each for each in catalog.suppliers() if each.supplier == supplier), None)
        if row is not None:
            ledger.lost(row.owner, row.node, lost_bytes)

    ledger.holdings, auditor.on_proven, leaves.on_lost = holdings.now, proven, lost
