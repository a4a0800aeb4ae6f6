"""Sending one fragment, with patience for slow lines and none for suppliers that take nothing.

A line that carries a fragment in an hour is a slow line, not a dead one, and so is one that our own limit makes slow.
So time counts only while nothing leaves for that supplier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import trio

from bitdustfs.errors import BitdustError, PeerGone
from bitdustfs.model import FragmentName, Root, SupplierNo

SEND_PATIENCE_S: Final = 60.0  # (tune) for an acknowledgement, since a part of something last left for the supplier


class FragmentSink(Protocol):
    """What is needed of the suppliers to send them fragments, or to take some back."""

    def online(self) -> Sequence[SupplierNo]: ...

    def space(self) -> Mapping[SupplierNo, tuple[int, int]]: ...

    def pushed_at(self, supplier: SupplierNo) -> float:
        """When a part of what is put there last left for a supplier, or waited for our own limit; -inf: never."""
        ...

    def is_held_back(self) -> bool:
        """Whether a limit of our own keeps fragments, or answers, waiting."""
        ...

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None: ...

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None: ...


async def send(
    sink: FragmentSink, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview
) -> None:
    """Return when the supplier has acknowledged a fragment.

    Raises:
        PeerGone: nothing moved for too long. What `put` raises.
    """
    failed: Exception | None = PeerGone(peer=f"supplier {supplier}", what=f"no answer within {SEND_PATIENCE_S:.0f} s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_stuck, sink, supplier, nursery.cancel_scope)
        try:
            await sink.put(supplier, name, root, body)
            failed = None
        except (BitdustError, trio.TooSlowError) as error:  # raised outside the nursery, which would wrap it
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _until_stuck(sink: FragmentSink, supplier: SupplierNo, scope: trio.CancelScope) -> None:
    began = trio.current_time()
    while trio.current_time() < (until := max(began, sink.pushed_at(supplier)) + SEND_PATIENCE_S):
        await trio.sleep_until(until)
    scope.cancel()
