"""Change sets joined in any grouping rebuild the replicated rows of an empty catalog."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace

import apsw
import pytest

from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.unsent import find_notes
from bitdustfs.errors import BadFormat
from bitdustfs.model import ROOT_INO, Deeds, Ino, Inode, SnapshotKind
from bitdustfs.ports import Changes
from tests.edges.catalog_rows import FILE, file, keep_generation, replicated_rows
from tests.edges.catalog_work import Work

ALL = 1 << 40
CHANGES: Changes = SqliteChanges()


def merged_at_random(change_sets: list[bytes], dice: random.Random) -> list[bytes]:
    """The same change sets, neighbours merged here and there."""
    merged = []
    while change_sets:
        count = dice.randrange(1, 8)
        merged.append(CHANGES.merge(change_sets[:count]))
        change_sets = change_sets[count:]
    return [each for each in merged if each]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_change_sets_merged_in_any_grouping_rebuild_all_rows(seed: int) -> None:
    dice = random.Random(seed)
    with closing(SqliteCatalog(":memory:")) as original, closing(SqliteCatalog(":memory:")) as copy:
        Work(original, seed).do(commits=60)
        for changes in merged_at_random([changes for _, changes in original.outbox(0, ALL)], dice):
            apsw.Changeset.apply(changes, copy.connection)
        assert replicated_rows(copy) == replicated_rows(original)
        assert sum(len(rows) for rows in replicated_rows(original).values()) > 50


def test_merging_merged_change_sets_gives_the_same_as_merging_all_at_once() -> None:
    with closing(SqliteCatalog(":memory:")) as original, closing(SqliteCatalog(":memory:")) as copy:
        Work(original, 1).do(commits=60)
        change_sets = [changes for _, changes in original.outbox(0, ALL)]
        whole = CHANGES.merge([CHANGES.merge(change_sets[:30]), CHANGES.merge(change_sets[30:])])
        assert sorted(map(_row, apsw.Changeset.iter(whole))) == sorted(
            map(_row, apsw.Changeset.iter(CHANGES.merge(change_sets)))
        )
        apsw.Changeset.apply(whole, copy.connection)
        assert replicated_rows(copy) == replicated_rows(original)


def _row(change: apsw.TableChange) -> str:
    return f"{change.name} {change.op} {change.old} {change.new}"


def test_changes_that_undo_each_other_merge_to_nothing() -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        catalog.put_inode(FILE)
        catalog.commit()
        catalog.put_inode(file(8))
        catalog.commit()
        catalog.drop_inode(file(8).ino)
        catalog.commit()
        assert CHANGES.merge([changes for _, changes in catalog.outbox(1, ALL)]) == b""
    assert CHANGES.merge([]) == b""


def test_what_is_no_change_set_is_refused() -> None:
    with pytest.raises(BadFormat):
        CHANGES.merge([b"what is this?"])


@pytest.mark.slow
@pytest.mark.parametrize("most_bytes", [1, 100, 3000])
def test_change_set_that_was_cut_does_the_same_part_by_part(most_bytes: int) -> None:
    with closing(SqliteCatalog(":memory:")) as original, closing(SqliteCatalog(":memory:")) as copy:
        Work(original, 3).do(commits=60)
        whole = CHANGES.merge([changes for _, changes in original.outbox(0, ALL)])
        parts = CHANGES.split(whole, most_bytes)
        assert len(parts) > len(whole) // max(most_bytes, 1000) > 0
        for part in parts:
            apsw.Changeset.apply(part, copy.connection)
        assert replicated_rows(copy) == replicated_rows(original)
        assert CHANGES.split(whole, len(whole)) == [whole]
        assert CHANGES.split(b"", most_bytes) == []


def test_deeds_of_change_sets_are_told_by_inode() -> None:
    catalog = SqliteCatalog(":memory:")
    for number in (10, 11, 12, 13):
        catalog.put_inode(Inode(Ino(number), 0o100644, 0, 0, 1, 0, 1, 1, 1, version=1))
        catalog.put_name(ROOT_INO, b"%d" % number, Ino(number))
    catalog.commit()
    before = catalog.last_change
    for inode in map(catalog.inode, (Ino(10), Ino(11))):
        assert inode is not None
        catalog.put_inode(replace(inode, version=2) if inode.ino == 10 else replace(inode, mode=0o100600))
    catalog.put_xattr(Ino(13), b"user.x", b"x")
    catalog.drop_name(ROOT_INO, b"12")
    catalog.commit()
    catalog.put_name(ROOT_INO, b"twelve", Ino(12))
    catalog.put_inode(Inode(Ino(14), 0o100644, 0, 0, 1, 0, 1, 1, 1))
    catalog.put_name(ROOT_INO, b"13", Ino(14))  # in the place of another
    catalog.put_inode(Inode(Ino(15), 0o100644, 0, 0, 1, 0, 1, 1, 1))
    catalog.commit()
    catalog.drop_inode(Ino(15))
    catalog.commit()
    deeds = CHANGES.deeds([changes for _, changes in catalog.outbox(before, 1 << 30)])
    assert deeds == Deeds(
        created=inos(14),
        rewritten=inos(10),
        altered=inos(11),
        named=inos(12, 14),
        unnamed=((ROOT_INO, b"12", Ino(12)),),
        hired=(),
        xattrs={(Ino(13), b"user.x"): None},
    )
    assert CHANGES.deeds([]) == Deeds(inos(), inos(), inos(), inos(), (), ())


def test_deeds_tell_the_snapshots_that_were_made_and_not_deleted() -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        catalog.put_inode(Inode(ROOT_INO, 0o40755, 0, 0, 2, 0, 1, 1, 1))
        catalog.commit()
        before = catalog.last_change
        catalog.make_snapshot("stays", 1, SnapshotKind.BY_PERSON)
        catalog.make_snapshot("by itself", 2, SnapshotKind.BY_ITSELF)
        catalog.end_snapshot(catalog.make_snapshot("goes", 3, SnapshotKind.BY_PERSON).generation)
        catalog.commit()
        assert CHANGES.deeds([changes for _, changes in catalog.outbox(before, ALL)]).kept == (
            "stays",
            "by itself",
        )


def test_deeds_tell_from_which_block_on_blocks_were_made() -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        catalog.new_block_no()
        catalog.commit()
        before = catalog.last_change
        assert CHANGES.deeds([changes for _, changes in catalog.outbox(before, ALL)]).first_block is None
        first = catalog.new_block_no()
        catalog.commit()
        catalog.new_block_no()
        catalog.commit()
        assert CHANGES.deeds([changes for _, changes in catalog.outbox(before, ALL)]).first_block == first


def test_what_goes_on_after_a_snapshot_was_not_created_by_it() -> None:
    catalog = SqliteCatalog(":memory:")
    for number in (10, 11):
        catalog.put_inode(Inode(Ino(number), 0o100644, 0, 0, 1, 0, 1, 1, 1, version=1))
    keep_generation(catalog)
    catalog.commit()
    before = catalog.last_change
    catalog.put_inode(Inode(Ino(10), 0o100644, 0, 0, 1, 5, 1, 1, 1, version=2))
    catalog.put_inode(Inode(Ino(12), 0o100644, 0, 0, 1, 0, 1, 1, 1))
    catalog.drop_inode(Ino(11))
    catalog.commit()
    deeds = CHANGES.deeds([changes for _, changes in catalog.outbox(before, ALL)])
    assert (deeds.created, deeds.rewritten) == (inos(12), inos(10))


def test_what_went_or_was_altered_after_a_snapshot_is_told_to_a_person() -> None:
    catalog = SqliteCatalog(":memory:")
    catalog.put_inode(Inode(ROOT_INO, 0o40755, 0, 0, 2, 0, 1, 1, 1))
    for number in (10, 11, 12, 13):
        catalog.put_inode(Inode(Ino(number), 0o100644, 0, 0, 1, 0, 1, 1, 1, version=1))
        catalog.put_name(ROOT_INO, b"%d" % number, Ino(number))
        catalog.put_xattr(Ino(number), b"user.x", b"x")
    kept = keep_generation(catalog)
    catalog.drop_name(ROOT_INO, b"13")
    catalog.drop_inode(Ino(13))
    catalog.commit()
    before = catalog.last_change
    catalog.drop_name(ROOT_INO, b"10")
    catalog.drop_inode(Ino(10))
    catalog.put_inode(Inode(Ino(11), 0o100600, 0, 0, 1, 0, 1, 1, 1, version=1))
    catalog.drop_name(ROOT_INO, b"12")
    catalog.put_name(ROOT_INO, b"twelve", Ino(12))
    catalog.put_inode(Inode(ROOT_INO, 0o40755, 0, 0, 2, 0, 1, 2, 2))
    catalog.commit()

    def told() -> list[str]:
        deeds = CHANGES.deeds([changes for _, changes in catalog.outbox(before, ALL)])
        return find_notes(catalog, SqliteCatalog(":memory:", create=True), deeds, [])

    assert told() == ["given another mode, owner or extended attribute: 11", "removed: 10", "renamed: 12 to twelve"]
    catalog.end_snapshot(kept)
    after = None
    while (after := catalog.free_snapshot(kept, after, 100)) is not None:
        pass
    catalog.commit()
    assert told() == ["removed: 10", "renamed: 12 to twelve"]  # and not what went long before, with the snapshot


def test_name_that_another_generation_does_not_show_is_not_told_as_given() -> None:
    with closing(SqliteCatalog(":memory:")) as catalog:
        catalog.put_inode(Inode(ROOT_INO, 0o40755, 0, 0, 2, 0, 1, 1, 1))
        for number in (10, 11):
            catalog.put_inode(Inode(Ino(number), 0o100644, 0, 0, 1, 0, 1, 1, 1, version=1))
            catalog.put_name(ROOT_INO, b"%d" % number, Ino(number))
        keep_generation(catalog)
        catalog.commit()
        before = catalog.last_change

        def told() -> list[str]:
            deeds = CHANGES.deeds([changes for _, changes in catalog.outbox(before, ALL)])
            return find_notes(catalog, SqliteCatalog(":memory:", create=True), deeds, [])

        name = catalog.name(ROOT_INO, b"10")
        assert name is not None
        catalog.drop_name_then(keep_generation(catalog), ROOT_INO, name.cookie)
        catalog.commit()
        assert told() == []
        catalog.put_name(ROOT_INO, b"10", Ino(11))
        catalog.commit()
        assert told() == ["given a further name: 10, 11"]


MODES = (0o100644, 0o100600)


def change_mode(catalog: SqliteCatalog, mode: int) -> None:
    catalog.put_inode(Inode(Ino(10), mode, 0, 0, 1, 0, 1, 1, catalog.last_change, version=1))
    catalog.commit()


def change_xattr(catalog: SqliteCatalog, value: bytes) -> None:
    catalog.put_xattr(Ino(10), b"user.x", value) if value else catalog.drop_xattr(Ino(10), b"user.x")
    catalog.commit()


def marked(steps: str, newer: bytes = b"1", newer_mode: int = MODES[0]) -> list[str]:
    """What is told of a file after steps: `s` a snapshot; a digit sets an attribute, `-` drops it; m, M are modes."""
    with closing(SqliteCatalog(":memory:")) as old, closing(SqliteCatalog(":memory:")) as new:
        for catalog, value, mode in ((old, b"1", MODES[0]), (new, newer, newer_mode)):
            catalog.put_inode(Inode(ROOT_INO, 0o40755, 0, 0, 2, 0, 1, 1, 1))
            catalog.put_name(ROOT_INO, b"f", Ino(10))
            change_mode(catalog, mode)
            change_xattr(catalog, value)
        if steps.startswith("s"):
            keep_generation(old)
            old.commit()
            steps = steps[1:]
        before = old.last_change
        for step in steps:
            if step == "s":
                keep_generation(old)
                old.commit()
            elif step in "mM":
                change_mode(old, MODES["mM".index(step)])
            else:
                change_xattr(old, step.encode().replace(b"-", b""))
        deeds = CHANGES.deeds([changes for _, changes in old.outbox(before, ALL)])
        return find_notes(old, new, deeds, [])


@pytest.mark.parametrize("steps", ["M", "sM", "MsM", "MsmsM", "2", "s2", "2s3", "-", "s-", "-s2", "s2s3"])
def test_file_that_has_other_attributes_than_before_is_told(steps: str) -> None:
    assert marked(steps) == ["given another mode, owner or extended attribute: f"]


@pytest.mark.parametrize(
    "steps",
    ["Mm", "sMm", "Msm", "MsMsm", "21", "s21", "2s1", "2s3s1", "-1", "s-1", "-s1", "s2s1", "s-s2s1"],
)
def test_file_that_has_the_attributes_again_that_it_had_is_not_told(steps: str) -> None:
    assert marked(steps, newer=b"9", newer_mode=0o100640) == []


@pytest.mark.parametrize("steps", ["M2", "sM2", "M2s"])
def test_attributes_that_the_newer_state_has_too_are_not_told(steps: str) -> None:
    assert marked(steps, newer=b"2", newer_mode=MODES[1]) == []
    told = ["given another mode, owner or extended attribute: f"]
    assert marked(steps, newer=b"2") == marked(steps, newer_mode=MODES[1]) == told


def inos(*numbers: int) -> frozenset[Ino]:
    return frozenset(Ino(number) for number in numbers)
