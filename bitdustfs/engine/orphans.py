"""Orphans: fragments of ours at suppliers that nothing names, because the machine that sent them named them nowhere.

    after a recovery, once a head of ours is safe and every supplier has shown the one that it holds:
    each supplier -> LIST, page by page -> names that no block of the catalog has -> released

Only the owner's words make sure that nobody else needs them: a recovery puts out all machines that were. Without
it, what nothing names here may be all that another machine has of what it never published. So after an adoption it
stays, also where the head that was adopted is our own: another machine may have held the volume since, and have
published nothing. The same goes once another machine is met before all suppliers were gone through, and once we hold
the volume anew: a machine that came after the recovery may have held it in between. The next recovery finds what is
left.

Fragments have keyed names, so the wanted ones are computed: every index of every block, of the replica too. What is
on its way while a supplier is asked is wanted: its rows were there before its first byte left, and what became a
block since the names were computed is looked at once more before anything is let go. No retained head names an
orphan: the newest is safe, and all that it names is in the catalog.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

import trio

from bitdustfs.core.namefilter import NameFilter
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.kept import kept
from bitdustfs.engine.listed import Listing
from bitdustfs.engine.releases import Releases
from bitdustfs.errors import BitdustError
from bitdustfs.model import BlockNo, BlockRow, FragmentName, Standing, Supplier, SupplierNo
from bitdustfs.ports import Catalog, Crunch

LOOK_EVERY_S = 10.0
ASK_S = 60.0  # for one page
_PAGE = 256  # blocks whose names are computed in one go: some milliseconds
_DUE = "orphans"  # in the catalog: the suppliers that were gone through; b"": nothing is to be done
_BEGUN = 0  # among them: the number of none, for the volume was held since
_log = logging.getLogger(__name__)


class Shelves(Protocol):
    """What is needed of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]:
        """A page of our fragments there, in order of name."""
        ...


class Orphans:
    """Finds orphans, once after each recovery."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        shelves: Shelves,
        secrets: VolumeSecrets,
        crunch: Crunch,
        releases: Releases,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._shelves = shelves
        self._secrets = secrets
        self._crunch = crunch
        self._releases = releases
        self._looks = Looks(journal.bell, LOOK_EVERY_S)
        self.may_look: Callable[[], bool] = lambda: False  # a head that is safe names all that is wanted

    @property
    def are_due(self) -> bool:
        """There are suppliers that are to be gone through."""
        return self._swept() is not None

    async def run(self) -> None:
        """Go through all suppliers when it is due, each when it is there; for ever."""
        while True:
            if not await self._swept_one():
                await self._looks.next(within_s=inf if self._swept() is None else 0)

    def held(self) -> None:
        """The volume is held by us from now on, and was not before."""
        swept = self._swept()
        if swept is not None:
            if _BEGUN in swept:
                _log.info("no orphans are looked for any more: another machine may have held the volume meanwhile")
            self._catalog.put_local_value(
                _DUE, b"" if _BEGUN in swept else json.dumps(sorted({_BEGUN, *swept})).encode()
            )
            self._journal.note()

    # -- private ---------------------------------------------------------------------------------------------

    async def _swept_one(self) -> bool:
        """Go through one of those that are due. Says whether that was done."""
        swept = self._swept()
        if swept is None:
            return False
        for row in self._asked():
            if row.supplier in swept or row.supplier not in self._shelves.online() or not self.may_look():
                continue
            try:
                if await self._sweep(row):
                    self._note(swept | {row.supplier})
                    return True
            except (BitdustError, trio.TooSlowError) as error:
                _log.info("%s is looked through later: %s", row.label, error or "no answer in time")
        return False

    def _asked(self) -> list[Supplier]:
        """Who may hold something of ours; also one that is lost, when it comes back."""
        return [row for row in self._catalog.suppliers() if row.standing is not Standing.FIRED]

    def _swept(self) -> set[int] | None:
        """The suppliers that are done; None: nothing is due."""
        raw = self._catalog.local_value(_DUE)
        return set(kept(raw, list[int], "all suppliers are gone through for orphans again") or ()) if raw else None

    def _note(self, swept: set[int]) -> None:
        is_done = swept >= {row.supplier for row in self._asked()}
        with self._journal.operation():
            self._catalog.put_local_value(_DUE, b"" if is_done else json.dumps(sorted(swept)).encode())

    async def _sweep(self, row: Supplier) -> bool:
        """Go through one supplier. False: it is not the time any more."""
        most = self._most()
        known, last = await self._known(row, most)
        lowest = min((block.block for block in self._catalog.local_blocks()), default=BlockNo(0))
        known.add(self._names(row, self._catalog.local_blocks(), most))
        listing, found = Listing(self._shelves, row, ASK_S), 0
        while page := await listing.page():
            # no await until they are noted: what is wanted now is wanted then
            if self._swept() is None or not self.may_look():
                return False
            if any(n > most.get(k, 0) for k, n in self._most().items()):
                return False  # fragments may have come that nobody knew of when it began
            strangers = [name for name, _length in page if name not in known]
            if strangers:
                recent = self._recent(row, last, lowest, most)
                strangers = [name for name in strangers if name not in recent]
            if strangers:
                with self._journal.operation():
                    self._releases.abandon((row.supplier, name) for name in strangers)
            found += len(strangers)
        _log.info("%s holds %d fragments that nothing names: they are released", row.label, found)
        return True

    def _most(self) -> Mapping[int, int]:
        """The greatest n of any block, by k: none has a fragment beyond, however n changes among these."""
        most: dict[int, int] = {}
        for code in self._catalog.codes():
            most[code.k] = max(code.n, most.get(code.k, 0))
        return most

    async def _known(self, row: Supplier, most: Mapping[int, int]) -> tuple[NameFilter, BlockNo]:
        """The names of all blocks of files, and the number of the last of these."""
        wanting = sum(most.get(code.k, code.n) * count for code, _held, count in self._catalog.held_histogram())
        known, last = NameFilter(wanting), BlockNo(0)
        while blocks := self._catalog.blocks(after=last, limit=_PAGE):
            names = await self._crunch.run(self._names, row, blocks, most)
            known.add(names)
            last = blocks[-1].block
        return known, last

    def _recent(self, row: Supplier, last: BlockNo, lowest: BlockNo, most: Mapping[int, int]) -> set[FragmentName]:
        """The names of blocks that came since, and of what is on its way."""
        since = [block for block in self._catalog.local_blocks() if block.block < lowest]
        names = set(self._names(row, [*self._catalog.blocks(after=last), *since], most))
        for _block_id, fragments in self._catalog.uploads():
            names |= {name for supplier, name in fragments if supplier == row.supplier}
        return names

    def _names(self, row: Supplier, blocks: Iterable[BlockRow], most: Mapping[int, int]) -> list[FragmentName]:
        return [
            self._secrets.fragment_name(block.block_id, index, row.node)
            for block in blocks
            for index in range(max(len(block.roots), most.get(block.code.k, 0)))  # made so far, or while we look
        ]


def expect_orphans(catalog: Catalog) -> None:
    """Note that suppliers may hold what no machine needs that was not put out. The caller commits."""
    catalog.put_local_value(_DUE, b"[]")


def leave_orphans(catalog: Catalog) -> None:
    """Have none looked for any more, for another machine writes this volume too. The caller commits."""
    if catalog.local_value(_DUE):
        catalog.put_local_value(_DUE, b"")
