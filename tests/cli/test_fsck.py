"""`fsck` on a home that nobody uses."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from bitdustfs.cli.assemble_supplier import unlock
from bitdustfs.cli.checking_disk import Outcome, run_fsck
from bitdustfs.cli.fsck import EXIT_WRONG
from bitdustfs.core import contract, replica
from bitdustfs.core import head as heads
from bitdustfs.core.contract import NO_CONTRACT, Party, Terms
from bitdustfs.core.replica import HeadContent, SupplierEntry
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home, hold
from bitdustfs.edges.spool_disk import DiskSpool
from bitdustfs.engine.publisher import keep_head
from bitdustfs.errors import EXIT, CatalogDamaged, Kind, NotFound
from bitdustfs.model import BlockId, BlockNo, Ino, Suite
from bitdustfs.testing.swarm import make_identity
from tests.cli.conftest import Call
from tests.edges import damage


@pytest.fixture
def volume(home: Path) -> Home:
    """A home with a volume whose suppliers nobody can ask."""
    damage.build(home / "catalog.db")
    with closing(DiskSpool(home / "spool")):
        pass
    return Home(home)


def check(home: Home, *, repair: bool = False, salvage: bool = False) -> Outcome:
    with hold(home):
        return run_fsck(home, repair=repair, salvage=salvage, offline=True, say=lambda _text: None)


def spoil(home: Home, *statements: str) -> None:
    with closing(apsw.Connection(str(home.catalog))) as connection:
        for statement in statements:
            connection.execute(statement)


def test_sound_volume_is_called_sound(volume: Home) -> None:
    done = check(volume)
    assert not done.wrong
    assert "catalog: sound" in done.notes


def test_what_is_wrong_is_told_and_nothing_is_changed(volume: Home) -> None:
    spoil(volume, "DELETE FROM r_name WHERE cookie = 20", "UPDATE r_block SET held = 1 WHERE block = 2")
    before = volume.catalog.read_bytes()
    done = check(volume)
    assert [line for line in done.wrong if "have no name" in line]
    assert [line for line in done.wrong if "count their held fragments wrong (2)" in line]
    assert not done.mended
    assert done.copy is None
    assert volume.catalog.read_bytes() == before


@pytest.mark.slow
def test_repair_keeps_a_copy_and_puts_right_what_can_be(volume: Home) -> None:
    spoil(volume, "DELETE FROM r_name WHERE cookie = 20")
    before = volume.catalog.read_bytes()
    done = check(volume, repair=True)
    assert not done.wrong
    assert [line for line in done.mended if "have no name" in line]
    assert done.copy is not None
    assert (done.copy / "catalog.db").read_bytes() == before
    assert check(volume).notes[0] == "catalog: sound"
    with closing(apsw.Connection(str(volume.catalog))) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM r_name WHERE parent = 1").fetchall()]
    assert b"lost+found" in names


@pytest.mark.slow
def test_repair_reaches_the_suppliers_copy(volume: Home) -> None:
    spoil(volume, "DELETE FROM r_name WHERE cookie = 20", "DELETE FROM l_outbox")
    check(volume, repair=True)
    with closing(apsw.Connection(str(volume.catalog))) as connection:
        found = connection.execute(
            "SELECT 1 FROM l_outbox WHERE instr(changes, CAST('lost+found' AS BLOB))"
        ).fetchall()
    assert len(found) == 1


@pytest.mark.slow
def test_damaged_file_is_made_anew_only_on_demand(volume: Home) -> None:
    content = bytearray(volume.catalog.read_bytes())
    with closing(apsw.Connection(str(volume.catalog))) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'r_xattr'").fetchall()
    assert isinstance(root, int)
    content[(root - 1) * 4096 : root * 4096] = bytes(4096)
    volume.catalog.write_bytes(content)
    done = check(volume, repair=True)
    assert done.wrong
    assert "bitdustfs recover" in done.notes[0]
    assert volume.catalog.read_bytes() == content
    done = check(volume, repair=True, salvage=True)
    assert not done.wrong
    assert [line for line in done.mended if "rows of r_xattr may be gone" in line]
    assert check(volume).notes[0] == "catalog: sound"


def test_catalog_that_is_no_database_any_more_is_left_alone(volume: Home) -> None:
    volume.catalog.write_bytes(b"?" * 8192)
    with pytest.raises(CatalogDamaged):
        check(volume, repair=True, salvage=True)
    assert volume.catalog.read_bytes() == b"?" * 8192


@pytest.mark.slow
def test_suppliers_whose_rows_are_gone_come_back_with_their_contracts(volume: Home) -> None:
    friend = make_identity("friend")
    identity, secrets = unlock(volume)
    giver = Party(friend.owner, friend.node, 1 << 20, 7, friend.node)
    terms = Terms(1, NO_CONTRACT, 1_767_225_600, 0, Party(identity.owner, identity.node), giver)
    signed = contract.countersign(friend, contract.propose(identity, terms)).raw
    DiskContracts(volume.contracts).save_contract(friend.owner, signed)
    with closing(SqliteCatalog(volume.catalog)) as catalog:
        entries = [SupplierEntry(row.supplier, row.node, row.owner, row.label, "a:1") for row in catalog.suppliers()]
        entries[0] = SupplierEntry(1, friend.node, friend.owner, "friend", "a:1")
        content = HeadContent(replica.VERSION, 1, catalog.last_change, (), (), tuple(entries))
        sealed = replica.seal_head(secrets, content, BlockId(b"h" * 32), Suite.AES_256_GCM)
        made = heads.sign(identity, handle=secrets.handle, version=1, previous=heads.NO_HEAD, sealed=sealed)
        keep_head(catalog, made.raw)
        catalog.commit()
    spoil(volume, "DELETE FROM r_supplier")
    done = check(volume, repair=True)
    assert not done.wrong
    with closing(SqliteCatalog(volume.catalog)) as catalog:
        found = catalog.suppliers()
        assert [row.label for row in found] == ["friend", "s2", "s3", "s4"]
        assert [row.contract for row in found] == [signed, b"", b"", b""]
        assert (found[0].capacity_bytes, found[0].capacity_fragments) == (1 << 20, 7)
        assert catalog.fragments(BlockNo(1))


def test_suppliers_that_no_head_names_are_told_of_and_nothing_is_let_go(volume: Home) -> None:
    spoil(volume, "DELETE FROM r_supplier WHERE supplier = 3")
    done = check(volume, repair=True)
    assert [line for line in done.wrong if "of 1 supplier with fragments: hire them again" in line]
    assert [line for line in done.notes if "suppliers keep all that they have" in line]


def test_files_of_the_spool_that_are_gone_are_told(volume: Home) -> None:
    spoil(volume, "INSERT INTO l_file VALUES (9, 5, 1, 1, 5, 1, 0, 0, 0)")
    with closing(DiskSpool(volume.spool)) as spool:
        spool.write(Ino(77), 0, b"?")
    done = check(volume)
    assert [line for line in done.wrong if "inodes 9)" in line]
    assert [line for line in done.notes if "1 file that nothing needs" in line]


def test_home_without_a_catalog_is_refused(home: Path) -> None:
    with pytest.raises(NotFound):
        check(Home(home))


@pytest.mark.slow
def test_verb_exits_by_what_it_found(volume: Home, call: Call) -> None:
    command = [sys.executable, "-m", "bitdustfs.cli.main", "--home", str(volume), "fsck", "--offline"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    spoil(volume, "UPDATE r_block SET held = 1 WHERE block = 2")
    found = subprocess.run([*command, "--json"], capture_output=True, timeout=60, text=True)
    assert found.returncode == EXIT_WRONG
    assert json.loads(found.stdout)["wrong"]
    with hold(volume):
        assert call("--home", str(volume), "fsck").code == EXIT[Kind.BUSY]


@pytest.mark.slow
def test_verb_takes_the_directory_where_the_volume_was_mounted(volume: Home, tmp_path: Path, call: Call) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    command = [sys.executable, "-m", "bitdustfs.cli.main", "--home", str(volume), "fsck", "--offline", str(place)]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Nothing is mounted at {place}: this is about the volume in {volume}.\n" in done.stderr
    (place / "mine").touch()
    for directory in (place, place / "mine", place / "none", tmp_path):
        refused = call("--home", str(volume), "fsck", directory)
        assert refused.code == 2
        assert f"{directory} is neither a mount of bitdustfs nor an empty directory where one was" in refused.err
        assert f"to check the volume in {volume}, leave it out" in refused.err
