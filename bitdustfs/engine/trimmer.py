"""The trimmer: let go of fragments that a block has more of than it needs.

A supplier that was lost and came back holds what was made again elsewhere. That costs its room, and it may be lost
again: so nothing is trimmed before it has answered without a break for as long as the most impatient wait for a lost
one. What stays is n different fragments with n different suppliers, all of them that steady (core.surplus). And who
keeps a fragment that another one lets go has to show some of it first: who was away may be back with an empty disk.

A block whose code has a smaller n by now has fragments that nobody else keeps. Before it lets go one of those, all
that stay have to be shown, for then fewer different ones are left.

Who does not answer is asked once a walk: an answer is waited for as long as a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from bitdustfs.core.surplus import surplus
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.uploads import Uploads
from bitdustfs.errors import BitdustError
from bitdustfs.model import BlockNo, BlockRow, FragmentRow, FragmentState, SupplierNo
from bitdustfs.ports import Catalog

LOOK_MOST_S = 60.0  # between two looks at who answers
WALK_MOST_S = 3600.0  # between two walks over all blocks: 3 µs each
PAGE = 256  # blocks looked at in one go: some milliseconds
_log = logging.getLogger(__name__)


class Trimmer:
    """Let surplus fragments go.

    Args:
        steady_s: how long a supplier must have answered without a break to be counted on.

    Attributes:
        may_trim: whether nobody is known to know more than we do.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        uploads: Uploads,
        releases: Releases,
        fragments: Fragments,
        *,
        steady_s: float,
    ) -> None:
        self._fragments = fragments
        self._catalog = catalog
        self._journal = journal
        self._uploads = uploads
        self._releases = releases
        self._steady_s = steady_s
        self._since: dict[SupplierNo, float] = {}  # since when those who answer do
        self.may_trim: Callable[[], bool] = lambda: True

    async def run(self) -> None:
        """Trim until cancelled."""
        look_s, walk_s = min(LOOK_MOST_S, self._steady_s / 4), min(WALK_MOST_S, self._steady_s)
        walked_at = trio.current_time()
        while True:
            self._look()
            if trio.current_time() - walked_at >= walk_s and self._journal.refusal is None:
                walked_at = trio.current_time()
                try:
                    await self.walk()
                except BitdustError as error:
                    _log.info("nothing is trimmed now: %s", error)
            await trio.sleep(look_s)

    async def walk(self) -> None:
        """Go once over all blocks. Raises DiskFull, DiskFault, ReadOnly."""
        at: BlockNo | None = None
        silent: set[SupplierNo] = set()  # in this walk
        while self.may_trim():
            crowded, at = self._catalog.crowded_blocks(at, PAGE)
            if at is None:
                return
            for number in crowded:
                await self._trim(number, silent)
            await trio.lowlevel.checkpoint()

    # -- private -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now = trio.current_time()
        self._since = {c.supplier: self._since.get(c.supplier, now) for c in self._uploads.candidates()}

    async def _trim(self, number: BlockNo, silent: set[SupplierNo]) -> None:
        block, spare = self._catalog.block(number), self._spare(number)
        if block is None or not spare or not await self._is_proven(block, spare, silent):
            return
        # no await: what is counted on is there now
        if self._spare(number) == spare:
            _log.debug("block %d has %d fragments more than it needs", number, len(spare))
            self._releases.forget_fragments(block, spare)

    def _spare(self, number: BlockNo) -> list[FragmentRow]:
        """The fragments that a block can do without now."""
        block = self._catalog.block(number)
        if block is None or number in self._uploads.on_their_way:
            return []
        now = trio.current_time()
        steady = [c for c in self._uploads.candidates() if now - self._since.get(c.supplier, now) >= self._steady_s]
        held = self._held(number)
        primary = {row.supplier for row in held if row.index < block.code.k}  # a read of these is a join
        steady.sort(key=lambda c: (c.supplier not in primary, -c.free_bytes))
        spare = set(surplus(block.code.n, ((row.index, row.supplier) for row in held), steady))
        return [row for row in held if (row.index, row.supplier) in spare]

    async def _is_proven(self, block: BlockRow, spare: Sequence[FragmentRow], silent: set[SupplierNo]) -> bool:
        """Whether those who keep what is needed then show that they have it. If one denies it, that one is LOST.

        Args:
            silent: who is not asked; one that does not answer gets into it.
        """
        staying = [row for row in self._held(block.block) if row not in spare]
        twice = {row.index for row in spare}
        if twice <= {row.index for row in staying}:
            staying = [row for row in staying if row.index in twice]
        if any(row.supplier in silent for row in staying):
            return False
        leaves = self._fragments.leaves
        for row in staying:
            if not await leaves.proves(row.supplier, block, row.index):
                if leaves.gave_up(row.supplier):
                    silent.add(row.supplier)
                return False
        return True

    def _held(self, number: BlockNo) -> list[FragmentRow]:
        return [row for row in self._catalog.fragments(number) if row.state is FragmentState.HELD]
