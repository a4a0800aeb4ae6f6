"""Connected suppliers by the numbers of another catalog of this volume.

Each line of a volume numbers its suppliers by itself: one may have hired somebody whom the other does not know, or
given his number to somebody else. Nodes tell who is who. Whoever the other catalog does not list is not there: it
has no name for what he may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitdustfs.engine.recovery import Connected
from bitdustfs.model import FragmentName, Supplier, SupplierNo
from bitdustfs.ports import Leaves

_NOBODY = SupplierNo(0)


class Renumbered:
    """`Connected`, for who fetches what a catalog of another line names.

    Args:
        suppliers: by our numbers; somebody else keeps the connections.
        ours: those suppliers, as they are numbered here.
        theirs: all that the other catalog lists, as they are numbered there.
    """

    def __init__(self, suppliers: Connected, ours: Iterable[Supplier], theirs: Iterable[Supplier]) -> None:
        self._suppliers = suppliers
        numbers = {row.node: row.supplier for row in ours}
        self._ours = {row.supplier: numbers[row.node] for row in theirs if row.node in numbers}
        self._theirs = {here: there for there, here in self._ours.items()}

    async def run(self) -> None:
        await self._suppliers.run()

    async def wait_for_change(self) -> None:
        await self._suppliers.wait_for_change()

    def online(self) -> Sequence[SupplierNo]:
        return tuple(self._theirs[each] for each in self._suppliers.online() if each in self._theirs)

    def quiet_s(self, supplier: SupplierNo) -> float:
        return self._suppliers.quiet_s(self._here(supplier))

    def is_held_back(self) -> bool:
        return self._suppliers.is_held_back()

    def way_s(self, supplier: SupplierNo) -> float:
        return self._suppliers.way_s(self._here(supplier))

    def doubt(self, supplier: SupplierNo) -> None:
        self._suppliers.doubt(self._here(supplier))

    async def get(self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        return await self._suppliers.get(self._here(supplier), name, first, count, hashes=hashes)

    # -- private ---------------------------------------------------------------------------------------------

    def _here(self, supplier: SupplierNo) -> SupplierNo:
        return self._ours.get(supplier, _NOBODY)
