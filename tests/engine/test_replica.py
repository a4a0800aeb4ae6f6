"""The catalog at suppliers, in virtual time: what is safe comes back from them, whatever happened on the way."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine import replica
from bitdustfs.errors import ReadOnly
from bitdustfs.model import ROOT_INO, Code, FileState, FragmentName, SupplierNo
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import CALLER, World
from tests.engine.recovered import recover

CONTENT = random.Random(4).randbytes(300_000)
CODE = Code(3, 5)
SECOND = make_identity("second machine", owner="customer", epoch=2)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def heads_at(world: World) -> list[int]:
    """The version of the head that each supplier holds."""
    return [each.keeper.head_version(world.swarm.identity.owner) for each in world.swarm.suppliers]


async def read_on(world: World, path: Path, names: dict[str, bytes]) -> None:
    """Mount what was recovered on the second machine, and read these files."""
    with closing(SqliteCatalog(path)) as catalog:
        async with world.machine(catalog, MemorySpool(), identity=SECOND, wait=False) as node:
            while len(node.suppliers.online()) < CODE.k:
                await node.suppliers.wait_for_change()
            for name, content in names.items():
                assert await world.read(name) == content


@pytest.mark.slow
async def test_synced_volume_is_safe_and_comes_back_from_keys_and_one_address(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).running() as world:
        ino = await world.write("file", CONTENT)
        await world.write("small", b"few bytes")
        assert await world.sync() == "safe"
        assert world.node.files.state(ino) is FileState.SAFE
        await world.sync()  # nothing is left to do
        for number in (1, 2):
            world.swarm.suppliers[number - 1].kill()
        found = await recover(world, tmp_path / "catalog", SECOND, friend=4)
        assert (found.answered, found.confirming, found.needed) == (3, 3, 3)
        assert found.is_certain
        await read_on(world, tmp_path / "catalog", {"file": CONTENT, "small": b"few bytes"})


@pytest.mark.slow
async def test_change_reaches_the_suppliers_by_itself_within_seconds(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).running() as world:
        ino = await world.write("file", CONTENT)
        await trio.sleep(60)
        assert world.node.files.state(ino) is FileState.SAFE
        before = max(heads_at(world))
        world.node.tree.mkdir(ROOT_INO, b"directory", 0o755, CALLER)
        await trio.sleep(replica.SHIP_AFTER_S + 2)
        assert heads_at(world) == [before + 1] * 5
        await trio.sleep(600)
        assert heads_at(world) == [before + 1] * 5  # nothing changes: no head


@pytest.mark.slow
async def test_heads_are_rare_while_changes_go_on(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        before = max(heads_at(world))
        for number in range(300):
            world.node.tree.mkdir(ROOT_INO, b"%d" % number, 0o755, CALLER)
            await trio.sleep(1)
        assert 300 / replica.HEAD_EVERY_S - 2 <= max(heads_at(world)) - before <= 300 / replica.HEAD_EVERY_S + 1


@pytest.mark.slow
async def test_file_is_only_placed_while_too_few_suppliers_have_the_head(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        for number in (1, 2):
            world.swarm.silence(number)
        await trio.sleep(120)
        ino = await world.write("file", CONTENT)
        world.swarm.suppliers[2].mute.refuses_heads = True
        report = await world.node.sync(nothing, 200)
        assert report["state"] in ("placed", "degraded")
        assert world.node.files.state(ino) is not FileState.SAFE
        world.swarm.suppliers[2].mute.refuses_heads = False
        world.swarm.heal(1)
        world.swarm.heal(2)
        await trio.sleep(120)
        assert await world.sync() == "safe"
        assert world.node.files.state(ino) is FileState.SAFE


@pytest.mark.slow
async def test_supplier_that_was_away_gets_the_newest_head_and_all_objects(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        world.swarm.suppliers[4].kill()
        for number in range(5):
            await world.write(f"file{number}", CONTENT[number:])
            await world.node.sync(nothing, 60)
        world.swarm.suppliers[4].start()
        await trio.sleep(180)
        assert await world.sync() == "safe"
        assert len(set(heads_at(world))) == 1
        for number in (1, 2):
            world.swarm.suppliers[number - 1].kill()
        await recover(world, tmp_path / "catalog", SECOND, friend=5)
        await read_on(world, tmp_path / "catalog", {f"file{number}": CONTENT[number:] for number in range(5)})


@pytest.mark.slow
async def test_many_changes_leave_few_deltas_and_a_new_snapshot_and_nothing_is_left_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    dice = random.Random(5)
    async with World(code=CODE).running() as world:
        await world.sync()
        names = {}
        for turn in range(60):
            for number in range(40):
                name = f"{turn}-{number}-{dice.randbytes(40).hex()}"
                made = world.node.tree.mkdir(ROOT_INO, name.encode(), 0o755, CALLER)
                world.node.attributes.set_xattr(made.ino, b"user.x", dice.randbytes(900))
            names[f"f{turn}"] = dice.randbytes(100)
            await world.write(f"f{turn}", names[f"f{turn}"])
            await world.sync()
        assert len(world.catalog.deltas()) < 40
        assert world.node.replica.base_change > 100  # of the first snapshot it is far less
        await trio.sleep(120)
        known = {bytes(row.block_id) for row in world.catalog.local_blocks()}
        assert len(known) < 60
        assert not world.catalog.count_releases()  # all that was let go is released
        await recover(world, tmp_path / "catalog", SECOND)
        await read_on(world, tmp_path / "catalog", names)


@pytest.mark.slow
async def test_replaced_file_comes_back_with_its_old_content_until_the_new_one_is_there(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        assert await world.sync() == "safe"
        await world.write("new", b"x" * 200_000)
        await world.node.tree.rename(ROOT_INO, b"new", ROOT_INO, b"file")
        await world.node.replica.make_safe()  # the name, and no byte of the file
        found = await recover(world, tmp_path / "catalog", SECOND)
        assert found.confirming == 5
        await read_on(world, tmp_path / "catalog", {"file": CONTENT})


@pytest.mark.slow
async def test_file_that_was_removed_and_made_anew_is_gone_until_it_is_there_and_never_empty(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.write("other", CONTENT[:1000])
        assert await world.sync() == "safe"
        world.node.tree.unlink(ROOT_INO, b"file")
        await world.write("file", b"x" * 200_000)
        await world.node.replica.make_safe()  # the names, and no byte of the file
        await recover(world, tmp_path / "catalog", SECOND)
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            assert catalog.name(ROOT_INO, b"file") is None  # there was such a moment, unlike with rename
        await read_on(world, tmp_path / "catalog", {"other": CONTENT[:1000]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seat", "by"),
    [
        (heads.NO_SEAT, "this machine before its disk was set back"),
        (b"of a copied home", "a copy of this home, or this home in another place: "),
    ],
)
async def test_machine_that_was_set_back_or_copied_changes_nothing_and_says_so(
    autojump_clock: MockClock, tmp_path: Path, seat: bytes, by: str
) -> None:
    path, image = tmp_path / "catalog", tmp_path / "image"
    async with World(code=CODE).hired() as world:
        with closing(SqliteCatalog(path, create=True)) as catalog:
            for row in world.catalog.suppliers():
                catalog.put_supplier(row)
            async with world.machine(catalog, world.spool):
                await world.write("old", b"old")
                await world.sync()
        shutil.copyfile(path, image)
        with closing(SqliteCatalog(path)) as catalog:
            async with world.machine(catalog, world.spool):
                await world.write("later", b"later")
                await world.sync()
        newest = heads_at(world)
        world.options = replace(world.options, seat=seat)
        with closing(SqliteCatalog(image)) as catalog:
            async with world.machine(catalog, MemorySpool()) as node:
                await world.write("another", b"another")
                await trio.sleep(100)
                assert node.publisher.foreign is not None
                assert node.publisher.foreign.is_newer
                with pytest.raises(ReadOnly):
                    await world.write("more", b"more")
                assert await world.read("another") == b"another"
                trouble = (await world.status())["trouble"][0]
                assert "newer state" in trouble and "the next mount takes" in trouble
                assert f"written by {by}" in trouble
        assert heads_at(world) == newest


@pytest.mark.slow
async def test_recovered_machine_goes_on_and_the_old_one_changes_nothing_any_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        world.swarm.cut(5)  # it is away now, and knows only an older head later
        await trio.sleep(30)
        await world.write("second", b"2")
        await world.node.sync(nothing, 60)
        old = world.node
        await recover(world, tmp_path / "catalog", SECOND)
        world.swarm.heal(5)
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            async with world.machine(catalog, MemorySpool(), identity=SECOND):
                await world.write("third", b"3")
                assert await world.sync() == "safe"
                await trio.sleep(60)
                assert len(set(heads_at(world))) == 1
                await trio.sleep(120)
                assert old.journal.refusal is not None
        assert await recover(world, tmp_path / "again", SECOND)
        await read_on(world, tmp_path / "again", {"file": CONTENT, "second": b"2", "third": b"3"})


@pytest.mark.slow
async def test_supplier_that_is_back_at_once_with_an_older_disk_gets_the_newest_head(
    autojump_clock: MockClock,
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        first = world.swarm.suppliers[0]
        older = first.contracts.heads()
        await world.write("second", b"2")
        await world.sync()
        newest = heads_at(world)
        for _ in range(3):  # whatever the moment, it is away for less than half a second
            await trio.sleep(10.15)
            first.kill()
            await trio.sleep(0.001)  # until it has let its address go
            for owner, head in older.items():
                first.contracts.save_head(owner, head)
            first.start()
            assert heads_at(world) != newest
            await trio.sleep(5)
            assert heads_at(world) == newest


@pytest.mark.slow
async def test_nothing_is_released_before_a_quorum_has_shown_its_heads(autojump_clock: MockClock) -> None:
    async with World(code=CODE).hired() as world:
        world.catalog.put_upload(b"u" * 32, [(SupplierNo(5), FragmentName(b"n" * 32))])
        world.catalog.commit()
        for number in (1, 2, 3):
            world.swarm.suppliers[number - 1].mute.refuses_heads = True
        async with world.machine(world.catalog, world.spool) as node:
            await trio.sleep(100)
            assert not node.publisher.confirmed
            assert world.catalog.count_releases()
            for supplier in world.swarm.suppliers:
                supplier.mute.refuses_heads = False
            await trio.sleep(100)
            assert node.publisher.confirmed
            assert not world.catalog.count_releases()


async def nothing(_step: object) -> None:
    return


@pytest.mark.slow
@pytest.mark.parametrize("kept", [40, 303, -1], ids=["nothing is left", "the signed part is left", "one byte lacks"])
async def test_supplier_whose_head_is_damaged_gets_the_newest_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        supplier, owner = world.swarm.suppliers[1], world.swarm.identity.owner
        supplier.kill()
        await trio.sleep(1)
        raw, _links = heads.split(supplier.contracts.heads()[owner])
        supplier.contracts.save_head(owner, raw[:kept])
        await world.write("file", CONTENT)
        await world.node.sync(nothing, 60)
        supplier.start()
        await trio.sleep(120)
        assert await world.sync() == "safe"
        assert len(set(heads_at(world))) == 1
        assert "waits for a new one" in caplog.text


@pytest.mark.slow
async def test_damaged_head_is_not_replaced_before_a_quorum_has_shown_theirs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await world.sync()
        supplier, owner = world.swarm.suppliers[0], world.swarm.identity.owner
        supplier.kill()
        await trio.sleep(1)
        supplier.contracts.save_head(owner, b"damaged")
        supplier.start()
        for number in (2, 3, 4):
            world.swarm.suppliers[number - 1].mute.refuses_heads = True
        async with world.machine(world.catalog, world.spool):
            await trio.sleep(60)
            assert supplier.contracts.heads()[owner] == b"damaged"
            world.swarm.suppliers[1].mute.refuses_heads = False
            world.swarm.suppliers[2].mute.refuses_heads = False
            await trio.sleep(60)
            one, other = (heads.split(each.contracts.heads()[owner]) for each in world.swarm.suppliers[:2])
            assert one[0] == other[0]
