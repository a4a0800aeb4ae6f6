"""Returns: a supplier that was lost and is back shows what it has before that counts again.

    it answers, and fragments are ABSENT there -> LIST: all names that it has
    not among them: LOST, and made again elsewhere
    among them -> some of each page show leaves that nobody could foresee -> the page is HELD again
                                   one of them is wrong or denied -> from there on each fragment has to show some,
                                                                     and what counted before is gone through

Who was away for days may come back with another disk, or with half of the old one, and a name on a list is easily
said. Nothing is remembered but the catalog: what is ABSENT is still to be shown, also after a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

import trio

from bitdustfs.core.namefilter import NameFilter
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.listed import Listing, most_names
from bitdustfs.engine.strays import some_of
from bitdustfs.errors import BitdustError
from bitdustfs.model import BlockNo, BlockRow, FragmentName, FragmentRow, FragmentState, Supplier, SupplierNo
from bitdustfs.ports import Catalog, Entropy

LOOK_EVERY_S: Final = 5.0  # at least
SETTLE_S: Final = 0.1
AGAIN_S: Final = 30.0  # until one that went silent over it is asked again
ASK_S: Final = 60.0  # for a page of names, or for the leaves of one fragment
PAGE: Final = 64  # fragments that count again together
SAMPLE: Final = 4  # (tune) of them that show leaves: who lost a twentieth is found within a few pages
_LEAST_NAMES: Final = 256
_log = logging.getLogger(__name__)


class Shelves(Protocol):
    """What is needed of the suppliers."""

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]:
        """A page of our fragments there, in order of name."""
        ...

    async def wait_for_change(self) -> None: ...


class Proving(Protocol):
    """What is needed of engine/leaves."""

    def reachable(self) -> frozenset[SupplierNo]: ...

    async def proves(self, supplier: SupplierNo, block: BlockRow, index: int) -> bool:
        """Whether a supplier shows leaves that it could not foresee. If it denies them or is wrong, it is LOST."""
        ...


class _Silent(Exception):
    """It stopped to answer."""


class Returns:
    """Asks suppliers that are back for what they have.

    Attributes:
        on_wrong: called with a supplier that was found wrong after some of it counted again.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        leaves: Proving,
        shelves: Shelves,
        secrets: VolumeSecrets,
        entropy: Entropy,
        look_s: float = LOOK_EVERY_S,
    ) -> None:
        self._look_s = look_s
        self._catalog = catalog
        self._journal = journal
        self._leaves = leaves
        self._shelves = shelves
        self._secrets = secrets
        self._entropy = entropy
        self._not_before: dict[SupplierNo, float] = {}
        self._whole: set[SupplierNo] = set()  # nothing of theirs is ABSENT, as far as `lost` was not called since
        self.on_wrong: Callable[[SupplierNo], None] = lambda _supplier: None

    async def run(self) -> None:
        """Ask whoever is back, until cancelled."""
        while True:
            for row in self._due():
                try:
                    await self._ask(row)
                except (BitdustError, trio.TooSlowError, _Silent) as error:
                    self._not_before[row.supplier] = trio.current_time() + AGAIN_S
                    _log.info("%s shows later what it has: %s", row.label, str(error) or "no answer in time")
            with trio.move_on_after(self._look_s):
                await self._shelves.wait_for_change()
                await trio.sleep(SETTLE_S)  # until the monitor has seen it too

    def lost(self, supplier: SupplierNo) -> None:
        """What a supplier held does not count any more: when it is back, it is asked."""
        self._whole.discard(supplier)

    # -- private -----------------------------------------------------------------------------------------------

    def _due(self) -> list[Supplier]:
        if self._journal.refusal is not None:
            return []
        now, reachable = trio.current_time(), self._leaves.reachable()
        listed = [row for row in self._catalog.suppliers() if row.is_listed]
        due = []
        for row in (row for row in listed if row.supplier in reachable and row.supplier not in self._whole):
            if not self._catalog.fragments_at(row.supplier, FragmentState.ABSENT, 1):
                self._whole.add(row.supplier)
            elif self._not_before.get(row.supplier, now) <= now:
                due.append(row)
        return due

    async def _ask(self, row: Supplier) -> None:
        """Go through all that is ABSENT there. Raises PeerError, _Silent: it went away over it."""
        listed = await self._listed(row)
        shown = gone = 0
        is_suspect = False
        while page := self._catalog.fragments_at(row.supplier, FragmentState.ABSENT, PAGE):
            denied = [each for each in page if not self._is_listed(each, row, listed)]
            self._put(row, denied, FragmentState.LOST)
            claimed = [each for each in page if each not in denied]
            asked = claimed if is_suspect else [claimed[at] for at in self._some(len(claimed))]
            wrong = {each for each in asked if not await self._is_shown(each)}
            if wrong and not is_suspect:
                is_suspect = True
                _log.warning(
                    "%s is back, and not all that it says it has is there: each fragment is asked for", row.label
                )
                if shown:
                    self.on_wrong(row.supplier)
                continue  # what is ABSENT still is asked for one by one
            counting = [each for each in claimed if each not in wrong]
            self._put(row, counting, FragmentState.HELD)
            shown, gone = shown + len(counting), gone + len(denied) + len(wrong)
            await trio.lowlevel.checkpoint()
        level = logging.WARNING if gone else logging.INFO
        _log.log(level, "%s is back: %d fragments count again, %d are gone", row.label, shown, gone)

    async def _listed(self, row: Supplier) -> NameFilter:
        names = NameFilter(max(_LEAST_NAMES, min(row.used_fragments, most_names(row))))
        listing = Listing(self._shelves, row, ASK_S)
        while page := await listing.page():
            names.add(name for name, _length in page)
        return names

    def _is_listed(self, each: FragmentRow, row: Supplier, listed: NameFilter) -> bool:
        block = self._catalog.block(each.block)
        return block is not None and self._secrets.fragment_name(block.block_id, each.index, row.node) in listed

    def _some(self, count: int) -> list[int]:
        return sorted(some_of(count, SAMPLE, self._entropy))

    async def _is_shown(self, each: FragmentRow) -> bool:
        """Whether it shows some of a fragment; if not, it is LOST now. Raises _Silent: neither."""
        block = self._catalog.block(each.block)
        if block is None:
            return True  # it is let go
        with trio.move_on_after(ASK_S):
            if await self._leaves.proves(each.supplier, block, each.index):
                return True
        if self._state(each) is FragmentState.ABSENT:
            raise _Silent
        return False

    def _state(self, each: FragmentRow) -> FragmentState | None:
        rows = self._catalog.fragments(BlockNo(each.block))
        return next((r.state for r in rows if (r.index, r.supplier) == (each.index, each.supplier)), None)

    def _put(self, row: Supplier, fragments: Sequence[FragmentRow], state: FragmentState) -> None:
        """Note a state of those that are ABSENT still, if the supplier is still one of ours."""
        # no await: what is true now is noted
        now = next((each for each in self._catalog.suppliers() if each.supplier == row.supplier), None)
        if now is None or not now.is_listed:
            raise _Silent
        with self._journal.operation():
            for each in fragments:
                if self._state(each) is FragmentState.ABSENT:
                    self._catalog.put_fragment(replace(each, state=state))
