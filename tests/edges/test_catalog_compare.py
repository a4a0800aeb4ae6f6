"""Two catalogs, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bitdustfs.edges.catalog_compare import Instant
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import BadFormat, NotFound
from tests.edges.catalog_rows import DIRECTORY, SUPPLIER, file


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqliteCatalog]:
    with closing(made(tmp_path / "catalog.db")) as one:
        yield one


def made(path: Path) -> SqliteCatalog:
    """A catalog with two inodes and a name."""
    catalog = SqliteCatalog(path, create=True)
    catalog.put_inode(DIRECTORY)
    catalog.put_inode(file(7))
    catalog.put_name(DIRECTORY.ino, b"seven", file(7).ino)
    catalog.put_supplier(SUPPLIER)
    catalog.commit()
    return catalog


def difference(one: Path, other: Path) -> str | None:
    with closing(Instant(one)) as here, closing(Instant(other)) as there:
        assert here.first_difference(there) == there.first_difference(here)
        return here.first_difference(there)


def test_equal_catalogs_have_no_difference(catalog: SqliteCatalog, tmp_path: Path) -> None:
    with closing(made(tmp_path / "other.db")) as other:
        other.put_local_value("local", b"tables do not count")
        other.commit()
        assert difference(Path(catalog.path), tmp_path / "other.db") is None


def test_one_row_more_less_or_other_is_a_difference(catalog: SqliteCatalog, tmp_path: Path) -> None:
    with closing(made(tmp_path / "other.db")) as other:
        other.put_inode(replace(file(7), size=1))
        other.commit()
        assert difference(Path(catalog.path), tmp_path / "other.db") == "r_counter"  # the sum of sizes
        other.put_inode(replace(file(7), mtime_ns=1))
        other.commit()
        assert difference(Path(catalog.path), tmp_path / "other.db") == "r_inode"
        other.put_inode(file(7))
        other.put_xattr(file(7).ino, b"user.x", b"")
        other.commit()
        assert difference(Path(catalog.path), tmp_path / "other.db") == "r_xattr"


def test_instant_stays_while_the_catalog_goes_on(catalog: SqliteCatalog) -> None:
    with closing(Instant(Path(catalog.path))) as before:
        known = before.last_change
        catalog.put_inode(file(8))
        catalog.commit()
        assert (before.last_change, before.inodes) == (known, 2) == (catalog.last_change - 1, 2)
        with closing(Instant(Path(catalog.path))) as after:
            assert (after.last_change, after.inodes) == (catalog.last_change, 3)
            assert before.first_difference(after) is not None


def test_last_change_is_known_when_the_outbox_is_empty(catalog: SqliteCatalog) -> None:
    catalog.drop_outbox(catalog.last_change)
    catalog.commit()
    with closing(Instant(Path(catalog.path))) as now:
        assert now.last_change == catalog.last_change > 0


def test_what_is_no_catalog_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"text, and not a database" * 100)
    with pytest.raises(BadFormat):
        Instant(tmp_path / "text")
    with pytest.raises(NotFound):
        Instant(tmp_path / "missing")
