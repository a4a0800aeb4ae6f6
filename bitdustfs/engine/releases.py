"""Releases: let go at suppliers what nobody needs any more.

    a transaction forgets a block, or a fragment of one, and notes its names with the number of its change
    -> a head that holds this change is safe -> DELETE, many names at a time -> the notes are dropped

So what a head names that somebody could recover from is never released: the change that made it unneeded has to be
at as many suppliers as any file survives the loss of, and one more. The list is durable before anything is asked
for. A killed process, or a supplier that does not answer, leaves it as it is, and it is worked off later: letting go
what is gone already is no error.

What is noted may be wanted again at the same supplier, and the head that has to be safe first may need just that: so
nobody waits for a note. Who sends it takes the note back, unless the supplier may just be told, and an upload row
stands for the note in the same commit. If that comes to nothing, or the process dies, it is noted again, for the last
change of then. So, at any time, what may be at a supplier is held by the catalog, or noted as an upload, or to be let
go; and it is let go for no older change than the one by which the catalog counted it as held no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Protocol

import trio

from bitdustfs.core import erasure
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.journal import Journal
from bitdustfs.errors import BitdustError, PeerError
from bitdustfs.model import BlockNo, BlockRow, FragmentName, FragmentRow, FragmentState, Standing, SupplierNo
from bitdustfs.ports import Catalog

LOOK_EVERY_S = 1.0
AGAIN_S = 10.0  # after a supplier did not let go
BATCH = 256  # (tune) names in one DELETE: a supplier syncs its disk for each
PATIENCE_S = 60.0  # for one DELETE, over a slow line and a slow disk
_log = logging.getLogger(__name__)


class Releaser(Protocol):
    """What is needed of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None: ...


