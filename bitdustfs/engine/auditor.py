"""The auditor: whether suppliers still have what they promised to keep.

Some leaves of each supplier are asked for at random times, with the message of an ordinary read, so that nobody can
tell an audit and be honest only then. A right leaf shows little, many of them show much. A wrong one, or a denial, is
proof: that fragment is lost, and the whole of that supplier is gone through, because what broke one leaf (a disk, a
cheat) has seldom broken just one. So is a supplier that says that it found something damaged (engine/scrubber).
Silence proves nothing: the same leaf is asked for again next time.

What is found lost is work for the rebuilder, like any fragment that a read finds lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from bitdustfs.core import erasure, fragment
from bitdustfs.core.grace import DAY_S
from bitdustfs.engine.courtesy import Courtesy
from bitdustfs.engine.holder_pages import holder_pages
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.tracks import Tracks
from bitdustfs.model import AuditTally, BlockNo, BlockRow, FragmentRow, FragmentState, Supplier, SupplierNo, short
from bitdustfs.ports import Catalog, Entropy, Wall

AUDITS_A_DAY: Final = 16  # (tune) leaves of each supplier: one that lost a twentieth is found in a day or two
ANSWER_S: Final = 60.0  # for one answer: an audit is in no hurry
SCAN_LEAVES: Final = 64  # asked for at once when all of a supplier is gone through: 1 MiB
PAGE: Final = 64  # rows looked at in one turn
LOOK_S: Final = 30.0  # until a broken supplier that went silent is gone through further
_log = logging.getLogger(__name__)

Progress = Callable[[int, int], Awaitable[None]]


class Proving(Protocol):
    """What is needed of engine/leaves."""

    def reachable(self) -> frozenset[SupplierNo]: ...

    async def shows(self, supplier: SupplierNo, block: BlockRow, index: int, first: int, count: int) -> bool:
        """Whether a supplier shows these leaves of a fragment. If it denies them, or they are wrong, it is LOST."""
        ...

    def refusals(self, held: FragmentRow) -> int:
        """How often in a row its supplier has neither shown nor denied it."""
        ...


@dataclass(slots=True)
class Scan:
    """How it went to go through all that a supplier holds."""

    fragments: int = 0
    wrong: int = 0
    refused: int = 0  # neither shown nor denied: it may come to be lost (core.refusals)
    is_silent: bool = False  # it stopped answering before all was seen


class Auditor:
    """Ask at random, and go through whoever was wrong.

    Args:
        audits_a_day: leaves of each supplier.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        leaves: Proving,
        entropy: Entropy,
        wall: Wall,
        courtesy: Courtesy,
        tracks: Tracks,
        *,
        audits_a_day: int = AUDITS_A_DAY,
    ) -> None:
        self._audits_a_day = audits_a_day
        self._catalog = catalog
        self._journal = journal
        self._leaves = leaves
        self._entropy = entropy
        self._wall = wall
        self._courtesy = courtesy
        self._tracks = tracks
        self._owed: dict[SupplierNo, tuple[BlockNo, int]] = {}  # asked for, and not answered: block and leaf
        self._broken: set[SupplierNo] = set()  # to be gone through
        self._woken = trio.Event()
        self.on_proven: Callable[[SupplierNo], None] = lambda _supplier: None  # it has shown what it was asked for

    async def run(self) -> None:
        """Audit until cancelled."""
        while True:
            hired = [row for row in self._catalog.suppliers() if row.is_listed]
            self._woken = trio.Event()
            with trio.move_on_after(min(self._pause_s(len(hired)), LOOK_S if self._broken else math.inf)):
                await self._woken.wait()
            if self._journal.refusal is not None:
                continue
            reachable = self._leaves.reachable()
            answering = [row for row in hired if row.supplier in reachable]
            for row in [row for row in answering if row.supplier in self._broken]:
                if (await self.scan(row)).is_silent:
                    self._broken.add(row.supplier)
            if answering and not self._woken.is_set():
                await self._audit(answering[self._roll(len(answering))])

    def look_through(self, supplier: SupplierNo) -> None:
        """Go through all that a supplier should hold, soon."""
        self._broken.add(supplier)
        self._woken.set()

    async def scan(self, row: Supplier, progress: Progress | None = None) -> Scan:
        """Ask a supplier for every leaf of every fragment that it should hold.

        Args:
            progress: told how many fragments were asked for, and how many of them were wrong. Somebody waits for it.
        """
        found = Scan()
        self._broken.discard(row.supplier)
        for page in holder_pages(self._catalog, row.supplier, FragmentState.HELD, PAGE):
            for each in page:
                refusals = self._leaves.refusals(each)
                began = trio.current_time()
                proven = await self._all_of(each)
                if proven is None and self._leaves.refusals(each) == refusals:
                    found.is_silent = True
                    return found
                found.fragments += 1
                found.wrong += proven is False
                found.refused += proven is None
                spare = 0
                if progress is not None:
                    await progress(found.fragments, found.wrong)
                elif (block := self._catalog.block(each.block)) is not None:
                    spare = self._catalog.held(each.block) - block.code.k
                await self._courtesy.pause(trio.current_time() - began, spare)
        proven_ones = found.fragments - found.wrong - found.refused
        self._count(row.supplier, proven=proven_ones, wrong=found.wrong)
        if proven_ones and not found.refused:
            self.on_proven(row.supplier)
        if found.wrong:
            _log.warning("%s: %d of %d fragments are lost", row.label, found.wrong, found.fragments)
        return found

    # -- private ---------------------------------------------------------------------------------------------

    async def _audit(self, row: Supplier) -> None:
        chosen = self._owed.pop(row.supplier, None) or self._random_leaf(row.supplier)
        if chosen is None:
            return
        number, leaf = chosen
        held = self._held(row.supplier, number)
        if held is None:
            return
        proven = await self._shows(held, leaf, 1)
        if proven is None:
            self._owed[row.supplier] = chosen
            return
        self._count(row.supplier, proven=int(proven), wrong=int(not proven))
        if proven:
            self.on_proven(row.supplier)
        else:
            _log.warning("%s failed an audit: all that it should hold is gone through", row.label)
            self._broken.add(row.supplier)  # until it was gone through to the end
            if (await self.scan(row)).is_silent:
                self._broken.add(row.supplier)

    def _random_leaf(self, supplier: SupplierNo) -> tuple[BlockNo, int] | None:
        """A block with a fragment there, and a leaf of it; None: it holds nothing."""
        ends = self._catalog.block_numbers()
        at = BlockNo(ends[0] + self._roll(ends[1] - ends[0] + 1))
        found = self._catalog.fragments_at(supplier, FragmentState.HELD, 1, at)
        found = found or self._catalog.fragments_at(supplier, FragmentState.HELD, 1)
        block = self._catalog.block(found[0].block) if found else None
        if block is None:
            return None
        return block.block, self._roll(_leaves(block))

    def _held(self, supplier: SupplierNo, number: BlockNo) -> FragmentRow | None:
        rows = self._catalog.fragments(number)
        return next((r for r in rows if r.supplier == supplier and r.state is FragmentState.HELD), None)

    async def _all_of(self, held: FragmentRow) -> bool | None:
        """Whether a supplier has every leaf of a fragment; None: it does not say."""
        block = self._catalog.block(held.block)
        if block is None:
            return True
        for first in range(0, _leaves(block), SCAN_LEAVES):
            proven = await self._shows(held, first, min(SCAN_LEAVES, _leaves(block) - first))
            if not proven:
                return proven
        return True

    async def _shows(self, held: FragmentRow, first: int, count: int) -> bool | None:
        block = self._catalog.block(held.block)
        if block is None:
            return True  # it was given up meanwhile
        with trio.move_on_after(ANSWER_S):
            if await self._leaves.shows(held.supplier, block, held.index, first, count):
                return True
        now = [r for r in self._catalog.fragments(held.block) if (r.index, r.supplier) == (held.index, held.supplier)]
        if not now:
            return True  # it was let go meanwhile
        if now[0].state is FragmentState.LOST:
            _log.info("fragment %d of block %s is lost", held.index, short(block.block_id))
            return False
        return None

    def _count(self, supplier: SupplierNo, *, proven: int, wrong: int) -> None:
        known = self._catalog.audits().get(supplier, AuditTally())
        tally = AuditTally(known.proven + proven, known.wrong + wrong, self._wall.now_ns())
        with self._journal.operation():
            self._catalog.put_audits(supplier, tally)
        self._tracks.audited(supplier, proven=proven, wrong=wrong)

    def _pause_s(self, hired: int) -> float:
        """Until the next audit of anybody: times that nobody can foresee, so many a day for each."""
        chance = (self._roll(1 << 32) + 1) / (1 << 32)
        return -math.log(chance) * DAY_S / (self._audits_a_day * max(1, hired))

    def _roll(self, below: int) -> int:
        return int.from_bytes(self._entropy.bytes(8), "big") % below


def _leaves(block: BlockRow) -> int:
    return fragment.leaf_count(erasure.fragment_length(block.length, block.code.k))
