"""Regaining: what the other line moved elsewhere of what is ours lies there for us too.

    suppliers list what they hold -> a fragment of ours that the other line does not count on, and that is not listed,
    is asked for -> LOST, and nobody's fault
    too few fragments of a block are sure to be there -> its chunks, found in the other catalog by what is in them
    -> fetched from there, and looked at -> from then on they lie there for us

Whoever wrote the volume after us took care of it as we do: packed what was left of several blocks into one, made
fragments elsewhere, and let the old ones go as soon as its own head made that safe. Our catalog knows nothing of it.
Where our line is to go on, what is there has to be found out before anything is taken for well held.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Final, Protocol

import trio

from bitdustfs.core import brought
from bitdustfs.core.namefilter import NameFilter
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.asks import FragmentSource
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.grafting import Grafting
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.leaves import LeafReader
from bitdustfs.engine.listed import Listing, most_names
from bitdustfs.errors import BitdustError, Kind
from bitdustfs.model import (
    SEAL_BYTES,
    BlockNo,
    BlockRow,
    ChunkRow,
    FragmentName,
    FragmentRow,
    FragmentState,
    NodeId,
    Supplier,
    SupplierNo,
)
from bitdustfs.ports import Catalog, Crunch

ASK_S: Final = 30.0  # for a page of names, or for leaves of one fragment
LOOK_S: Final = 0.1
_PAGE: Final = 500  # blocks in one look
_LEAST_NAMES: Final = 256
_log = logging.getLogger(__name__)


class Shelves(Protocol):
    """What is needed of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]: ...


