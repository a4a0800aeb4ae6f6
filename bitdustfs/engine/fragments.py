"""Fragments: parts of blocks from suppliers, checked.

Healthy, a range of a block is fetched as leaves of one or a few primary fragments, each leaf checked against the
fragment's root before anything else looks at it. What cannot be had (no connection, no answer, wrong bytes), or would
take much longer than others do (core/speed), is replaced by the same columns of any k fragments and a decode.
`leaves` asks and checks, `asks` knows who keeps us waiting.

If too few fragments are known to be anywhere, others are looked for (`strays`) before a read fails.

Right after the start nobody is connected yet: who needs more than answer then waits for those who are being dialled
for the first time, if they may be enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from bitdustfs.core import erasure
from bitdustfs.core.speed import quickest
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.asks import Asks, FragmentSource
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.leaves import THREAD_BYTES, LeafReader
from bitdustfs.engine.strays import Strays
from bitdustfs.errors import BitdustError, BlockLost, TooFewFragments
from bitdustfs.model import LEAF_BYTES, BlockNo, BlockRow, FragmentState, Standing, SupplierNo, short
from bitdustfs.ports import Catalog, Crunch, Entropy

TRIES = 3  # for one fragment of a block, in one fetch
_NOT_NAMED = (Standing.FIRED, Standing.CANDIDATE)  # by heads: who recovers does not ask them


class Newcomers(Protocol):
    """Suppliers that were not reached yet since the start."""

    def expected(self) -> frozenset[SupplierNo]: ...

    async def wait_for_expected(self) -> None:
        """Wait until one of them may have come, and no longer than some are expected."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Columns [start, end) of one fragment."""

    index: int
    start: int
    end: int


