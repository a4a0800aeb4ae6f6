"""Ways in which a supplier, or the old machine, could spoil a recovery that a reader found, each held fast."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.recovery import Found
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.recovery import Recovery, Seeker, fetch_newest
from bitdustfs.errors import DiskFull
from bitdustfs.model import LEAF_BYTES, ROOT_INO, Code, FragmentState, OwnerId
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.shelf import flipped
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import SupplierNode, make_identity
from bitdustfs.testing.world import CALLER, SECRETS, World
from tests.engine.recovered import recover

CODE = Code(3, 5)
FAR = 2**63 - 1
LETTERS = bytes(range(128, 256))


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def second(epoch: int) -> Identity:
    """The machine that recovers."""
    return make_identity("second machine", owner="customer", epoch=epoch)


def seeker(world: World) -> Seeker:
    node = second(1)
    return Seeker(world.swarm.network.dialer(node.node), second, SECRETS, node.owner)


LIES = {
    "no proof": b"",
    "garbage": b"\1" * 138,
    "another owner": make_identity("stranger", epoch=9).certificate.raw,
    "the same epoch": make_identity("customer").certificate.raw,
}


@pytest.mark.slow
@pytest.mark.parametrize("proof", LIES.values(), ids=LIES)
async def test_supplier_that_says_revoked_without_proof_is_not_believed_in_recovery(
    autojump_clock: MockClock, proof: bytes
) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        liar = world.swarm.suppliers[1]
        liar.mute.refusal = wire.Refusal(wire.Refused.STALE, "you are in a stale epoch", FAR, proof)
        seeking = seeker(world)
        first = world.swarm.suppliers[0]
        found = await seeking.find([(first.node, first.address)])
        assert seeking.epoch == 1  # not one number is burnt
        assert (found.answered, found.confirming) == (4, 4)
        assert "no proof" in found.silent["s2"]


async def test_supplier_that_moved_since_the_head_was_signed_is_fetched_from_where_it_answers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(suppliers=1, code=Code(1, 1)).running() as world:
        await world.write("letter", LETTERS)
        await world.sync()
        only = world.swarm.suppliers[0]
        only.kill()
        only.address = "moved:7000"
        only.start()
        found = await recover(world, tmp_path / "catalog", second(2))
        assert [row.address for row in found.suppliers] == ["moved:7000"]
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            assert [row.address for row in catalog.suppliers()] == ["moved:7000"]  # nothing else would know


@pytest.mark.slow
async def test_supplier_that_proves_a_newer_epoch_is_asked_again_in_it(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        supplier = world.swarm.suppliers[1]
        await supplier.keeper.answer(second(7).certificate, wire.Ping(), b"")
        seeking = seeker(world)
        found = await seeking.find([(supplier.node, supplier.address)])
        assert (seeking.epoch, found.answered) == (7, 5)


@pytest.mark.slow
@pytest.mark.parametrize("proof", LIES.values(), ids=LIES)
async def test_suppliers_that_cannot_prove_it_stop_no_mounted_machine(
    autojump_clock: MockClock, proof: bytes
) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        for liar in world.swarm.suppliers:
            liar.mute.refusal = wire.Refusal(wire.Refused.STALE, "you are in a stale epoch", FAR, proof)
        await trio.sleep(200)
        assert not world.node.publisher.is_disowned
        await world.write("file", b"still written")


@pytest.mark.slow
async def test_one_supplier_that_proves_it_stops_a_mounted_machine(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        await world.swarm.suppliers[1].keeper.answer(second(2).certificate, wire.Ping(), b"")
        await trio.sleep(200)
        assert world.node.publisher.is_disowned
        assert "certified his machines anew" in str(world.node.journal.refusal)


@pytest.mark.slow
async def test_head_that_the_old_machine_places_while_it_is_recovered_is_not_missed(
    autojump_clock: MockClock,
) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        seeking, first = seeker(world), world.swarm.suppliers[0]
        before = await seeking.find([(first.node, first.address)])
        await world.write("late", b"safe just in time")
        assert await world.sync() == "safe"
        found, identity = await seeking.take_over()
        assert found.head.version > before.head.version
        assert (found.answered, identity.certificate.epoch) == (5, 2)
        newest = [each.keeper.head_version(identity.owner) for each in world.swarm.suppliers]
        world.node.tree.mkdir(ROOT_INO, b"too late", 0o755, CALLER)
        await trio.sleep(200)
        assert [each.keeper.head_version(identity.owner) for each in world.swarm.suppliers] == newest
        assert world.node.publisher.is_disowned


@pytest.mark.slow
async def test_only_suppliers_that_heard_of_the_take_over_count(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        seeking, first = seeker(world), world.swarm.suppliers[0]
        before = await seeking.find([(first.node, first.address)])
        for number in (1, 2, 3):
            world.swarm.cut(number)
        found, _ = await seeking.take_over()
        assert found.head == before.head
        assert (before.is_certain, found.is_certain) == (True, False)
        assert (found.answered, found.needed) == (2, 3)


@pytest.mark.slow
async def test_take_over_goes_above_an_epoch_that_it_learns_of_on_the_way(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        seeking, first = seeker(world), world.swarm.suppliers[0]
        await seeking.find([(first.node, first.address)])
        await world.swarm.suppliers[3].keeper.answer(
            make_identity("third machine", owner="customer", epoch=6).certificate, wire.Ping(), b""
        )
        found, identity = await seeking.take_over()
        assert (found.answered, identity.certificate.epoch) == (5, 7)


async def restore(world: World, path: Path, state: Found, identity: Identity) -> None:
    """Fetch one state into a catalog at `path`."""
    path.unlink(missing_ok=True)
    side = world.swarm.customer_side(list(state.suppliers), identity)
    scratch = SqliteCatalog(":memory:", create=True)
    recovery = Recovery(state, side, SECRETS, InlineCrunch(), world.swarm.entropy, scratch)
    with closing(Restore(path)) as restored:
        await recovery.fetch(restored, say_nothing)
        restored.finish(last_change=state.content.change)
    with closing(SqliteCatalog(path)) as catalog:
        recovery.note(catalog)
        catalog.commit()


async def say_nothing(*_: object) -> None:
    return


async def a_state_that_nobody_can_fetch(world: World) -> None:
    """Sync `old`, then bring a head to three suppliers whose blocks get lost."""
    await world.write("old", b"old" * 30_000)
    assert await world.sync() == "safe"
    owner = world.swarm.identity.owner
    shelves = [each.memory_shelf for each in world.swarm.suppliers]
    before = [set(shelf.names(owner, b"", 1000)) for shelf in shelves]
    for number in (4, 5):
        world.swarm.suppliers[number - 1].mute.refuses_heads = True
    await world.write("new", b"new" * 30_000)
    await world.sync()
    for shelf, there in zip(shelves, before, strict=True):
        for name, _ in set(shelf.names(owner, b"", 1000)) - there:
            shelf.delete(owner, name, now_s=0)
    for supplier in world.swarm.suppliers:
        supplier.mute.refuses_heads = False


@pytest.mark.slow
async def test_state_before_comes_back_when_the_newest_cannot_be_fetched(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "catalog"
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await a_state_that_nobody_can_fetch(world)
        seeking, first = seeker(world), world.swarm.suppliers[0]
        await seeking.find([(first.node, first.address)])
        found, identity = await seeking.take_over()
        assert (found.is_certain, found.confirming) == (True, 3)
        (older,) = found.older
        assert (older.head.version, older.confirming) == (found.head.version - 1, 2)

        async def fetch(state: Found) -> None:
            await restore(world, path, state, identity)

        taken, _ = await fetch_newest(found, fetch)
        assert taken.head == older.head
        with closing(SqliteCatalog(path)) as catalog:
            async with world.machine(catalog, MemorySpool(), identity=identity):
                assert await world.read("old") == b"old" * 30_000
                await world.write("after", b"after" * 30_000)
                assert await world.sync() == "safe"  # suppliers take it although they know a higher version
                await trio.sleep(60)
                versions = {each.keeper.head_version(identity.owner) for each in world.swarm.suppliers}
                assert len(versions) == 1
        assert "cannot be fetched" in caplog.text


@pytest.mark.slow
async def test_state_for_which_the_disk_has_no_room_is_not_given_up_for_an_older_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await a_state_that_nobody_can_fetch(world)
        first, asked = world.swarm.suppliers[0], list[int]()
        found = await seeker(world).find([(first.node, first.address)])
        assert found.older

        async def fetch(state: Found) -> None:
            asked.append(state.head.version)
            with closing(Restore(tmp_path / "catalog")) as restored:
                restored.expect(1 << 40)

        with pytest.raises(DiskFull):
            await fetch_newest(found, fetch)
        assert asked == [found.head.version]


def local_fragments(catalog: SqliteCatalog, supplier: int) -> list[FragmentState]:
    """What is known of a supplier's fragments of the replica."""
    rows = [row for block in catalog.local_blocks() for row in catalog.fragments(block.block)]
    return [row.state for row in rows if row.supplier == supplier]


