"""Rows that are put and deleted late: nobody can tell, but by how many statements it takes."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_behind import GoneBehind, RowsBehind
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import (
    ROOT_INO,
    ChunkNo,
    Cookie,
    Extent,
    Hold,
    Ino,
    Inode,
    Layer,
    LocalFile,
    MapRow,
    SnapshotKind,
)
from tests.edges.catalog_rows import DIRECTORY, file, rows_of

NUMBERS = tuple(Ino(number) for number in range(2, 8))
ALL = 1000
OF_INODES = ("r_inode", "r_map", "r_xattr", "l_file", "l_extent", "l_sum", "l_inline")


class Stop(Exception):
    """Ends a savepoint."""


class Story:
    """Random changes of a catalog and of a dictionary, in savepoints of which some fail."""

    def __init__(self, catalog: SqliteCatalog, seed: int) -> None:
        self.catalog = catalog
        self.expected: dict[Ino, Inode] = {}
        self.attributes: dict[Ino, bytes] = {}
        self._dice = random.Random(seed)
        self._steps: list[Callable[[], None]] = [self._put, self._put, self._drop, self._group]
        self._steps += [self._put, self._dress, self._list, self._count, self._drop]

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self._dice.choice([*self._steps, self.catalog.commit])()
            self.check()

    def check(self) -> None:
        assert {ino: found for ino in NUMBERS if (found := self.catalog.inode(ino))} == self.expected
        sizes = sum(inode.size for inode in self.expected.values())
        assert self.catalog.file_bytes() == (sizes, len(self.expected))
        for ino in NUMBERS:
            value = self.attributes.get(ino)
            assert self.catalog.xattr(ino, b"user.a") == value
            assert self.catalog.map_rows(ino, 0, 0) == ([] if value is None else [MapRow(0, 1, ChunkNo(ino))])
            assert self.catalog.inline(ino) == (None if value is None else (value, b"sum"))

    def _count(self) -> None:
        assert self.catalog.inline_bytes() == sum(map(len, self.attributes.values()))

    def _dress(self) -> None:
        ino = self._dice.choice(NUMBERS)
        if ino in self.expected:
            self.attributes[ino] = value = b"x" * self._dice.randrange(1, 4)
            self.catalog.put_xattr(ino, b"user.a", value)
            self.catalog.put_inline(ino, value, b"sum")
            self.catalog.replace_map(ino, [MapRow(0, 1, ChunkNo(ino))], first=0, last=0)

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
        self.attributes.pop(ino, None)

    def _list(self) -> None:
        listed = {inode.ino: inode for _, inode in self.catalog.names(ROOT_INO, Cookie(0), ALL)}
        assert listed == self.expected

    def _group(self) -> None:
        before, dressed = copy.copy(self.expected), copy.copy(self.attributes)
        try:
            with self.catalog.savepoint():
                for _ in range(self._dice.randrange(5)):
                    self._dice.choice(self._steps)()
                if self._dice.random() < 0.4:
                    raise Stop
        except Stop:
            self.expected, self.attributes = before, dressed
        self.check()


@pytest.mark.parametrize("seed", range(30))
def test_catalog_shows_each_inode_as_it_was_put_last(tmp_path: Path, seed: int) -> None:
    with closing(SqliteCatalog(tmp_path / "c", create=True)) as catalog:
        story = Story(catalog, seed)
        story.live(60)
    with closing(SqliteCatalog(tmp_path / "c")) as again:
        Story.check(_over(again, story))
        assert {row[0] for table in OF_INODES for row in rows_of(again, table)} <= set(story.expected)


def _over(catalog: SqliteCatalog, story: Story) -> Story:
    again = Story(catalog, 0)
    again.expected, again.attributes = story.expected, story.attributes
    return again


class Plain:
    """Rows of inodes put and deleted at once, in whatever order: an inode needs no row of its own to have others."""

    def __init__(self) -> None:
        self.rows: dict[Ino, dict[str, object]] = {ino: {} for ino in NUMBERS}

    def change(self, catalog: SqliteCatalog, dice: random.Random) -> None:
        ino, number = dice.choice(NUMBERS), dice.randrange(1, 100)
        rows, what = self.rows[ino], dice.choice([*OF_INODES, "drop", "drop", "drop"])
        if what == "drop":
            if "r_inode" in rows:
                catalog.drop_name(ROOT_INO, b"%d" % ino)
            catalog.drop_inode(ino)
            rows.clear()
            return
        if what == "r_inode":
            if what not in rows:
                catalog.put_name(ROOT_INO, b"%d" % ino, ino)
            rows[what] = inode = file(ino, size=number)
            catalog.put_inode(inode)
        elif what == "r_map":
            catalog.replace_map(ino, [MapRow(0, 1, ChunkNo(number))], first=0, last=0, is_empty=what not in rows)
            rows[what] = [MapRow(0, 1, ChunkNo(number))]
        elif what == "r_xattr":
            rows[what] = value = b"%d" % number
            catalog.put_xattr(ino, b"user.a", value)
        elif what == "l_file":
            rows[what] = local = LocalFile(ino, number, 1, 1, 0, 0)
            catalog.put_local_file(local)
        elif what == "l_extent":
            rows[what] = extents = [Extent(0, number, 0, Hold.DIRTY)]
            catalog.put_extents(ino, Layer.LIVE, extents)
        elif what == "l_sum":
            rows[what] = sums = b"%d" % number
            catalog.put_sums(ino, 0, sums)
        else:
            rows[what] = content = (b"%d" % number, b"sum")
            catalog.put_inline(ino, *content)

    def check(self, catalog: SqliteCatalog) -> None:
        for ino, rows in self.rows.items():
            assert catalog.inode(ino) == rows.get("r_inode")
            assert catalog.map_rows(ino, 0, 0) == rows.get("r_map", [])
            assert catalog.xattr(ino, b"user.a") == rows.get("r_xattr")
            assert catalog.local_file(ino) == rows.get("l_file")
            assert catalog.extents(ino, Layer.LIVE) == rows.get("l_extent", [])
            assert catalog.sums(ino, 0) == rows.get("l_sum", b"")
            assert catalog.inline(ino) == rows.get("l_inline")


@pytest.mark.parametrize("seed", [0, 7, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(8, 60))])
def test_what_is_put_for_a_number_after_its_inode_went_stays_in_whatever_order(tmp_path: Path, seed: int) -> None:
    dice, plain = random.Random(seed), Plain()
    SqliteCatalog(tmp_path / "c", create=True).close()
    for _ in range(6):  # the process ends, or is killed, and comes back
        catalog = SqliteCatalog(tmp_path / "c")
        plain.check(catalog)
        for _ in range(dice.randrange(4)):
            before = copy.deepcopy(plain.rows)
            with suppress(Stop), catalog.savepoint():
                for _ in range(dice.randrange(12)):
                    plain.change(catalog, dice)
                if dice.random() < 0.3:
                    plain.rows = before
                    raise Stop
            if dice.random() < 0.3:
                plain.check(catalog)
            if dice.random() < 0.3:
                catalog.commit()
        if dice.random() < 0.5:
            plain.check(catalog)
        catalog.commit()
        committed = copy.deepcopy(plain.rows)
        for _ in range(dice.randrange(6)):
            plain.change(catalog, dice)
        if dice.random() < 0.5:
            plain.rows = committed
            abandon(catalog)
        else:
            catalog.close()


def abandon(catalog: SqliteCatalog) -> None:
    """Let go of the file as a killed process does: without the end of the open transaction."""
    catalog._connection.close()
    catalog._let_go()


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every SQL statement that is run on a connection opened from now on."""
    found: list[str] = []

    def watch(connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: found.append(event["sql"]))

    apsw.connection_hooks.append(watch)
    yield found
    apsw.connection_hooks.remove(watch)


