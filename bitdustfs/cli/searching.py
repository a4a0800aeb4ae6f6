"""Finding the suppliers of an owner with nothing but the words: in the hash table. Called by `recover`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from bitdustfs.core.keys import Secret, volume_keys
from bitdustfs.edges.dht import Dht
from bitdustfs.edges.tcp import split_address
from bitdustfs.engine.discovery import find_keepers
from bitdustfs.errors import BadRequest, NotFound
from bitdustfs.model import NodeId

SEARCH_S: Final = 90.0  # for all of it: a lookup takes 10 s where half of the nodes have died
JOIN_S: Final = 20.0
KNOCK_S: Final = 5.0  # for one supplier to answer at one of its addresses
log = logging.getLogger(__name__)


async def find_friends(secret: Secret, via: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    """Find the owner's suppliers, each with an address where somebody answers if there is one.

    Args:
        via: addresses of anybody who takes part in the hash table.
    Raises:
        BadRequest: one of them is none. NotFound: nobody is there, or nobody knows this owner's suppliers.
    """
    is_ipv6 = any(":" in split_address(each)[0] for each in via)
    families = ("0.0.0.0:0", "[::]:0") if is_ipv6 else ("0.0.0.0:0",)
    failure = NotFound(what=f"nobody who takes part in the hash table answers at {', '.join(via)}")
    for listen in families:
        try:
            return await _search(Dht(listen, None), secret, via)
        except NotFound as error:
            failure = error
    raise failure


async def _search(table: Dht, secret: Secret, via: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    found: Sequence[tuple[NodeId, str]] = ()
    failure: NotFound | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(table.run)
        try:
            found = await _ask(table, secret, via)
        except NotFound as error:  # raised outside the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found


async def _ask(table: Dht, secret: Secret, via: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    with trio.move_on_after(SEARCH_S):
        with trio.move_on_after(JOIN_S):
            if not await table.join(via):
                raise NotFound(what=f"nobody who takes part in the hash table answers at {', '.join(via)}")
        places: dict[NodeId, list[str]] = {}
        for keeper in await find_keepers(table, volume_keys(secret).record):
            places.setdefault(keeper.node, []).append(keeper.address)
        return await _knock(places)
    raise NotFound(what=f"the hash table did not answer in {SEARCH_S:g} s")


async def _knock(places: Mapping[NodeId, Sequence[str]]) -> Sequence[tuple[NodeId, str]]:
    """Choose for each node the first of its addresses where somebody answers, else the first of all."""
    chosen: list[tuple[NodeId, str]] = []

    async def choose(node: NodeId, addresses: Sequence[str]) -> None:
        answering: list[str] = []
        with trio.move_on_after(KNOCK_S):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(_try, address, answering, nursery.cancel_scope)
        chosen.append((node, (answering or addresses)[0]))

    async with trio.open_nursery() as nursery:
        for node, addresses in places.items():
            nursery.start_soon(choose, node, addresses)
    return chosen


async def _try(address: str, answering: list[str], enough: trio.CancelScope) -> None:
    try:
        host, port = split_address(address)
        await (await trio.open_tcp_stream(host, port)).aclose()
    except (OSError, BadRequest):
        return
    answering.append(address)
    enough.cancel()