class Fragments:
    """Fetch, check and decode ranges of blocks.

    Args:
        entropy: chooses what must be shown of a stray; None: strays are read, and never noted as held.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        source: FragmentSource,
        crunch: Crunch,
        secrets: VolumeSecrets,
        entropy: Entropy | None = None,
    ) -> None:
        self._catalog = catalog
        self._crunch = crunch
        self._entropy = entropy
        self.asks = Asks(source, self._holders)
        self.leaves = LeafReader(catalog, journal, source, self.asks, crunch, secrets, entropy)
        self.strays = Strays(catalog, journal, self.leaves.name)
        self.leaves.on_denied = self.strays.note_denied
        self.newcomers: Newcomers = _Nobody()
        self.may_count: Callable[[SupplierNo], bool] = lambda _supplier: True  # what is found there, as held

    async def block_range(self, block: BlockRow, start: int, end: int) -> bytes:
        """Bytes [start, end) of a block as it was coded, checked leaf by leaf."""
        return b"".join(await self.block_pieces(block, start, end))

    async def block_pieces(self, block: BlockRow, start: int, end: int) -> list[bytes | memoryview]:
        """The same as it came: one piece of each fragment that it lies in, in order."""
        length = erasure.fragment_length(block.length, block.code.k)
        first, last = start // length, (end - 1) // length
        parts = _parts_of(block, start, end)
        got, failed = await self._quickest(block, parts)
        avoid = {p.index for p in failed}  # and not the primary ones that others were asked in place of
        missing: dict[tuple[int, int], None] = {(p.start, p.end): None for p in parts if p not in got}
        for low, high in missing:
            at_hand = {p.index: content for p, content in got.items() if (p.start, p.end) == (low, high)}
            primaries = await self._decoded(block, low, high, at_hand, avoid)
            for part in parts:
                if (part.start, part.end) == (low, high):
                    got[part] = primaries[part.index]
        pieces = [got[part] for part in parts]
        pieces[-1] = pieces[-1][: end - last * length - parts[-1].start]
        pieces[0] = pieces[0][start - first * length - parts[0].start :]
        return pieces

    async def any_k(self, block: BlockRow) -> Mapping[int, bytes | memoryview]:
        """k whole fragments of a block by index, each checked against its root: those that are easiest to have."""
        return await self._gathered(block, 0, erasure.fragment_length(block.length, block.code.k), {}, set())

    async def warm(self, block: BlockRow, start: int, end: int) -> None:
        """Have the leaves of a range of a block remembered, as far as primary fragments can be had."""
        await self._parts(block, _parts_of(block, start, end), only_best=True, keep=True)

    def at_hand(self, block: BlockRow, start: int, end: int) -> bytes | None:
        """The same of a short range whose leaves are remembered; they were checked when they came. Does not wait."""
        length = erasure.fragment_length(block.length, block.code.k)
        index, low = divmod(start, length)
        high, first = low + end - start, low // LEAF_BYTES
        if high > length:
            return None
        leaves = self.leaves.known(block, index, first, (high - 1) // LEAF_BYTES + 1 - first)
        return None if leaves is None else leaves[low - first * LEAF_BYTES : high - first * LEAF_BYTES]

    def too_few(self, block: BlockRow) -> BitdustError | None:
        """Why a block cannot be decoded now, if fewer than k suppliers that may have some of it are reachable."""
        have = len(self._holders(block.block))
        if have >= block.code.k or have + self.strays.chances(block, self.asks.reachable()) >= block.code.k:
            return None
        return self._error(block, have)

    # -- private ---------------------------------------------------------------------------------------------

    async def _quickest(
        self, block: BlockRow, parts: Sequence[_Part]
    ) -> tuple[dict[_Part, bytes | memoryview], list[_Part]]:
        """Fetch parts of primary fragments, or in the place of slow ones the same columns of others.

        Returns:
            What came, and what was asked for and did not come.
        """
        held = self._holders(block.block)
        columns: dict[tuple[int, int], list[int]] = {}
        for part in parts:
            columns.setdefault((part.start, part.end), []).append(part.index)
        asked: list[_Part] = []
        for (low, high), indexes in columns.items():
            expected = {index: self.asks.expect_s(holders, high - low) for index, holders in held.items()}
            chosen = quickest(indexes, expected, block.code.k)
            asked += [_Part(index, low, high) for index in chosen]
        for part in asked:
            self.asks.speeds.plan(held.get(part.index, ()), part.end - part.start)
        got = await self._parts(block, asked, only_best=True, planned=held)
        return got, [part for part in asked if part not in got]

    async def _parts(
        self,
        block: BlockRow,
        parts: Sequence[_Part],
        *,
        only_best: bool = False,
        planned: Mapping[int, Sequence[SupplierNo]] | None = None,
        keep: bool = False,
        unhedged: Collection[int] = (),
    ) -> dict[_Part, bytes | memoryview]:
        """Fetch parts of fragments at once; what fails is left out.

        Args:
            only_best: nobody is asked who may keep us waiting, if others can do without him.
            keep: leaves that come are remembered.
            unhedged: fragments that are waited for, however slow they are.
            planned: who holds what; `Speeds.plan` counts it already. Every task begins, also if it is cancelled.
        """
        held = self._holders(block.block) if planned is None else planned
        got: dict[_Part, bytes | memoryview] = {}

        async def fetch(part: _Part) -> None:
            holders = held.get(part.index, [])
            if planned is not None:
                self.asks.speeds.plan(holders, part.start - part.end)
            if only_best:
                holders = [
                    each for each in holders if self.asks.is_best(each) or not self.asks.others_do(each, block)
                ]
            content = await self._part(block, part, holders, keep=keep, may_hedge=part.index not in unhedged)
            if content is not None:
                got[part] = content

        if len(parts) == 1:
            await fetch(parts[0])
            return got
        async with trio.open_nursery() as nursery:
            for part in parts:
                nursery.start_soon(fetch, part)
        return got

    async def _decoded(
        self, block: BlockRow, start: int, end: int, at_hand: Mapping[int, bytes | memoryview], avoid: set[int]
    ) -> tuple[bytes | memoryview, ...]:
        """Columns [start, end) of all primary fragments, from any k fragments."""
        have = await self._gathered(block, start, end, at_hand, avoid)
        if end - start >= THREAD_BYTES:
            return await self._crunch.run(erasure.decode, have, block.code.k)
        return erasure.decode(have, block.code.k)

    async def _gathered(
        self, block: BlockRow, start: int, end: int, at_hand: Mapping[int, bytes | memoryview], avoid: set[int]
    ) -> dict[int, bytes | memoryview]:
        """Columns [start, end) of k fragments."""
        have = dict(at_hand)
        failed = Counter(avoid)
        while (need := block.code.k - len(have)) > 0:
            asked = self._next_to_ask(block, have, failed, end - start)[:need]
            if len(asked) < need:
                if await self._hope(block) or await self._find_stray(block):
                    continue
                raise self._error(block, len(have))
            last = {index for index in asked if failed[index] == TRIES - 1}  # nobody takes that one from it
            got = await self._parts(block, [_Part(index, start, end) for index in asked], unhedged=last)
            have.update({part.index: content for part, content in got.items()})
            failed.update(index for index in asked if index not in have)
        return have

    async def _hope(self, block: BlockRow) -> bool:
        """Wait for another supplier, if enough may come. Whoever waits for the block is not kept from giving up."""
        expected = self.newcomers.expected()
        if not expected:
            return False
        hoped = {
            row.index
            for row in self._catalog.fragments(block.block)
            if row.state is FragmentState.HELD and row.supplier in expected | self.asks.reachable()
        }
        if len(hoped) < block.code.k:
            return False
        with self.asks.hoping(block.block):
            await self.newcomers.wait_for_expected()
        return True

    def note_no_strays(self) -> None:
        """Read strays, and note none as held, from now on: this machine only reads."""
        self._entropy = None

    async def _find_stray(self, block: BlockRow) -> bool:
        """Look for one more fragment where none is known to be. False: it is nowhere."""
        for index, supplier in self.strays.places(block, self.asks.reachable()):
            name = self.leaves.name(block, index, supplier)
            is_going = self._catalog.is_releasing(supplier, name)  # asked first: it may be gone before the answer
            if not await self.leaves.proves(supplier, block, index, is_known=False):
                self.strays.note_denied(block, index, supplier)
                continue
            if self._entropy is None or is_going or not self._counts(supplier):
                self.strays.remember(block, index, supplier)
            else:
                length = erasure.fragment_length(block.length, block.code.k)
                self.strays.note_found(block, index, supplier, length)
            return True
        return False

    def _counts(self, supplier: SupplierNo) -> bool:
        """Whether what is found there may count as held: no head names who was given up, or not hired yet."""
        standings = {row.supplier: row.standing for row in self._catalog.suppliers()}
        return self.may_count(supplier) and standings.get(supplier) not in _NOT_NAMED

    def _next_to_ask(
        self, block: BlockRow, have: Mapping[int, bytes | memoryview], failed: Mapping[int, int], size_bytes: int
    ) -> list[int]:
        """The other fragments that can be had now, best first. Anew each time: suppliers come and go."""
        held = self._holders(block.block)
        return sorted(
            (index for index in held if index not in have and failed.get(index, 0) < TRIES),
            key=lambda index: (
                failed.get(index, 0),
                self.asks.reluctance(held[index]),
                self.asks.expect_s(held[index], size_bytes),
            ),
        )

    def _error(self, block: BlockRow, have: int) -> BitdustError:
        left = {f.index for f in self._catalog.fragments(block.block) if f.state is FragmentState.HELD}
        if len(left) < block.code.k:
            return BlockLost(block=short(block.block_id), have=len(left), need=block.code.k)
        reachable = self.asks.reachable()
        waiting = [
            self.leaves.supplier(f.supplier).label
            for f in self._catalog.fragments(block.block)
            if f.state is FragmentState.HELD and f.supplier not in reachable
        ]
        missing = ", ".join(waiting) or "suppliers that do not answer"
        return TooFewFragments(block=short(block.block_id), have=have, need=block.code.k, missing=missing)

    def _holders(self, block: BlockNo) -> dict[int, list[SupplierNo]]:
        """Fragment index -> reachable suppliers that hold it."""
        reachable = self.asks.reachable()
        holders: dict[int, list[SupplierNo]] = {}
        for row in self._catalog.fragments(block):
            if row.state is FragmentState.HELD and row.supplier in reachable:
                holders.setdefault(row.index, []).append(row.supplier)
        for index, supplier in self.strays.holders(block).items():
            if index not in holders and supplier in reachable:
                holders[index] = [supplier]
        return holders

    async def _part(
        self, block: BlockRow, part: _Part, holders: Sequence[SupplierNo], *, keep: bool, may_hedge: bool
    ) -> bytes | memoryview | None:
        """Columns of one fragment from whoever holds it; None if nobody gave them."""
        first = part.start // LEAF_BYTES
        count = (part.end - 1) // LEAF_BYTES + 1 - first
        leaves: bytes | memoryview | None = self.leaves.known(block, part.index, first, count)
        for supplier in holders:
            if leaves is not None:
                break
            leaves = await self.leaves.fetch(
                supplier, block, part.index, first, count, may_hedge=may_hedge, keep=keep
            )
        if leaves is None:
            return None
        return leaves[part.start - first * LEAF_BYTES : part.end - first * LEAF_BYTES]


def _parts_of(block: BlockRow, start: int, end: int) -> list[_Part]:
    """The whole leaves of primary fragments that hold a range of a block."""
    length = erasure.fragment_length(block.length, block.code.k)
    first, last = start // length, (end - 1) // length
    return [
        _Part(
            index,
            (start - index * length) // LEAF_BYTES * LEAF_BYTES if index == first else 0,
            min(length, -(-(end - index * length) // LEAF_BYTES) * LEAF_BYTES) if index == last else length,
        )
        for index in range(first, last + 1)
    ]


class _Nobody:
    """No newcomers."""

    def expected(self) -> frozenset[SupplierNo]:
        return frozenset()

    async def wait_for_expected(self) -> None:
        await trio.lowlevel.checkpoint()