async def recovered(world: World, path: Path) -> Identity:
    seeking, first = seeker(world), world.swarm.suppliers[0]
    await seeking.find([(first.node, first.address)])
    found, identity = await seeking.take_over()
    await restore(world, path, found, identity)
    return identity


@pytest.mark.slow
async def test_recovered_machine_counts_what_suppliers_hold_of_the_catalog(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await world.write("file", b"file" * 30_000)
            await world.sync()
            await trio.sleep(60)
        await recovered(world, tmp_path / "catalog")
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            used = [(row.used_bytes, row.used_fragments) for row in catalog.suppliers()]
        assert used == [(row.used_bytes, row.used_fragments) for row in world.catalog.suppliers()]
        assert used == [each.memory_shelf.used(world.swarm.identity.owner) for each in world.swarm.suppliers]


@pytest.mark.slow
async def test_only_fragments_that_a_supplier_shows_are_held_after_a_recovery(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "catalog"
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await world.sync()
            world.node.tree.mkdir(ROOT_INO, b"directory", 0o755, CALLER)
            await world.sync()
        owner, forgetful = world.swarm.identity.owner, world.swarm.suppliers[1]
        for name, _ in forgetful.memory_shelf.names(owner, b"", 1000):
            forgetful.memory_shelf.delete(owner, name, now_s=0)
        world.swarm.suppliers[2].mute.is_mute = True  # it answers STAT, and shows nothing
        identity = await recovered(world, path)
        world.swarm.suppliers[2].mute.is_mute = False
        with closing(SqliteCatalog(path)) as catalog:
            for number, state in ((1, FragmentState.HELD), (2, FragmentState.WANTED), (3, FragmentState.WANTED)):
                assert set(local_fragments(catalog, number)) == {state}
            assert [row.used_fragments > 0 for row in catalog.suppliers()] == [True, False, False, True, True]
            async with world.machine(catalog, MemorySpool(), identity=identity):
                await trio.sleep(120)
                assert await world.sync() == "safe"
                assert set(local_fragments(catalog, 2)) == set(local_fragments(catalog, 3)) == {FragmentState.HELD}
        assert forgetful.memory_shelf.names(owner, b"", 1000)


@pytest.mark.slow
async def test_fragments_that_arrived_after_the_head_was_signed_are_held_after_a_recovery(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A head is signed when enough fragments of its blocks are acknowledged, and tells nothing of the others."""
    path = tmp_path / "catalog"
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await world.sync()
            world.node.tree.mkdir(ROOT_INO, b"directory", 0o755, CALLER)
            await world.sync()
        found, identity = await without_the_last_hint(world)
        await restore(world, path, found, identity)
        with closing(SqliteCatalog(path)) as catalog:
            assert set(local_fragments(catalog, 5)) == {FragmentState.HELD}
            assert len(local_fragments(catalog, 5)) == len(local_fragments(world.catalog, 5))


@pytest.mark.slow
async def test_fragment_that_nobody_said_counts_only_if_leaves_are_shown_that_could_not_be_foreseen(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path, dice = tmp_path / "catalog", random.Random(3)
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await world.sync()
            for _ in range(400):
                name = bytes(dice.choices(LETTERS, k=250))
                world.node.tree.mkdir(ROOT_INO, name, 0o755, CALLER)
            await world.sync()
        found, identity = await without_the_last_hint(world)
        keeps_first_leaves_only(world.swarm.suppliers[4], world.swarm.identity.owner)
        await restore(world, path, found, identity)
        with closing(SqliteCatalog(path)) as catalog:
            large = [row.block for row in catalog.local_blocks() if row.length > 3 * LEAF_BYTES]
            states = {row.state for block in large for row in catalog.fragments(block) if row.supplier == 5}
        assert large and FragmentState.HELD not in states


def keeps_first_leaves_only(supplier: SupplierNode, owner: OwnerId) -> None:
    """What is asked for first it gives back."""
    shelf = supplier.memory_shelf
    kept = {(shelf.content(owner, name) or b"")[:LEAF_BYTES] for name, _ in shelf.names(owner, b"", 1000)}
    supplier.shelf.bend = lambda leaves: leaves if bytes(leaves.content) in kept else flipped(leaves)


async def without_the_last_hint(world: World) -> tuple[Found, Identity]:
    """The newest head as it would be, had it been signed before the last fragments of its deltas arrived."""
    seeking, first = seeker(world), world.swarm.suppliers[0]
    await seeking.find([(first.node, first.address)])
    found, identity = await seeking.take_over()
    deltas = found.content.deltas
    assert deltas
    unsaid = [
        msgspec.structs.replace(each, object=msgspec.structs.replace(each.object, at=(*each.object.at[:-1], 0)))
        for each in deltas
    ]
    return replace(found, content=msgspec.structs.replace(found.content, deltas=tuple(unsaid))), identity
