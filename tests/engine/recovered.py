"""What an empty machine makes of what suppliers have, in a world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import trio

from bitdustfs.core import head as heads
from bitdustfs.core import lease as leases
from bitdustfs.core import recovery, replica
from bitdustfs.core.certificate import Identity
from bitdustfs.core.recovery import Answer, Found
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.orphans import expect_orphans
from bitdustfs.engine.reader import Reader
from bitdustfs.engine.recovery import Recovery, Seeker
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import NotFound, PeerLacks
from bitdustfs.model import CHUNK_BYTES, ROOT_INO, Cookie, FragmentName, Ino, NodeId, OwnerId, SupplierNo
from bitdustfs.ports import Leaves, Shelf
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.world import SECRETS, World

_MOST_NAMES = 10_000


async def recover(world: World, path: Path, identity: Identity, *, friend: int = 1, beside: bool = False) -> Found:
    """Make a catalog at `path`, knowing the keys and one supplier.

    Args:
        beside: no other machine is put out by it.
    """
    seeker = Seeker(world.swarm.network.dialer(identity.node), lambda _epoch: identity, SECRETS, identity.owner)
    first = world.swarm.suppliers[friend - 1]
    found = await seeker.find([(first.node, first.address)])
    side = world.swarm.customer_side(list(found.suppliers), identity)
    await _fetch(found, side, path)
    if not beside:
        with closing(SqliteCatalog(path)) as catalog:
            expect_orphans(catalog)
            catalog.commit()
    return found


@dataclass(frozen=True, slots=True)
class Stock:
    """What one supplier has of the customer."""

    node: NodeId
    owner: OwnerId  # the customer
    shelf: Shelf
    head: bytes  # with links; b"": none


def stocks(world: World, *, copied: bool = False) -> dict[int, Stock]:
    """What the suppliers of a world have, by the numbers that the customer gives them, from 1 on.

    Args:
        copied: as it is now, and not as it will be.
    """
    owner = world.swarm.identity.owner
    return {
        number: Stock(
            each.node,
            owner,
            each.memory_shelf.copy() if copied else each.shelf,
            each.contracts.heads().get(owner, b""),
        )
        for number, each in enumerate(world.swarm.suppliers, start=1)
    }


class Survivors:
    """Some suppliers, read without a network and without a word to anybody: nothing is changed by it."""

    def __init__(self, stocks: Mapping[int, Stock], *, without: Iterable[int] = ()) -> None:
        gone = frozenset(without)
        self._stocks = {SupplierNo(number): stock for number, stock in stocks.items() if number not in gone}

    def found(self) -> Found:
        """The newest head that they have. Raises NotFound: none has any."""
        answers = {}
        for each in self._stocks.values():
            raw, behind = heads.split(each.head) if each.head else (b"", b"")
            answers[each.node] = Answer(heads.parse(raw) if raw else None, leases.split_note(behind)[0])
        best = recovery.newest(each.head for each in answers.values() if each.head is not None)
        if best is None:
            raise NotFound(what="no survivor has a head")
        return Found(best, replica.unseal_head(SECRETS, best.sealed), answers)

    def way_s(self, _supplier: SupplierNo) -> float:
        return 0.0

    def is_held_back(self) -> bool:
        return False

    async def recover(self, path: Path) -> dict[bytes, bytes]:
        """Make a catalog at `path`, and read all files that its root directory shows, by name.

        Without any head nothing comes back.
        """
        try:
            found = self.found()
        except NotFound:
            return {}
        listed = {int(each.supplier) for each in found.suppliers}  # nobody else can be dialled
        side = Survivors({number: stock for number, stock in self._stocks.items() if number in listed})
        await _fetch(found, cast(Suppliers, side), path)
        with closing(SqliteCatalog(path)) as catalog:
            return await self.files(catalog)

    async def files(self, catalog: SqliteCatalog) -> dict[bytes, bytes]:
        """The published content of all files that the root directory shows, by name."""
        crunch = InlineCrunch()
        reader = Reader(catalog, Fragments(catalog, Journal(catalog), self, crunch, SECRETS), crunch, SECRETS)
        found = {}
        async with reader.running():
            for name, inode in catalog.names(ROOT_INO, Cookie(0), _MOST_NAMES):
                if inode.is_file:
                    found[name.name] = await _content(reader, inode.ino, inode.size)
        return found

    # -- what the engine needs of suppliers --------------------------------------------------------------------

    async def run(self) -> None:
        await trio.sleep_forever()

    def online(self) -> Sequence[SupplierNo]:
        return tuple(self._stocks)

    async def wait_for_change(self) -> None:
        await trio.sleep_forever()

    def quiet_s(self, _supplier: SupplierNo) -> float:
        return 0.0

    def doubt(self, supplier: SupplierNo) -> None:
        return

    async def get(self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        await trio.lowlevel.checkpoint()
        try:
            stock = self._stocks[supplier]
            return stock.shelf.get(stock.owner, name, first, count, hashes=hashes)
        except NotFound as missing:
            raise PeerLacks(peer=f"s{supplier}", what="this fragment") from missing


async def _fetch(found: Found, side: Suppliers, path: Path) -> None:
    recovering = Recovery(
        found, side, SECRETS, InlineCrunch(), SeededEntropy(0), SqliteCatalog(":memory:", create=True)
    )
    with closing(Restore(path)) as restore:
        await recovering.fetch(restore, _say_nothing)
        restore.finish(last_change=found.content.change)
    with closing(SqliteCatalog(path)) as catalog:
        recovering.note(catalog)
        catalog.commit()


async def _content(reader: Reader, ino: Ino, size: int) -> bytes:
    content = bytearray()
    for index in range(-(-size // CHUNK_BYTES)):
        content += (await reader.chunk(ino, index)).ljust(CHUNK_BYTES, b"\0")
    return bytes(content[:size])


async def _say_nothing(_done: int, _total: int) -> None:
    return
