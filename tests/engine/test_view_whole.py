"""Each view is one complete tree: who looks while it becomes the next one sees the one or the other, never both."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.node import Node
from bitdustfs.engine.view_tree import ViewTree
from bitdustfs.model import ROOT_INO, Cookie, Ino
from bitdustfs.testing.second import SecondMachine
from bitdustfs.testing.world import World

KIB = 1024
SIZES = {b"small": 10, b"other": 3 * KIB, b"large": 600 * KIB, b"larger": 900 * KIB}
HEADS = 20
REST_S = 2  # at most, between two trees
PIECE = 128 * KIB  # as the kernel reads


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def content_of(name: bytes, number: int) -> bytes:
    """All of it says which number the tree has; so does its length."""
    length = SIZES[name] + number
    return (b"%08d" % number * (length // 8 + 1))[:length]


class Scribe:
    """Who writes: each tree has a number, which all of it tells. A head that came meanwhile may name half of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._first: list[int] = []  # by number: the first head that names all of its tree
        self._last: list[int] = []  # and the last one that names nothing else

    def number_of(self, version: int) -> int | None:
        """What all of the tree of this head says; None: it was made while a tree was written."""
        last = [*self._last, self._world.node.publisher.version]
        spans = zip(self._first, last, strict=False)
        return next((number for number, (first, end) in enumerate(spans) if first <= version <= end), None)

    async def write(self) -> None:
        """Write the next tree, and bring it to suppliers."""
        node, number = self._world.node, len(self._first)
        if number:
            self._last.append(node.publisher.version)
            await node.tree.rename(ROOT_INO, b"is %d" % (number - 1), ROOT_INO, b"is %d" % number)
        else:
            await self._world.write("is 0", b"-")
        for name in SIZES:
            await self._world.write(name.decode(), content_of(name, number))
        await self._world.sync()
        self._first.append(node.publisher.version)


class Onlooker:
    """Who looks at the view of a reader, answer by answer, while it becomes others."""

    def __init__(self, reader: Node, scribe: Scribe) -> None:
        assert reader.view_tree is not None
        self._tree: ViewTree = reader.view_tree
        self._reader = reader
        self._scribe = scribe
        self._dice = random.Random(7)
        self.outlived = 0  # files that were read while the view became another one
        self.sure = 0  # of which the number was known

    def number(self) -> int | None:
        """What all of the view has to say now."""
        return self._scribe.number_of(self._reader.publisher.version)

    async def pause(self) -> None:
        await trio.sleep(self._dice.choice([0, 0, 0.01, 0.05]))

    async def walk(self) -> None:
        """Look at everything once."""
        number, names = self.number(), self.listed()
        if number is not None:
            assert names == {name: len(content_of(name, number)) for name in SIZES} | {b"is %d" % number: 1}
        for name in SIZES:
            await self.pause()
            await self.read(name)

    def listed(self) -> Mapping[bytes, int]:
        """Sizes by name, in one answer."""
        return {name.name: inode.size for name, inode in self._tree.listing(ROOT_INO, Cookie(0), 100)}

    async def read(self, name: bytes) -> None:
        """Open a file, and read it piece by piece: it is all of the tree in which it was opened."""
        number, version, inode = self.number(), self._reader.publisher.version, self._tree.lookup(ROOT_INO, name)
        assert inode is not None
        self._tree.remember(inode.ino)
        self._tree.opened(inode.ino)
        content = await self.whole(inode.ino)
        assert content == content_of(name, inode.size - SIZES[name])
        assert number is None or content == content_of(name, number)
        self.outlived += self._reader.publisher.version != version
        self.sure += number is not None
        self._tree.closed(inode.ino)
        self._tree.forget(inode.ino, 1)

    async def whole(self, ino: Ino) -> bytes:
        got = bytearray()
        while more := await self._tree.read(ino, len(got), PIECE):
            got += more
            await self.pause()
        assert self._tree.attributes(ino).size == len(got)
        return bytes(got)


@pytest.mark.slow
async def test_walk_sees_one_version_in_each_view_while_heads_arrive(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with World().running() as world:
        scribe = Scribe(world)
        await scribe.write()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader, trio.open_nursery() as nursery:
            onlooker, dice = Onlooker(reader, scribe), random.Random(8)

            async def write() -> None:
                for _ in range(HEADS):
                    await trio.sleep(dice.random() * REST_S)
                    await scribe.write()

            nursery.start_soon(write)
            with trio.fail_after(3600):
                while onlooker.number() != HEADS:
                    await onlooker.walk()
            await onlooker.walk()
            assert onlooker.outlived >= HEADS // 3  # else nothing was seen that could be wrong
            assert onlooker.sure >= HEADS * len(SIZES)
