"""Snapshots of the volume in the catalog: what they show and cost, and what goes with them; against a model."""

from __future__ import annotations

import random
import stat
from collections import Counter
from contextlib import closing
from dataclasses import replace

import apsw
import pytest

from bitdustfs.core.holding import Held
from bitdustfs.core.past import at
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.model import CHUNK_BYTES, HOLE, ROOT_INO, ChunkNo, Cookie, DeadKey, Ino, Inode, MapRow, SnapshotKind
from tests.edges.catalog_rows import DIRECTORY, FILE, block, chunk, file, keep_generation, replicated_rows

VERSIONED = ("r_inode", "r_name", "r_xattr", "r_map")
CHUNKS = 6
Tree = dict[bytes, tuple[Inode, tuple[tuple[bytes, bytes], ...], tuple[MapRow, ...]]]


@pytest.fixture
def catalog() -> SqliteCatalog:
    """A root, a block with some chunks, and a file `a` that has the first of them."""
    made = SqliteCatalog(":memory:")
    made.put_inode(DIRECTORY)
    made.put_block(block(made.new_block_no()))
    made.put_chunks([chunk(made.new_chunk_no(), slot=slot) for slot in range(CHUNKS)])
    for ino in range(2, 8):
        assert made.new_ino() == ino
    made.put_inode(FILE)
    made.put_name(ROOT_INO, b"a", FILE.ino)
    made.put_xattr(FILE.ino, b"user.x", b"1")
    made.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(1)), MapRow(1, 3, HOLE)], first=0, last=3)
    made.commit()
    return made


def shown(catalog: SqliteCatalog, generation: int = 0) -> Tree:
    """What a root directory shows; now, or in a generation."""
    root = at(generation, ROOT_INO) if generation else ROOT_INO
    found: Tree = {}
    after = Cookie(0)
    while page := catalog.names(root, after, 2):
        for name, inode in page:
            assert catalog.name(root, name.name) == name
            assert catalog.inode(name.ino) == inode
            xattrs = tuple(catalog.xattrs(inode.ino))
            assert all(catalog.xattr(inode.ino, key) == value for key, value in xattrs)
            rows = tuple(catalog.map_rows(inode.ino, 0, 99))
            assert all(catalog.map_rows(inode.ino, row.index, row.index) == [row] for row in rows)
            chunks = [(row.index, catalog.chunk(row.chunk)) for row in rows if row.chunk != HOLE]
            assert catalog.placed(inode.ino, 0, 99) == [each for each in chunks if each[1] is not None]
            found[name.name] = replace(inode, ino=Ino(inode.ino & (1 << 40) - 1)), xattrs, rows
        after = page[-1][0].cookie
    return found


def delete(catalog: SqliteCatalog, generation: int, *, limit: int = 2) -> None:
    catalog.end_snapshot(generation)
    after: DeadKey | None = catalog.free_snapshot(generation, None, limit)
    while after is not None:
        after = catalog.free_snapshot(generation, after, limit)


def held_runs(catalog: SqliteCatalog, *, limit: int = 2) -> Held:
    runs: Counter[tuple[int, int] | None] = Counter()
    page, after = catalog.held_chunks(None, limit)
    while after is not None:
        for run, length in page:
            runs[run] += length
        page, after = catalog.held_chunks(after, limit)
    assert not page
    return Held({run: length for run, length in runs.items() if run is not None}, runs[None])


def held(catalog: SqliteCatalog, generation: int | None) -> int:
    found = held_runs(catalog)
    return found.freed(generation, generation) if generation is not None else found.total


def closed_rows(catalog: SqliteCatalog, where: str = "1") -> int:
    """How many rows are not of now, and of these, how many of which that is true."""
    found = [f"SELECT 1 FROM {table} AS t WHERE died <> {LIVE} AND {where}" for table in VERSIONED]
    return len(catalog.connection.execute(" UNION ALL ".join(found)).fetchall())


def needed_rows(catalog: SqliteCatalog) -> int:
    """How many of them some snapshot that is not gone has."""
    kept = "SELECT 1 FROM r_snapshot WHERE NOT gone AND born <= generation AND generation < died"
    return closed_rows(catalog, f"EXISTS ({kept})")


