"""Each rule of a sound catalog: what breaks it is found, and mended where the rule says so."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_fsck import CheckedCatalog
from bitdustfs.edges.catalog_repair import check, repair
from bitdustfs.edges.catalog_rules import RULES
from bitdustfs.model import ROOT_INO, Cookie
from tests.edges import damage as damages
from tests.edges.catalog_rows import keep_generation

FILE = "(SELECT min(ino) FROM r_map)"
NAME = "(SELECT min(cookie) FROM r_name WHERE ino = (SELECT min(ino) FROM r_map))"
DIRECTORY = "(SELECT ino FROM r_name WHERE name = CAST('d1' AS BLOB))"
REPLICA_BLOCK = "INSERT INTO l_block SELECT -1, 0, k, n, suite, scope, length, block_id, roots FROM r_block LIMIT 1"
REPLICA_FRAGMENT = "INSERT INTO l_fragment VALUES (-1, 0, 1, 1)"
REPLICA = (REPLICA_BLOCK, REPLICA_FRAGMENT, "UPDATE l_block SET held = 1")
FIFTH = "UPDATE r_counter SET value = 5 WHERE name = 'generation'"
BROKEN: Sequence[tuple[str, tuple[str, ...]]] = (
    ("rows of r_inode belong to no generation", (f"UPDATE r_inode SET born = 9 WHERE ino = {FILE}",)),
    ("rows of r_name belong to no generation", (f"UPDATE r_name SET died = 1 WHERE cookie = {NAME}",)),
    ("rows of r_xattr belong to no generation", ("UPDATE r_xattr SET born = 0",)),
    ("rows of r_map belong to no generation", (f"UPDATE r_map SET born = 9 WHERE ino = {FILE}",)),
    (
        "rows of r_inode are of no snapshot, and not of now",
        (
            FIFTH,
            "INSERT INTO r_inode SELECT ino + 5000, 2, 4, mode, uid, gid, nlink, size, atime_ns, mtime_ns, ctime_ns, "
            f"k, n, version, rdev, target FROM r_inode WHERE ino = {FILE}",
        ),
    ),
    (
        "rows of r_name are of no snapshot, and not of now",
        (FIFTH, "INSERT INTO r_name VALUES (1, 17, 2, 4, x'61', 5, 0)"),
    ),
    (
        "rows of r_xattr are of no snapshot, and not of now",
        (FIFTH, "INSERT INTO r_xattr VALUES (5, x'61', 2, 4, x'')"),
    ),
    ("rows of r_map are of no snapshot, and not of now", (FIFTH, "INSERT INTO r_map VALUES (5, 0, 2, 4, 1, 0)")),
    (
        "snapshots have a name or a kind that cannot be, or the name of another",
        (FIFTH, "INSERT INTO r_snapshot VALUES (2, 'a', 7, 1, 0), (3, 'a', 7, 9, 0), (4, '', 7, 1, 0)"),
    ),
    ("inodes have a code that cannot be", (f"UPDATE r_inode SET k = 4, n = 3 WHERE ino = {FILE}",)),
    ("inodes have a type or mode that there is not", (f"UPDATE r_inode SET mode = 420 WHERE ino = {FILE}",)),
    ("suppliers have a standing that there is not", ("UPDATE r_supplier SET standing = 9 WHERE supplier = 2",)),
    ("fragments have a state that there is not", ("UPDATE r_fragment SET state = 0 WHERE block = 1 AND idx = 1",)),
    (
        "fragments of the replica have a state that there is not",
        (*REPLICA, "UPDATE l_fragment SET state = 7", "UPDATE l_block SET held = 0"),
    ),
    ("fragments belong to no block or no supplier", ("DELETE FROM r_block WHERE block = 2",)),
    ("fragments of the replica belong to no block or no supplier", (REPLICA_FRAGMENT,)),
    ("blocks count their held fragments wrong", ("UPDATE r_block SET held = 1 WHERE block = 2",)),
    ("blocks of the replica count their held fragments wrong", (*REPLICA, "UPDATE l_block SET held = 3")),
    ("blocks count their live bytes wrong", ("UPDATE r_block SET live = live + 1 WHERE block = 2",)),
    ("blocks have a code, a suite or roots that cannot be", ("UPDATE r_block SET suite = 3 WHERE block = 2",)),
    (
        "blocks of the replica have a code, a suite or roots that cannot be",
        (*REPLICA, "UPDATE l_block SET block_id = x'00'"),
    ),
    (
        "fragments have nothing that they can be checked by",
        ("INSERT INTO r_fragment VALUES (1, 4, 1, 2)",),  # n was raised to 5 by somebody, and its root is not known
    ),
    (
        "fragments of the replica have nothing that they can be checked by",
        (*REPLICA, "INSERT INTO l_fragment VALUES (-1, -1, 2, 3)"),
    ),
    ("blocks are to be coded anew that are not there", ("INSERT INTO l_recode VALUES (77)",)),
    ("the root directory is gone", ("DELETE FROM r_inode WHERE ino = 1",)),
    ("files have bytes and no inode", (f"DELETE FROM r_inode WHERE ino = {FILE}",)),
    ("directories have names in them and no inode", (f"DELETE FROM r_inode WHERE ino = {DIRECTORY}",)),
    ("names show nothing", (f"UPDATE r_name SET ino = 7777 WHERE cookie = {NAME}",)),
    ("names keep a file that is gone", (f"UPDATE r_name SET superseded = 7777 WHERE cookie = {NAME}",)),
    ("names are not possible, or twice in one directory", (f"UPDATE r_name SET name = x'2e' WHERE cookie = {NAME}",)),
    ("names lie in what is no directory", (f"UPDATE r_name SET parent = {FILE} WHERE cookie = {NAME} + 1",)),
    (
        "directories have more than one name",
        (f"UPDATE r_name SET ino = {DIRECTORY} WHERE cookie = {NAME}",),
    ),
    (
        "directories lie in themselves",
        (f"UPDATE r_name SET parent = {DIRECTORY} WHERE ino = {DIRECTORY}",),
    ),
    ("files and directories have no name", (f"DELETE FROM r_name WHERE cookie = {NAME}",)),
    ("inodes count their names wrong", (f"UPDATE r_inode SET nlink = 5 WHERE ino = {FILE}",)),
    ("directories count what is in them wrong", (f"UPDATE r_inode SET size = 5 WHERE ino = {DIRECTORY}",)),
    *(
        (f"the counter {name} is behind", (f"UPDATE r_counter SET value = 0 WHERE name = '{name}'",))
        for name in ("ino", "cookie", "chunk", "block", "supplier", "generation")
    ),
    *(
        (f"the sum {name} is wrong", (f"UPDATE r_counter SET value = 7 WHERE name = '{name}'",))
        for name in ("inodes", "file_bytes")
    ),
    (
        "files have a chunk that is not where it should be: these bytes cannot be read",
        ("DELETE FROM r_chunk WHERE chunk = (SELECT min(chunk) FROM r_chunk)",),
    ),
    (
        "snapshots have a chunk that is not where it should be: these bytes cannot be read",
        (FIFTH, "INSERT INTO r_map VALUES (5, 0, 2, 4, 1, 7777)", "INSERT INTO r_snapshot VALUES (3, 'a', 7, 1, 0)"),
    ),
    ("files have a gap in their map: these bytes cannot be read", (f"DELETE FROM r_map WHERE ino = {FILE}",)),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "catalog.db"
    damages.build(path)
    return path


def test_every_rule_is_broken_here() -> None:
    assert [says for says, _ in BROKEN] == [rule.says for rule in RULES]


@pytest.mark.slow
@pytest.mark.parametrize(("says", "statements"), BROKEN, ids=[says[:60] for says, _ in BROKEN])
def test_what_breaks_a_rule_is_found_and_mended(
    sound: Path, tmp_path: Path, says: str, statements: Sequence[str]
) -> None:
    path = tmp_path / "catalog.db"
    shutil.copy(sound, path)
    with closing(CheckedCatalog(path)) as catalog:
        for statement in statements:
            catalog.connection.execute(statement)
    (found,) = [finding for finding in check(path).findings if finding.says == says]
    done = repair(path, tmp_path / "copy", now_ns=7)
    assert not [finding for finding in done.left if finding.is_mendable]
    assert (says in [finding.says for finding in done.left]) is not found.is_mendable


def test_what_lost_its_snapshot_gets_one_that_shows_it(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    shutil.copy(sound, path)
    with closing(CheckedCatalog(path)) as catalog:
        names = [name.name for name, _ in catalog.names(ROOT_INO, Cookie(0), 99)]
        generation = keep_generation(catalog)
        for name in names:
            catalog.drop_name(ROOT_INO, name)
        catalog.connection.execute("DELETE FROM r_snapshot")
        catalog.commit()
    repair(path, tmp_path / "copy", now_ns=7)
    with closing(CheckedCatalog(path)) as catalog:
        (made,) = catalog.snapshots()
        assert (made.generation, made.name, made.made_ns) == (generation, f"found-{generation}", 7)
        then = catalog.names(at(generation, ROOT_INO), Cookie(0), 99)
        assert [name.name for name, _ in then] == names


@pytest.mark.parametrize("lost", [("r_counter",), ("r_counter", "r_snapshot")])
def test_what_is_there_now_stays_when_nobody_knows_what_generation_it_is(
    sound: Path, tmp_path: Path, lost: Sequence[str]
) -> None:
    path = tmp_path / "catalog.db"
    shutil.copy(sound, path)
    with closing(CheckedCatalog(path)) as catalog:
        directory = catalog.names(ROOT_INO, Cookie(0), 1)[0][0].ino
        (goes, _), (shown, _), *_ = catalog.names(directory, Cookie(0), 99)
        generation = keep_generation(catalog)
        catalog.drop_name(directory, goes.name)
        catalog.drop_inode(goes.ino)
        catalog.put_name(directory, b"other", shown.ino)
        catalog.drop_name(directory, shown.name)
        inode = catalog.inode(shown.ino)
        assert inode is not None
        catalog.put_inode(replace(inode, mtime_ns=4711))
        names = [name.name for name, _ in catalog.names(directory, Cookie(0), 99)]
        catalog.commit()
        for table in lost:
            catalog.connection.execute(f"DELETE FROM {table}")
    repair(path, tmp_path / "copy", now_ns=7)
    with closing(CheckedCatalog(path)) as catalog:
        now = catalog.names(directory, Cookie(0), 99)
        assert [name.name for name, _ in now] == names
        assert [inode.mtime_ns for name, inode in now if name.name == b"other"] == [4711]
        assert catalog.generation > generation
        then = [name.name for name, _ in catalog.names(at(generation, directory), Cookie(0), 99)]
        assert then[:2] == [goes.name, shown.name]
