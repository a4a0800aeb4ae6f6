"""On command, stored files are written into blocks with another k, and at no moment less safe than before."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.report import RecodeReport
from bitdustfs.core.standing import Event
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.attributes import CODE_XATTR
from bitdustfs.errors import NotFound
from bitdustfs.model import ROOT_INO, BlockNo, Code
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import World
from tests.engine.recovered import Survivors, recover, stocks
from tests.engine.test_follower import CONTENTS, SECOND, codes, fewest, mounted, read_all, with_files
from tests.engine.unneeded import delete, held, stored, until

pytestmark = pytest.mark.slow


async def say_nothing(_step: object) -> None:
    return


async def recode(world: World, path: str | None = None, *, is_dry: bool = False) -> RecodeReport:
    return await world.node.recode(path, say_nothing, is_dry=is_dry)


def is_done(world: World) -> bool:
    """Nothing is left to be coded anew, nor of the old blocks."""
    left = world.catalog.count_marked()[0] or world.catalog.dead_blocks(1, BlockNo(0))
    return not left and not world.catalog.count_releases() and stored(world) == held(world.catalog)


async def test_blocks_get_another_k_on_command_only(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with with_files(Code(3, 5), suppliers=6) as world, mounted(world, Code(2, 6)):
        await trio.sleep(100)
        assert codes(world) == {Code(3, 5)}
        status = await world.status()
        assert (status["code"], status["codes"], status["unlike_blocks"]) == ("2/6", {"3/5": 3}, 3)
        told = await recode(world, is_dry=True)
        assert (told["files"], told["blocks"], told["bytes"]) == (3, 3, 900_000)
        assert told["changes"] == [{"old": "3/5", "new": "2/6", "bytes": 900_000}]
        assert 2_700_000 <= told["send_bytes"] <= 2_701_000
        assert not world.catalog.count_marked()[0]
        assert await recode(world) == told
        status = await world.status()
        assert (status["recode_blocks"], status["recode_bytes"]) == (3, 900_000)
        await until(lambda: is_done(world))
        assert codes(world) == {Code(2, 6)}
        assert world.catalog.count_blocks() == 1  # three small ones became one
        assert fewest(world) == 6
        assert await read_all(world) == CONTENTS
        await until(lambda: world.node.follower.unlike == 0)
        assert (await recode(world))["blocks"] == 0
        assert await world.sync() == "safe"
        found = await Survivors(stocks(world), without=(1, 3, 4, 6)).recover(tmp_path / "catalog")
        assert found == {name.encode(): content for name, content in CONTENTS.items()}


async def test_files_beneath_a_path_are_coded_anew_and_no_others(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 5)) as world, mounted(world, Code(3, 5)):
        inode = world.node.tree.lookup(ROOT_INO, b"file 1")
        other = world.node.tree.lookup(ROOT_INO, b"file 2")
        assert inode is not None and other is not None
        for each in (inode, other):
            world.node.attributes.set_xattr(each.ino, CODE_XATTR, b"2/5")
        await recode(world, "/file 1")
        await until(lambda: is_done(world))
        status = [await world.node.status(f"/file {number}") for number in range(3)]
        assert [each["codes"] for each in status] == [{"3/5": 1}, {"2/5": 1}, {"3/5": 1}]
        assert [each["unlike_blocks"] for each in status] == [0, 0, 1]
        assert [each["code"] for each in status] == ["3/5", "2/5", "2/5"]
        with pytest.raises(NotFound):
            await recode(world, "/nowhere")


async def test_chunks_of_a_block_that_wish_its_k_stay(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        contents = {name: random.Random(name).randbytes(40_000) for name in ("a", "b")}
        inos = [await world.write(name, content) for name, content in contents.items()]
        await world.sync()
        world.node.attributes.set_xattr(inos[0], CODE_XATTR, b"1/5")
        assert (await recode(world))["bytes"] == 40_000
        await until(lambda: not world.catalog.count_marked()[0])
        assert [world.catalog.block(b).code for ino in inos for b in world.catalog.blocks_of(ino)] == [  # type: ignore[union-attr]
            Code(1, 5),
            Code(3, 5),
        ]
        await world.node.drop_cache()
        assert {name: await world.read(name) for name in contents} == contents


async def test_who_recovers_the_volume_goes_on_with_what_was_asked_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with with_files(Code(3, 5), suppliers=6) as world:
        async with mounted(world, Code(2, 6)):
            await until(lambda: len(world.node.suppliers.online()) == 6)
            await world.sync()
            world.node.rewriter.may_rewrite = lambda: False  # so nothing of it is done here
            assert (await recode(world, "/file 1"))["blocks"] == 1
            assert await world.sync() == "safe"
            assert world.catalog.count_marked()[0] == 1
        await recover(world, tmp_path / "catalog", SECOND)
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            assert not catalog.count_marked()[0]
            async with world.machine(catalog, MemorySpool(), identity=SECOND):
                await until(lambda: sorted(row.code.k for row in catalog.blocks()) == [2, 3, 3])
                await until(lambda: not catalog.value("recode"))
                assert not catalog.count_marked()[0]
                status = await world.node.status("/file 1")
                assert status["codes"] == {"2/6": 1}
                assert await world.read("file 1") == CONTENTS["file 1"]
                await trio.sleep(60)
                assert not catalog.count_marked()[0]


async def test_content_in_two_files_gets_the_more_careful_code(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        content = random.Random(5).randbytes(100_000)
        one, two = await world.write("one", content), await world.write("two", content)
        await world.sync()
        world.node.attributes.set_xattr(one, CODE_XATTR, b"4/5")
        world.node.attributes.set_xattr(two, CODE_XATTR, b"2/5")
        assert (await recode(world))["blocks"] == 1
        await until(lambda: is_done(world))
        assert codes(world) == {Code(2, 5)}
        assert (await recode(world))["blocks"] == 0


@pytest.mark.long
async def test_it_waits_for_suppliers_and_goes_on_when_they_are_back(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 5), suppliers=5) as world, mounted(world, Code(2, 5)):
        await until(lambda: len(world.node.suppliers.online()) == 5)
        world.swarm.cut(2)
        world.swarm.cut(3)
        await recode(world)
        await trio.sleep(120)
        assert codes(world) == {Code(3, 5)}
        assert any("coding anew waits" in sentence for sentence in (await world.status())["trouble"])
        world.swarm.heal(2)
        world.swarm.heal(3)
        await until(lambda: is_done(world))
        assert codes(world) == {Code(2, 5)}
        assert not any("coding anew" in sentence for sentence in (await world.status())["trouble"])
        assert await read_all(world) == CONTENTS


@pytest.mark.parametrize("former", [Code(2, 6), None])
async def test_code_that_was_chosen_meanwhile_is_the_one_that_counts(
    autojump_clock: MockClock, former: Code | None
) -> None:
    async with with_files(Code(3, 5), suppliers=6) as world:
        async with mounted(world, former):
            await recode(world)
        assert world.catalog.count_marked()[0] == 3
        async with mounted(world, Code(3, 5)):
            await until(lambda: not world.catalog.count_marked()[0])
            assert codes(world) == {Code(3, 5)}


@pytest.mark.long
async def test_supplier_away_meanwhile_changes_nothing_of_what_was_asked_for(autojump_clock: MockClock) -> None:
    async with with_files(None, suppliers=3, candidates=1) as world, mounted(world, None):
        assert codes(world) == {Code(1, 3)}
        world.node.monitor.meets(world.catalog.suppliers()[3], Event.HIRE)
        await until(lambda: world.node.follower.unlike == 3)
        world.swarm.suppliers[0].kill()
        await recode(world)  # to 2/4
        await until(lambda: world.node.writer.code() == Code(1, 3), most_s=2000)  # it is lost
        world.swarm.suppliers[0].start()
        await until(lambda: is_done(world), most_s=2000)
        assert codes(world) == {Code(2, 4)}
        assert await read_all(world) == CONTENTS


async def test_what_is_deleted_or_written_meanwhile_is_as_it_was_left(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 5), suppliers=6) as world, mounted(world, Code(2, 6)):
        place = world.node.uploads.place
        await recode(world)

        async def and_change(shipment: object, record: object) -> None:
            world.node.uploads.place = place  # type: ignore[method-assign]
            delete(world, "file 0")
            await world.write("file 1", b"new" * 1000)
            await world.node.collector.collect()
            await place(shipment, record)  # type: ignore[arg-type]

        world.node.uploads.place = and_change  # type: ignore[method-assign]
        await until(lambda: is_done(world) and world.node.tree.lookup(ROOT_INO, b"file 0") is None)
        assert await world.sync() == "safe"
        assert codes(world) == {Code(2, 6)}
        await world.node.drop_cache()
        expected = b"new" * 1000 + CONTENTS["file 1"][3000:]
        assert (await world.read("file 1"), await world.read("file 2")) == (expected, CONTENTS["file 2"])


@pytest.mark.long
async def test_block_that_cannot_be_read_now_keeps_no_other_waiting(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 3), suppliers=6) as world:
        world.options = replace(world.options, code=Code(2, 6))
        async with world.machine(world.catalog, world.spool):
            await world.node.drop_cache()
            block = world.catalog.blocks()[0]
            row = world.catalog.fragments(block.block)[0]
            name = world.node.releases.name(block, row.index, row.supplier)
            assert name is not None
            world.swarm.suppliers[row.supplier - 1].memory_shelf.damage(world.swarm.identity.owner, name)
            await recode(world)
            await until(lambda: world.catalog.count_marked()[0] == 1)
            await trio.sleep(60)
            assert world.catalog.count_marked()[0] == 1
            assert await world.read("file 1") == CONTENTS["file 1"]