def test_rows_of_a_version_to_come_are_left_out_and_what_is_shown_is_not(catalog: SqliteCatalog) -> None:
    catalog.put_inode(replace(FILE, size=CHUNK_BYTES + 1, version=1))
    catalog.replace_map(FILE.ino, [MapRow(index, 1, ChunkNo(index + 1)) for index in range(4)], first=0, last=3)
    older = keep_generation(catalog)
    catalog.put_inode(replace(FILE, size=2 * CHUNK_BYTES, version=2))
    newer = keep_generation(catalog)
    delete(catalog, newer)
    catalog.leave_out(newer, FILE.ino, 0, 99)
    assert [row.index for row in catalog.map_rows(at(older, FILE.ino), 0, 99)] == [0, 1]
    assert [row.index for row in catalog.map_rows(FILE.ino, 0, 99)] == [0, 1, 2, 3]
    catalog.drop_name(ROOT_INO, b"a")
    catalog.drop_inode(FILE.ino)
    lengths = [row.length for number in (1, 2) if (row := catalog.chunk(ChunkNo(number))) is not None]
    assert held(catalog, None) == sum(lengths)


def test_chunk_that_came_back_is_held_from_the_oldest_to_the_newest_snapshot_that_has_it(
    catalog: SqliteCatalog,
) -> None:
    generations = []
    for number in (1, 2, 1, 3):
        catalog.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(number))], first=0, last=3)
        generations.append(keep_generation(catalog))
    catalog.replace_map(FILE.ino, [], first=0, last=3)
    one, two, three, four = generations
    lengths = [row.length for number in (1, 2, 3) if (row := catalog.chunk(ChunkNo(number))) is not None]
    assert held_runs(catalog).runs == dict(zip([(one, three), (two, two), (four, four)], lengths, strict=True))


def test_what_a_fork_has_is_held_by_no_snapshot_until_a_person_has_chosen(catalog: SqliteCatalog) -> None:
    """It was told as what only snapshots have, and whoever looked for it found none to delete."""
    catalog.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(1)), MapRow(1, 1, ChunkNo(2))], first=0, last=3)
    snapshot = keep_generation(catalog)
    catalog.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(3)), MapRow(1, 1, ChunkNo(2))], first=0, last=3)
    fork = catalog.make_snapshot("beside", 0, SnapshotKind.FORK).generation
    catalog.replace_map(FILE.ino, [], first=0, last=3)
    one, two, three = (row.length for number in (1, 2, 3) if (row := catalog.chunk(ChunkNo(number))) is not None)
    assert held_runs(catalog) == Held({(snapshot, snapshot): one}, two + three)
    catalog.change_snapshot(fork, "beside", SnapshotKind.BY_PERSON)
    runs = {(snapshot, snapshot): one, (snapshot, fork): two, (fork, fork): three}
    assert held_runs(catalog) == Held(runs)


# --- what a snapshot shows ------------------------------------------------------------------------------------


def test_snapshot_shows_what_was_there_whatever_comes_after(catalog: SqliteCatalog) -> None:
    before = shown(catalog)
    generation = keep_generation(catalog)
    catalog.put_inode(replace(FILE, size=1, mode=stat.S_IFREG | 0o600))
    catalog.put_xattr(FILE.ino, b"user.x", b"2")
    catalog.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(2))], first=0, last=3)
    catalog.put_name(ROOT_INO, b"b", FILE.ino)
    assert shown(catalog, generation) == before
    catalog.drop_name(ROOT_INO, b"a")
    catalog.drop_name(ROOT_INO, b"b")
    catalog.drop_inode(FILE.ino)
    assert shown(catalog) == {}
    assert shown(catalog, generation) == before
    assert [name.name for name in catalog.names_of(at(generation, FILE.ino))] == [b"a"]


def test_file_that_was_never_published_is_not_in_a_snapshot(catalog: SqliteCatalog) -> None:
    catalog.put_inode(file(8, version=0))
    catalog.put_name(ROOT_INO, b"new", Ino(8))
    generation = keep_generation(catalog)
    catalog.put_inode(file(8, version=1))
    assert set(shown(catalog, generation)) == {b"a"}
    assert catalog.name(at(generation, ROOT_INO), b"new") is None


def test_file_that_replaces_another_and_was_not_published_shows_the_other(catalog: SqliteCatalog) -> None:
    catalog.put_inode(file(8, version=0))
    before = shown(catalog)
    catalog.put_name(ROOT_INO, b"a", Ino(8), superseded=FILE.ino)
    generation = keep_generation(catalog)
    catalog.put_name(ROOT_INO, b"a", Ino(8))
    catalog.drop_inode(FILE.ino)
    assert shown(catalog, generation) == before


