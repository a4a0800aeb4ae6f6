"""A second machine that only reads follows the heads of the first (engine/view), in a world."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.node import Node
from bitdustfs.engine.view_tree import ViewTree
from bitdustfs.errors import BitdustError, FileError, PeerRefused, ReadOnly
from bitdustfs.model import ROOT_INO, Cookie, FragmentName, Ino, Root, SupplierNo
from bitdustfs.testing.second import SecondMachine
from bitdustfs.testing.world import CALLER, World

KIB = 1024


async def shown(world: World, reader: Node) -> None:
    """Bring everything to suppliers, and wait until the reader shows it."""
    await world.sync()
    assert reader.view is not None
    with trio.fail_after(60):
        await reader.view.wait_until(world.node.publisher.version)


async def test_write_is_seen_by_a_reader_within_a_second_of_the_head(tmp_path: Path, autojump_clock: object) -> None:
    async with World().running() as world:
        await world.write("letter", b"dear")
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            assert await second.read("letter") == b"dear"
            await world.write("letter", b"dear Anna", offset=0)
            await world.write("photo", bytes(range(256)) * 4 * KIB)
            await world.sync()
            began = trio.current_time()
            assert reader.view is not None
            await reader.view.wait_until(world.node.publisher.version)
            assert trio.current_time() - began < 1
            assert await second.read("letter") == b"dear Anna"
            assert await second.read("photo") == bytes(range(256)) * 4 * KIB


async def test_view_is_what_the_writer_has_by_deltas_alone(tmp_path: Path, autojump_clock: object) -> None:
    async with World().running() as world:
        await world.write("a", b"a" * 300 * KIB)
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        second.workshop.is_closed = True
        async with second.running() as reader:
            for turn in range(24):  # deltas are merged meanwhile, also such as the reader has already
                await world.write(f"file {turn}", b"%d" % turn * 20 * KIB)
                await world.write("a", b"%d" % turn, offset=turn * 1000)
                if turn % 3 == 2:
                    world.node.tree.unlink(ROOT_INO, b"file %d" % (turn - 1))
                await shown(world, reader)
                assert replicated(second.catalog) == replicated(world.catalog)
            assert await second.read("file 23") == b"23" * 20 * KIB
            assert second.catalog.outbox(0, 1 << 30) == []


async def test_whole_catalog_is_taken_over_where_no_deltas_lead(tmp_path: Path, autojump_clock: object) -> None:
    async with World().running() as world:
        await world.write("kept", b"k" * 300 * KIB)
        await world.write("changed", b"before" * KIB)
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running():
            assert await second.read("kept") == b"k" * 300 * KIB
        await world.write("changed", b"after!" * KIB)
        await world.sync()
        await world.node.replica._snapshots.take()  # what came before it needs no delta any more
        await world.write("new", b"new")
        await world.sync()
        fetched = second.workshop.made
        async with second.running() as reader:
            await shown(world, reader)
            assert second.workshop.made == fetched + 1
            assert replicated(second.catalog) == replicated(world.catalog)
            assert await second.read("changed") == b"after!" * KIB
            assert await second.read("new") == b"new"
            await world.write("newer", b"newer")  # and on by deltas
            await shown(world, reader)
            assert second.workshop.made == fetched + 1
            assert await second.read("newer") == b"newer"


async def test_what_is_read_once_is_read_again_without_any_supplier(tmp_path: Path, autojump_clock: object) -> None:
    async with World().running() as world:
        await world.write("read", b"r" * 300 * KIB)
        await world.write("small", b"small")
        await world.write("unread", b"u" * 300 * KIB)
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running():
            assert (await second.read("read"), await second.read("small")) == (b"r" * 300 * KIB, b"small")
        for number in range(1, 6):
            world.swarm.cut(number)
        async with second.running():
            assert (await second.read("read"), await second.read("small")) == (b"r" * 300 * KIB, b"small")
            began = trio.current_time()
            with pytest.raises(BitdustError):
                await second.read("unread")
            assert trio.current_time() - began <= 30


async def test_reader_puts_nothing_at_suppliers(tmp_path: Path, autojump_clock: object) -> None:
    async with World().running() as world:
        await world.write("a", b"a" * 300 * KIB)
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            name, head = FragmentName(b"n" * 32), world.node.publisher.head
            assert head is not None
            while len(second.suppliers.online()) < 5:
                await second.suppliers.wait_for_change()
            for supplier in second.suppliers.online():
                with pytest.raises(PeerRefused, match="a reader may not do that"):
                    await second.suppliers.put(supplier, name, Root(b"r" * 32), b"content")
                with pytest.raises(PeerRefused, match="a reader may not do that"):
                    await second.suppliers.delete(supplier, [name])
                with pytest.raises(PeerRefused, match="a reader may not do that"):
                    await second.suppliers.put_head(supplier, head.raw, b"")
            with pytest.raises(ReadOnly):
                reader.tree.mknod(ROOT_INO, b"mine", 0o100644, CALLER)


async def test_reader_says_of_suppliers_what_the_head_says_of_them(tmp_path: Path, autojump_clock: object) -> None:
    async with World(candidates=1).running() as world:
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            await shown(world, reader)
            states = [each["state"] for each in (await reader.status())["suppliers"]]
            assert states == ["hired"] * 5 + ["candidate"]


async def test_catalog_that_deltas_do_not_fit_is_made_whole(tmp_path: Path, autojump_clock: object) -> None:
    async with World().running() as world:
        await world.write("a", b"first")
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            await shown(world, reader)
            second.catalog.connection.execute("UPDATE r_inode SET size = 77 WHERE ino > 1")  # behind its back
            await world.write("a", b"second")
            await shown(world, reader)
            assert second.workshop.made == 1
            assert replicated(second.catalog) == replicated(world.catalog)
            assert await second.read("a") == b"second"


async def test_open_file_keeps_the_version_that_it_was_opened_with(tmp_path: Path, autojump_clock: object) -> None:
    before, after = b"b" * 300 * KIB, b"a" * 200 * KIB
    async with World().running() as world:
        await world.write("read", before)
        await world.write("deleted", before + b"d")
        await world.write("unread", before + b"u")
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            tree = reader.view_tree
            assert tree is not None
            numbers = {name: opened(tree, name) for name in (b"read", b"deleted", b"unread")}
            assert await tree.read(numbers[b"read"], 0, 1 << 20) == before
            assert await tree.read(numbers[b"deleted"], 0, 1 << 20) == before + b"d"
            for name in ("read", "unread"):
                inode = world.node.tree.lookup(ROOT_INO, name.encode())
                assert inode is not None
                await world.node.files.truncate(inode.ino, 0)
                await world.write(name, after)
            world.node.tree.unlink(ROOT_INO, b"deleted")
            await shown(world, reader)
            assert await tree.read(numbers[b"read"], 0, 1 << 20) == before
            assert await tree.read(numbers[b"deleted"], 0, 1 << 20) == before + b"d"
            assert tree.attributes(numbers[b"read"]).size == len(before)
            assert tree.lookup(ROOT_INO, b"deleted") is None
            fresh = opened(tree, b"read")
            assert fresh != numbers[b"read"]
            assert await tree.read(fresh, 0, 1 << 20) == after
            for _ in range(40):  # the writer lets go of what nothing needs
                await world.sync()
                await trio.sleep(10)
            with pytest.raises(FileError) as caught:
                await tree.read(numbers[b"unread"], 0, 1 << 20)
            assert caught.value.errno == errno.ESTALE
            for number in (*numbers.values(), fresh):
                tree.closed(number)
                tree.forget(number, 1)
            number = opened(tree, b"read")
            assert await tree.read(number, 0, 1 << 20) == after


async def test_supplier_that_answers_at_once_is_not_asked_without_a_pause(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World().running() as world:
        await world.write("old", b"old")
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            asked: list[int] = []
            true = reader.view._suppliers.watch if reader.view is not None else None
            assert true is not None

            async def watch(supplier: SupplierNo, epoch: int, version: int) -> tuple[int, int]:
                if supplier != 2:
                    return await true(supplier, epoch, version)
                asked.append(version)
                await trio.sleep(0 if len(asked) < 1000 else 600)
                return epoch, version

            monkeypatch.setattr(second.suppliers, "watch", watch)
            await trio.sleep(60)
            assert 0 < len(asked) <= 20
            await world.write("new", b"new")
            await shown(world, reader)


async def test_file_that_was_never_published_is_not_shown(tmp_path: Path, autojump_clock: object) -> None:
    async with World().running() as world:
        await world.write("old", b"old")
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            tree = reader.view_tree
            assert tree is not None
            world.node.tree.mknod(ROOT_INO, b"unborn", 0o100644, CALLER)
            with world.node.journal.operation():
                pass
            await world.node.replica.make_safe()
            with trio.fail_after(60):
                assert reader.view is not None
                await reader.view.wait_until(world.node.publisher.version)
            assert second.catalog.name(ROOT_INO, b"unborn") is not None
            assert tree.lookup(ROOT_INO, b"unborn") is None
            assert [name.name for name, _ in tree.listing(ROOT_INO, Cookie(0), 10)] == [b"old"]


def opened(tree: ViewTree, name: bytes) -> Ino:
    inode = tree.lookup(ROOT_INO, name)
    assert inode is not None
    tree.remember(inode.ino)
    tree.opened(inode.ino)
    return inode.ino


def replicated(catalog: SqliteCatalog) -> dict[str, list[tuple[object, ...]]]:
    """The rows of all replicated tables, but who has acknowledged fragments: those change without a head."""
    tables = catalog.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'r_*'")
    names = [str(name) for (name,) in tables.fetchall() if name not in ("r_fragment", "r_block")]
    return {name: catalog.connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
