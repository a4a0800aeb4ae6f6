"""Stored blocks gain and lose fragments as their files wish, and at no moment fewer are held than are wished."""

from __future__ import annotations

import random
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import fragment
from bitdustfs.core.grace import Patience
from bitdustfs.core.standing import Event
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.attributes import CODE_XATTR
from bitdustfs.engine.follower import NAMES
from bitdustfs.errors import BadRequest
from bitdustfs.model import BLOCK_CHUNKS, CHUNK_BYTES, ROOT_INO, BlockNo, Code, FragmentState, Ino, Standing
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import CALLER, World
from tests.engine.recovered import Survivors, recover, stocks
from tests.engine.truth import good_rows
from tests.engine.unneeded import Watch, held, stored, until

pytestmark = pytest.mark.slow
PATIENCE = Patience.of(20)
CONTENTS = {f"file {number}": random.Random(number).randbytes(300_000) for number in range(3)}
FIRST = BlockNo(1)
SECOND = make_identity("second machine", owner="customer", epoch=2)


@asynccontextmanager
async def with_files(
    code: Code | None, *, suppliers: int = 7, candidates: int = 0, patience: Patience = PATIENCE
) -> AsyncIterator[World]:
    world = World(suppliers=suppliers, candidates=candidates, code=code, patience=patience)
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            for name, content in CONTENTS.items():
                await world.write(name, content)
                await world.sync()  # into a block of its own
        yield world


@asynccontextmanager
async def mounted(world: World, code: Code | None) -> AsyncIterator[Watch]:
    """Mount it with another code, and watch that no block has fewer held fragments than before or than wished."""
    world.options = replace(world.options, code=code)
    async with world.machine(world.catalog, world.spool, wait=False):
        watch = Watch(world)
        yield watch
        assert not watch.lowered


def codes(world: World) -> set[Code]:
    return {row.code for row in world.catalog.blocks()}


def fewest(world: World) -> int:
    """The fewest different held fragments of any block of files."""
    return min(world.catalog.held(block.block) for block in world.catalog.blocks())


async def read_all(world: World) -> dict[str, bytes]:
    """Every file, from suppliers, when all that is held was seen to be as it should be."""
    for block in world.catalog.blocks():
        assert len({row.index for row in good_rows(world, block)}) >= block.code.n
    await world.node.drop_cache()
    return {name: await world.read(name) for name in CONTENTS}


async def test_greater_n_adds_fragments_and_sends_no_others_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with with_files(Code(3, 5)) as world:
        ids = [(row.block, row.block_id) for row in world.catalog.blocks()]
        async with mounted(world, Code(3, 7)):
            assert await world.sync() == "safe"
            await until(lambda: codes(world) == {Code(3, 7)} and fewest(world) == 7)
            assert [(row.block, row.block_id) for row in world.catalog.blocks()] == ids  # none was written anew
            assert await world.sync() == "safe"
            for gone in range(4):
                world.swarm.cut(gone + 1)  # all that the old ones were with but one or two
            assert await read_all(world) == CONTENTS
            for gone in range(4):
                world.swarm.heal(gone + 1)
            assert await world.sync() == "safe"
        found = await Survivors(stocks(world), without=(1, 2, 3, 4)).recover(tmp_path / "catalog")
        assert found == {name.encode(): content for name, content in CONTENTS.items()}


@pytest.mark.long
async def test_roots_of_new_fragments_are_recorded_and_right(autojump_clock: MockClock) -> None:
    async with with_files(Code(2, 3)) as world, mounted(world, Code(2, 6)):
        await until(lambda: fewest(world) == 6)
        for block in world.catalog.blocks():
            assert len(block.roots) == 6
            for row in good_rows(world, block):
                supplier = world.swarm.suppliers[row.supplier - 1]
                name = world.node.releases.name(block, row.index, row.supplier)
                assert name is not None
                content = supplier.memory_shelf.content(world.swarm.identity.owner, name)
                assert content is not None and fragment.root(content) == block.roots[row.index]


async def test_smaller_n_lets_go_when_all_that_stays_was_shown(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 6)) as world, mounted(world, Code(3, 4)):
        await until(lambda: codes(world) == {Code(3, 4)})
        assert fewest(world) == 6
        await until(
            lambda: not world.catalog.count_releases() and stored(world) == held(world.catalog) and fewest(world) == 4
        )
        rows = world.catalog.fragments(FIRST)
        assert {row.index for row in rows} >= {0, 1, 2}  # a read of these is a join
        assert await read_all(world) == CONTENTS


async def test_smaller_n_lets_nothing_go_while_what_stays_is_not_there(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 6), suppliers=6) as world:
        empty = next(row.supplier for row in world.catalog.fragments(FIRST) if row.index == 0)
        world.swarm.suppliers[empty - 1].wipe()
        async with mounted(world, Code(3, 5)):
            await until(lambda: codes(world) == {Code(3, 5)})
            await trio.sleep(300)
            assert await world.sync() == "safe"
            assert fewest(world) >= 5
            assert await read_all(world) == CONTENTS