def test_many_files_that_are_not_shown_do_not_end_a_listing(catalog: SqliteCatalog) -> None:
    for number in range(20, 30):
        catalog.put_inode(file(number, version=0))
        catalog.put_name(ROOT_INO, b"%d" % number, Ino(number))
    catalog.put_inode(file(30))
    catalog.put_name(ROOT_INO, b"last", Ino(30))
    assert set(shown(catalog, keep_generation(catalog))) == {b"a", b"last"}


def test_number_of_the_past_is_no_inode_of_another_generation(catalog: SqliteCatalog) -> None:
    generation = keep_generation(catalog)
    catalog.put_inode(file(8))
    catalog.put_name(ROOT_INO, b"b", Ino(8))
    assert catalog.inode(at(generation, Ino(8))) is None
    assert catalog.name(at(generation, ROOT_INO), b"b") is None
    assert catalog.map_rows(at(generation, Ino(8)), 0, 9) == []
    assert catalog.xattr(at(generation, Ino(8)), b"user.x") is None


# --- what it costs --------------------------------------------------------------------------------------------


def test_snapshot_itself_is_less_than_a_kibibyte_of_changes(catalog: SqliteCatalog) -> None:
    rows = replicated_rows(catalog)
    catalog.make_snapshot("before the great cleaning-up", 1_795_000_000_000_000_000, SnapshotKind.BY_PERSON)
    catalog.commit()
    ((_, changes),) = catalog.outbox(catalog.last_change - 1, 1)
    assert len(changes) < 1024
    assert {table for table, now in replicated_rows(catalog).items() if now != rows[table]} == {
        "r_counter",
        "r_snapshot",
    }


def test_without_snapshots_nothing_is_kept_and_no_statement_is_added(catalog: SqliteCatalog) -> None:
    first, second = SqliteCatalog(":memory:"), SqliteCatalog(":memory:")
    delete(second, keep_generation(second))
    done: list[list[str]] = []
    for each in (first, second):
        statements: list[str] = []
        done.append(statements)
        each.connection.exec_trace = lambda _cursor, sql, _bindings, to=statements: to.append(sql) or True
        each.put_inode(DIRECTORY)
        each.put_inode(FILE)
        each.put_inode(replace(FILE, size=1))
        each.put_name(ROOT_INO, b"a", FILE.ino)
        each.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(1))], first=0, last=0)
        each.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(2))], first=0, last=0)
        each.drop_inode(FILE.ino)
        each.connection.exec_trace = None
        assert closed_rows(each) == 0
    assert [sql for sql in done[0] if "r_snapshot" in sql] == []
    assert len(done[1]) <= len(done[0]) + 1  # once it is asked which snapshot is the newest


def test_what_is_made_after_a_snapshot_costs_no_more_statements_than_before_it(catalog: SqliteCatalog) -> None:
    counts = []
    for ino in (20, 30):
        catalog.put_inode(replace(DIRECTORY, size=ino))  # the directory itself is copied once
        assert catalog.kept_generation >= 0
        statements: list[str] = []
        catalog.connection.exec_trace = lambda _cursor, sql, _bindings, to=statements: to.append(sql) or True
        for each in range(ino, ino + 5):
            catalog.put_inode(file(each, version=0))
            catalog.put_name(ROOT_INO, b"%d" % each, Ino(each))
            catalog.put_inode(replace(DIRECTORY, size=each))
            catalog.replace_map(Ino(each), [MapRow(0, 1, ChunkNo(1))], first=0, last=0)
            catalog.put_inode(file(each))
        catalog.connection.exec_trace = None
        counts.append(len(statements))
        keep_generation(catalog)
    assert counts[0] == counts[1]


def test_row_of_after_the_newest_snapshot_is_changed_in_place_when_that_is_gone(catalog: SqliteCatalog) -> None:
    keep_generation(catalog)
    second = keep_generation(catalog)
    catalog.put_inode(file(8))
    catalog.end_snapshot(second)
    keep_generation(catalog)
    catalog.end_snapshot(catalog.generation - 1)
    catalog.put_inode(file(8, size=1))
    assert catalog.connection.execute("SELECT born, died, size FROM r_inode WHERE ino = 8").fetchall() == [
        (catalog.generation, LIVE, 1)
    ]


# --- what goes with it ----------------------------------------------------------------------------------------


