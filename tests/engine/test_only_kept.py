"""What a snapshot alone shows, found in a catalog: by what is there, and not by who made it so."""

from __future__ import annotations

import pytest

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.only_kept import OnlyKept, find_only_kept, unsent_snapshots
from bitdustfs.model import ROOT_INO, BlockNo, ChunkNo, Cookie, Deeds, Ino, Inode, LocalFile, MapRow, SnapshotKind
from tests.edges.catalog_rows import block, chunk

ROOT = Inode(ROOT_INO, 0o40755, 0, 0, 2, 0, 1, 1, 1)
NO_DEEDS = Deeds(frozenset(), frozenset(), frozenset(), frozenset(), (), (), kept=("s", "t"))


def volume() -> SqliteCatalog:
    catalog = SqliteCatalog(":memory:", create=True)
    catalog.put_inode(ROOT)
    return catalog


def put(catalog: SqliteCatalog, name: bytes, *, version: int = 1, mode: int = 0o100644, above: Ino = ROOT_INO) -> Ino:
    """Something new under a name; a file with no chunks, and so many bytes."""
    ino = catalog.new_ino()
    catalog.put_inode(Inode(ino, mode, 0, 0, 1, len(name), 1, 1, 1, version=version))
    catalog.put_name(above, name, ino)
    return ino


def keep(catalog: SqliteCatalog, name: str = "s") -> int:
    return catalog.make_snapshot(name, 7, SnapshotKind.BY_PERSON).generation


async def found(
    old: SqliteCatalog, new: SqliteCatalog | None = None, deeds: Deeds | None = NO_DEEDS
) -> list[tuple[bytes, ...]]:
    return [entry.paths for entry in (await all_found(old, new, deeds)).entries]


async def all_found(old: SqliteCatalog, new: SqliteCatalog | None = None, deeds: Deeds | None = NO_DEEDS) -> OnlyKept:
    return await find_only_kept(old, new or volume(), deeds, [])


async def test_what_went_since_is_found_with_all_its_names_and_what_stays_is_not() -> None:
    old = volume()
    directory = put(old, b"d", mode=0o40755, version=0)
    ino, _stays = put(old, b"f", above=directory), put(old, b"stays")
    old.put_name(ROOT_INO, b"g", ino)
    assert await found(old) == []
    keep(old)
    assert await found(old) == []
    for above, name in ((directory, b"f"), (ROOT_INO, b"g"), (ROOT_INO, b"d")):
        old.drop_name(above, name)
    for gone in (ino, directory):
        old.drop_inode(gone)
    assert await found(old) == [(b"d",), (b"d/f", b"g")]


async def test_file_of_the_past_that_was_superseded_then_is_found_by_the_name_that_showed_it() -> None:
    old = volume()
    before, unborn = put(old, b"f"), put(old, b"f", version=0)
    old.put_name(ROOT_INO, b"f", unborn, superseded=before)
    generation = keep(old)
    old.put_name(ROOT_INO, b"f", unborn)
    old.drop_inode(before)
    old.put_inode(Inode(unborn, 0o100644, 0, 0, 1, 5, 1, 1, 1, version=1))
    names = old.names(at(generation, ROOT_INO), Cookie(0), 9)
    assert [old.names_of(inode.ino) for _name, inode in names] == [[name] for name, _inode in names]
    assert old.names_of(at(generation, unborn)) == []
    assert await found(old) == [(b"f",)]


async def test_file_over_which_newer_bytes_or_an_unborn_file_lie_is_found() -> None:
    old = volume()
    dirty, superseded = put(old, b"dirty"), put(old, b"superseded")
    keep(old)
    unborn = put(old, b"unborn", version=0)
    old.drop_name(ROOT_INO, b"unborn")
    old.put_name(ROOT_INO, b"superseded", unborn, superseded=superseded)
    for ino in (dirty, unborn):
        old.put_local_file(LocalFile(ino, 1, 1, 1, 0, 1))
    assert await found(old) == [(b"dirty",), (b"superseded",)]


async def test_file_that_was_open_and_without_a_name_when_the_machine_died_is_found() -> None:
    old = volume()
    ino = put(old, b"f")
    keep(old)
    old.drop_name(ROOT_INO, b"f")
    old.put_inode(Inode(ino, 0o100644, 0, 0, 0, 1, 1, 1, 2, version=1))
    assert await found(old) == [(b"f",)]


