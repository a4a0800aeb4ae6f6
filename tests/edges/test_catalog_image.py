"""Page images of a catalog: the state of one instant, without local tables and old contents."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio

from bitdustfs.edges.catalog_format import APPLICATION_ID, FORMAT_VERSION
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import CatalogDamaged, DiskFault, ReadOnly
from bitdustfs.model import IMAGE_CHUNK_BYTES, Ino, SupplierNo
from bitdustfs.ports import Image
from tests.edges.catalog_rows import FILE, SUPPLIER, file, replicated_rows
from tests.edges.catalog_work import Work

LOCAL_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'l_*'"


@pytest.fixture(params=["file", "memory"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteCatalog]:
    opened = SqliteCatalog(tmp_path / "catalog" if request.param == "file" else ":memory:", create=True)
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


@contextmanager
def copied(catalog: SqliteCatalog, path: Path) -> Iterator[Image]:
    image = catalog.image(path)
    try:
        image.copy()
        yield image
    finally:
        image.close()


def chunks_of(image: Image) -> list[bytes]:
    return [image.chunk(index) for index in range(image.chunks)]


def opened(image: Image, path: Path) -> SqliteCatalog:
    """The image, put together from its chunks, as a catalog."""
    path.write_bytes(b"".join(chunks_of(image)))
    return SqliteCatalog(path)


@pytest.mark.slow
def test_image_is_a_sound_catalog_with_the_same_replicated_rows(catalog: SqliteCatalog, path: Path) -> None:
    Work(catalog, 1).do(commits=50)
    with copied(catalog, path) as image, closing(opened(image, path.with_name("rebuilt"))) as rebuilt:
        assert replicated_rows(rebuilt) == replicated_rows(catalog)
        assert rebuilt.file_bytes() == catalog.file_bytes()


def test_last_chunk_is_filled_up_with_zeros(catalog: SqliteCatalog, path: Path) -> None:
    catalog.put_value("a", bytes(13_000))
    catalog.commit()
    with copied(catalog, path) as image:
        chunks = chunks_of(image)
        left = path.stat().st_size % IMAGE_CHUNK_BYTES
        assert 0 < left < IMAGE_CHUNK_BYTES
        assert {len(chunk) for chunk in chunks} == {IMAGE_CHUNK_BYTES}
        assert chunks[-1][left:] == bytes(IMAGE_CHUNK_BYTES - left)


def test_manual_names_the_format_and_the_pieces() -> None:
    page = (Path(__file__).resolve().parents[2] / "man" / "bitdustfs-formats.5").read_text()
    assert f"application id {APPLICATION_ID:#x} and user version {FORMAT_VERSION}." in page
    assert f"pieces of {IMAGE_CHUNK_BYTES} bytes" in page


def test_image_is_whole_without_a_log(catalog: SqliteCatalog, path: Path) -> None:
    with copied(catalog, path) as image:
        assert image.chunk(0)[18:20] == b"\1\1"


@pytest.mark.slow
def test_image_is_the_state_of_its_instant_although_commits_go_on(catalog: SqliteCatalog, path: Path) -> None:
    work = Work(catalog, 2)
    work.do(commits=50)
    before = replicated_rows(catalog)
    image = catalog.image(path)
    work.do(commits=20)
    image.copy()
    work.do(commits=20)
    with closing(opened(image, path.with_name("rebuilt"))) as rebuilt:
        assert replicated_rows(rebuilt) == before != replicated_rows(catalog)
    image.close()


@pytest.mark.slow
async def test_image_is_copied_in_a_worker_while_commits_and_checkpoints_go_on(tmp_path: Path, path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "catalog", create=True)) as catalog:
        for number in range(2000):
            catalog.put_inline(Ino(number), bytes(4000), b"")
            catalog.put_value(f"key {number}", b"before")
        catalog.commit()
        before = replicated_rows(catalog)
        image = catalog.image(path)
        ended = trio.Event()

        async def copy() -> None:
            await trio.to_thread.run_sync(image.copy)
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy)
            number = 0
            while not ended.is_set() or number < 100:
                catalog.put_value(f"key {number % 2000}", b"after %d" % number)
                catalog.commit()
                await catalog.checkpoint()
                number += 1
        with closing(opened(image, path.with_name("rebuilt"))) as rebuilt:
            assert replicated_rows(rebuilt) == before
        image.close()
        for number in range(100):
            assert catalog.value(f"key {number}") != b"before"


def test_image_has_no_local_rows_and_no_old_contents(catalog: SqliteCatalog, path: Path) -> None:
    for number in range(100, 200):
        catalog.put_inline(Ino(number), b"inline content " * 500, b"sum")
        catalog.put_xattr(Ino(number), b"user.a", b"dropped xattr " * 500)
    catalog.put_supplier(replace(SUPPLIER, supplier=SupplierNo(1)))
    catalog.put_local_value("a", b"local value")
    catalog.put_link(1, b"link of a head")
    catalog.commit()
    for number in range(100, 200):
        catalog.drop_xattr(Ino(number), b"user.a")
    catalog.commit()
    with copied(catalog, path) as image:
        whole = b"".join(chunks_of(image))
        with closing(opened(image, path.with_name("rebuilt"))) as rebuilt:
            tables = [str(row[0]) for row in rebuilt.connection.execute(LOCAL_TABLES).fetchall()]
            assert len(tables) > 10
            assert not any(rebuilt.connection.execute(f"SELECT 1 FROM {table}").fetchall() for table in tables)
            assert rebuilt.last_change == 0
    for old in (b"inline content", b"local value", b"link of a head"):
        assert old not in whole
    assert whole.count(b"dropped xattr") < 5000  # of 50 000: what is left lies in pages that are still in use
    assert len(whole) > 1_000_000 > len(whole.strip(b"\0"))


@pytest.mark.slow
def test_small_change_changes_few_chunks(catalog: SqliteCatalog, path: Path) -> None:
    for ino in range(100, 4000):
        catalog.put_inode(file(ino))
    catalog.commit()
    with copied(catalog, path) as image:
        first = set(chunks_of(image))
    catalog.put_inode(file(2000, size=1))
    catalog.put_inline(Ino(5000), bytes(IMAGE_CHUNK_BYTES), b"")
    catalog.commit()
    with copied(catalog, path) as image:
        assert len(set(chunks_of(image)) - first) <= 4
        assert image.chunks > 20


def test_closed_image_leaves_no_file_whatever_came_before(catalog: SqliteCatalog, path: Path) -> None:
    path.write_bytes(b"what a crash left")
    before = set(os.listdir(path.parent)) - {path.name}
    image = catalog.image(path)
    image.copy()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    image.close()
    image.close()
    catalog.image(path).close()
    assert set(os.listdir(path.parent)) == before


def test_image_inside_a_transaction_is_refused(catalog: SqliteCatalog, path: Path) -> None:
    catalog.put_inode(FILE)
    with pytest.raises(RuntimeError):
        catalog.image(path)


def test_image_that_cannot_be_written_says_so(catalog: SqliteCatalog, path: Path) -> None:
    image = catalog.image(path / "missing" / "image")
    with pytest.raises(DiskFault):
        image.copy()
    image.close()


def test_catalog_that_is_known_to_be_damaged_gives_no_image(tmp_path: Path, path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "catalog", create=True)) as catalog:
        catalog.put_inode(FILE)
        catalog.commit()
        catalog._translated(apsw.CorruptError("the test says so"))
        with pytest.raises(ReadOnly):
            catalog.image(path)


def test_spoiled_list_of_free_pages_is_damage(tmp_path: Path, path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "catalog", create=True)) as catalog:
        catalog.put_inline(Ino(1), bytes(100_000), b"")
        catalog.commit()
        catalog.drop_inline(Ino(1))
        catalog.commit()
    content = bytearray((tmp_path / "catalog").read_bytes())
    trunk = int.from_bytes(content[32:36])
    content[(trunk - 1) * 4096 + 4 : (trunk - 1) * 4096 + 8] = (1000).to_bytes(4)
    (tmp_path / "spoiled").write_bytes(content)
    with closing(SqliteCatalog(tmp_path / "spoiled", read_only=True)) as catalog:
        image = catalog.image(path)
        with pytest.raises(CatalogDamaged):
            image.copy()
        image.close()
