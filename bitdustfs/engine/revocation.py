"""Revocation: this node gets a certificate of a new epoch, and with that every other node of the owner is out.

    learn the highest epoch -> (the caller certifies one above it, and makes that durable) -> tell each supplier

A supplier learns an epoch from the certificate that it is shown, so one ping tells it. One that is away is told by
the next connection: until then it serves the revoked nodes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import trio

from bitdustfs.core import head as heads
from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.engine.errand import ask_once
from bitdustfs.errors import BitdustError, NodeRevoked
from bitdustfs.model import Supplier, SupplierNo
from bitdustfs.ports import Dialer

ANSWER_S: Final = 15.0  # for one supplier; all are asked at once


async def highest_epoch(dialer: Dialer, identity: Identity, suppliers: Iterable[Supplier]) -> int:
    """The highest epoch of our owner that is known: our own, that of a head, or one for which we are refused.

    A supplier that is silent or lies can hide a higher one. Then it refuses us when it is told, and says which.
    """
    known = [identity.certificate.epoch]

    async def ask(supplier: Supplier) -> None:
        try:
            found, body = await ask_once(
                dialer, identity, supplier.node, supplier.address, wire.GetHead(), wire.HeadIs
            )
            if found.head_bytes:
                head = heads.parse(body[: found.head_bytes])
                known.append(head.epoch if head.signer.owner == identity.owner else 0)
        except NodeRevoked as revoked:
            known.append(revoked.detail)  # the owner has signed that

    await _all(suppliers, ask)
    return max(known)


async def announce(dialer: Dialer, identity: Identity, suppliers: Iterable[Supplier]) -> Mapping[SupplierNo, str]:
    """Show our certificate to each supplier.

    Returns:
        Those that do not know it yet, and why.
    """

    async def tell(supplier: Supplier) -> None:
        await ask_once(dialer, identity, supplier.node, supplier.address, wire.Ping(), wire.Done)

    return await _all(suppliers, tell)


async def _all(
    suppliers: Iterable[Supplier], errand: Callable[[Supplier], Awaitable[None]]
) -> Mapping[SupplierNo, str]:
    """Do it with all of them at once. Returns where it failed, and why."""
    failed: dict[SupplierNo, str] = {}

    async def run(supplier: Supplier) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                await errand(supplier)
        except trio.TooSlowError:
            failed[supplier.supplier] = f"no answer in {ANSWER_S:g} s"
        except BitdustError as error:
            failed[supplier.supplier] = wire.printable(str(error))

    async with trio.open_nursery() as nursery:
        for supplier in suppliers:
            nursery.start_soon(run, supplier)
    return failed
