"""Sending fragments, with patience for slow lines and none for suppliers that take nothing.

A line that carries a fragment in an hour is a slow line, not a dead one, and so is one that our own limit makes slow.
So time counts only while nothing leaves for that supplier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
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

    def says(self, supplier: SupplierNo) -> int:
        """The version of the head that goes with what is put there."""
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
    failed: Exception | None = _stuck(supplier)
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


class Watch:
    """Sends many fragments under one watch: a task beside each of them costs as much as sealing it."""

    def __init__(self, sink: FragmentSink) -> None:
        self._sink = sink
        self._under_way: dict[trio.CancelScope, tuple[SupplierNo, float]] = {}  # to whom, and since when
        self._begun = trio.Event()

    async def run(self) -> None:
        """End sends that are stuck, until cancelled. Who begins later is due later: nobody is overlooked."""
        while True:
            self._begun = trio.Event()
            due = self._end_stuck()
            if due < inf:
                await trio.sleep_until(due)
            else:
                await self._begun.wait()

    async def send(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        """As the function does, while `run` runs."""
        with trio.CancelScope() as scope:
            self._under_way[scope] = supplier, trio.current_time()
            self._begun.set()
            try:
                await self._sink.put(supplier, name, root, body)
            finally:
                del self._under_way[scope]
        if scope.cancelled_caught:
            raise _stuck(supplier)

    def _end_stuck(self) -> float:
        """Returns when to look again; inf: when something has begun."""
        now, next_at = trio.current_time(), inf
        for scope, (supplier, began) in self._under_way.items():
            until = max(began, self._sink.pushed_at(supplier)) + SEND_PATIENCE_S
            if until <= now:
                scope.cancel()
            else:
                next_at = min(next_at, until)
        return next_at


def _stuck(supplier: SupplierNo) -> PeerGone:
    return PeerGone(peer=f"supplier {supplier}", what=f"no answer within {SEND_PATIENCE_S:.0f} s")
