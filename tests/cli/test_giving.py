"""What a home does for others, over real sockets and a real disk, as `mount` and `serve` assemble it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from bitdustfs.cli.giving import Giving, GivingWish, giving
from bitdustfs.core import fragment
from bitdustfs.core.certificate import Identity
from bitdustfs.edges.config import Settings, load, store
from bitdustfs.edges.home import Home
from bitdustfs.edges.system import SystemEntropy, SystemWall
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import AlreadyThere, InUse, PeerFull, PeerGone, PeerRefused
from bitdustfs.model import FragmentName, SupplierNo
from bitdustfs.testing.swarm import make_identity

ANNA, BORIS = make_identity("anna"), make_identity("boris")
STOLEN = make_identity("anna", owner="thief")
NAME = FragmentName(b"n" * 32)
CONTENT = bytes(range(250)) * 1000
ROOT = fragment.root(CONTENT)
S1 = SupplierNo(1)
MIB = 1 << 20


@dataclass
class Place:
    """A home that is given from."""

    home: Home
    identity: Identity

    @classmethod
    def made(cls, path: Path, identity: Identity, **settings: str) -> Place:
        path.mkdir(mode=0o700)
        place = cls(Home(path), identity)
        for key, value in settings.items():
            store(place.home.config, key.replace("__", "."), value)
        return place

    def wish(self) -> GivingWish:
        settings: Settings = load(self.home.config)
        return GivingWish(settings.give_listen, self.home.shelf, settings.give_size, settings, {})

    def serving(self) -> AbstractAsyncContextManager[Giving]:
        return giving(self.home, self.wish(), self.identity, Pacer())


def customer_side(given: Giving, nursery: trio.Nursery) -> Suppliers:
    side = Suppliers(
        given.identity, given.caller.dialer, (), entropy=SystemEntropy(), wall=SystemWall(), caller=given.caller
    )
    given.on_peer, given.is_dialled, given.is_friend = side.adopt, side.dials, side.knows
    nursery.start_soon(side.run)
    return side


async def hired(given: Giving, side: Suppliers, supplier: Identity, size: int) -> None:
    """Hire one that dials us, when it has."""
    while not given.connections.of(supplier.node):
        await given.connections.wait_for_change()
    row = await side.hire("", supplier.node, size)
    side.add(replace(row, supplier=S1))
    while S1 not in side.online():
        await side.wait_for_change()


@pytest.mark.slow
async def test_supplier_that_cannot_be_dialled_is_hired_and_used(tmp_path: Path) -> None:
    anna = Place.made(tmp_path / "anna", ANNA, give__listen="127.0.0.1:0")
    with trio.fail_after(60):
        async with anna.serving() as at_anna, trio.open_nursery() as nursery:
            assert not anna.home.shelf.exists()  # she only listens
            where = at_anna.place.partition("@")[2]
            settings = {f"allow.{ANNA.owner.hex()}": "5M", f"dial.{ANNA.node.hex()}": where, "give.size": "1G"}
            boris = Place.made(tmp_path / "boris", BORIS, **settings)
            async with boris.serving() as at_boris:
                assert at_boris.place == ""
                side = customer_side(at_anna, nursery)
                await hired(at_anna, side, BORIS, 2 * MIB)
                await side.put(S1, NAME, ROOT, CONTENT)
                assert (await side.get(S1, NAME, 0, 16, hashes=False)).content == CONTENT
                assert list(boris.home.shelf.glob("*/*/" + NAME.hex()))
                nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_who_may_store_and_how_much_follows_the_file(tmp_path: Path) -> None:
    boris = Place.made(tmp_path / "boris", BORIS, give__listen="127.0.0.1:0", give__size="1G")
    anna = Place.made(tmp_path / "anna", ANNA)
    with trio.fail_after(60):
        async with boris.serving() as at_boris, anna.serving() as at_anna, trio.open_nursery() as nursery:
            side = customer_side(at_anna, nursery)
            where = at_boris.place.partition("@")[2]
            with pytest.raises(PeerRefused):
                await side.hire(where, BORIS.node, MIB)
            store(boris.home.config, f"allow.{ANNA.owner.hex()}", "5M")
            await until_hired(side, where, MIB)
            store(boris.home.config, "give.size", "100K")
            while True:
                try:
                    await side.hire(where, BORIS.node, 2 * MIB)
                    await side.hire(where, BORIS.node, MIB)
                except PeerFull:
                    break
                await trio.sleep(1)  # the file is looked at each second, and few contracts in a row are signed
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_customer_whose_key_comes_with_another_owner_is_refused(tmp_path: Path) -> None:
    boris = Place.made(tmp_path / "boris", BORIS, **{f"allow.{ANNA.owner.hex()}": "5M", "give.listen": "127.0.0.1:0"})
    store(boris.home.config, "give.size", "1G")
    anna, taken = Place.made(tmp_path / "anna", ANNA), Place.made(tmp_path / "taken", STOLEN)
    with trio.fail_after(60):
        async with boris.serving() as at_boris, trio.open_nursery() as nursery:
            where = at_boris.place.partition("@")[2]
            async with anna.serving() as at_anna:
                await customer_side(at_anna, nursery).hire(where, BORIS.node, MIB)
            async with taken.serving() as at_thief:
                with pytest.raises(PeerGone):
                    await customer_side(at_thief, nursery).hire(where, BORIS.node, MIB)
            nursery.cancel_scope.cancel()
        async with boris.serving() as at_boris, taken.serving() as at_thief, trio.open_nursery() as nursery:
            with pytest.raises(PeerGone):  # after a restart too
                await customer_side(at_thief, nursery).hire(at_boris.place.partition("@")[2], BORIS.node, MIB)
            nursery.cancel_scope.cancel()


async def until_hired(side: Suppliers, where: str, size: int) -> None:
    while True:
        try:
            await side.hire(where, BORIS.node, size)
            return
        except PeerRefused:
            await trio.sleep(0.1)


@pytest.mark.slow
async def test_what_is_kept_can_be_read_when_nothing_more_is_given(tmp_path: Path) -> None:
    boris = Place.made(tmp_path / "boris", BORIS, **{f"allow.{ANNA.owner.hex()}": "5M", "give.listen": "127.0.0.1:0"})
    anna = Place.made(tmp_path / "anna", ANNA)
    store(boris.home.config, "give.size", "1G")
    with trio.fail_after(60):
        async with anna.serving() as at_anna, trio.open_nursery() as nursery:
            side = customer_side(at_anna, nursery)
            async with boris.serving() as at_boris:
                row = await side.hire(at_boris.place.partition("@")[2], BORIS.node, 2 * MIB)
                side.add(replace(row, supplier=S1))
                while not side.online():
                    await side.wait_for_change()
                await side.put(S1, NAME, ROOT, CONTENT)
            while side.online():  # who is gone counts as there until that is noticed
                await side.wait_for_change()
            store(boris.home.config, "give.size", "0")
            async with boris.serving() as at_boris:
                side.add(replace(row, supplier=S1, address=at_boris.place.partition("@")[2]))
                while not side.online():
                    await side.wait_for_change()
                assert (await side.get(S1, NAME, 0, 16, hashes=False)).content == CONTENT
                with pytest.raises(PeerFull):
                    await side.put(S1, FragmentName(b"m" * 32), ROOT, CONTENT)
            nursery.cancel_scope.cancel()


async def test_what_cannot_be_given_is_said_before_anything_is_served(tmp_path: Path) -> None:
    anna = Place.made(tmp_path / "anna", ANNA, give__listen="127.0.0.1:0")
    async with anna.serving() as at_anna:
        taken = Place.made(tmp_path / "taken", BORIS, give__listen=at_anna.place.partition("@")[2], give__size="1G")
        with pytest.raises(InUse):
            async with taken.serving():
                pass
        assert not taken.home.shelf.exists()
    full = Place.made(tmp_path / "full", BORIS, give__size="1G")
    full.home.shelf.mkdir()
    (full.home.shelf / "letter").write_text("mine")
    with pytest.raises(AlreadyThere):
        async with full.serving():
            pass
