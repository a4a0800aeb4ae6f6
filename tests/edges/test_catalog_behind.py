"""Inodes that are put late: nobody can tell, but by how many rows are put."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_behind import RowsBehind
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import ROOT_INO, Cookie, Ino, Inode, SnapshotKind
from tests.edges.catalog_rows import DIRECTORY, file

NUMBERS = tuple(Ino(number) for number in range(2, 8))
ALL = 1000


class Stop(Exception):
    """Ends a savepoint."""


class Story:
    """Random changes of a catalog and of a dictionary, in savepoints of which some fail."""

    def __init__(self, catalog: SqliteCatalog, seed: int) -> None:
        self.catalog = catalog
        self.expected: dict[Ino, Inode] = {}
        self._dice = random.Random(seed)
        self._steps: list[Callable[[], None]] = [self._put, self._put, self._put, self._drop, self._list, self._group]

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self._dice.choice([*self._steps, self.catalog.commit])()
            self.check()

    def check(self) -> None:
        assert {ino: found for ino in NUMBERS if (found := self.catalog.inode(ino))} == self.expected
        sizes = sum(inode.size for inode in self.expected.values())
        assert self.catalog.file_bytes() == (sizes, len(self.expected))

    def _put(self) -> None:
        inode = file(self._dice.choice(NUMBERS), size=self._dice.randrange(4))
        if inode.ino not in self.expected:
            self.catalog.put_name(ROOT_INO, b"%d" % inode.ino, inode.ino)
        self.catalog.put_inode(inode)
        self.expected[inode.ino] = inode

    def _drop(self) -> None:
        ino = self._dice.choice(NUMBERS)
        self.catalog.drop_name(ROOT_INO, b"%d" % ino)
        self.catalog.drop_inode(ino)
        self.expected.pop(ino, None)

    def _list(self) -> None:
        listed = {inode.ino: inode for _, inode in self.catalog.names(ROOT_INO, Cookie(0), ALL)}
        assert listed == self.expected

    def _group(self) -> None:
        before = copy.copy(self.expected)
        try:
            with self.catalog.savepoint():
                for _ in range(self._dice.randrange(5)):
                    self._dice.choice(self._steps)()
                if self._dice.random() < 0.4:
                    raise Stop
        except Stop:
            self.expected = before
        self.check()


@pytest.mark.parametrize("seed", range(30))
def test_catalog_shows_each_inode_as_it_was_put_last(tmp_path: Path, seed: int) -> None:
    with closing(SqliteCatalog(tmp_path / "c", create=True)) as catalog:
        story = Story(catalog, seed)
        story.live(60)
    with closing(SqliteCatalog(tmp_path / "c")) as again:
        Story.check(_over(again, story.expected))


def _over(catalog: SqliteCatalog, expected: dict[Ino, Inode]) -> Story:
    story = Story(catalog, 0)
    story.expected = expected
    return story


def test_directory_of_many_new_names_is_put_once(tmp_path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "c", create=True)) as catalog:
        root = DIRECTORY
        before = catalog.connection.total_changes()
        for size in range(100):
            with catalog.savepoint():
                ino = catalog.new_ino()
                catalog.put_inode(file(ino))
                catalog.put_name(ROOT_INO, b"%d" % ino, ino)
                catalog.put_inode(replace(root, size=size))
        catalog.commit()
        assert 201 <= catalog.connection.total_changes() - before <= 210  # with counters, and a row of the outbox


def test_inode_put_before_a_savepoint_that_lists_and_fails_is_not_lost(tmp_path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "c", create=True)) as catalog:
        catalog.put_inode(file(NUMBERS[0], size=1))
        with pytest.raises(Stop), catalog.savepoint():
            catalog.put_inode(file(NUMBERS[0], size=2))
            catalog.names(ROOT_INO, Cookie(0), ALL)
            raise Stop
        catalog.commit()
    with closing(SqliteCatalog(tmp_path / "c")) as again:
        assert again.inode(NUMBERS[0]) == file(NUMBERS[0], size=1)


def test_snapshot_has_what_was_put_late_before_it_and_not_after(tmp_path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "c", create=True)) as catalog:
        catalog.put_inode(file(NUMBERS[0], size=1))
        made = catalog.make_snapshot("one", 0, SnapshotKind.BY_PERSON)
        catalog.put_inode(file(NUMBERS[0], size=2))
        catalog.put_inode(file(NUMBERS[1], size=3))
        assert catalog.is_changed_since_snapshot()
        catalog.commit()
        then = catalog.inode(at(made.generation, NUMBERS[0]))
        assert then is not None
        assert then.size == 1
        assert catalog.inode(at(made.generation, NUMBERS[1])) is None
    with closing(SqliteCatalog(tmp_path / "c")) as again:
        assert again.inode(NUMBERS[0]) == file(NUMBERS[0], size=2)


def test_what_is_undone_is_neither_kept_nor_put() -> None:
    behind: RowsBehind[int, str] = RowsBehind()
    behind.keep(1, "before", is_marked=False)
    mark = behind.mark()
    behind.keep(1, "inside", is_marked=True)
    behind.keep(2, "inside", is_marked=True)
    behind.drop(1, is_marked=True)
    assert behind.undo(mark)
    assert dict(behind.each()) == {1: "before"}
    assert not behind.undo(mark)