class Doubts:
    """Finds out which fragments of ours another line may have let go, and whether they are there."""

    def __init__(
        self, ours: Catalog, theirs: Catalog, shelves: Shelves, leaves: LeafReader, journal: Journal
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._shelves = shelves
        self._leaves = leaves
        self._journal = journal
        self._listed: dict[SupplierNo, NameFilter] = {}

    async def look(self) -> Mapping[BlockNo, int]:
        """How many fragments of a block are HELD by us and may be gone. What is gone for sure is LOST.

        Raises:
            DiskFull, DiskFault.
        """
        for row in self._ours.suppliers():
            if row.is_listed and row.supplier in self._shelves.online():
                await self._list(row)
        for block in self._ours.local_blocks():  # of the catalog: all heads since the fork may do without
            await self._unsure(block, _held(self._ours, block))
        doubted, after = dict[BlockNo, int](), BlockNo(0)
        while page := self._ours.blocks(after=after, limit=_PAGE):
            for block in page:
                unsure = await self._unsure(block, self._only_ours(block))
                if unsure:
                    doubted[block.block] = unsure
            after = page[-1].block
            await trio.lowlevel.checkpoint()
        return doubted

    # -- private ---------------------------------------------------------------------------------------------

    async def _list(self, row: Supplier) -> None:
        names = NameFilter(max(_LEAST_NAMES, min(row.used_fragments, most_names(row))))
        listing = Listing(self._shelves, row, ASK_S)
        try:
            while page := await listing.page():
                names.add(name for name, _length in page)
        except (BitdustError, trio.TooSlowError) as error:
            _log.info("%s does not say what it holds: %s", row.label, error or "no answer in time")
        else:
            self._listed[row.supplier] = names

    def _only_ours(self, block: BlockRow) -> list[FragmentRow]:
        """The fragments that we count on, and they do not."""
        there = self._theirs.block(block.block)
        known = set[tuple[int, NodeId]]()
        if there is not None and there.block_id == block.block_id:
            known = {(each.index, self._node(self._theirs, each.supplier)) for each in _held(self._theirs, there)}
        return [
            each
            for each in _held(self._ours, block)
            if (each.index, self._node(self._ours, each.supplier)) not in known
        ]

    async def _unsure(self, block: BlockRow, fragments: Sequence[FragmentRow]) -> int:
        """Of how many of these nobody knows whether they are there."""
        return sum([not await self._is_known(block, each) for each in fragments])

    async def _is_known(self, block: BlockRow, each: FragmentRow) -> bool:
        """Whether somebody knows if a fragment is there. One that is not is LOST by then."""
        listed = self._listed.get(each.supplier)
        if listed is None:
            return False
        if self._leaves.name(block, each.index, each.supplier) in listed:
            return True
        with trio.move_on_after(ASK_S):  # it may have come since
            if await self._leaves.proves(each.supplier, block, each.index, is_known=False):
                return True
        if each in self._ours.fragments(block.block):
            with self._journal.operation(admitted=True):
                self._ours.put_fragment(replace(each, state=FragmentState.LOST))
        return True

    @staticmethod
    def _node(catalog: Catalog, number: SupplierNo) -> NodeId:
        return next((row.node for row in catalog.suppliers() if row.supplier == number), NodeId(b""))


class Regaining:
    """Has chunks of ours lie where the other line moved them.

    Args:
        source: suppliers by the numbers of the other catalog.
        doubted: what `Doubts.look` said.
    """

    def __init__(
        self,
        ours: Catalog,
        theirs: Catalog,
        source: FragmentSource,
        grafting: Grafting,
        crunch: Crunch,
        secrets: VolumeSecrets,
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._grafting = grafting
        self._secrets = secrets
        self._fragments = Fragments(theirs, Journal(theirs), source, crunch, secrets)
        self._count = 0

    async def run(self, blocks: Set[BlockNo]) -> None:
        """Regain what lies in these.

        Raises:
            BadFormat: something is none of what we write (core/brought). TooFewFragments: not now.
            DiskFull, DiskFault, and what `admit` of the grafting does. Some of it is regained.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            failed: BitdustError | None = None
            try:
                for number in sorted(blocks):
                    for chunk in self._ours.chunks_of_block(number):
                        await self._regain(chunk)
            except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
                failed = error
            nursery.cancel_scope.cancel()
        if self._count:
            _log.warning("%d chunks lay in blocks that the other line let go, and lie in its blocks now", self._count)
        if failed is not None:
            raise failed

    # -- private ---------------------------------------------------------------------------------------------

    async def _regain(self, chunk: ChunkRow) -> None:
        here = self._ours.block(chunk.block)
        for twin in self._theirs.chunks_like(chunk.fingerprint):
            block = self._theirs.block(twin.block)
            if here is None or block is None or here.block_id == block.block_id or twin.length != chunk.length:
                continue
            if not self._grafting.is_sure_there(block):
                continue
            brought.check_block(block)
            brought.check_chunk(twin, block)
            if not await self._is_genuine(twin, block):
                continue
            with self._grafting.operation():
                if self._ours.chunk(chunk.chunk) == chunk:
                    number = self._grafting.block(twin)
                    self._ours.put_chunks([replace(chunk, block=number, slot=twin.slot, offset=twin.offset)])
                    self._count += 1
            return

    async def _is_genuine(self, twin: ChunkRow, block: BlockRow) -> bool:
        """Whether it is what they say: nothing of ours becomes what somebody else made up."""
        seal = self._secrets.seal_of(block.block_id, block.scope, block.suite)
        try:
            sealed = await self._fragments.block_range(block, twin.offset, twin.offset + twin.length + SEAL_BYTES)
            return self._secrets.fingerprint(seal.unseal(twin.slot, sealed)) == twin.fingerprint
        except BitdustError as error:
            if error.kind is not Kind.LOST:
                raise
            _log.warning("a chunk that the other line has cannot be read: %s", error)
            return False

    async def _look(self) -> None:
        """Look after whoever keeps us waiting, until cancelled."""
        while True:
            self._fragments.asks.look()
            await trio.sleep(LOOK_S)


def _held(catalog: Catalog, block: BlockRow) -> list[FragmentRow]:
    return [each for each in catalog.fragments(block.block) if each.state is FragmentState.HELD]