@pytest.mark.long
async def test_n_that_grows_again_takes_back_what_was_not_let_go(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 6)) as world:
        async with mounted(world, Code(3, 4)):
            await until(lambda: codes(world) == {Code(3, 4)} and fewest(world) == 4)
        async with mounted(world, Code(3, 7)):
            await until(lambda: fewest(world) == 7)
            await until(lambda: not world.catalog.count_releases() and stored(world) == held(world.catalog))
            assert await read_all(world) == CONTENTS


@pytest.mark.long
async def test_lost_supplier_while_n_grows(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 5)) as world, mounted(world, Code(3, 6)):
        world.swarm.suppliers[0].kill()
        await until(lambda: world.catalog.suppliers()[0].standing is Standing.LOST, most_s=2000)
        await until(lambda: fewest(world) == 6)
        assert await read_all(world) == CONTENTS


@pytest.mark.long
async def test_what_is_missing_needs_not_be_made_when_n_falls(autojump_clock: MockClock) -> None:
    async with with_files(Code(3, 6), suppliers=6) as world:
        world.swarm.cut(6)
        async with mounted(world, Code(3, 5)):
            await world.write("more", CONTENTS["file 1"][::-1])
            await world.node.sync(_say_nothing, 5)
            await until(lambda: codes(world) == {Code(3, 5)})
            world.swarm.heal(6)
            await until(lambda: not world.catalog.count_releases() and fewest(world) == 5)
            await until(lambda: stored(world) == held(world.catalog))
            assert await world.sync() == "safe"


async def test_n_follows_the_number_of_suppliers_where_k_is_the_same(autojump_clock: MockClock) -> None:
    async with with_files(None, suppliers=4, candidates=3) as world, mounted(world, None):
        assert codes(world) == {Code(2, 4)}
        for number, expected in ((5, Code(2, 5)), (6, Code(2, 6)), (7, Code(2, 6))):
            world.node.monitor.meets(world.catalog.suppliers()[number - 1], Event.HIRE)
            await until(lambda code=expected: codes(world) == {code} and fewest(world) == code.n)  # type: ignore[misc]
            await trio.sleep(60)
        assert codes(world) == {Code(2, 6)}  # the table says 3/7: only on command
        assert world.node.follower.unlike == 3
        assert await read_all(world) == CONTENTS


async def test_supplier_may_leave_and_nobody_comes_where_the_table_allows_it(autojump_clock: MockClock) -> None:
    async with with_files(None, suppliers=5, patience=Patience()) as world, mounted(world, None):
        assert codes(world) == {Code(2, 5)}
        world.node.drainer.leave("s2")
        await until(lambda: world.catalog.suppliers()[1].standing is Standing.FIRED)
        assert codes(world) == {Code(2, 4)}
        await until(lambda: not world.catalog.count_releases() and stored(world) == held(world.catalog))
        assert fewest(world) == 4
        with pytest.raises(BadRequest, match="hire another supplier first, or choose a code"):
            world.node.drainer.leave("s1")  # three would have 1/3
        assert await read_all(world) == CONTENTS


@pytest.mark.long
async def test_lost_supplier_lowers_no_n_because_a_candidate_takes_its_place(autojump_clock: MockClock) -> None:
    async with with_files(None, suppliers=5, candidates=1) as world, mounted(world, None):
        world.swarm.suppliers[0].kill()
        await until(lambda: world.catalog.suppliers()[0].standing is Standing.LOST, most_s=2000)
        await until(lambda: fewest(world) == 5)
        assert codes(world) == {Code(2, 5)}


async def test_code_of_a_folder_goes_to_what_is_in_it_and_had_the_former_one(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 4), suppliers=6).running() as world:
        tree, attributes = world.node.tree, world.node.attributes
        folder = tree.mkdir(ROOT_INO, b"folder", 0o755, CALLER).ino
        deep, own = tree.mkdir(folder, b"deep", 0o755, CALLER).ino, tree.mkdir(folder, b"own", 0o755, CALLER).ino
        attributes.set_xattr(own, CODE_XATTR, b"2/3")
        made = {name: await _make(world, ino, name) for name, ino in (("a", folder), ("b", deep), ("c", own))}
        many = [await _make(world, deep, f"{number}") for number in range(150)]
        assert await world.sync() == "safe"
        outside = await world.write("outside", CONTENTS["file 0"])
        assert await world.sync() == "safe"
        assert attributes.xattr(folder, CODE_XATTR) == b"3/4"  # what is in force
        attributes.set_xattr(folder, CODE_XATTR, b"3/6")

        def of(ino: Ino) -> Code:
            return Code(*map(int, attributes.xattr(ino, CODE_XATTR).split(b"/")))

        await until(lambda: of(made["b"]) == of(many[-1]) == of(deep) == Code(3, 6))
        assert of(made["a"]) == Code(3, 6)
        assert of(made["c"]) == of(own) == Code(2, 3)
        assert of(outside) == Code(3, 4)
        await until(lambda: _held(world, made["a"]) == _held(world, many[77]) == 6)
        assert _held(world, outside) == 4
        attributes.drop_xattr(folder, CODE_XATTR)
        await until(lambda: of(made["b"]) == Code(3, 4))
        assert {world.catalog.inode(ino).code for ino in (*many, deep, folder)} == {None}  # type: ignore[union-attr]


