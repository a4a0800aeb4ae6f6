"""Finding the suppliers of an owner with nothing but the words. Called by `recover`.

In the hash table, through anybody who takes part in it: he learns the hash of a key and nothing else. Where that
finds nobody, as in a network that has only link-local IPv6, of which the table knows nothing, or when friends take no
part, whoever is in the local network is asked himself whether he keeps something: he learns whose volume it is.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core.keys import Secret, volume_keys
from bitdustfs.edges.dht import Dht
from bitdustfs.edges.tcp import TcpDialer, split_address
from bitdustfs.engine.discovery import find_keepers
from bitdustfs.errors import BadRequest, BitdustError, NotFound, SetupMissing, Unavailable
from bitdustfs.model import NodeId

SEARCH_S: Final = 90.0  # for all of it: a lookup takes 10 s where half of the nodes have died
JOIN_S: Final = 20.0
KNOCK_S: Final = 5.0  # for one supplier to answer at one of its addresses
log = logging.getLogger(__name__)


async def find_friends(
    secret: Secret, via: Sequence[str], *, ipv4: str = "0.0.0.0:0", ipv6: str = "[::]:0"
) -> Sequence[tuple[NodeId, str]]:
    """Find the owner's suppliers, each with an address where somebody answers if there is one.

    Args:
        via: addresses of anybody who takes part in the hash table.
        ipv4, ipv6: where to listen meanwhile.
    Raises:
        BadRequest: one of them is none. NotFound: nobody is there, or nobody knows this owner's suppliers.
        SetupMissing: all of them are IPv6 addresses, and this machine has no IPv6.
    """
    numeric = {each for each in via if ":" in split_address(each)[0]}
    over_ipv4 = [each for each in via if each not in numeric]
    over_ipv6 = [each for each in via if each in numeric or _is_name(each)]
    failures: list[BitdustError] = []
    if over_ipv4:
        try:
            return await _search(Dht(ipv4, None), secret, over_ipv4)
        except (NotFound, Unavailable) as error:
            failures.append(error)
    if over_ipv6:
        try:
            return await _search(Dht(ipv6, None), secret, over_ipv6)
        except NotFound as error:
            failures += [error] if str(error) not in map(str, failures) else []
        except Unavailable as error:
            log.debug("%s", error)
            if numeric:
                needed = ", ".join(each for each in via if each in numeric)
                what = f"this machine has no IPv6, which {needed} needs: name somebody with an IPv4 address"
                failures.append(SetupMissing(what=what))
    if len(failures) == 1:
        raise failures[0]
    raise NotFound(what="; ".join(map(str, failures)))


async def find_neighbours(places: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    """Whose machines listen at some addresses in this network, each once; who does not answer is left out.

    They are told nothing: the key that we show is of this moment.
    """
    dialer = TcpDialer(Ed25519PrivateKey.generate())
    there: dict[NodeId, str] = {}

    async def ask(place: str) -> None:
        with trio.move_on_after(KNOCK_S):
            try:
                there.setdefault(await dialer.ask_who(place), place)
            except BitdustError as error:
                log.debug("nobody of ours answers at %s: %s", place, error)

    async with trio.open_nursery() as nursery:
        for place in places:
            nursery.start_soon(ask, place)
    return tuple(there.items())


def _is_name(address: str) -> bool:
    try:
        ipaddress.ip_address(split_address(address)[0])
    except ValueError:
        return True
    return False


async def _search(table: Dht, secret: Secret, via: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    found: Sequence[tuple[NodeId, str]] = ()
    failure: BitdustError | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(table.run)
            found = await _ask(table, secret, via)
        except (NotFound, Unavailable) as error:  # raised outside the nursery, which would wrap it in a group
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
