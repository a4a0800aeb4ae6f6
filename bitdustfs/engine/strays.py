"""Strays: fragments that suppliers hold, and of which the catalog does not know.

A catalog that came back from suppliers is as old as the head that named it: what was acknowledged after that head,
or sent again elsewhere, it does not tell. And a supplier whose disk was away, or that gave wrong bytes once, may have
its fragments after all. So when too few of the known fragments of a block can be had, every supplier that answers and
is known to hold none of it is asked for each that is missing: names follow from the block's id.

Who did not have a fragment, or gave wrong bytes, is not asked for it again for DENIED_S. What is found counts as held
from then on: its hash list and some leaves, which nobody could foresee, were shown and are genuine.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from typing import TypeVar

import trio

from bitdustfs.engine.journal import Journal
from bitdustfs.errors import BitdustError
from bitdustfs.model import BlockNo, BlockRow, FragmentName, FragmentRow, FragmentState, SupplierNo, short
from bitdustfs.ports import Catalog, Entropy

DENIED_S = 60.0  # (tune) a search costs each supplier a request for each missing fragment
PROOF_LEAVES = 4  # (tune) of a stray, before it counts as held: more only make the read that needs it wait
_REMEMBERED = 4096  # denials, and blocks of which something was found
_log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")


class Strays:
    """Where else to look for the fragments of a block, and what was found there.

    Attributes:
        on_found: called, within the operation, with what counts as held from now on.
    """

    def __init__(
        self, catalog: Catalog, journal: Journal, name_of: Callable[[BlockRow, int, SupplierNo], FragmentName]
    ) -> None:
        self._name_of = name_of
        self._catalog = catalog
        self._journal = journal
        self._denied: OrderedDict[tuple[BlockNo, int, SupplierNo], float] = OrderedDict()  # until when
        self._found: OrderedDict[BlockNo, dict[int, SupplierNo]] = OrderedDict()
        self.on_found: Callable[[SupplierNo, FragmentName], None] = lambda _supplier, _name: None

    def holders(self, block: BlockNo) -> Mapping[int, SupplierNo]:
        """What was found of a block and could not be noted, by index."""
        return self._found.get(block, {})

    def places(self, block: BlockRow, reachable: Set[SupplierNo]) -> list[tuple[int, SupplierNo]]:
        """Where a missing fragment may be, the likely places first."""
        rows = self._catalog.fragments(block.block)
        held = [row for row in rows if row.state is FragmentState.HELD and row.supplier in reachable]
        indexes = {row.index for row in held} | self.holders(block.block).keys()
        suppliers = {row.supplier for row in held} | set(self.holders(block.block).values())
        meant = {(row.index, row.supplier) for row in rows}
        now = trio.current_time()
        places = [
            (index, supplier)
            for index in range(len(block.roots))
            if index not in indexes
            for supplier in sorted(reachable - suppliers)
            if self._denied.get((block.block, index, supplier), now) <= now
        ]
        return sorted(places, key=lambda place: place not in meant)

    def chances(self, block: BlockRow, reachable: Set[SupplierNo]) -> int:
        """How many fragments could be found at most."""
        places = self.places(block, reachable)
        return min(len({index for index, _ in places}), len({supplier for _, supplier in places}))

    def forget(self) -> None:
        """Forget who had what: numbers may stand for others from now on."""
        self._denied.clear()
        self._found.clear()

    def note_denied(self, block: BlockRow, index: int, supplier: SupplierNo) -> None:
        """It is not there, or not any more."""
        self._found.get(block.block, {}).pop(index, None)
        put_bounded(self._denied, (block.block, index, supplier), trio.current_time() + DENIED_S, _REMEMBERED)

    def note_found(self, block: BlockRow, index: int, supplier: SupplierNo, length: int) -> None:
        """A genuine one is there."""
        _log.info("fragment %d of block %s was found with supplier %d", index, short(block.block_id), supplier)
        if self._catalog.block(block.block) is None:
            return  # it was released meanwhile
        rows = [row for row in self._catalog.fragments(block.block) if row.index == index]
        was_counted = any(row.supplier == supplier and row.state is not FragmentState.WANTED for row in rows)
        try:
            with self._journal.operation():
                for row in rows:  # what others have, they have, also while away
                    is_lost = row.state is FragmentState.LOST
                    if row.supplier != supplier and (is_lost or row.state is FragmentState.WANTED):
                        # a send of before may have arrived there
                        name = self._name_of(block, index, row.supplier)
                        self._catalog.put_releases([(row.supplier, name)], self._catalog.last_change + 1)
                        self._catalog.drop_fragment(block.block, index, row.supplier)
                        if is_lost:
                            self._catalog.charge_supplier(row.supplier, -length, -1)
                self._catalog.put_fragment(FragmentRow(block.block, index, supplier, FragmentState.HELD))
                name = self._name_of(block, index, supplier)
                self._catalog.drop_upload(name)  # a send without acknowledgement
                self.on_found(supplier, name)
                if not was_counted:
                    self._catalog.charge_supplier(supplier, length, 1)
        except BitdustError as e:  # a volume that takes no changes reads it all the same
            _log.debug("a fragment that was found could not be noted: %s", e)
            self.remember(block, index, supplier)

    def remember(self, block: BlockRow, index: int, supplier: SupplierNo) -> None:
        """A genuine one is there, or some of it: it can be read, and does not count."""
        put_bounded(self._found, block.block, {**self.holders(block.block), index: supplier}, _REMEMBERED)


def put_bounded(memory: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Remember a value, and forget the oldest ones beyond `most`."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > most:
        memory.popitem(last=False)


def some_of(count: int, most: int, entropy: Entropy) -> frozenset[int]:
    """Some of the numbers below `count`, chosen at random: `most`, or all."""
    if count <= most:
        return frozenset(range(count))
    chosen = set[int]()
    while len(chosen) < most:
        chosen.add(int.from_bytes(entropy.bytes(8), "big") % count)
    return frozenset(chosen)
