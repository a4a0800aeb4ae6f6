"""A listing on a second machine shows the names of one head, whatever heads come meanwhile; and so does a whole tree.

Each head of the writer gives all files of a folder other names and sizes, and both say its number. The second machine
is asked as a kernel asks it (edges/fuse_view).
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.fuse_view import ViewOperations
from bitdustfs.engine.node import Node
from bitdustfs.errors import FileError
from bitdustfs.model import ROOT_INO, Cookie, Ino, Inode
from bitdustfs.testing.second import SecondMachine
from bitdustfs.testing.world import CALLER, World
from tests.engine.test_view import shown

FILES = 60  # more than one page
REPLY = 7  # names
HEADS = 8
DOTS = [b".", b".."]
CONTEXT: Any = None


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def names_of(version: int) -> list[bytes]:
    return sorted(b"%d of %d" % (number, version) for number in range(FILES))


class Folder:
    """What the writer writes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tree = world.node.tree
        self.ino = self._tree.mkdir(ROOT_INO, b"folder", 0o755, CALLER).ino
        self.version = 0

    async def make(self) -> None:
        for number in range(FILES):
            await self._fill(self._tree.mknod(self.ino, b"%d of 0" % number, 0o100644, CALLER).ino)

    async def next(self) -> None:
        """Rename most files, and replace every tenth by another one; nothing of it is in a head yet."""
        self.version += 1
        for number in range(FILES):
            before, now = (b"%d of %d" % (number, version) for version in (self.version - 1, self.version))
            if number % 10:
                await self._tree.rename(self.ino, before, self.ino, now)
            else:
                self._tree.unlink(self.ino, before)
                self._tree.mknod(self.ino, now, 0o100644, CALLER)
            inode = self._tree.lookup(self.ino, now)
            assert inode is not None
            await self._fill(inode.ino)

    async def _fill(self, ino: Ino) -> None:
        await self._world.node.files.write(ino, 0, bytes(100 + self.version))


@dataclass
class Reply:
    """The room of a kernel for a part of a listing."""

    names: list[bytes] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    room: int = REPLY

    @property
    def after(self) -> int:
        return self.offsets[-1]

    @staticmethod
    def add(reply: Reply, name: bytes, entry: Any, offset: int) -> bool:
        if len(reply.names) == reply.room:
            return False
        reply.names.append(name)
        reply.entries.append(entry)
        reply.offsets.append(offset)
        return True


class Kernel:
    """Asks the second machine."""

    def __init__(self, node: Node) -> None:
        assert node.view_tree is not None
        assert node.view is not None
        self.node, self.tree, self.view = node, node.view_tree, node.view
        self.ops = ViewOperations(
            self.tree,
            node.attributes,
            lambda inode: SimpleNamespace(inode=inode),
            missing=SimpleNamespace,
            reply=Reply.add,
            opened=lambda handle, _keeps: handle,
            top=None,
            open_before={},
            handles=itertools.count(1 << 40),
        )
        self.is_stepping = False
        self.view.prepare.append(lambda _touches, _contents: self._note(is_stepping=True))
        self.view.settle.append(self._settled)

    async def open(self, name: bytes = b"folder") -> int:
        inode = self.tree.lookup(ROOT_INO, name)
        assert inode is not None
        return await self.ops.opendir(inode.ino, CONTEXT)

    async def page(self, handle: int, after: int) -> Reply:
        reply = Reply()
        await self.ops.readdir(handle, after, reply)
        return reply

    async def rest(self, handle: int, after: int, *, waits: bool = False) -> list[bytes]:
        names: list[bytes] = []
        while (page := await self.page(handle, after)).names:
            names += page.names
            after = page.after
            if waits:
                await self.pause()
        return names

    async def pause(self) -> None:
        """Until the next turn of the loop while a step is made, and else for a moment."""
        await (trio.lowlevel.checkpoint() if self.is_stepping else trio.sleep(0.05))

    def whole(self) -> int:
        """Look at all of it in one turn. Returns the version that all of it says."""
        entries: list[tuple[bytes, Inode]] = []
        inode, after = self.tree.lookup(ROOT_INO, b"folder"), Cookie(0)
        assert inode is not None
        while page := self.tree.listing(inode.ino, after, 24):
            entries += [(name.name, found) for name, found in page]
            after = page[-1][0].cookie
        (version,) = {found.size - 100 for _name, found in entries}
        assert sorted(name for name, _found in entries) == names_of(version)
        return version

    async def _settled(self) -> None:
        self._note(is_stepping=False)

    def _note(self, *, is_stepping: bool) -> None:
        self.is_stepping = is_stepping


