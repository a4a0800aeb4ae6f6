"""A contract outlives a burnt machine: the next one of the same owner takes its place, without a hand."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import agreement, contract, wire
from bitdustfs.core.agreement import Wish
from bitdustfs.core.grace import NOTICE_S, Patience
from bitdustfs.core.wire import Refused
from bitdustfs.engine import register
from bitdustfs.errors import NodeRevoked
from bitdustfs.model import Code, Standing
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.swarm import SupplierNode, connect, make_identity
from bitdustfs.testing.world import World
from tests.engine.test_agreements import MIB, NAME, Friends, friends, may_store, store
from tests.engine.unneeded import Watch, until

pytestmark = pytest.mark.slow

CODE = Code(3, 5)
MOST_DIALS = 30  # in five minutes from a start on
MOST_A_MINUTE = 3  # later on: a try waits half a minute to a whole one
MOST_LINES_A_MINUTE = 20  # in all logs of both
CODE_OF_TWO = Code(1, 2)
LETTER = random.Random(3).randbytes(400_000)
HEIR = make_identity("anna's next machine", owner="anna", epoch=2)


@asynccontextmanager
async def burnt(f: Friends, nursery: trio.Nursery) -> AsyncIterator[Daemon]:
    """Anna's machine is gone, and her next one has her catalog and no more."""
    f.anna.kill()
    heir = Daemon("anna's next machine", f.network, nursery, f.wall, identity=HEIR, seed=7)
    heir.allowed[f.boris.owner] = 8 * MIB
    for row in f.anna.rows:
        await heir.clerk.learn(row.contract)
        heir.note(row)
    yield heir
    heir.kill()


def in_step(one: Daemon, other: Daemon) -> bool:
    return bool(one.clerk.shown(other.owner)) and one.clerk.shown(other.owner) == other.clerk.shown(one.owner)


def shelf(at: Daemon, of: Daemon) -> bytes:
    newest = at.clerk.newest(of.owner)
    assert newest is not None
    return agreement.party_of(newest, of.owner).shelf


async def test_next_machine_of_a_friend_takes_the_place_of_the_burnt_one(autojump_clock: MockClock) -> None:
    async with friends() as f, trio.open_nursery() as nursery:
        await store(f.boris)
        async with burnt(f, nursery) as heir:
            room = dict[bytes, int]()

            async def make_room(owner: bytes, size: int) -> None:
                room[owner] = size

            heir.accords.make_room = make_room
            await heir.until(lambda: shelf(f.boris, heir) == heir.node)
            await heir.until(lambda: in_step(f.boris, heir))
            assert room == {f.boris.owner: 2 * MIB}
            assert may_store(heir, f.boris) == may_store(f.boris, heir) == 2 * MIB
            await heir.until(lambda: bool(heir.suppliers.online()))
            await f.boris.hire(heir, 2 * MIB, address="")  # what the register does
            await f.boris.until(lambda: len(f.boris.suppliers.online()) > 0)


async def test_who_has_the_burnt_machine_gains_nothing(autojump_clock: MockClock) -> None:
    async with friends() as f, trio.open_nursery() as nursery:
        await store(f.boris)
        async with burnt(f, nursery) as heir:
            await heir.until(lambda: shelf(f.boris, heir) == heir.node)
            before = f.boris.clerk.shown(heir.owner)
            peer = await connect(nursery, f.network, f.anna.identity, f.boris.address, f.boris.node)
            for request in (wire.Stat(), wire.Compare(()), wire.Get(bytes(NAME), 0, 1, False)):
                with pytest.raises(NodeRevoked):
                    await peer.request(request, wire.Done)
            assert f.boris.clerk.shown(heir.owner) == before
            held = f.boris.clerk.newest(heir.owner)
            sides = (f.anna.owner, f.anna.node), (f.boris.owner, f.boris.node)
            now_s = f.anna.clerk.now_s()
            back = agreement.next_terms(held, *sides, Wish(), now_s=now_s, used=(0, 0), is_heir=True)
            stolen = contract.propose(f.anna.identity, back)
            refusal = await f.boris.clerk.sign(f.anna.identity.certificate, stolen.raw, 8 * MIB)
            assert isinstance(refusal, wire.Refusal) and refusal.code is Refused.NOT_ALLOWED
            nursery.cancel_scope.cancel()


