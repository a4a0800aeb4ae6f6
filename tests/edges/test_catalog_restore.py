"""A catalog comes back from an image and the change sets since, and shows no file that was never published."""

from __future__ import annotations

import os
import random
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import AlreadyThere, BadFormat, CatalogDamaged, DiskFault, DiskFull
from bitdustfs.model import (
    IMAGE_CHUNK_BYTES,
    NO_INO,
    ROOT_INO,
    BlockNo,
    ChunkNo,
    ChunkRow,
    Code,
    Fingerprint,
    FragmentState,
    Ino,
    Inode,
    MapRow,
    RestoreReport,
    SnapshotKind,
    SupplierNo,
)
from bitdustfs.ports import Restore as RestorePort
from tests.edges.catalog_rows import DIRECTORY, SUPPLIER, block, file, fragment, keep_generation, replicated_rows
from tests.edges.catalog_work import Work

ALL = 1 << 40
DIRECTORY_MODE = stat.S_IFDIR | 0o755


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "restored"


@pytest.fixture
def restore(path: Path) -> Iterator[RestorePort]:
    made = Restore(path)
    yield made
    made.close()


@pytest.fixture
def original() -> Iterator[SqliteCatalog]:
    opened = SqliteCatalog(":memory:")
    yield opened
    opened.close()


def image_of(catalog: SqliteCatalog, path: Path) -> list[bytes]:
    image = catalog.image(path)
    image.copy()
    chunks = [image.chunk(index) for index in range(image.chunks)]
    image.close()
    return chunks


def since(catalog: SqliteCatalog, number: int) -> list[bytes]:
    return [changes for _, changes in catalog.outbox(number, ALL)]


def rows_in(path: Path) -> object:
    """The replicated rows of a restore that goes on."""
    with closing(SqliteCatalog(path, read_only=True)) as catalog:
        return replicated_rows(catalog)


# --- the same rows --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_image_and_all_change_sets_since_give_the_original_rows(
    seed: int, original: SqliteCatalog, restore: RestorePort, path: Path
) -> None:
    dice = random.Random(seed)
    work = Work(original, seed)
    work.do(commits=40)
    chunks = list(enumerate(image_of(original, path.with_name("image"))))
    cut = original.last_change
    work.do(commits=40)
    dice.shuffle(chunks)
    for index, content in chunks:
        restore.write(index, content)
    left = since(original, cut)
    while left:
        count = dice.randrange(1, 8)
        restore.apply(SqliteChanges().merge(left[:count]))
        left = left[count:]
    assert rows_in(path) == replicated_rows(original)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 24))
def test_all_change_sets_alone_give_the_original_rows(
    seed: int, original: SqliteCatalog, restore: RestorePort, path: Path
) -> None:
    Work(original, seed).do(commits=60)
    for changes in since(original, 0):
        restore.apply(changes)
    assert rows_in(path) == replicated_rows(original)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 44))