@asynccontextmanager
async def followed(directory: Path) -> AsyncIterator[tuple[Folder, Kernel, World]]:
    """A writer with a folder, and a second machine that shows it."""
    async with World().running() as world:
        folder = Folder(world)
        await folder.make()
        await world.sync()
        second = SecondMachine(world, directory / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            yield folder, Kernel(reader), world


async def brought(folder: Folder, kernel: Kernel, world: World) -> None:
    """Have the second machine show the next head."""
    await folder.next()
    before = kernel.view.steps
    await world.sync()
    with trio.fail_after(60):
        await kernel.view.wait_until(world.node.publisher.version)
    assert kernel.view.steps > before


async def test_listing_goes_on_with_the_names_of_the_head_that_it_began_with(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with followed(tmp_path) as (folder, kernel, world):
        handle, late = await kernel.open(), await kernel.open()
        first = await kernel.page(handle, 0)
        for _ in range(3):
            await brought(folder, kernel, world)
        assert sorted(first.names + await kernel.rest(handle, first.after)) == DOTS + names_of(0)
        assert sorted(await kernel.rest(late, 0)) == DOTS + names_of(3)  # opened before, and begun now
        assert sorted(await kernel.rest(handle, 0)) == DOTS + names_of(3)  # rewound
        for each in (handle, late):
            await kernel.ops.releasedir(each)


async def test_kernel_keeps_nothing_of_a_listing_that_is_behind(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with followed(tmp_path) as (folder, kernel, world):
        handle = await kernel.open()
        first = await kernel.page(handle, 0)
        assert all(entry.entry_timeout > 0 for entry in first.entries)
        await brought(folder, kernel, world)
        behind = await kernel.page(handle, first.after)
        assert behind.names
        assert all(entry.entry_timeout == entry.attr_timeout == 0 for entry in behind.entries)
        still = [entry.inode.size for entry in behind.entries if entry.inode.nlink]
        assert set(still) == {101}  # of each inode it is told what is so now


async def test_listing_of_which_too_much_was_changed_is_stale_until_it_begins_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with followed(tmp_path) as (folder, kernel, world):
        kernel.tree.listings.most_kept = 3 * FILES
        handle = await kernel.open()
        first = await kernel.page(handle, 0)
        for _ in range(4):
            await brought(folder, kernel, world)
        with pytest.raises(FileError) as refused:
            await kernel.page(handle, first.after)
        assert refused.value.errno == errno.ESTALE
        assert sorted(await kernel.rest(handle, 0)) == DOTS + names_of(4)


async def test_listing_that_came_to_its_end_keeps_nothing_and_shows_no_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with followed(tmp_path) as (folder, kernel, world):
        kernel.tree.listings.most_kept = 3 * FILES
        ended, other = await kernel.open(), await kernel.open()
        last = (await kernel.page(ended, 0)).after
        while (page := await kernel.page(ended, last)).names:
            last = page.after
        first = await kernel.page(other, 0)
        await brought(folder, kernel, world)
        assert await kernel.rest(ended, last) == []
        assert not kernel.tree.listings.is_behind(ended)
        assert sorted(first.names + await kernel.rest(other, first.after)) == DOTS + names_of(0)
        assert sorted(await kernel.rest(ended, 0)) == DOTS + names_of(1)


async def test_listing_whose_end_the_kernel_got_but_nobody_took_goes_on_as_it_began(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with followed(tmp_path) as (folder, kernel, world):
        handle, whole = await kernel.open(), Reply(room=2 * FILES)
        await kernel.ops.readdir(handle, 0, whole)
        assert len(whole.names) == FILES + len(DOTS)
        await brought(folder, kernel, world)  # of what it got the kernel has handed over what fitted, and asks again
        taken = whole.names[:10]
        assert sorted(taken + await kernel.rest(handle, whole.offsets[len(taken) - 1])) == DOTS + names_of(0)


async def test_file_that_is_published_during_a_listing_is_not_in_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with followed(tmp_path) as (folder, kernel, world):
        world.node.tree.mknod(folder.ino, b"unborn", 0o100644, CALLER)
        with world.node.journal.operation():
            pass
        await world.node.replica.make_safe()
        with trio.fail_after(60):
            await kernel.view.wait_until(world.node.publisher.version)
        handle = await kernel.open()
        first = await kernel.page(handle, 0)
        unborn = world.node.tree.lookup(folder.ino, b"unborn")
        assert unborn is not None
        await world.node.files.write(unborn.ino, 0, b"born")
        await world.sync()
        with trio.fail_after(60):
            await kernel.view.wait_until(world.node.publisher.version)
        assert sorted(first.names + await kernel.rest(handle, first.after)) == DOTS + names_of(0)
        assert b"unborn" in await kernel.rest(handle, 0)


async def test_at_each_turn_of_the_loop_all_of_the_tree_is_of_one_head(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    seen, overtaken = set[int](), 0

    async def look(kernel: Kernel) -> None:
        while True:
            seen.add(kernel.whole())
            await kernel.pause()

    async def list_again_and_again(kernel: Kernel) -> None:
        nonlocal overtaken
        handle = await kernel.open()
        while True:
            steps = kernel.view.steps
            names = await kernel.rest(handle, 0, waits=True)
            (version,) = {int(name.partition(b" of ")[2]) for name in names if name not in DOTS}
            assert sorted(names) == DOTS + names_of(version)
            overtaken += kernel.view.steps > steps

    async with followed(tmp_path) as (folder, kernel, world), trio.open_nursery() as nursery:
        nursery.start_soon(look, kernel)
        nursery.start_soon(list_again_and_again, kernel)
        for _ in range(HEADS):
            await folder.next()
            await shown(world, kernel.node)
        nursery.cancel_scope.cancel()
    assert {0, HEADS} <= seen
    assert overtaken
