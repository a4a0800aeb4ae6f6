"""The customer's side of the network, as a node needs it: all that its services ask of the suppliers, in one type.

`engine.suppliers.Suppliers` is the real one. What stands in its place in a test is held against this type, so that a
service never meets one that lacks something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bitdustfs.core.contract import Contract
from bitdustfs.engine import orphans, returns
from bitdustfs.engine.asks import FragmentSource
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.fragments import Newcomers
from bitdustfs.engine.holding import LeaseKeepers
from bitdustfs.engine.monitor import Watched
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.publisher import HeadKeepers
from bitdustfs.engine.releases import Releaser
from bitdustfs.engine.sending import FragmentSink
from bitdustfs.model import OwnerId, SupplierNo


class CustomerSide(
    FragmentSource,
    Newcomers,
    FragmentSink,
    Releaser,
    HeadKeepers,
    LeaseKeepers,
    Watched,
    returns.Shelves,
    orphans.Shelves,
    Protocol,
):
    """The hired suppliers of one volume. What is not told here is told where the services are."""

    clerk: Clerk
    pacer: Pacer
    on_lost: Callable[[SupplierNo], None]  # it found some of ours damaged
    on_change: Callable[[], None]  # somebody came, went, or tells of something else
    on_address: Callable[[SupplierNo, str], None]  # it answers there now

    def binding(self, owner: OwnerId) -> Sequence[Contract]:
        """The contracts with an owner; see `Clerk.binding`."""
        ...

    async def run(self) -> None:
        """Keep a connection to each until cancelled."""
        ...

    def nudge(self) -> None:
        """Try every one that is not connected at once."""
        ...