async def test_what_the_newer_state_shows_there_or_as_the_same_inode_elsewhere_is_not_found() -> None:
    old, new = volume(), volume()
    same, moved, other, older = (put(old, name) for name in (b"same", b"moved", b"other", b"older"))
    keep(old)
    for ino, name in ((same, b"same"), (moved, b"moved"), (other, b"other"), (older, b"older")):
        old.drop_name(ROOT_INO, name)
        old.drop_inode(ino)
    new.new_ino()  # so that others have these numbers, but for the second
    put(new, b"again")
    new.put_inode(Inode(Ino(50), 0o100644, 0, 0, 1, 4, 1, 1, 1, version=1))
    new.put_name(ROOT_INO, b"same", Ino(50))
    new.put_inode(Inode(moved, 0o100644, 0, 0, 1, 5, 1, 1, 1, version=1))
    new.put_name(ROOT_INO, b"elsewhere", moved)
    new.put_inode(Inode(other, 0o100644, 0, 0, 1, 99, 1, 1, 1, version=1))
    new.put_name(ROOT_INO, b"other", other)
    new.put_inode(Inode(older, 0o100644, 0, 0, 0, 5, 1, 1, 1, version=1))  # without a name
    assert await found(old, new) == [(b"older",), (b"other",)]


async def test_each_version_is_put_aside_of_the_oldest_snapshot_and_told_of_in_others() -> None:
    old = volume()
    ino = put(old, b"f")
    one = keep(old)
    put(old, b"new")
    two = keep(old, "t")
    for name in (b"f", b"new"):
        old.drop_name(ROOT_INO, name)
        old.drop_inode(ino if name == b"f" else Ino(ino + 1))
    told = await all_found(old)
    assert [(entry.ino, entry.paths) for entry in told.entries] == [
        (at(one, ino), (b"f",)),
        (at(two, Ino(ino + 1)), (b"new",)),
    ]
    assert told.folders == {one: "Snapshot s", two: "Snapshot t"}
    assert told.notes[1].endswith("lies in Snapshot s and Snapshot t")


@pytest.mark.parametrize(("kept", "count"), [(("s",), 1), ((), 0), (None, 1)])
async def test_snapshots_that_were_sent_or_are_there_are_left_out(kept: tuple[str, ...] | None, count: int) -> None:
    old, new = volume(), volume()
    ino = put(old, b"f")
    keep(old)
    old.drop_name(ROOT_INO, b"f")
    old.drop_inode(ino)
    deeds = Deeds(frozenset(), frozenset(), frozenset(), frozenset(), (), (), kept=kept) if kept is not None else None
    assert len(await found(old, new, deeds)) == count
    new.make_snapshot("other", 7, SnapshotKind.BY_PERSON)
    assert len(await found(old, new, deeds)) == count
    keep(new, "s (2)")  # it came with a fork
    assert await found(old, new, deeds) == []
    assert [each.name for each in unsent_snapshots(new, old, None)] == ["other"]


async def test_folders_have_names_that_nothing_has_and_that_are_short_enough() -> None:
    old = volume()
    ino = put(old, b"f")
    keep(old, "ä" * 127)
    old.put_inode(Inode(ino, 0o100644, 0, 0, 1, 1, 1, 1, 1, version=2))
    keep(old, "ä" * 127 + "x")
    old.drop_name(ROOT_INO, b"f")
    old.drop_inode(ino)
    names = (await all_found(old, deeds=None)).folders.values()
    assert list(names) == ["Snapshot " + "ä" * 123, "Snapshot " + "ä" * 121 + " (2)"]


@pytest.mark.parametrize(("first_block", "was_sent"), [(None, True), (BlockNo(2), True), (BlockNo(1), False)])
async def test_what_lies_in_blocks_that_a_head_named_was_sent(first_block: BlockNo | None, was_sent: bool) -> None:
    old = volume()
    old.put_block(block(old.new_block_no()))
    old.put_chunks([chunk(old.new_chunk_no())])
    ino = put(old, b"f")
    old.replace_map(ino, [MapRow(0, 1, ChunkNo(1))], first=0, last=0)
    keep(old)
    old.drop_name(ROOT_INO, b"f")
    old.drop_inode(ino)
    deeds = Deeds(frozenset(), frozenset(), frozenset(), frozenset(), (), (), kept=("s",), first_block=first_block)
    assert [entry.was_sent for entry in (await all_found(old, deeds=deeds)).entries] == [was_sent]
