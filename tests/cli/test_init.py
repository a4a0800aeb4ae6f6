"""`init`, `id` and `config`: the verbs that work on a home alone."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bitdustfs.core.keys import owner_id, owner_key, public_bytes, volume_keys
from bitdustfs.core.phrase import fingerprint, secret_of
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.model import NodeId, OwnerId, Supplier, SupplierNo
from tests.cli.conftest import Call, contents

ANNA = Supplier(
    supplier=SupplierNo(1),
    node=NodeId(b"n" * 32),
    owner=OwnerId(b"o" * 32),
    label="anna",
    address="192.0.2.7:4878",
    contract=b"",
    capacity_bytes=1,
    capacity_fragments=1,
    used_bytes=0,
    used_fragments=0,
)
PROGRAM = [sys.executable, "-m", "bitdustfs.cli.main"]


def test_init_without_a_terminal_refuses_and_makes_nothing(tmp_path: Path, call: Call) -> None:
    said = call("--home", tmp_path / "home", "init")
    assert said.code == 2
    assert "--words-file" in said.err
    assert not (tmp_path / "home").exists()


def test_init_writes_the_words_where_only_the_owner_reads_them(tmp_path: Path, home: Path) -> None:
    assert (tmp_path / "words").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "words").read_text().split()) == 24


def test_the_words_give_the_same_keys_and_are_not_in_the_home(tmp_path: Path, home: Path) -> None:
    secret = secret_of((tmp_path / "words").read_text())
    kept = read_keys(Home(home))
    assert kept.volume == volume_keys(secret)
    assert identity_of(kept).owner == owner_id(public_bytes(owner_key(secret)))
    everything = b"".join(content or b"" for content in contents(home).values())
    assert secret.content not in everything
    assert owner_key(secret).private_bytes_raw() not in everything
    assert (tmp_path / "words").read_bytes().split()[0] not in everything


def test_init_does_not_overwrite_a_words_file(tmp_path: Path, call: Call) -> None:
    (tmp_path / "words").write_text("mine")
    said = call("--home", tmp_path / "home", "init", "--words-file", tmp_path / "words")
    assert said.code == 11
    assert (tmp_path / "words").read_text() == "mine"
    assert not (tmp_path / "home").exists()


def test_init_does_not_touch_a_home_that_has_keys(tmp_path: Path, home: Path, call: Call) -> None:
    before = contents(home)
    said = call("--home", home, "init", "--words-file", tmp_path / "other-words")
    assert said.code == 11
    assert contents(home) == before
    assert not (tmp_path / "other-words").exists()


@pytest.mark.parametrize(
    ("left", "advice"), [((), "put them back"), (("recovering",), "a recovery was interrupted here")]
)
def test_init_does_not_make_keys_beside_the_catalog_of_another_volume(
    tmp_path: Path, call: Call, left: tuple[str, ...], advice: str
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for name in left:
        (home / name).touch()
    (home / "catalog.db").write_bytes(b"of a volume whose keys are elsewhere")
    before = contents(home)
    said = call("--home", home, "init", "--words-file", tmp_path / "words")
    assert said.code == 11
    assert advice in said.err
    assert contents(home) == before
    assert not (tmp_path / "words").exists()
    (home / "catalog.db").write_bytes(b"")  # nothing is in it
    assert call("--home", home, "init", "--words-file", tmp_path / "words").code == 0


@pytest.mark.slow
def test_init_shows_the_words_once_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(
        [*PROGRAM, "--home", str(tmp_path / "home"), "init"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        check=True,
    )
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        shown = terminal.read(16 * 1024).decode()
    numbered = {int(place): word for place, word in re.findall(r"(\d+)\. ([a-z]+)", shown)}
    phrase = " ".join(numbered[place] for place in range(1, 25))
    assert read_keys(Home(tmp_path / "home")).volume == volume_keys(secret_of(phrase))


def test_init_writes_a_sheet_with_the_words_where_only_the_owner_reads_it(tmp_path: Path, call: Call) -> None:
    said = call("--home", tmp_path / "home", "init", "--sheet", tmp_path / "sheet")
    assert said.code == 0
    assert (tmp_path / "sheet").stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "sheet").read_text()
    numbered = {int(place): word for place, word in re.findall(r"(\d+)\. ([a-z]+)", text.partition("█")[0])}
    words = " ".join(numbered[place] for place in range(1, 25))
    kept = read_keys(Home(tmp_path / "home"))
    assert kept.volume == volume_keys(secret_of(words))
    assert fingerprint(identity_of(kept).owner) in text
    assert words not in said.out


def test_init_writes_words_and_sheet_of_one_phrase(tmp_path: Path, call: Call) -> None:
    files = ("--words-file", tmp_path / "words", "--sheet", tmp_path / "sheet")
    assert call("--home", tmp_path / "home", "init", *files).code == 0
    words = (tmp_path / "words").read_text().split()
    text = (tmp_path / "sheet").read_text().replace("\n", " ")
    assert all(f"{place}. {word} " in text for place, word in enumerate(words, start=1))


@pytest.mark.parametrize("flags", [("--words-file", "--sheet"), ("--sheet", "--words-file")])
def test_init_that_may_not_write_one_paper_leaves_none(tmp_path: Path, call: Call, flags: tuple[str, str]) -> None:
    missing = tmp_path / "missing" / "file"
    said = call("--home", tmp_path / "home", "init", flags[0], tmp_path / "paper", flags[1], missing)
    assert said.code == 10
    assert not (tmp_path / "paper").exists()
    assert not (tmp_path / "home" / "keys").exists()


def test_sheet_is_never_written_over_a_file(tmp_path: Path, home: Path, call: Call) -> None:
    (tmp_path / "sheet").write_text("mine")
    assert call("--home", tmp_path / "new", "init", "--sheet", tmp_path / "sheet").code == 11
    assert call("--home", home, "sheet", tmp_path / "sheet").code == 11
    assert (tmp_path / "sheet").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_sheet_names_the_hired_suppliers_and_none_of_the_words(tmp_path: Path, home: Path, call: Call) -> None:
    with closing(SqliteCatalog(home / "catalog.db", create=True)) as catalog:
        catalog.put_supplier(ANNA)
        catalog.commit()
    before = contents(home)
    said = call("--home", home, "sheet")
    assert said.code == 0
    assert "anna" in said.out
    assert f"{ANNA.node.hex()}@" in said.out
    assert "192.0.2.7:4878" in said.out
    assert "24. " not in said.out and "█" not in said.out
    assert call("--home", home, "sheet", tmp_path / "sheet").code == 0
    assert (tmp_path / "sheet").read_text() == said.out
    assert (tmp_path / "sheet").stat().st_mode & 0o777 == 0o600
    assert contents(home).keys() - before.keys() <= {"lock", "catalog.db-wal", "catalog.db-shm"}


def test_id_prints_who_this_home_is(home: Path, call: Call) -> None:
    identity = identity_of(read_keys(Home(home)))
    assert call("--home", home, "id", "--owner").out == identity.owner.hex() + "\n"
    assert call("--home", home, "id", "--node").out == identity.node.hex() + "\n"
    assert json.loads(call("id", "--home", home, "--json").out) == {
        "owner": identity.owner.hex(),
        "node": identity.node.hex(),
    }


def test_config_sets_gets_and_lists(home: Path, call: Call) -> None:
    assert call("--home", home, "config", "set", "give.size", "5G").code == 0
    assert call("--home", home, "config", "get", "give.size").out == "5 GiB\n"
    assert json.loads(call("--home", home, "config", "list", "--json").out)["give.size"] == "5 GiB"
    assert (home / "config.toml").stat().st_mode & 0o777 == 0o600


def test_config_refuses_an_unknown_key_with_the_nearest_known_one(home: Path, call: Call) -> None:
    said = call("--home", home, "config", "set", "lisen", "0.0.0.0:1")
    assert said.code == 2
    assert said.err == "bitdustfs: there is no key 'lisen': did you mean 'give.listen'? See `bitdustfs config list`\n"
    renamed = call("--home", home, "config", "set", "donate", "5G")
    assert (renamed.code, renamed.err) == (
        2,
        "bitdustfs: the key 'donate' is called 'give.size' now: write that one\n",
    )
    assert not (home / "config.toml").exists()
