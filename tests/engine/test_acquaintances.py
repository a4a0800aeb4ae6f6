"""A node that is known and comes with another owner is a hard stop, on both sides; its owner's next node is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import wire
from bitdustfs.core.invitation import FRONT_BYTES, TOKEN_BYTES, Line
from bitdustfs.core.invited import Wish
from bitdustfs.engine.acquaintances import Acquaintances
from bitdustfs.engine.handler import RefuseAll
from bitdustfs.engine.joining import join
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import NodeRevoked, OwnerChanged, PeerError
from bitdustfs.model import Supplier, SupplierNo
from bitdustfs.testing.clock import FakeWall
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import MemoryNetwork
from bitdustfs.testing.swarm import connect, make_identity
from tests.engine.test_agreements import MIB, Friends, can_read, friends, store

THIEF = make_identity("thief")
STOLEN = make_identity("boris", owner="thief")  # the key of Boris' node, certified by the thief as his own
CERTIFIED = make_identity("thief's laptop", owner="thief")
NEXT = make_identity("boris' next machine", owner="boris", epoch=2)


@contextmanager
def thief_in_place_of(f: Friends, nursery: trio.Nursery) -> Iterator[Daemon]:
    """Boris' machine is gone, and a thief runs it with a certificate of his own: same key, same address."""
    f.boris.kill()
    thief = Daemon("thief", f.network, nursery, f.wall, identity=STOLEN, seed=9)
    assert (thief.node, thief.address) == (f.boris.node, f.boris.address)
    thief.allowed[f.anna.owner] = 8 * MIB
    yield thief
    thief.kill()


def known(f: Friends) -> tuple[object, ...]:
    """What Anna knows of Boris, and holds of his."""
    record = f.anna.book.record(f.boris.node)
    return (
        f.anna.clerk.shown(f.boris.owner),
        f.anna.book.owner_of(f.boris.node),
        record.raw if record is not None else b"",
        f.anna.shelf.used(f.boris.owner),
    )


async def test_known_node_that_dials_with_another_owner_is_refused_and_changes_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with friends() as f, trio.open_nursery() as nursery:
        await store(f.boris)
        before = known(f)
        with thief_in_place_of(f, nursery) as thief:
            caplog.clear()
            for _ in range(30):
                with pytest.raises(PeerError):
                    peer = await connect(nursery, f.network, STOLEN, f.anna.address, f.anna.node)
                    await peer.request(wire.Ping(), wire.Done)
            assert not f.anna.connections.of(thief.node)
            assert known(f) == before
            lines = [each for each in caplog.records if each.levelno >= logging.WARNING]
            assert 1 <= len(lines) <= 12
            assert all("certificate of another owner" in each.getMessage() for each in lines)
        f.boris.start()
        assert await can_read(f.boris)


async def test_supplier_that_answers_with_another_owner_is_not_used_also_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f, trio.open_nursery() as nursery:
        await store(f.anna)
        with thief_in_place_of(f, nursery) as thief:
            for _ in range(2):
                await trio.sleep(300)
                assert f.network.dials[f.anna.node]
                assert not f.anna.suppliers.online()
                assert not thief.connections.nodes()
                f.anna.kill()
                f.anna.start()
        f.boris.start()
        assert await can_read(f.anna)


async def test_contract_is_not_made_with_a_node_that_was_anothers(autojump_clock: MockClock) -> None:
    async with friends() as f, trio.open_nursery() as nursery:
        with thief_in_place_of(f, nursery) as thief:
            await f.anna.until(lambda: not f.anna.connections.of(thief.node))
            with pytest.raises(OwnerChanged, match="another owner"):
                await f.anna.hire(thief, MIB)
            line = Line(thief.node[:FRONT_BYTES], b"t" * TOKEN_BYTES, thief.number, 7000)
            with pytest.raises(OwnerChanged):
                await join(
                    f.network.dialer(f.anna.node),
                    f.anna.identity,
                    line,
                    Wish(MIB, MIB),
                    clerk=f.anna.clerk,
                    addresses=(),
                    entropy=SeededEntropy(3),
                    wall=f.hers,
                )
            assert f.anna.clerk.newest(thief.owner) is None


async def test_key_that_another_owner_has_certified_is_still_its_own_owners(autojump_clock: MockClock) -> None:
    """A certificate needs no consent of the node: who shows one of a key that he has not cannot make us stop."""
    async with friends() as f, trio.open_nursery() as nursery:
        peer = await connect(nursery, f.network, CERTIFIED, f.anna.address, f.anna.node)
        with pytest.raises(PeerError):
            await peer.request(wire.Compare((STOLEN.certificate.raw,)), wire.Compared)
        with pytest.raises(PeerError):
            await peer.request(wire.Propose(STOLEN.certificate.raw), wire.Agreed)
        await store(f.boris)
        assert await can_read(f.boris)
        nursery.cancel_scope.cancel()


async def test_next_node_of_a_known_owner_is_welcome_and_puts_the_one_before_out(autojump_clock: MockClock) -> None:
    async with friends() as f, trio.open_nursery() as nursery:
        await store(f.boris)
        f.boris.kill()
        peer = await connect(nursery, f.network, NEXT, f.anna.address, f.anna.node)
        told, _ = await peer.request(wire.Stat(), wire.Status)
        assert told.used_fragments == 1
        old = await connect(nursery, f.network, f.boris.identity, f.anna.address, f.anna.node)
        with pytest.raises(NodeRevoked):
            await old.request(wire.Stat(), wire.Status)
        nursery.cancel_scope.cancel()


async def test_who_never_met_the_node_is_not_stopped(autojump_clock: MockClock) -> None:
    async with friends() as f, trio.open_nursery() as nursery:
        with thief_in_place_of(f, nursery) as thief:
            thief.allowed[f.carla.owner] = 8 * MIB
            await f.carla.hire(thief, MIB)
            assert f.carla.clerk.newest(thief.owner) is not None


async def test_connection_of_a_suppliers_node_and_another_owner_is_not_taken_for_the_suppliers(
    autojump_clock: MockClock,
) -> None:
    network, anna, boris = MemoryNetwork(), make_identity("anna"), make_identity("boris")
    row = Supplier(SupplierNo(1), boris.node, boris.owner, "boris", "", b"", 0, 0, 0, 0)
    side = Suppliers(anna, network.dialer(anna.node), [row], entropy=SeededEntropy(), wall=FakeWall())
    adopted: list[bool] = []
    reception = Reception(
        anna, RefuseAll(), knows=lambda _owner: True, on_peer=lambda peer: adopted.append(side.adopt(peer))
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.run)
        nursery.start_soon(reception.run, network.listen(anna.node, "a:7000"))
        for who in (STOLEN, boris):
            await connect(nursery, network, who, "a:7000", anna.node)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert adopted == [False, True]


async def test_each_source_is_enough_and_none_says_nothing(autojump_clock: MockClock) -> None:
    known_here = {STOLEN.node: make_identity("boris").owner}
    nothing, told = Acquaintances(lambda _node: None), Acquaintances(lambda _node: None, known_here.get)
    nothing.check(STOLEN.certificate, "somebody")
    with pytest.raises(OwnerChanged):
        told.check(STOLEN.certificate, "somebody")
    told.check(make_identity("boris").certificate, "Boris")
    told.check(THIEF.certificate, "a stranger")
    nothing.add(known_here.get)
    with pytest.raises(OwnerChanged):
        nothing.check(STOLEN.certificate, "somebody")
