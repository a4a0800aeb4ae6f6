"""`init`, `id` and `config`: the verbs that work on a home alone."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from bitdustfs.core.keys import owner_id, owner_key, public_bytes, volume_keys
from bitdustfs.core.phrase import secret_of
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from tests.cli.conftest import Call, contents

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


def test_id_prints_who_this_home_is(home: Path, call: Call) -> None:
    identity = identity_of(read_keys(Home(home)))
    assert call("--home", home, "id", "--owner").out == identity.owner.hex() + "\n"
    assert call("--home", home, "id", "--node").out == identity.node.hex() + "\n"
    assert json.loads(call("id", "--home", home, "--json").out) == {
        "owner": identity.owner.hex(),
        "node": identity.node.hex(),
    }


def test_config_sets_gets_and_lists(home: Path, call: Call) -> None:
    assert call("--home", home, "config", "set", "donate", "5G").code == 0
    assert call("--home", home, "config", "get", "donate").out == "5 GiB\n"
    assert json.loads(call("--home", home, "config", "list", "--json").out)["donate"] == "5 GiB"
    assert (home / "config.toml").stat().st_mode & 0o777 == 0o600


def test_config_refuses_an_unknown_key_with_the_nearest_known_one(home: Path, call: Call) -> None:
    said = call("--home", home, "config", "set", "lisen", "0.0.0.0:1")
    assert said.code == 2
    assert said.err == "bitdustfs: there is no key 'lisen': did you mean 'listen'? See `bitdustfs config list`\n"
    assert not (home / "config.toml").exists()
