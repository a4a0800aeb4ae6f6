"""A catalog against what it speaks of: the spool of this machine, and the shelves of the suppliers.

Nobody else uses the volume meanwhile. A supplier is asked for the names of all that it holds for us, which costs it
little; that the bytes are right, only `audit` tells.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from bitdustfs.core.namefilter import NameFilter
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.holder_pages import holder_pages
from bitdustfs.engine.listed import Listing, most_names
from bitdustfs.model import NO_INO, FragmentName, FragmentState, Ino, Supplier, SupplierNo
from bitdustfs.ports import Catalog, Spool

PAGE = 500
ASK_S = 60.0  # for one page of names
_log = logging.getLogger(__name__)


class Shelves(Protocol):
    """What is needed of the suppliers."""

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]:
        """A page of our fragments there, in order of name."""
        ...


@dataclass(frozen=True, slots=True)
class SpoolCheck:
    """The spool against the catalog."""

    missing: Sequence[Ino]  # inodes whose spool file is gone
    unknown: int  # spool files that the catalog does not know


@dataclass(frozen=True, slots=True)
class ShelfCheck:
    """What one supplier says that it holds, against the catalog."""

    held: int  # fragments that it should hold
    missing: int  # of them that it does not have
    strangers: int  # that it holds, and the catalog does not count as held


def check_spool(catalog: Catalog, spool: Spool) -> SpoolCheck:
    """Compare the files of the spool with those that the catalog needs. Blocking; reads every local row."""
    there = set(spool.inos())
    count, known, missing = len(there), 0, []
    after = NO_INO
    while page := catalog.local_files(after=after, limit=PAGE):
        for row in page:
            if row.spool_end and row.ino not in there:
                missing.append(row.ino)
            known += row.ino in there
        after = page[-1].ino
    return SpoolCheck(missing, count - known)


async def check_shelf(
    catalog: Catalog, shelves: Shelves, secrets: VolumeSecrets, row: Supplier, *, mark: bool = False
) -> ShelfCheck:
    """Compare the names that a supplier holds with those of the fragments that it should hold.

    What is missing is found but for two in ten thousand: a filter of names is used, which takes four bytes for each.

    Args:
        mark: note what is missing as lost, so that it is made again. The caller commits.
    Raises:
        PeerError: it does not say. trio.TooSlowError
    """
    listed, count = await _listed(shelves, row)
    held = missing = 0
    for page in holder_pages(catalog, row.supplier, FragmentState.HELD, PAGE):
        held += len(page)
        for each in page:
            block = catalog.block(each.block)
            if block is None or secrets.fragment_name(block.block_id, each.index, row.node) in listed:
                continue
            missing += 1
            if mark:
                catalog.put_fragment(replace(each, state=FragmentState.LOST))
        await trio.lowlevel.checkpoint()
    if missing:
        _log.warning("%s lacks %d of %d fragments", row.label, missing, held)
    return ShelfCheck(held, missing, max(0, count - held + missing))


# -- private -------------------------------------------------------------------------------------------------


async def _listed(shelves: Shelves, row: Supplier) -> tuple[NameFilter, int]:
    count, filter_ = 0, NameFilter(max(PAGE, min(row.used_fragments, most_names(row))))
    listing = Listing(shelves, row, ASK_S)
    while page := await listing.page():
        filter_.add(name for name, _length in page)
        count += len(page)
    return filter_, count
