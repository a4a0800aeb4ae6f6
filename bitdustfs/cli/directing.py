"""The hash table and what this node does with it, behind `serve` and beside a mount.

It listens at the address of the node itself, with UDP, or at any port if the node listens nowhere. It begins from
friends whose addresses are known, and from those that the configuration names. While there is nobody to begin from,
and nobody who could begin from us, nothing of it is even loaded. A fault in it is never one of the mount.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from bitdustfs.core.addresses import has_zone
from bitdustfs.edges.system import SystemEntropy, SystemWall
from bitdustfs.edges.tcp import split_address
from bitdustfs.engine.discovery import Discovery
from bitdustfs.engine.pacer import Pacer
from bitdustfs.errors import BadRequest, Unavailable
from bitdustfs.model import NodeId, RecordId

if TYPE_CHECKING:
    from bitdustfs.edges.dht import Dht

LOOK_S: Final = 10.0  # how soon it is noticed that there is somebody to begin from
AGAIN_S: Final = 60.0  # when the port is taken
_ANYWHERE = "0.0.0.0:0"
log = logging.getLogger(__name__)

Addresses = Callable[[], Iterable[str]]


class Directing:
    """The directory of a process, a ports.Directory that is silent while it does not run, and the discovery over it.

    Args:
        listen: where the node listens, ADDR:PORT; "": nowhere.
        state: the file in which the table is kept.
        bootstrap: addresses that the person named.
        friends: addresses where friends were last seen.
        pacer: holds the limits.
        own: our address record; b"": none. partners: nodes whose records we hand on, with what we know of each.
    """

    def __init__(
        self,
        listen: str,
        state: Path,
        *,
        bootstrap: Addresses,
        friends: Addresses,
        pacer: Pacer,
        own: Callable[[], bytes],
        partners: Callable[[], Iterable[tuple[NodeId, bytes]]],
    ) -> None:
        self._listen = listen
        self._state = state
        self._bootstrap = bootstrap
        self._friends = friends
        self._pacer = pacer
        self._table: Dht | None = None
        self._pinned: tuple[RecordId, ...] = ()
        self.discovery = Discovery(self, SystemWall(), SystemEntropy(), own=own, partners=partners)

    async def publish(self, record: bytes, also: Sequence[str] = ()) -> int:
        return await self._table.publish(record, also) if self._table is not None else 0

    async def find(self, record_id: RecordId) -> bytes | None:
        return await self._table.find(record_id) if self._table is not None else None

    async def join(self, addresses: Sequence[str]) -> int:
        return await self._table.join(addresses) if self._table is not None else 0

    def pin(self, ids: Iterable[RecordId]) -> None:
        self._pinned = tuple(ids)
        if self._table is not None:
            self._table.pin(self._pinned)

    async def run(self) -> None:
        """Serve until cancelled."""
        while not self._is_of_use():
            await trio.sleep(LOOK_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_table)
            nursery.start_soon(self.discovery.run)

    async def _run_table(self) -> None:
        from bitdustfs.edges.dht import Dht  # here: who does not use it does not load asyncio

        self._table = Dht(self._listen or _ANYWHERE, self._state, self._begin_from, pacer=self._pacer)
        self._table.pin(self._pinned)
        while True:
            try:
                await self._table.run()
            except Unavailable as error:
                log.warning("%s. It is tried again, and nothing else waits for it", error)
            await trio.sleep(AGAIN_S)

    def _is_of_use(self) -> bool:
        """Somebody else can be reached, or can reach us."""
        can_be_reached = bool(self._listen) and not is_loopback(self._listen)
        return can_be_reached or next(iter(self._begin_from()), None) is not None

    def _begin_from(self) -> Iterable[str]:
        """Friends on this very machine are no way to others, unless the person names them."""
        return [*self._bootstrap(), *(each for each in self._friends() if not (is_loopback(each) or has_zone(each)))]


def is_loopback(address: str) -> bool:
    """Say whether an address is of this machine only. A name is not."""
    try:
        return ipaddress.ip_address(split_address(address)[0]).is_loopback
    except (ValueError, BadRequest):
        return False