def test_change_sets_that_the_image_holds_already_do_no_harm(
    seed: int, original: SqliteCatalog, restore: RestorePort, path: Path
) -> None:
    work = Work(original, seed)
    work.do(commits=40)
    for index, content in enumerate(image_of(original, path.with_name("image"))):
        restore.write(index, content)
    work.do(commits=20)
    for changes in since(original, original.last_change // 3):
        restore.apply(changes)
    assert rows_in(path) == replicated_rows(original)


def test_image_larger_than_the_disk_is_refused_before_it_comes(restore: RestorePort) -> None:
    restore.expect(1)
    with pytest.raises(DiskFull, match="free some, or use another one"):  # else a recovery tries an older state
        restore.expect(1 << 40)


def test_image_alone_gives_the_original_rows(original: SqliteCatalog, restore: RestorePort, path: Path) -> None:
    original.put_inode(DIRECTORY)
    original.put_value("volume_id", b"1" * 32)
    original.commit()
    for index, content in enumerate(image_of(original, path.with_name("image"))):
        restore.write(index, content)
    assert restore.finish() == RestoreReport((), ())
    with closing(SqliteCatalog(path)) as restored:
        assert replicated_rows(restored) == replicated_rows(original)


# --- unborn files ---------------------------------------------------------------------------------------------


class Garden:
    """A tree that keeps the counts of names, links and keepers as the engine does."""

    def __init__(self, catalog: SqliteCatalog) -> None:
        self.catalog = catalog
        catalog.put_inode(replace(DIRECTORY, nlink=2))

    def directory(self, parent: Ino, name: bytes) -> Ino:
        ino = self.catalog.new_ino()
        self.catalog.put_inode(file(ino, mode=DIRECTORY_MODE, nlink=2, size=0, version=0))
        self._show(parent, name, ino)
        self._change(parent, nlink=1)
        return ino

    def file(self, parent: Ino, name: bytes, *, version: int, mode: int = stat.S_IFREG | 0o644) -> Ino:
        ino = self.catalog.new_ino()
        self.catalog.put_inode(file(ino, mode=mode, nlink=1, size=100 * version, version=version))
        self._show(parent, name, ino)
        return ino

    def link(self, ino: Ino, parent: Ino, name: bytes) -> None:
        self._show(parent, name, ino)
        self._change(ino, nlink=1)

    def rename_over(self, parent: Ino, name: bytes, target_parent: Ino, target: bytes) -> None:
        """Move an unborn file over a published one."""
        moved, replaced = self.catalog.name(parent, name), self.catalog.name(target_parent, target)
        assert moved is not None and replaced is not None
        self.catalog.drop_name(parent, name)
        self._change(parent, size=-1)
        self.catalog.put_name(target_parent, target, moved.ino, superseded=replaced.superseded or replaced.ino)
        if replaced.superseded:
            self._change(replaced.ino, nlink=-1)

    def _show(self, parent: Ino, name: bytes, ino: Ino) -> None:
        self.catalog.put_name(parent, name, ino)
        self._change(parent, size=1)

    def _change(self, ino: Ino, *, nlink: int = 0, size: int = 0) -> None:
        inode = self.catalog.inode(ino)
        assert inode is not None
        self.catalog.put_inode(replace(inode, nlink=inode.nlink + nlink, size=inode.size + size))


def restored_from(original: SqliteCatalog, path: Path, *, last_change: int = 0) -> RestoreReport:
    original.commit()
    restore = Restore(path)
    for changes in since(original, 0):
        restore.apply(changes)
    report = restore.finish(last_change=last_change)
    restore.close()
    return report


def files_of(catalog: SqliteCatalog) -> Sequence[Inode]:
    rows = catalog.connection.execute("SELECT DISTINCT ino FROM r_inode WHERE died > 1 << 62").fetchall()
    return [inode for (ino,) in rows if (inode := catalog.inode(Ino(int(str(ino))))) is not None]


def assert_consistent(catalog: SqliteCatalog) -> None:
    """Every count in the catalog is what its names say."""
    rows = catalog.connection.execute("SELECT parent, ino, superseded FROM r_name WHERE died > 1 << 62").fetchall()
    sizes = Counter(parent for parent, _, _ in rows)
    needs = Counter(ino for _, *both in rows for ino in both if ino)
    inodes = files_of(catalog)
    for inode in inodes:
        if inode.is_dir:
            assert inode.size == sizes[inode.ino]
        else:
            assert inode.nlink == needs[inode.ino]
    assert needs.keys() - {inode.ino for inode in inodes} == set()
    assert catalog.file_bytes() == (sum(inode.size for inode in inodes if inode.is_file), len(inodes))


def test_unborn_file_is_gone_under_all_its_names_and_directories_stay(original: SqliteCatalog, path: Path) -> None:
    garden = Garden(original)
    below = garden.directory(garden.directory(ROOT_INO, b"odd\xff\n"), b"below")
    unborn = garden.file(below, b"unborn", version=0)
    garden.link(unborn, ROOT_INO, b"link")
    born = garden.file(below, b"born", version=3)
    fifo = garden.file(below, b"fifo", version=0, mode=stat.S_IFIFO | 0o600)
    original.put_xattr(unborn, b"user.a", b"1")
    report = restored_from(original, path)
    assert report == RestoreReport(removed=(b"link", b"odd\xff\n/below/unborn"), reverted=())
    with closing(SqliteCatalog(path)) as restored:
        assert restored.inode(unborn) is None
        assert restored.xattrs(unborn) == []
        assert [restored.names_of(ino)[0].name for ino in (born, fifo)] == [b"born", b"fifo"]
        assert_consistent(restored)


def test_name_of_an_unborn_file_shows_again_what_it_superseded(original: SqliteCatalog, path: Path) -> None:
    garden = Garden(original)
    old = garden.file(ROOT_INO, b"report", version=2)
    original.replace_map(old, [MapRow(0, 1, original.new_chunk_no())], first=0, last=0)
    garden.link(old, ROOT_INO, b"copy")
    cookie = original.name(ROOT_INO, b"report")
    garden.file(ROOT_INO, b".report.new", version=0)
    garden.rename_over(ROOT_INO, b".report.new", ROOT_INO, b"report")
    assert restored_from(original, path) == RestoreReport(removed=(), reverted=(b"report",))
    with closing(SqliteCatalog(path)) as restored:
        assert restored.name(ROOT_INO, b"report") == cookie
        assert restored.map_rows(old, 0, 9) == original.map_rows(old, 0, 9)
        inode = restored.inode(old)
        assert inode is not None and inode.nlink == 2
        assert_consistent(restored)


def test_name_that_superseded_what_is_not_there_goes(original: SqliteCatalog, path: Path) -> None:
    garden = Garden(original)
    unborn = garden.file(ROOT_INO, b"a", version=0)
    original.put_name(ROOT_INO, b"a", unborn, superseded=Ino(999))
    assert restored_from(original, path) == RestoreReport(removed=(b"a",), reverted=())
    with closing(SqliteCatalog(path)) as restored:
        assert restored.name(ROOT_INO, b"a") is None
        assert_consistent(restored)


def test_file_replaced_again_and_again_before_it_was_published_shows_the_published_one(
    original: SqliteCatalog, path: Path
) -> None:
    garden = Garden(original)
    old = garden.file(ROOT_INO, b"a", version=1)
    for name in (b"first", b"second"):
        garden.file(ROOT_INO, name, version=0)
        garden.rename_over(ROOT_INO, name, ROOT_INO, b"a")
    assert restored_from(original, path).reverted == (b"a",)
    with closing(SqliteCatalog(path)) as restored:
        found = restored.name(ROOT_INO, b"a")
        assert found is not None and (found.ino, found.superseded) == (old, NO_INO)
        assert_consistent(restored)


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_right_after_any_mix_of_unborn_files(seed: int, original: SqliteCatalog, path: Path) -> None:
    dice = random.Random(seed)
    garden = Garden(original)
    places = [ROOT_INO, *(garden.directory(ROOT_INO, b"d%d" % number) for number in range(4))]
    shown: list[tuple[Ino, bytes, Ino, int]] = []
    for step in range(60):
        parent, name = dice.choice(places), b"%d" % step
        if shown and dice.random() < 0.2:
            _, _, ino, version = dice.choice(shown)
            garden.link(ino, parent, name)
        else:
            version = dice.randrange(2)
            ino = garden.file(parent, name, version=version)
        shown.append((parent, name, ino, version))
        if dice.random() < 0.2:
            keep_generation(original)
    unborn = [each for each in shown if not each[3]]
    born = [each for each in shown if each[3]]
    for _ in range(8):
        moved, target = unborn.pop(), born.pop(dice.randrange(len(born)))
        garden.rename_over(moved[0], moved[1], target[0], target[1])
    assert_consistent(original)
    report = restored_from(original, path)
    assert (len(report.removed), len(report.reverted)) == (len(unborn), 8)
    with closing(SqliteCatalog(path)) as restored:
        assert_consistent(restored)
        assert not [inode for inode in files_of(restored) if inode.is_file and not inode.version]
        assert restored.orphans() == []


@pytest.mark.parametrize("is_snapshot", [False, True])
def test_map_rows_of_a_version_that_was_to_come_are_gone(
    is_snapshot: bool, original: SqliteCatalog, path: Path
) -> None:
    garden = Garden(original)
    grown, whole = (garden.file(ROOT_INO, name, version=1) for name in (b"grown", b"whole"))
    chunks = [original.new_chunk_no() for _ in range(4)]
    original.put_block(block(1, Code(3, 5)))
    original.put_chunks([ChunkRow(chunk, Fingerprint(bytes(32)), BlockNo(1), 0, 0, 9) for chunk in chunks])
    for ino in (grown, whole):
        original.replace_map(ino, [MapRow(0, 1, chunks[0])], first=0, last=0)
    if is_snapshot:
        original.make_snapshot("then", 0, SnapshotKind.BY_PERSON)
    for first, chunk in ((1, chunks[1]), (2, chunks[2]), (40_000, chunks[3])):
        original.replace_map(grown, [MapRow(first, 1, chunk)], first=first, last=first)
    restored_from(original, path)
    with closing(SqliteCatalog(path)) as restored:
        for ino in (grown, whole):
            assert restored.map_rows(ino, 0, 1 << 40) == [MapRow(0, 1, chunks[0])]
        assert restored.overhangs() == []
        assert restored.loose_chunks(ChunkNo(0), 9) == [(each, False) for each in chunks[1:]], (
            "and their chunks can be given back"
        )


def test_what_was_changed_at_the_end_goes_on_the_old_numbers(original: SqliteCatalog, path: Path) -> None:
    garden = Garden(original)
    garden.file(ROOT_INO, b"unborn", version=0)
    restored_from(original, path, last_change=41)
    with closing(SqliteCatalog(path)) as restored:
        assert [number for number, _ in restored.outbox(0, ALL)] == [42]
        for _, changes in restored.outbox(0, ALL):
            apsw.Changeset.apply(changes, original.connection)
        assert replicated_rows(restored) == replicated_rows(original)


# --- local tables ---------------------------------------------------------------------------------------------


def test_what_suppliers_hold_is_counted_anew(original: SqliteCatalog, path: Path) -> None:
    for number in (1, 2, 3):
        original.put_supplier(replace(SUPPLIER, supplier=SupplierNo(number), used_bytes=77))
    original.put_block(replace(block(1, Code(3, 5)), length=10_000))
    original.put_block(replace(block(2, Code(1, 2)), length=500))
    for row in (fragment(1, 0, 1), fragment(1, 1, 2), fragment(2, 0, 1), fragment(2, 1, 2, FragmentState.LOST)):
        original.put_fragment(row)
    restored_from(original, path)
    with closing(SqliteCatalog(path)) as restored:
        used = [(row.used_bytes, row.used_fragments) for row in restored.suppliers()]
        assert used == [(3334 + 500, 2), (3334, 1), (0, 0)]


def test_local_rows_in_an_image_are_not_believed(tmp_path: Path, restore: RestorePort, path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "whole", create=True)) as catalog:
        catalog.put_local_value("a", b"1")
        catalog.put_inline(Ino(7), b"1", b"")
    content = (tmp_path / "whole").read_bytes()
    for index in range(-(-len(content) // IMAGE_CHUNK_BYTES)):
        part = content[index * IMAGE_CHUNK_BYTES : (index + 1) * IMAGE_CHUNK_BYTES]
        restore.write(index, part.ljust(IMAGE_CHUNK_BYTES, b"\0"))
    restore.finish()
    with closing(SqliteCatalog(path)) as restored:
        assert (restored.local_value("a"), restored.inline(Ino(7))) == (None, None)


# --- what is refused ------------------------------------------------------------------------------------------


def changes_of(schema: str, statement: str) -> bytes:
    other = apsw.Connection(":memory:")
    other.execute(schema)
    session = apsw.Session(other, "main")
    session.attach()
    other.execute(statement)
    changes = session.changeset()
    session.close()
    other.close()
    return changes


@pytest.mark.parametrize(
    "changes",
    [
        b"what is this?",
        changes_of("CREATE TABLE l_value (key PRIMARY KEY, value)", "INSERT INTO l_value VALUES ('a', 1)"),
        changes_of("CREATE TABLE other (a PRIMARY KEY)", "INSERT INTO other VALUES (1)"),
        changes_of("CREATE TABLE r_value (key PRIMARY KEY, value, more)", "INSERT INTO r_value VALUES ('a', 1, 2)"),
        changes_of("CREATE TABLE r_value (key PRIMARY KEY, value)", "INSERT INTO r_value VALUES ('a', NULL)"),
    ],
)
def test_change_set_that_is_none_of_ours_is_refused_and_changes_nothing(
    changes: bytes, original: SqliteCatalog, restore: RestorePort, path: Path
) -> None:
    original.put_value("a", b"1")
    original.commit()
    restore.apply(since(original, 0)[0])
    with pytest.raises(BadFormat):
        restore.apply(changes)
    assert rows_in(path) == replicated_rows(original)


def test_image_that_is_no_catalog_is_refused(restore: RestorePort, path: Path) -> None:
    restore.write(0, b"\xff" * IMAGE_CHUNK_BYTES)
    with pytest.raises(CatalogDamaged):
        restore.apply(b"")
    restore.close()
    assert not path.exists()


FOREIGN = (
    "CREATE TABLE r_new (a INTEGER NOT NULL PRIMARY KEY) STRICT",
    "CREATE TABLE \"r_x); ATTACH '{stolen}' AS y; CREATE TABLE y.t (a); --\" (a)",
    "CREATE TABLE \"l_x; COMMIT; ATTACH '{stolen}' AS y; CREATE TABLE y.t (a)\" (a)",
    "CREATE VIEW l_view AS SELECT 1",
    "CREATE VIRTUAL TABLE l_virtual USING fts5 (a)",
    "CREATE TRIGGER extra AFTER DELETE ON l_file BEGIN DELETE FROM r_inode; END",
    "DROP INDEX r_name_by_ino; CREATE TRIGGER r_name_by_ino AFTER DELETE ON l_value BEGIN DELETE FROM r_inode; END",
    "DROP TABLE r_value; CREATE VIEW r_value (key, value) AS SELECT 1, 2",
    "DROP TABLE r_value; CREATE TABLE r_value (key TEXT PRIMARY KEY, value BLOB)",
    "DROP TABLE r_value; CREATE TABLE r_value (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL GENERATED ALWAYS AS"
    " (zeroblob(1000000000))) STRICT",
    "DROP INDEX r_name_by_ino; CREATE INDEX r_name_by_ino ON r_name (ino COLLATE nocase)",
    "ANALYZE",
)


@pytest.mark.parametrize("statements", FOREIGN)
def test_image_with_anything_but_our_tables_is_refused_before_a_name_in_it_is_used(
    statements: str, original: SqliteCatalog, tmp_path: Path, restore: RestorePort
) -> None:
    stolen, image = tmp_path / "elsewhere", tmp_path / "image"
    original.put_inode(DIRECTORY)
    original.commit()
    image.write_bytes(b"".join(image_of(original, tmp_path / "copy")))
    with closing(apsw.Connection(str(image))) as hostile:
        hostile.execute(statements.replace("{stolen}", str(stolen)))
    content = image.read_bytes()
    content += bytes(-len(content) % IMAGE_CHUNK_BYTES)
    for at in range(0, len(content), IMAGE_CHUNK_BYTES):
        restore.write(at // IMAGE_CHUNK_BYTES, content[at : at + IMAGE_CHUNK_BYTES])
    with pytest.raises(CatalogDamaged, match="is not as it should be"):
        restore.finish()
    assert not stolen.exists()


@pytest.mark.parametrize("more", [-1, 1])
def test_image_with_a_chunk_too_few_or_too_many_is_refused(
    more: int, original: SqliteCatalog, restore: RestorePort, path: Path
) -> None:
    chunks = image_of(original, path.with_name("image"))
    for index in range(len(chunks) + more):
        restore.write(index, chunks[index % len(chunks)])
    with pytest.raises(CatalogDamaged, match="its image has"):
        restore.finish()


def test_chunk_of_another_length_is_refused(restore: RestorePort) -> None:
    with pytest.raises(BadFormat):
        restore.write(0, b"short")


def test_chunk_after_a_change_set_is_refused(restore: RestorePort) -> None:
    restore.apply(b"")
    with pytest.raises(RuntimeError):
        restore.write(0, bytes(IMAGE_CHUNK_BYTES))


def test_restore_that_is_given_up_leaves_no_file(path: Path) -> None:
    path.write_bytes(b"what a crash left")
    Path(f"{path}-wal").write_bytes(b"and this")
    restore = Restore(path)
    restore.write(0, bytes(IMAGE_CHUNK_BYTES))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    restore.close()
    assert os.listdir(path.parent) == []


def test_finished_restore_is_one_file(restore: RestorePort, path: Path) -> None:
    restore.finish()
    restore.close()
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(AlreadyThere):
        SqliteCatalog(path, create=True)


def test_place_that_cannot_be_written_is_named(path: Path) -> None:
    with pytest.raises(DiskFault, match="missing"):
        Restore(path / "missing" / "catalog")


@pytest.mark.slow
def test_chunks_that_several_workers_write_at_once_are_all_in_their_places(path: Path, restore: RestorePort) -> None:
    chunks = [index.to_bytes(4, "big") * (IMAGE_CHUNK_BYTES // 4) for index in range(1500)]
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(restore.write, range(len(chunks)), chunks))
    assert path.read_bytes() == b"".join(chunks)
