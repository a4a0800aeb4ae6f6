"""The catalog of a home that was fetched as another machine published it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bitdustfs.cli.home_catalog import make_own
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.kept import VERBATIM
from bitdustfs.model import ROOT_INO
from tests.edges.catalog_rows import DIRECTORY, file


@pytest.fixture
def catalog() -> Iterator[SqliteCatalog]:
    """It names a file that was never published."""
    opened = SqliteCatalog(":memory:", create=True)
    opened.put_inode(replace(DIRECTORY, nlink=2, size=1))
    ino = opened.new_ino()
    opened.put_inode(file(ino, mode=stat.S_IFREG | 0o644, nlink=1, size=0, version=0))
    opened.put_name(ROOT_INO, b"unborn", ino)
    opened.commit()
    yield opened
    opened.close()


def test_what_another_machine_had_not_published_is_gone_before_this_one_writes(catalog: SqliteCatalog) -> None:
    catalog.put_local_value(VERBATIM, b"1")
    make_own(catalog)
    assert catalog.name(ROOT_INO, b"unborn") is None


def test_what_this_machine_has_not_published_yet_stays(catalog: SqliteCatalog) -> None:
    catalog.put_local_value(VERBATIM, b"1")
    make_own(catalog)
    ino = catalog.new_ino()
    catalog.put_inode(file(ino, mode=stat.S_IFREG | 0o644, nlink=1, size=0, version=0))
    catalog.put_name(ROOT_INO, b"mine", ino)
    make_own(catalog)
    assert catalog.name(ROOT_INO, b"mine") is not None
