"""A machine that wrote and let the volume go shows what the other one writes, in the same mount."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.claim import Claimed
from bitdustfs.engine.kept import VERBATIM
from bitdustfs.engine.node import Node
from bitdustfs.engine.replica import kept_safe
from bitdustfs.errors import FileError, ReadOnly
from bitdustfs.model import ROOT_INO, Ino
from bitdustfs.testing.world import read_whole
from tests.engine.machines import CONTENT, LEASE_S, Asking, Machine, two, until
from tests.engine.setback import look
from tests.engine.test_view import replicated


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def shows_newest(of: Machine, at: Node) -> None:
    """Bring all that a machine has to suppliers, and wait until another one shows it."""
    assert await of.sync() == "safe"
    assert at.view is not None
    with trio.fail_after(60):
        await at.view.wait_until(of.node.publisher.version)


def opened(node: Node, name: bytes) -> Ino:
    """Have the kernel know and open a file of the root directory of who writes."""
    inode = node.tree.lookup(ROOT_INO, name)
    assert inode is not None
    node.tree.lives.remember(inode.ino)
    node.tree.lives.opened(inode.ino)
    return inode.ino


@pytest.mark.slow
async def test_machine_that_let_go_shows_what_the_other_one_writes_and_gets_the_volume_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted() as node:
            await laptop.write("file", CONTENT)
            await laptop.write("deleted", b"still open")
            await laptop.write("late", b"closed by a request that ends late")
            assert await laptop.sync() == "safe"
            number, nameless, late = (opened(node, name) for name in (b"file", b"deleted", b"late"))
            for name in (b"deleted", b"late"):
                node.tree.unlink(ROOT_INO, name)
            await laptop.write("written last", b"written last")
            assert await Asking(desktop).run() is Claimed.HELD
            tree = node.view_tree
            assert tree is not None
            assert await tree.read(number, 0, len(CONTENT)) == CONTENT
            assert laptop.catalog.local_value(VERBATIM)
            node.tree.lives.closed(late)
            node.tree.lives.forget(late, 1)
            assert laptop.catalog.inode(late) is not None, "another machine writes"
            await desktop.learn()
            async with desktop.mounted():
                await desktop.write("file", b"changed there")
                await desktop.write("there", b"there")
                await shows_newest(desktop, node)
                assert replicated(laptop.catalog) == replicated(desktop.catalog)
                assert await read_whole(node, "there") == b"there"
                assert (await read_whole(node, "file")).startswith(b"changed there")
                assert await tree.read(number, 0, len(CONTENT)) == CONTENT  # as it was when it was opened
                assert await tree.read(nameless, 0, 100) == b"still open"
                for each in (number, nameless):
                    tree.closed(each)
                    tree.forget(each, 1)
                with pytest.raises(FileError) as gone:
                    tree.attributes(nameless)
                assert gone.value.errno == errno.ESTALE
                with pytest.raises(ReadOnly, match="To write here again, unmount and mount"):
                    await laptop.write("never", b"never")
                told = await node.status()
                assert "view" in told
                assert {each["state"] for each in told["suppliers"]} == {"hired"}, "nobody watches them any more"
                await desktop.write("once more", b"once more")
                await shows_newest(desktop, node)
        assert await Asking(laptop).run() is Claimed.HELD  # and back, with the catalog that it followed with
        with closing(SqliteCatalog(laptop.path)) as catalog:
            assert await look(world, catalog, laptop.identity) is None  # nothing is newer, and so nothing put aside
            assert kept_safe(catalog) == catalog.last_change  # nothing there counts as unsent from here
            catalog.put_local_value(VERBATIM, b"")
            catalog.commit()
        async with laptop.mounted() as node:
            assert await read_whole(node, "once more") == b"once more"
            await laptop.write("back", b"back")
            assert await laptop.sync() == "safe"
            desktop.only_reads = True
            async with desktop.mounted() as there:
                await laptop.write("back", b"and forth")
                await shows_newest(laptop, there)
                assert await read_whole(there, "back") == b"and forth"


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [True, False])
async def test_writer_that_slept_while_another_one_took_over_follows_it(
    autojump_clock: MockClock, tmp_path: Path, is_there: bool
) -> None:
    """Where that one has gone, nobody holds the volume, and the heads alone tell of it."""
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        await desktop.learn()
        laptop.cut()
        await trio.sleep(2 * LEASE_S)
        async with desktop.mounted():
            await desktop.write("there", b"there")
            assert await desktop.sync() == "safe"
            if is_there:
                laptop.heal()
                await until(lambda: node.view is not None)
                await desktop.write("there", b"and more")
                await shows_newest(desktop, node)
                assert await read_whole(node, "there") == b"and more"
        laptop.heal()
        await until(lambda: node.view is not None and laptop.shows("there"))
        assert await read_whole(node, "there") == (b"and more" if is_there else b"there")


@pytest.mark.slow
async def test_writer_with_something_unsent_keeps_it_and_follows_nobody(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        await desktop.learn()
        laptop.cut()
        await laptop.write("only here", b"only here")
        await trio.sleep(2 * LEASE_S)
        async with desktop.mounted():
            await desktop.write("there", b"there")
            assert await desktop.sync() == "safe"
            laptop.heal()
            await until(lambda: node.journal.refusal is not None)
            await trio.sleep(LEASE_S)
            assert node.view is None
            assert await read_whole(node, "only here") == b"only here"
            assert not laptop.catalog.local_value(VERBATIM)