def test_inodes_dropped_together_go_by_a_few_statements(statements: list[str]) -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        inos = [catalog.new_ino() for _ in range(300)]
        for ino in inos:
            catalog.put_inode(file(ino))
            catalog.put_xattr(ino, b"user.a", b"1")
            catalog.put_inline(ino, b"content", b"sum")
        catalog.commit()
        statements.clear()
        for ino in inos[:100] + inos[200:]:
            with catalog.savepoint():
                catalog.drop_inode(ino)
        assert statements == []
        assert catalog.inline_bytes() == 100 * len(b"content")
        dropping = [sql for sql in statements if sql.startswith(("DELETE", "INSERT"))]
        assert len(dropping) <= 2 * 8, Counter(dropping)
        assert [ino for ino, *_ in rows_of(catalog, "r_xattr")] == inos[100:200]


def test_inode_dropped_before_a_snapshot_ends_is_kept_for_the_one_before() -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        catalog.put_inode(file(NUMBERS[0], size=1))
        first = catalog.make_snapshot("one", 0, SnapshotKind.BY_PERSON)
        second = catalog.make_snapshot("two", 0, SnapshotKind.BY_PERSON)
        catalog.drop_inode(NUMBERS[0])
        catalog.end_snapshot(second.generation)
        catalog.commit()
        assert catalog.inode(NUMBERS[0]) is None
        assert catalog.inode(at(first.generation, NUMBERS[0])) is not None


def test_name_is_read_once_until_it_is_another(statements: list[str]) -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        catalog.commit()
        statements.clear()
        for name, ino in ((b"a", NUMBERS[0]), (b"b", NUMBERS[1])):
            assert catalog.name(ROOT_INO, name) is None
            catalog.put_name(ROOT_INO, name, ino)
            found = catalog.name(ROOT_INO, name)
            assert found is not None
            assert found.ino == ino
        catalog.drop_name(ROOT_INO, b"a")
        assert catalog.name(ROOT_INO, b"a") is None
        catalog.put_name(ROOT_INO, b"b", NUMBERS[2])
        found = catalog.name(ROOT_INO, b"b")
        assert found is not None
        assert found.ino == NUMBERS[2]
        assert sum("FROM r_name" in sql and sql.lstrip().startswith("SELECT") for sql in statements) == 2


def test_name_of_a_savepoint_that_failed_is_read_again() -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        with pytest.raises(Stop), catalog.savepoint():
            catalog.put_name(ROOT_INO, b"a", NUMBERS[0])
            raise Stop
        assert catalog.name(ROOT_INO, b"a") is None


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


def test_numbers_that_go_together_are_runs_and_wait_again_when_undone() -> None:
    gone = GoneBehind()
    for number in (5, 3, 9, 4):
        gone.add(number)
    assert gone.runs() == [(3, 5), (9, 9)]
    mark = gone.mark()
    gone.add(10)
    gone.done(is_marked=True)
    assert not gone
    assert gone.undo(mark)
    assert gone.runs() == [(3, 5), (9, 9)]
    assert not gone.undo(mark)
    gone.done(is_marked=False)
    assert not gone
    assert gone.mark() == (0, 0)
