"""A damaged catalog is told what is wrong with it, and mending it takes nothing away that could be read."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from bitdustfs.edges.catalog_repair import check, repair, trust
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.collector import is_kept_back
from bitdustfs.errors import CatalogDamaged
from bitdustfs.model import NO_BLOCK
from tests.edges import damage as damages
from tests.edges.damage import Path_

SEEDS = 200
AT_ONCE = 10  # seeds of one test
IN_EVERY_RUN = 20
Whole = tuple[Path, list[Path_], set[object]]  # a sound catalog, its files, and what is in them


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    path = tmp_path_factory.mktemp("sound") / "catalog.db"
    paths = damages.build(path)
    return path, paths, damages.found_by_name(path, paths)


def test_sound_catalog_has_no_findings(whole: Whole) -> None:
    path, paths, contents = whole
    assert len(contents) == len(paths)
    assert damages.found_by_listing(path) == contents
    assert check(path).is_sound


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=[] if first < IN_EVERY_RUN else pytest.mark.long)
        for first in range(0, SEEDS, AT_ONCE)
    ],
)
def test_what_could_be_read_before_can_be_read_after_a_repair(whole: Whole, tmp_path: Path, first: int) -> None:
    sound, paths, contents = whole
    for seed in range(first, first + AT_ONCE):
        path = tmp_path / str(seed) / "catalog.db"
        path.parent.mkdir()
        shutil.copy(sound, path)
        what = f"seed {seed}: {damages.damage(path, seed)}"
        before = damages.found_by_name(path, paths) & contents
        try:
            done = repair(path, path.parent / "copy", now_ns=7)
        except CatalogDamaged:
            assert not before, what
            continue
        assert not before - damages.found_by_listing(path), what
        assert not [finding for finding in done.left if finding.is_mendable], f"{what}: {done.left}"
        with closing(SqliteCatalog(path)):  # as a mount does
            pass


@pytest.mark.slow
def test_what_is_missing_after_a_repair_keeps_suppliers_from_letting_go(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    shutil.copy(whole[0], path)
    with closing(SqliteCatalog(path)) as catalog:
        catalog._change("DELETE FROM r_chunk WHERE block = 1")
        catalog.commit()
    done = repair(path, tmp_path / "copy", now_ns=7)
    assert done.left
    with closing(SqliteCatalog(path)) as catalog:
        assert catalog.dead_blocks(1, NO_BLOCK), "it seems to hold nothing"
        assert is_kept_back(catalog)
    trust(path)
    with closing(SqliteCatalog(path)) as catalog:
        assert not is_kept_back(catalog)


def test_repair_after_which_nothing_is_missing_keeps_nothing_back(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    shutil.copy(whole[0], path)
    with closing(SqliteCatalog(path)) as catalog:
        catalog._change("UPDATE r_block SET held = 0 WHERE block = 1")
        catalog.commit()
    assert not repair(path, tmp_path / "copy", now_ns=7).left
    with closing(SqliteCatalog(path)) as catalog:
        assert not is_kept_back(catalog)
