"""A supplier that lists names without an end holds up nobody, and does not choose how much memory that takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from trio.testing import MockClock

from bitdustfs.core.contract import MIN_FRAGMENTS
from bitdustfs.engine import fsck, listed
from bitdustfs.engine.listed import Listing, most_names
from bitdustfs.engine.returns import Returns
from bitdustfs.errors import ProtocolViolation
from bitdustfs.model import FragmentName, NodeId, OwnerId, Supplier, SupplierNo

ROW = Supplier(
    SupplierNo(1), NodeId(b"n" * 32), OwnerId(b"o" * 32), "boris", "", b"", 1 << 20, MIN_FRAGMENTS, 0, (1 << 63) - 1
)


class Endless:
    """Lists for ever: the same again, or always higher ones."""

    def __init__(self, *, is_rising: bool) -> None:
        self.is_rising = is_rising
        self.asked = 0

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]:
        self.asked += 1
        assert self.asked < 2000, "it is asked for ever"
        start = int.from_bytes(after, "big") + 1 if self.is_rising else 1
        return [(FragmentName((start + step).to_bytes(32, "big")), 1) for step in range(1000)]


@pytest.mark.slow
@pytest.mark.parametrize("is_rising", [False, True])
async def test_list_without_an_end_is_given_up(
    autojump_clock: MockClock, is_rising: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "_LEAST", 10_000)
    with pytest.raises(ProtocolViolation):
        listing = Listing(Endless(is_rising=is_rising), ROW, 60)
        while await listing.page():
            pass
    with pytest.raises(ProtocolViolation):
        await fsck._listed(Endless(is_rising=is_rising), ROW)
    returns: Any = cast(Any, Returns).__new__(Returns)
    returns._shelves = Endless(is_rising=is_rising)
    with pytest.raises(ProtocolViolation):
        await returns._listed(ROW)


def test_more_than_the_contract_says_may_be_left_over() -> None:
    assert most_names(ROW) > ROW.capacity_fragments
