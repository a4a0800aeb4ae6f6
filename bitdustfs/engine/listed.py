"""Listing what a supplier holds of ours: page after page, and an end to it whatever the supplier says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol

import trio

from bitdustfs.errors import ProtocolViolation
from bitdustfs.model import FragmentName, Supplier, SupplierNo

_LEAST: Final = 1 << 20  # (tune) names that anybody may list: a contract may have been for more once


class Shelves(Protocol):
    """What is needed of the suppliers."""

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]: ...


def most_names(row: Supplier) -> int:
    """How many names a supplier may list, some left over from a larger contract."""
    return max(_LEAST, 2 * row.capacity_fragments)


class Listing:
    """Goes through what one supplier lists.

    Args:
        ask_s: for one page.
    """

    def __init__(self, shelves: Shelves, row: Supplier, ask_s: float) -> None:
        self._shelves = shelves
        self._row = row
        self._ask_s = ask_s
        self._after = b""
        self._count = 0

    async def page(self) -> Sequence[tuple[FragmentName, int]]:
        """The next (name, length), in order of name; nothing: that was all.

        Raises:
            PeerError, trio.TooSlowError. ProtocolViolation: its names are not in order, or do not end.
        """
        with trio.fail_after(self._ask_s):
            page = await self._shelves.names(self._row.supplier, self._after)
        names = [name for name, _length in page]
        if any(one >= following for one, following in pairwise((self._after, *names))):
            raise ProtocolViolation(peer=self._row.label, what="it lists fragments that are not in order")
        self._count += len(page)
        if self._count > most_names(self._row):
            raise ProtocolViolation(peer=self._row.label, what="it lists more fragments than it may hold")
        self._after = names[-1] if names else self._after
        return page