class Releases:
    """The list of what is to be let go, and who works it off.

    Attributes:
        may_release: whether nobody is known to know more than we do.
        safe_change: the last change of the catalog by which it may be judged what is needed.
        on_kept: called, within the operation, with what is to be let go no more.
    """

    def __init__(self, catalog: Catalog, journal: Journal, suppliers: Releaser, secrets: VolumeSecrets) -> None:
        self._catalog = catalog
        self._journal = journal
        self._suppliers = suppliers
        self._secrets = secrets
        self._looks = Looks(journal.bell, LOOK_EVERY_S)
        self._failed_at: dict[SupplierNo, float] = {}
        self._unanswered_at: dict[SupplierNo, float] = {}  # the same, and kept when it is tried again
        self._at_work: set[SupplierNo] = set()  # suppliers that are being told
        self._began_at = inf  # trio time; what an earlier process asked for may be under way a while longer
        self.may_release: Callable[[], bool] = lambda: True
        self.safe_change: Callable[[], int] = lambda: 0
        self.on_kept: Callable[[SupplierNo, FragmentName], None] = lambda _supplier, _name: None

    # -- noting ------------------------------------------------------------------------------------------------

    def forget_block(self, number: BlockNo) -> None:
        """Forget a block that nothing refers to, and let its fragments go when that is safe.

        What holds the catalog itself is not part of it: there, whoever calls has seen that no head needs it.
        """
        block = self._catalog.block(number)
        if block is None:
            return
        with self._journal.operation():
            change = self._catalog.last_change + 1 if number > 0 else 0
            self._note(block, self._catalog.fragments(number), change)
            self._catalog.drop_block(number)

    def forget_fragments(self, block: BlockRow, fragments: Iterable[FragmentRow]) -> None:
        """Forget fragments of a block that has others instead, and let them go when that is safe.

        Of the catalog itself too: who has the others must be in the list of a head that is safe, or nobody who
        recovers would ask there.
        """
        is_change = block.block > 0 or self._catalog.pending > 0
        with self._journal.operation():
            rows = list(fragments)
            self._note(block, rows, self._catalog.last_change + is_change)
            for row in rows:
                self._catalog.drop_fragment(row.block, row.index, row.supplier)

    def abandon(self, fragments: Iterable[tuple[SupplierNo, FragmentName]]) -> None:
        """Let go what never was part of anything. The caller has an operation."""
        self._catalog.put_releases(fragments, 0)

    def keep(self, supplier: SupplierNo, name: FragmentName) -> None:
        """Let go no more what turns out to be needed there. The caller has an operation."""
        if self._catalog.is_releasing(supplier, name):
            self._catalog.drop_releases(supplier, [name])
        self._catalog.drop_upload(name)  # if it is just being sent, and that comes to nothing, it stays
        self.on_kept(supplier, name)

    def is_going(self, supplier: SupplierNo, name: FragmentName) -> bool:
        """Whether a fragment is noted and its supplier may just be told: it is not to be sent there yet."""
        return self._catalog.is_releasing(supplier, name) and self._may_be_told(supplier)

    def take_back(self, fragments: Iterable[tuple[SupplierNo, FragmentName]]) -> set[FragmentName]:
        """Have fragments that are sent again not be let go, if nothing may hit them. Returns which may be there.

        The caller has an operation, in which it notes that they are sent: until they are held, or given back.
        """
        noted = [
            (s, name) for s, name in fragments if self._catalog.is_releasing(s, name) and not self.is_going(s, name)
        ]
        for supplier, name in noted:
            self._catalog.drop_releases(supplier, [name])
        return {name for _, name in noted}

    def give_back(self, fragments: Iterable[tuple[SupplierNo, FragmentName]]) -> None:
        """Let what was sent again, and does not count, go once no head that names it there is needed.

        That may be any until now: it may have been taken back. The caller has an operation.
        """
        self._catalog.put_releases(fragments, self._catalog.last_change + (self._catalog.pending > 0))

    def _may_be_told(self, supplier: SupplierNo) -> bool:
        is_new = trio.current_time() - self._began_at < PATIENCE_S
        has_failed = trio.current_time() - self._unanswered_at.get(supplier, -inf) < PATIENCE_S
        return is_new or supplier in self._at_work or has_failed

    def name(self, block: BlockRow, index: int, supplier: SupplierNo) -> FragmentName | None:
        """What a supplier knows a fragment by; None: nobody has that number."""
        nodes = {row.supplier: row.node for row in self._catalog.suppliers()}
        return self._secrets.fragment_name(block.block_id, index, nodes[supplier]) if supplier in nodes else None

    def is_given_up(self, supplier: SupplierNo) -> bool:
        """Whether nothing counts as held there any more."""
        return any(row.supplier == supplier and row.standing is Standing.FIRED for row in self._catalog.suppliers())

    def _note(self, block: BlockRow, fragments: Sequence[FragmentRow], change: int) -> None:
        nodes = {row.supplier: row.node for row in self._catalog.suppliers()}
        known = [row for row in fragments if row.supplier in nodes]
        length = erasure.fragment_length(block.length, block.code.k)
        for row in known:
            if row.state is not FragmentState.WANTED:
                self._catalog.charge_supplier(row.supplier, -length, -1)
        names = [
            (row.supplier, self._secrets.fragment_name(block.block_id, row.index, nodes[row.supplier]))
            for row in known
        ]
        self._catalog.put_releases(names, change)

    # -- working it off ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let go what may go, for ever. A supplier that takes its time holds up nobody else."""
        self._at_work, self._began_at = set(), trio.current_time()
        async with trio.open_nursery() as nursery:
            while True:
                online = self._suppliers.online() if self.may_release() else ()
                for supplier in online:
                    if supplier not in self._at_work and self._is_due(supplier):
                        self._at_work.add(supplier)
                        nursery.start_soon(self._work_off, supplier)
                failed_at = min((at for who, at in self._failed_at.items() if who in online), default=inf)
                await self._looks.next(within_s=failed_at + AGAIN_S - trio.current_time())

    async def at_rest(self) -> None:
        """Return when no supplier is being told to let go of anything. The caller sees to it that none is next."""
        while self._at_work:
            await trio.sleep(LOOK_EVERY_S)

    def _is_due(self, supplier: SupplierNo) -> bool:
        failed_at = self._failed_at.get(supplier)
        if failed_at is not None and trio.current_time() - failed_at < AGAIN_S:
            return False
        self._failed_at.pop(supplier, None)  # it is tried again now, or there is nothing to be tried any more
        return bool(self._catalog.releases(supplier, self.safe_change(), 1))

    async def _work_off(self, supplier: SupplierNo) -> None:
        try:
            while names := self._catalog.releases(supplier, self.safe_change(), BATCH):
                await self._journal.durable()  # else a power loss could bring back the rows that need what we let go
                if not self.may_release():
                    return
                with trio.fail_after(PATIENCE_S):
                    await self._suppliers.delete(supplier, names)
                with self._journal.operation():
                    self._catalog.drop_releases(supplier, names)
        except (BitdustError, trio.TooSlowError) as error:
            self._failed_at[supplier] = self._unanswered_at[supplier] = trio.current_time()
            level = logging.DEBUG if isinstance(error, PeerError) else logging.INFO
            _log.log(level, "supplier %d lets nothing go now: %s", supplier, error or "no answer in time")
        finally:
            self._at_work.discard(supplier)
            self._journal.bell.ring()
