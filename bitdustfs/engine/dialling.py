"""Dialling one node that has several addresses: one after another, a new one before the last has failed for good.

The first that answers as this node is used, the others are given up. Where another node answers, `on_wrong` is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BitdustError, PeerGone, WrongPeer

STAGGER_S: Final = 0.5  # (tune) twice a round trip around the earth: who has not answered by then gets company
ASK_AFTER_S: Final = 3.0  # (tune) then others are asked where it is, while it is still waited for


async def dial_any(
    dial: Callable[[str], Awaitable[Peer]],
    addresses: Sequence[str],
    *,
    label: str,
    more: Callable[[], Awaitable[Sequence[str]]] | None = None,
    on_wrong: Callable[[str], None] = lambda _address: None,
) -> Peer:
    """Return a greeted connection to the node at one of its addresses. The caller sets the deadline, and runs it.

    Args:
        dial: connects to one address, and greets.
        addresses: the best first.
        label: how errors name the node.
        more: finds out further ones, when these fail or take long.
    Raises:
        PeerGone: there was no address, or all failed. WrongPeer, ProtocolViolation …: one failed with that.
    """
    if len(addresses) == 1 and more is None:
        return await _told(dial, addresses[0], on_wrong)
    found: list[Peer] = []
    errors: dict[str, BitdustError] = {}

    tried: list[str] = []
    failed = trio.Event()  # one more has

    async def attempt(address: str) -> None:
        nonlocal failed
        try:
            peer = await _told(dial, address, on_wrong)
        except BitdustError as error:
            errors[address] = error
            failed.set()
            failed = trio.Event()
            return
        found.append(peer)  # no await from its greeting to here
        nursery.cancel_scope.cancel()

    async def try_all(places: Sequence[str]) -> None:
        for address in places:
            if address not in tried:
                tried.append(address)
                nursery.start_soon(attempt, address)
                with trio.move_on_after(STAGGER_S):
                    await failed.wait()

    try:
        async with trio.open_nursery() as nursery:
            await try_all(addresses)
            if more is not None:
                with trio.move_on_after(ASK_AFTER_S):
                    while len(errors) < len(tried):
                        await failed.wait()
                await try_all(await more())
    except BaseException:
        for peer in found:
            await peer.aclose()
        raise
    for surplus in found[1:]:  # two answered in the same turn of the loop
        await surplus.aclose()
    if found:
        return found[0]
    if not errors:
        raise PeerGone(peer=label, what="nobody knows its address")
    raise _first(errors, tried)


async def _told(dial: Callable[[str], Awaitable[Peer]], address: str, on_wrong: Callable[[str], None]) -> Peer:
    try:
        return await dial(address)
    except WrongPeer:
        on_wrong(address)
        raise


def _first(errors: dict[str, BitdustError], addresses: Sequence[str]) -> BitdustError:
    tried = [errors[address] for address in addresses if address in errors]
    plain = next((error for error in tried if not isinstance(error, PeerGone)), None)
    return plain or tried[0]
