"""Leaves: what one supplier shows of a fragment, checked against the root before anything else looks at it.

Wrong bytes are proof: that fragment is lost. A supplier that is there, and for days gives something else than an
answer each time (its disk fails, or it talks nonsense), has lost it too (`core.refusals`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import trio

from bitdustfs.core import erasure, fragment
from bitdustfs.core.refusals import Refusals
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.asks import Asks, FragmentSource
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.strays import PROOF_LEAVES, put_bounded, some_of
from bitdustfs.errors import BadLeaf, BitdustError, PeerError, PeerFault, PeerGone, PeerLacks, ProtocolViolation
from bitdustfs.model import (
    LEAF_BYTES,
    BlockNo,
    BlockRow,
    FragmentName,
    FragmentRow,
    FragmentState,
    Root,
    Supplier,
    SupplierNo,
    short,
)
from bitdustfs.ports import Catalog, Crunch, Entropy, Leaves

SMALL_LEAVES = 2  # reads up to this many leaves keep them: the next small file of the block lies there too
LEAF_MEMORY = 1024  # leaves kept, 16 MiB: two blocks of small files that are read in whatever order
LEAVES_FADE_S = 300.0  # (tune) since any was kept or used: then all are dropped
HASH_MEMORY = 1024  # hash lists kept, about 3 KiB each for a full block
THREAD_BYTES = 128 * 1024  # below this a hop into a worker costs more than the work
_log = logging.getLogger(__name__)


class LeafReader:
    """Ask one supplier for leaves, and check them.

    Args:
        entropy: chooses what must be shown as a proof; None: the first leaf is.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        source: FragmentSource,
        asks: Asks,
        crunch: Crunch,
        secrets: VolumeSecrets,
        entropy: Entropy | None,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._source = source
        self._asks = asks
        self._crunch = crunch
        self._secrets = secrets
        self._entropy = entropy
        self._refusals: Refusals[tuple[BlockNo, int, SupplierNo]] = Refusals()
        # by root: a number may stand for another block by the time an answer comes (forget_all)
        self._hashes: OrderedDict[Root, bytes] = OrderedDict()
        self._leaves: OrderedDict[tuple[Root, int], bytes] = OrderedDict()
        self._leaves_used_at = 0.0
        self._has_leaves = trio.Event()
        self._given_up: set[SupplierNo] = set()  # said so in the log, until they answer again
        self._rows: dict[SupplierNo, Supplier] = {}
        self.on_denied: Callable[[BlockRow, int, SupplierNo], None] = lambda _block, _index, _supplier: None
        self.on_lost: Callable[[SupplierNo, int], None] = lambda _supplier, _bytes: None  # a fragment, and its length
        self.fetched_bytes = 0  # that came from suppliers

    def reachable(self) -> frozenset[SupplierNo]:
        """The suppliers that are connected and not silent."""
        return self._asks.reachable()

    def known(self, block: BlockRow, index: int, first: int, count: int) -> bytes | None:
        """The leaves of a short range, if all are remembered; they were checked when they came."""
        if count > SMALL_LEAVES:
            return None
        known = [self._leaves.get((block.roots[index], first + i)) for i in range(count)]
        if None in known:
            return None
        self._leaves_used_at = trio.current_time()
        return b"".join(leaf for leaf in known if leaf is not None)

    def remembers(self, block: BlockRow, index: int, leaf: int) -> bool:
        """Whether a leaf is remembered."""
        return (block.roots[index], leaf) in self._leaves

    async def fetch(
        self,
        supplier: SupplierNo,
        block: BlockRow,
        index: int,
        first: int,
        count: int,
        *,
        is_known: bool = True,
        may_hedge: bool = False,
        keep: bool = False,
    ) -> bytes | memoryview | None:
        """Ask one supplier and check what it says. Its faults are noted here, once, if it is known to hold it.

        Args:
            may_hedge: others will be asked if nothing comes of it; so it may end as soon as they are quicker.
            keep: the leaves are remembered, however many there are.
        """
        row = self.supplier(supplier)
        name = self._secrets.fragment_name(block.block_id, index, row.node)
        hashes = self._hashes.get(block.roots[index])
        leaves: Leaves | None = None
        try:
            with self._asks.asked(supplier, block, count * LEAF_BYTES, may_hedge=may_hedge) as ask:
                leaves = await self._source.get(supplier, name, first, count, hashes=hashes is None)
        except PeerLacks as e:
            if not is_known:
                return None
            _log.warning("%s: fragment %d of block %s is lost: %s", row.label, index, short(block.block_id), e)
            self._lost(block, index, supplier)
            return None
        except (PeerFault, ProtocolViolation) as e:
            _log.warning("%s: fragment %d of block %s: %s", row.label, index, short(block.block_id), e)
            if is_known and self._refusals.note((block.block, index, supplier), trio.current_time()):
                self._lost(block, index, supplier)
            return None
        except PeerError as e:
            level = logging.DEBUG if isinstance(e, PeerGone) else logging.WARNING
            _log.log(level, "%s: fragment %d of block %s: %s", row.label, index, short(block.block_id), e)
            return None
        if leaves is None and ask.is_hedged:
            return None
        if leaves is None:
            if supplier not in self._given_up:
                _log.warning("%s did not answer in time; others are asked", row.label)
            self._given_up.add(supplier)
            return None
        self._given_up.discard(supplier)
        self._asks.answered(supplier)
        checked = hashes or leaves.hashes
        if not await self._genuine(block, index, first, count, leaves, checked):
            _log.warning("%s", BadLeaf(peer=row.label, fragment=f"{index} of block {short(block.block_id)}"))
            if is_known:
                self._lost(block, index, supplier)
            return None
        self.fetched_bytes += len(leaves.content)
        self._refusals.clear((block.block, index, supplier))
        put_bounded(self._hashes, block.roots[index], checked, HASH_MEMORY)
        if keep or count <= SMALL_LEAVES:
            for i in range(count):
                leaf = bytes(leaves.content[i * LEAF_BYTES : (i + 1) * LEAF_BYTES])
                put_bounded(self._leaves, (block.roots[index], first + i), leaf, LEAF_MEMORY)
            self._leaves_used_at = trio.current_time()
            self._has_leaves.set()
        return leaves.content

    async def whole(self, block: BlockRow, index: int, supplier: SupplierNo) -> bytes | memoryview | None:
        """A whole fragment from who holds it, checked against its root; None: it was not to be had there."""
        length = erasure.fragment_length(block.length, block.code.k)
        if supplier not in self.reachable():
            return None
        return await self.fetch(supplier, block, index, 0, fragment.leaf_count(length))

    async def shows(self, supplier: SupplierNo, block: BlockRow, index: int, first: int, count: int) -> bool:
        """Whether a supplier shows these leaves of a fragment. If it denies them, or they are wrong, it is LOST."""
        return await self.fetch(supplier, block, index, first, count) is not None

    async def proves(self, supplier: SupplierNo, block: BlockRow, index: int, *, is_known: bool = True) -> bool:
        """Whether a supplier shows leaves that it could not foresee. If it denies them or is wrong, it is LOST.

        Args:
            is_known: it should hold the fragment; else nothing becomes LOST.
        """
        leaves = fragment.leaf_count(erasure.fragment_length(block.length, block.code.k))
        chosen = {0} if self._entropy is None else some_of(leaves, PROOF_LEAVES, self._entropy)
        for first in chosen:
            if await self.fetch(supplier, block, index, first, 1, is_known=is_known) is None:
                return False
        return True

    def gave_up(self, supplier: SupplierNo) -> bool:
        """Whether a supplier did not answer in time when it was last asked for leaves."""
        return supplier in self._given_up

    def refusals(self, held: FragmentRow) -> int:
        """How often in a row its supplier has neither shown nor denied it."""
        return self._refusals.times((held.block, held.index, held.supplier))

    @property
    def kept(self) -> int:
        """How many leaves are remembered."""
        return len(self._leaves)

    async def fade(self) -> None:
        """Drop the leaves each time nobody has wanted any for a while, until cancelled."""
        while True:
            await self._has_leaves.wait()
            while (left_s := self._leaves_used_at + LEAVES_FADE_S - trio.current_time()) > 0:
                await trio.sleep(left_s)
            self._has_leaves = trio.Event()
            self.forget()

    def forget(self) -> None:
        """Drop every remembered leaf."""
        self._leaves.clear()

    def forget_all(self) -> None:
        """The same, and what is known of fragments and suppliers: numbers may stand for others from now on."""
        self.forget()
        self._hashes.clear()
        self._rows = {}

    def is_current(self, block: BlockRow) -> bool:
        """Whether its number still stands for a block: else what is found out about it is not noted."""
        row = self._catalog.block(block.block)
        return row is not None and row.block_id == block.block_id

    def name(self, block: BlockRow, index: int, supplier: SupplierNo) -> FragmentName:
        """How a fragment is called at a supplier."""
        return self._secrets.fragment_name(block.block_id, index, self.supplier(supplier).node)

    def supplier(self, number: SupplierNo) -> Supplier:
        """The row of a supplier."""
        if number not in self._rows:
            self._rows = {row.supplier: row for row in self._catalog.suppliers()}
        return self._rows[number]

    # -- private ---------------------------------------------------------------------------------------------

    async def _genuine(
        self, block: BlockRow, index: int, first: int, count: int, leaves: Leaves, hashes: bytes
    ) -> bool:
        length = erasure.fragment_length(block.length, block.code.k)
        expected = min(count * LEAF_BYTES, length - first * LEAF_BYTES)
        if len(leaves.content) != expected or len(hashes) != fragment.leaf_count(length) * fragment.HASH_BYTES:
            return False
        if fragment.root_of(hashes, length) != block.roots[index]:
            return False
        if expected < THREAD_BYTES:
            return fragment.leaves_are_genuine(hashes, first, leaves.content)
        return await self._crunch.run(fragment.leaves_are_genuine, hashes, first, leaves.content)

    def _lost(self, block: BlockRow, index: int, supplier: SupplierNo) -> None:
        if not self.is_current(block):
            return
        self.on_denied(block, index, supplier)
        known = {(row.index, row.supplier): row.state for row in self._catalog.fragments(block.block)}
        if (index, supplier) not in known:
            return  # it was released meanwhile
        try:
            with self._journal.operation():
                self._catalog.put_fragment(FragmentRow(block.block, index, supplier, FragmentState.LOST))
        except BitdustError as e:  # it will be found lost again
            _log.warning("a lost fragment could not be noted: %s", e)
            return
        if known[index, supplier] is FragmentState.HELD:
            self.on_lost(supplier, erasure.fragment_length(block.length, block.code.k))