def test_chunks_that_only_a_deleted_snapshot_had_are_loose(catalog: SqliteCatalog) -> None:
    generation = keep_generation(catalog)
    catalog.drop_name(ROOT_INO, b"a")
    catalog.drop_inode(FILE.ino)
    assert catalog.loose_chunks(ChunkNo(0), 9) == [(1, True)]
    catalog.settle_chunks([ChunkNo(1)])
    assert held(catalog, generation) == held(catalog, None) == 4096
    delete(catalog, generation)
    assert catalog.loose_chunks(ChunkNo(0), 9) == [(1, False)]
    assert list(catalog.snapshots()) == []
    assert closed_rows(catalog) == 0


def test_deleting_goes_on_where_it_was_after_a_restart(catalog: SqliteCatalog) -> None:
    first = keep_generation(catalog)
    catalog.drop_inode(FILE.ino)
    catalog.end_snapshot(first)
    assert [each.is_gone for each in catalog.snapshots()] == [True]
    assert catalog.free_snapshot(first, None, 1) is not None
    assert catalog.snapshots()  # it goes last
    delete(catalog, first)
    assert (list(catalog.snapshots()), closed_rows(catalog)) == ([], 0)


def test_what_gone_neighbours_have_is_taken_away_at_once(catalog: SqliteCatalog) -> None:
    kept = [keep_generation(catalog)]
    for size in range(1, 9):
        catalog.put_inode(replace(FILE, size=size))
        kept.append(keep_generation(catalog))
    catalog.drop_inode(FILE.ino)
    before = {each: shown(catalog, each) for each in (kept[1], kept[7])}
    for each in kept[2:7]:
        catalog.end_snapshot(each)
    rows = closed_rows(catalog)
    delete(catalog, kept[2])  # the oldest goes first; the others find nothing left
    assert closed_rows(catalog) == rows - 5
    for each in kept[2:7]:
        delete(catalog, each)
    assert closed_rows(catalog) == rows - 5 == needed_rows(catalog)
    assert {each: shown(catalog, each) for each in before} == before


def test_snapshots_are_asked_for_once_until_they_change(catalog: SqliteCatalog) -> None:
    first = keep_generation(catalog)
    catalog.commit()
    told: list[str] = []
    catalog.connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: told.append(event["sql"]))
    assert [[each.generation for each in catalog.snapshots()] for _ in range(3)] == [[first]] * 3
    assert len([each for each in told if "FROM r_snapshot" in each]) == 1  # as often as anything of the past is read
    second = keep_generation(catalog)
    assert [each.generation for each in catalog.snapshots()] == [first, second]
    with pytest.raises(ZeroDivisionError), catalog.savepoint():
        catalog.end_snapshot(first)
        assert [each.is_gone for each in catalog.snapshots()] == [True, False]
        raise ZeroDivisionError
    assert [each.is_gone for each in catalog.snapshots()] == [False, False]
    delete(catalog, first)
    assert [each.generation for each in catalog.snapshots()] == [second]


def test_snapshot_that_was_undone_is_not_there(catalog: SqliteCatalog) -> None:
    generation = keep_generation(catalog)
    with pytest.raises(ZeroDivisionError), catalog.savepoint():
        catalog.end_snapshot(generation)
        raise ZeroDivisionError
    assert catalog.kept_generation == generation
    with pytest.raises(RuntimeError), catalog.savepoint():
        keep_generation(catalog)


def test_whether_something_changed_since_the_newest_snapshot_is_known(catalog: SqliteCatalog) -> None:
    assert catalog.is_changed_since_snapshot() is True  # there is none
    generation = keep_generation(catalog)
    assert catalog.is_changed_since_snapshot() is False
    catalog.put_inode(replace(FILE, atime_ns=5))
    assert catalog.is_changed_since_snapshot() is True
    generation = keep_generation(catalog)
    assert catalog.is_changed_since_snapshot() is False
    catalog.end_snapshot(generation)
    assert catalog.is_changed_since_snapshot() is True


# --- at random, against a model -------------------------------------------------------------------------------