async def test_folder_whose_code_was_half_handed_on_is_finished_by_who_recovers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=Code(3, 4), suppliers=6).hired() as world:
        async with world.machine(world.catalog, world.spool) as node:
            folder = node.tree.mkdir(ROOT_INO, b"folder", 0o755, CALLER).ino
            deep = node.tree.mkdir(folder, b"deep", 0o755, CALLER).ino
            many = [await _make(world, deep, f"{number}") for number in range(2 * NAMES)]
            assert await world.sync() == "safe"
            step = node.follower._step_into
            node.follower._step_into = lambda: False  # type: ignore[method-assign]
            node.attributes.set_xattr(folder, CODE_XATTR, b"3/6")
            while not (coded := sum(_has_code(world.catalog, ino) for ino in many)):
                step()
            assert coded == NAMES
            assert await world.sync() == "safe"
        await recover(world, tmp_path / "catalog", SECOND)
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            assert sum(_has_code(catalog, ino) for ino in many) == NAMES
            async with world.machine(catalog, MemorySpool(), identity=SECOND):
                await until(lambda: all(_has_code(catalog, ino) for ino in [deep, *many]))
                await until(lambda: {row.code for row in catalog.blocks()} == {Code(3, 6)})
                assert await world.sync() == "safe"


async def test_block_with_files_of_two_wishes_has_the_greater_n(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 4), suppliers=6).running() as world:
        small = [await world.write(f"{number}", bytes([number + 1]) * 9000) for number in range(2)]
        assert await world.sync() == "safe"
        assert world.catalog.count_blocks() == 1
        world.node.attributes.set_xattr(small[0], CODE_XATTR, b"3/6")
        await until(lambda: world.catalog.held(FIRST) == 6)
        world.node.attributes.set_xattr(small[1], CODE_XATTR, b"3/3")
        await trio.sleep(60)
        assert codes(world) == {Code(3, 6)}


@pytest.mark.parametrize("is_laid", [True, False])
async def test_version_on_its_way_keeps_the_n_that_it_wishes(is_laid: bool, autojump_clock: MockClock) -> None:
    content = random.Random(9).randbytes(BLOCK_CHUNKS * CHUNK_BYTES)
    async with World(code=Code(3, 4), suppliers=6).running() as world:
        tree, attributes = world.node.tree, world.node.attributes
        first = await world.write("first", content)
        attributes.set_xattr(first, CODE_XATTR, b"3/6")
        assert await world.sync() == "safe"
        second = tree.mknod(ROOT_INO, b"second", stat.S_IFREG | 0o644, CALLER).ino
        attributes.set_xattr(second, CODE_XATTR, b"3/6")
        tree.lives.opened(second)
        if not is_laid:  # inside what is published no rows are
            await world.node.files.truncate(second, len(content))
            assert await world.sync() == "safe"
        await world.node.files.write(second, 0, content + b"and the end of it")
        in_use = world.node.writer.chunks_in_use
        await until(lambda: bool(world.catalog.blocks_of(second) if is_laid else in_use()))
        for supplier in range(1, 7):
            world.swarm.cut(supplier)  # so its end is not placed, and nothing tells yet what it wishes
        attributes.set_xattr(first, CODE_XATTR, b"3/4")
        await trio.sleep(60)
        assert codes(world) == {Code(3, 6)}
        for supplier in range(1, 7):
            world.swarm.heal(supplier)
        tree.lives.closed(second)
        assert await world.sync() == "safe"
        assert FIRST in world.catalog.blocks_of(second), "it was stored anew: nothing was tested"
        await trio.sleep(60)
        assert world.catalog.block(FIRST).code == Code(3, 6)  # type: ignore[union-attr]
        assert _held(world, first) == 6


async def _make(world: World, folder: Ino, name: str) -> Ino:
    made = world.node.tree.mknod(folder, name.encode(), stat.S_IFREG | 0o644, CALLER)
    await world.node.files.write(made.ino, 0, name.encode() * 9000)
    return made.ino


def _has_code(catalog: SqliteCatalog, ino: Ino) -> bool:
    return getattr(catalog.inode(ino), "code", None) == Code(3, 6)


def _held(world: World, ino: Ino) -> int:
    (block,) = world.catalog.blocks_of(ino)
    return sum(row.state is FragmentState.HELD for row in world.catalog.fragments(block))


async def _say_nothing(_step: object) -> None:
    return
