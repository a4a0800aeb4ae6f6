"""A directory may have a code of its own: blocks are made by it, and the catalog survives what they do."""

from __future__ import annotations

import random
import stat

import pytest
from trio.testing import MockClock

from bitdustfs.engine.attributes import CODE_XATTR
from bitdustfs.model import ROOT_INO, Code, Ino
from bitdustfs.testing.world import CALLER, World

CONTENT = random.Random(3).randbytes(100_000)


async def write_into(world: World, folder: Ino, content: bytes) -> Ino:
    made = world.node.tree.mknod(folder, b"letter", stat.S_IFREG | 0o644, CALLER)
    await world.node.files.write(made.ino, 0, content)
    return made.ino


def codes_of(world: World, ino: Ino) -> list[Code]:
    blocks = [world.catalog.block(number) for number in world.catalog.blocks_of(ino)]
    return [block.code for block in blocks if block is not None]


@pytest.mark.slow
async def test_blocks_of_a_directory_have_its_code_and_no_chunks_of_others(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        folder = world.node.tree.mkdir(ROOT_INO, b"precious", 0o755, CALLER).ino
        world.node.attributes.set_xattr(folder, CODE_XATTR, b"1/5")
        plain = await world.write("plain", CONTENT[::-1])
        precious = await write_into(world, folder, CONTENT)
        assert await world.sync() == "safe"
        assert codes_of(world, plain) == [Code(3, 5)]
        assert codes_of(world, precious) == [Code(1, 5)]


@pytest.mark.slow
async def test_same_content_is_stored_anew_where_it_must_survive_more(autojump_clock: MockClock) -> None:
    async with World(suppliers=6, code=Code(1, 2)).running() as world:
        plain = await world.write("plain", CONTENT)
        await world.sync()
        folder = world.node.tree.mkdir(ROOT_INO, b"precious", 0o755, CALLER).ino
        world.node.attributes.set_xattr(folder, CODE_XATTR, b"3/6")
        precious = await write_into(world, folder, CONTENT)
        assert await world.sync() == "safe"
        assert codes_of(world, precious) == [Code(3, 6)]
        assert codes_of(world, plain) == [Code(3, 6)]  # older references move to the better copy
        named = world.node.publisher.content
        assert named is not None
        held = [
            sum(map(bool, ref.at)) - ref.k for ref in (*named.manifest, *(delta.object for delta in named.deltas))
        ]
        assert min(held) >= 3  # the catalog survives what the best of the files does