class Story:
    """Random work on a tree, with snapshots that come and go; what each showed is remembered."""

    def __init__(self, seed: int) -> None:
        self.catalog = SqliteCatalog(":memory:")
        self.dice = random.Random(seed)
        self.catalog.put_inode(DIRECTORY)
        self.catalog.put_block(block(self.catalog.new_block_no()))
        chunks = [chunk(self.catalog.new_chunk_no(), slot=slot) for slot in range(CHUNKS)]
        self.catalog.put_chunks([replace(each, length=1 << each.slot) for each in chunks])
        self.kept: dict[int, Tree] = {}

    def step(self) -> None:
        dice, catalog = self.dice, self.catalog
        name, ino = b"%d" % dice.randrange(4), Ino(100 + dice.randrange(5))
        match dice.randrange(8):
            case 0 | 1:
                catalog.put_inode(file(ino, size=dice.randrange(9), version=dice.choice([0, 1, 2, 3])))
                catalog.put_name(ROOT_INO, name, ino, superseded=Ino(dice.choice([0, 0, 101])))
            case 2:
                catalog.drop_name(ROOT_INO, name)
            case 3:
                catalog.drop_inode(ino)
            case 4:
                catalog.put_xattr(ino, b"user.%d" % dice.randrange(3), name)
            case 5:
                catalog.drop_xattr(ino, b"user.%d" % dice.randrange(3))
            case _:
                first = dice.randrange(8)
                last = dice.randrange(first, 8)
                rows = [MapRow(index, 1, ChunkNo(dice.randrange(1, CHUNKS + 1))) for index in range(first, last + 1)]
                hole = [MapRow(first, last - first + 1, HOLE)]
                catalog.replace_map(ino, dice.choice([rows, hole, []]), first=first, last=last)

    def work(self) -> None:
        for _ in range(self.dice.randrange(8)):
            if self.dice.random() < 0.8:
                self.step()
                continue
            try:
                with self.catalog.savepoint():
                    self.step()
                    self.step()
                    if self.dice.random() < 0.5:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
        if self.dice.random() < 0.3:
            generation = keep_generation(self.catalog)
            self.kept[generation] = shown(self.catalog, generation)
        if self.kept and self.dice.random() < 0.2:
            generation = self.dice.choice(sorted(self.kept))
            del self.kept[generation]
            if self.dice.random() < 0.7:
                delete(self.catalog, generation, limit=self.dice.choice([1, 3, 100]))
            else:
                self.catalog.end_snapshot(generation)  # a kill before anything was freed
        self.catalog.commit()

    def end(self) -> None:
        """Finish what deleting left."""
        for each in self.catalog.snapshots():
            if each.is_gone:
                delete(self.catalog, each.generation)

    def named(self) -> set[int]:
        """The chunks that what is kept, or is there now, names."""
        rows = self.catalog.connection.execute(
            f"""SELECT DISTINCT chunk FROM r_map WHERE chunk <> {HOLE} AND (died = {LIVE} OR EXISTS (
            SELECT 1 FROM r_snapshot WHERE NOT gone AND born <= generation AND generation < died))"""
        )
        return {int(number) for (number,) in rows.fetchall()}  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
def test_snapshots_show_what_was_there_and_nothing_else_is_kept(seed: int) -> None:
    story = Story(seed)
    for _ in range(40):
        story.work()
        assert {each: shown(story.catalog, each) for each in story.kept} == story.kept
    story.end()
    assert {each: shown(story.catalog, each) for each in story.kept} == story.kept
    assert closed_rows(story.catalog) == needed_rows(story.catalog)
    story.catalog.note_loose_chunks(ChunkNo(0), ChunkNo(CHUNKS))
    loose = {number for number, needed in story.catalog.loose_chunks(ChunkNo(0), 99) if not needed}
    assert loose == set(range(1, CHUNKS + 1)) - story.named()
    everything, left = story.named(), sorted(story.kept)
    while left:
        at_ = story.dice.randrange(len(left))
        neighbours = left[at_ : at_ + story.dice.randrange(1, 4)]
        left = [each for each in left if each not in neighbours]
        total, freed = held(story.catalog, None), held_runs(story.catalog).freed(neighbours[0], neighbours[-1])
        for generation in story.dice.sample(neighbours, len(neighbours)):
            delete(story.catalog, generation)
        gone = everything - story.named()
        everything -= gone
        assert freed == sum(1 << number - 1 for number in gone)
        assert held(story.catalog, None) == total - freed
    assert closed_rows(story.catalog) == 0


@pytest.mark.parametrize("seed", range(4))
def test_snapshots_are_the_same_in_a_catalog_that_was_made_from_changes(seed: int) -> None:
    story = Story(seed)
    for _ in range(30):
        story.work()
    with closing(SqliteCatalog(":memory:")) as copy:
        for _, changes in story.catalog.outbox(0, 1 << 40):
            apsw.Changeset.apply(changes, copy.connection)
        assert replicated_rows(copy) == replicated_rows(story.catalog)
        assert {each: shown(copy, each) for each in story.kept} == story.kept