async def test_stolen_machine_and_its_friend_dial_each_other_seldom(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with friends() as f, trio.open_nursery() as nursery:
        await store(f.boris)
        async with burnt(f, nursery) as heir:
            await heir.until(lambda: shelf(f.boris, heir) == heir.node)
            dials = f.network.dials
            dials.clear()
            f.anna.start()  # by a thief
            for _ in range(300):
                await trio.sleep(1)
                assert max(dials.values(), default=0) <= MOST_DIALS
            assert dials[f.anna.node] and dials[f.boris.node]
            dials.clear()
            caplog.clear()
            for minute in range(1, 11):
                await trio.sleep(60)
                assert max(dials.values(), default=0) <= MOST_A_MINUTE * minute
            assert dials[f.anna.node] and dials[f.boris.node]
            assert len(caplog.records) <= MOST_LINES_A_MINUTE * 10
            assert f.anna.suppliers.revoked_in()
            nursery.cancel_scope.cancel()


async def test_shelf_of_a_valid_machine_is_not_moved_without_notice(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        twin = make_identity("anna's second machine", owner="anna", epoch=1)
        held = f.boris.clerk.newest(f.anna.owner)
        sides = (twin.owner, twin.node), (f.boris.owner, f.boris.node)
        terms = agreement.next_terms(held, *sides, Wish(), now_s=f.anna.clerk.now_s(), used=(0, 0), is_heir=True)
        refusal = await f.boris.clerk.sign(twin.certificate, contract.propose(twin, terms).raw, 8 * MIB)
        assert isinstance(refusal, wire.Refusal) and refusal.code is Refused.NOT_ALLOWED


async def replace_first(world: World, nursery: trio.Nursery) -> SupplierNode:
    """The owner of the first supplier has another machine, and both sides have signed that it keeps the shelf."""
    swarm, us = world.swarm, world.swarm.identity
    heir = make_identity("supplier 1, again", owner="supplier 1", epoch=2)
    node = SupplierNode(9, swarm.network, nursery, swarm.wall, identity=heir)
    held = contract.parse(world.catalog.suppliers()[0].contract)
    sides = (heir.owner, heir.node), (us.owner, us.node)
    now_s = world.node.register.now_s()
    terms = agreement.next_terms(held, *sides, Wish(), now_s=now_s, used=(0, 0), is_heir=True)
    signed = contract.countersign(us, contract.propose(heir, terms))
    node.allowed[us.owner] = 1 << 40
    await node.keeper.keep(signed)
    world.node.register.address_of = lambda _node: node.address
    await world.node.suppliers.clerk.keep(heir.owner, signed)
    return node


def names_at(node: SupplierNode, world: World) -> list[object]:
    return list(node.shelf.names(world.swarm.identity.owner, b"", 9))


async def test_friend_hires_the_next_machine_and_makes_again_what_was_on_the_burnt_one(
    autojump_clock: MockClock,
) -> None:
    content = random.Random(3).randbytes(400_000)
    async with World(suppliers=5, code=CODE).running() as world:
        await world.write("letter", content)
        assert await world.sync() == "safe"
        watch, swarm = Watch(world), world.swarm
        swarm.suppliers[0].kill()
        async with trio.open_nursery() as nursery:
            node = await replace_first(world, nursery)
            await until(lambda: len(world.catalog.suppliers()) == 6)
            old, new = world.catalog.suppliers()[0], world.catalog.suppliers()[5]
            assert (old.label, new.label, new.node) == ("s1-old", "s1", node.identity.node)
            assert new.standing is Standing.HIRED
            await until(
                lambda: not world.catalog.wanting_blocks(1) and bool(node.shelf.names(swarm.identity.owner, b"", 9))
            )
            assert not watch.lowered
            await until(lambda: world.catalog.suppliers()[0].standing is Standing.FIRED, most_s=3600)
            assert await world.sync() == "safe"
            assert await world.read("letter") == content
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_friend_who_comes_with_machine_after_machine_gets_no_more_say(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each proposal is one that a friend may make whose machine burnt. Together they would outvote all others."""
    monkeypatch.setattr(register, "MAX_MACHINES", 3)
    async with World(suppliers=5, code=CODE).running() as world:
        await world.write("letter", b"first")
        assert await world.sync() == "safe"
        us, first, clerk = world.swarm.identity, world.catalog.suppliers()[0], world.node.suppliers.clerk
        await clerk.learn(first.contract)
        for epoch in range(2, 14):
            machine = make_identity(f"machine {epoch}", owner="supplier 1", epoch=epoch)
            sides = (machine.owner, machine.node), (us.owner, us.node)
            now_s, held = world.node.register.now_s(), clerk.newest(machine.owner)
            terms = agreement.next_terms(held, *sides, Wish(), now_s=now_s, used=(0, 0), is_heir=True)
            answer = await clerk.sign(machine.certificate, contract.propose(machine, terms).raw, None)
            assert isinstance(answer, wire.Agreed)
            await trio.sleep(2 if epoch < 10 else 120)
            theirs = [row for row in world.catalog.suppliers() if row.owner == machine.owner]
            assert sum(row.is_listed for row in theirs) <= 2
        assert len(theirs) == 3
        await world.write("letter", b"second")
        assert await world.sync() == "safe"


async def test_shelf_of_somebody_else_is_not_offered(autojump_clock: MockClock) -> None:
    async with friends() as f:
        other = make_identity("carla's machine", owner="carla")
        held = f.anna.clerk.newest(f.boris.owner)
        sides = (f.boris.owner, f.boris.node), (f.anna.owner, f.anna.node)
        now_s = f.boris.clerk.now_s()
        wish = Wish(gives_bytes=MIB, since_s=now_s + NOTICE_S)
        terms = agreement.next_terms(held, *sides, wish, now_s=now_s, used=(0, 0))
        for shelf, code in ((other.node, Refused.BAD_REQUEST), (f.boris.node, None)):
            offer = contract.propose(f.boris.identity, replace(terms, first=replace(terms.first, shelf=shelf)))
            answer = await f.anna.clerk.sign(f.boris.identity.certificate, offer.raw, 8 * MIB)
            assert (answer.code if isinstance(answer, wire.Refusal) else None) is code


@asynccontextmanager
async def burnt_then_restarted(world: World) -> AsyncIterator[None]:
    """Two suppliers had the newest head; one is gone for good, and then this machine is started anew."""
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            await world.write("letter", LETTER)
            assert await world.sync() == "safe"
        world.swarm.suppliers[0].kill()
        async with world.machine(world.catalog, world.spool, wait=False):
            await until(lambda: bool(world.suppliers.online()))
            yield


async def test_head_needs_no_machine_that_another_one_has_replaced(autojump_clock: MockClock) -> None:
    """Of two suppliers a quorum is both: before, who was started since could neither publish nor drain."""
    world = World(suppliers=2, code=CODE_OF_TWO)
    async with burnt_then_restarted(world), trio.open_nursery() as nursery:
        await trio.sleep(30)
        assert not world.node.publisher.confirmed
        node = await replace_first(world, nursery)
        await until(lambda: world.node.publisher.confirmed, most_s=200)
        assert world.catalog.suppliers()[0].standing is Standing.MISSING
        await world.write("later", LETTER[::-1])
        assert await world.sync() == "safe"
        await until(lambda: len(names_at(node, world)) >= 2)
        assert await world.read("letter") == LETTER
        nursery.cancel_scope.cancel()


async def test_head_needs_no_supplier_that_is_lost(autojump_clock: MockClock) -> None:
    world = World(suppliers=2, code=CODE_OF_TWO, patience=Patience.of(600))
    async with burnt_then_restarted(world):
        await world.write("later", LETTER[::-1])
        await trio.sleep(300)
        before = world.node.publisher.version
        assert not world.node.publisher.confirmed
        report = await world.status()
        assert (report["state"], report["trouble"]) == ("degraded", ["no answer from s1"])
        await until(lambda: world.catalog.suppliers()[0].standing is Standing.LOST, most_s=1200)
        await until(lambda: world.node.publisher.version > before)
        await until(lambda: world.node.publisher.holders().is_quorate)
        report = await world.status()
        assert report["trouble"] == ["lost, so what they held is made again elsewhere: s1"]
