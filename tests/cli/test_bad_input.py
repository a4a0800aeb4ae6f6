"""Bad input: one clear sentence, an exit code by its kind, and nothing changed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import pytest

from bitdustfs.edges.home import Home, hold
from tests.cli.conftest import Call, contents

PROGRAM = [sys.executable, "-m", "bitdustfs.cli.main"]
NODE = "ab" * 32


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory."""
    made = tmp_path / "mnt"
    made.mkdir()
    return made


def _missing(home: Path) -> Path:
    return home.parent / "missing"


def _file(home: Path) -> Path:
    (home.parent / "file").touch()
    return home.parent / "file"


def _full(home: Path) -> Path:
    (home.parent / "full" / "x").mkdir(parents=True)
    return home.parent / "full"


def _inside(home: Path) -> Path:
    (home / "mnt").mkdir()
    return home / "mnt"


@pytest.mark.parametrize(
    ("choose", "code", "words"),
    [
        (_missing, 10, "does not exist"),
        (_file, 2, "is not a directory"),
        (_full, 2, "is not empty"),
        (lambda home: home.parent, 2, "the state directory"),
        (lambda home: home, 2, "the state directory"),
        (_inside, 2, "lies in the state directory"),
        (lambda _home: Path("/proc"), 12, "is mounted at /proc already"),
    ],
)
def test_a_place_where_nothing_can_be_mounted_is_refused(
    home: Path, call: Call, choose: Callable[[Path], Path], code: int, words: str
) -> None:
    place = choose(home)
    before = contents(home.parent)
    said = call("--home", home, "mount", place)
    assert said.code == code
    assert words in said.err
    assert said.err.count("\n") == 1
    assert contents(home.parent) == before


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--code", "5/3"], 2, "code 5/3"),
        (["--code", "many"], 2, "'many' is not a code"),
        (["-o", "alow_other"], 2, "there is no mount option 'alow_other'; did you mean 'allow_other'?"),
        (["-o", "ro,spool"], 2, "spool needs a value"),
        (["-o", "spool=big"], 2, "'big' is not a size"),
        (["-o", "spool=1k"], 2, "too small"),
        (["-o", "ro=yes"], 2, "takes no value"),
        (["-o", "read_timeout=0"], 2, "read timeout"),
    ],
)
def test_a_mount_with_nonsense_is_refused(
    home: Path, place: Path, call: Call, words: list[str], code: int, sentence: str
) -> None:
    before = contents(home)
    said = call("--home", home, "mount", place, *words)
    assert said.code == code
    assert sentence in said.err
    assert contents(home) == before


def test_a_machine_without_fuse_is_told_what_to_install(
    home: Path, place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(home)
    monkeypatch.setenv("PATH", str(place))
    said = call("--home", home, "mount", place)
    assert said.code == 21
    assert "fuse3" in said.err
    assert contents(home) == before


def test_a_home_in_use_is_refused_with_who_has_it(home: Path, place: Path, call: Call) -> None:
    with hold(Home(home)):
        for words in (["mount", place], ["serve"], ["init", "--words-file", place / "words"]):
            said = call("--home", home, *words)
            assert said.code in (11, 12)
        said = call("--home", home, "mount", place)
    assert said.code == 12
    assert f"in use by process {os.getpid()}" in said.err
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    "words",
    [["mount", "."], ["serve"], ["id"], ["sheet"], ["revoke", NODE], ["config", "list"], ["hire", f"{NODE}@h:1"]],
)
def test_a_home_that_was_never_made_says_init(tmp_path: Path, call: Call, words: list[str]) -> None:
    size = ["--size", "1G"] if words[0] == "hire" else []
    said = call("--home", tmp_path / "nowhere", *words, *size)
    assert said.code == 10
    assert "bitdustfs init" in said.err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda keys: keys.chmod(0o644), 13, "others can read"),
        (lambda keys: keys.write_bytes(keys.read_bytes()[:40]), 19, "cut or damaged"),
        (lambda keys: keys.write_bytes(b"PuTTY-User-Key-File-3"), 19, "not a key file"),
    ],
)
def test_a_key_file_that_is_not_ours_is_refused(
    home: Path, place: Path, call: Call, spoil: Callable[[Path], None], code: int, words: str
) -> None:
    spoil(home / "keys")
    before = contents(home)
    for verb in (["mount", place], ["id"]):
        said = call("--home", home, *verb)
        assert said.code == code
        assert words in said.err
    assert contents(home) == before


@pytest.mark.parametrize("verb", ["status", "sync", "cache drop"])
def test_a_home_that_nobody_serves_is_named(home: Path, call: Call, verb: str) -> None:
    said = call("--home", home, *verb.split())
    assert said.code == 14
    assert said.err == f"bitdustfs: nothing serves {home}: mount it first\n"


@pytest.mark.parametrize("verb", ["status", "sync", "umount"])
def test_a_path_outside_any_mount_is_refused(place: Path, call: Call, verb: str) -> None:
    assert call(verb, place).code == 10


@pytest.mark.parametrize(
    "words",
    [
        ["hire", "nobody", "--size", "1G"],
        ["hire", f"{NODE}@nowhere", "--size", "1G"],
        ["hire", f"abcd@127.0.0.1:{1}", "--size", "1G"],
        ["hire", f"{NODE}@127.0.0.1:1", "--size", "0"],
        ["hire", f"{NODE}@127.0.0.1:1", "--size", "1G", "--label", "a", "--label", "b"],
        ["hire", f"{NODE}@127.0.0.1:1"],
        ["serve", "--listen", "here"],
        ["serve", "--allow", NODE],
        ["serve", "--allow", "me:1G"],
        ["serve", "--donate", "much"],
        ["status", "a", "b"],
        ["mount"],
        ["dance"],
        ["demo", "up", "d", "--code", "4/6"],
        ["demo", "kill", "1"],
        ["demo", "revive", "1"],
    ],
)
def test_usage_errors_exit_with_2_and_one_sentence(home: Path, call: Call, words: list[str]) -> None:
    before = contents(home)
    said = call("--home", home, *words)
    assert said.code == 2
    assert said.err.startswith("bitdustfs: ")
    assert said.err.count("\n") == 1
    assert contents(home) == before


def test_a_real_volume_is_not_taken_for_practice(home: Path, place: Path, call: Call) -> None:
    before = contents(home)
    said = call("--home", home, "demo", "up", place)
    assert said.code == 2
    assert "a real volume" in said.err
    assert contents(home) == before


# --- what only the serving process can find out ---------------------------------------------------------------


def program(*words: str | Path, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_fewer_suppliers_than_k_are_refused_before_a_catalog_is_made(home: Path, place: Path) -> None:
    done = program("--home", home, "mount", place, "--code", "3/5")
    assert done.returncode == 2
    assert "--code 3/5 needs 3 suppliers at least, and 0 are hired" in done.stderr
    assert not (home / "log").exists()
    assert not (home / "catalog.db").exists()
    assert not (home / "spool").exists()


@pytest.mark.slow
def test_a_catalog_of_an_unknown_version_is_refused_and_kept(home: Path, place: Path) -> None:
    connection = apsw.Connection(str(home / "catalog.db"))
    connection.execute(f"PRAGMA application_id = {0x42446673}; PRAGMA user_version = 99; CREATE TABLE t (a)")
    connection.close()
    before = (home / "catalog.db").read_bytes()
    done = program("--home", home, "mount", place)
    assert done.returncode == 19
    assert "version 99" in done.stderr
    assert (home / "catalog.db").read_bytes() == before
    assert not (home / "spool").exists()


@pytest.mark.slow
def test_a_port_in_use_is_refused(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = program("--home", home, "serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 12
    assert "choose another port" in done.stderr
    assert {path.name for path in home.iterdir()} == {"keys", "lock"}


@pytest.mark.slow
def test_a_supplier_that_is_not_there_is_not_hired(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = program("--home", home, "hire", f"{NODE}@{address}", "--size", "1G")
    assert done.returncode == 14
    assert address in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes the right to mount away")
def test_a_failure_inside_the_serving_process_is_told_with_its_kind(home: Path, place: Path) -> None:
    without_right = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    done = program(
        "--home", home, "mount", place, before=without_right
    )  # only the kernel knows, in a task of its own
    assert done.returncode == 21
    assert f"{place} cannot be mounted" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("node", "words"),
    [("zz" * 8, "is not a node id"), ("abc", "first 8 hex digits"), ("ab" * 33, "is not a node id")],
)
def test_revoke_of_no_node_is_refused(home: Path, call: Call, node: str, words: str) -> None:
    before = contents(home)
    said = call("--home", home, "revoke", node, "--words-file", home.parent / "words")
    assert said.code == 2
    assert words in said.err
    assert contents(home) == before


def test_revoke_of_this_very_node_is_refused(home: Path, call: Call) -> None:
    own = call("--home", home, "id", "--node").out.strip()
    before = contents(home)
    for node in (own, own[:8].upper()):
        said = call("--home", home, "revoke", node, "--words-file", home.parent / "words")
        assert said.code == 2
        assert "is this machine" in said.err
    assert contents(home) == before


def test_revoke_with_the_words_of_another_owner_changes_nothing(home: Path, call: Call) -> None:
    call("--home", home.parent / "other", "init", "--words-file", home.parent / "others-words")
    before = contents(home)
    said = call("--home", home, "revoke", NODE, "--words-file", home.parent / "others-words")
    assert said.code == 13
    assert "these words lead to owner" in said.err
    assert contents(home) == before


def test_revoke_of_a_home_in_use_is_refused_before_the_words_are_asked_for(home: Path, call: Call) -> None:
    with hold(Home(home)):
        said = call("--home", home, "revoke", NODE)
    assert said.code == 12
    assert f"in use by process {os.getpid()}" in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name a supplier"),
        ([NODE], "is not NODEID@ADDR:PORT"),
        ([f"{NODE}@h:1", "--all"], "give --mount"),
        (["--check", f"{NODE}@h:1"], "--check takes the suppliers of this machine"),
        (["--check", "--accept"], "--check takes the suppliers of this machine"),
        (["--check", "--all"], "--check takes the suppliers of this machine"),
        ([f"{NODE}@h:1", "--accept", "--wait"], "choose one"),
    ],
)
def test_recover_with_nonsense_is_refused(tmp_path: Path, call: Call, words: list[str], sentence: str) -> None:
    said = call("--home", tmp_path / "new", "recover", *words)
    assert said.code == 2
    assert sentence in said.err
    assert not (tmp_path / "new").exists()


def test_recover_does_not_touch_a_home_that_has_a_volume(home: Path, tmp_path: Path, call: Call) -> None:
    before = contents(home)
    assert call("--home", home, "recover", f"{NODE}@h:1", "--words-file", tmp_path / "words").code == 11
    assert contents(home) == before
    (home / "keys").unlink()
    (home / "catalog.db").write_bytes(b"a catalog whose keys were lost")
    assert call("--home", home, "recover", f"{NODE}@h:1", "--words-file", tmp_path / "words").code == 11
    assert (home / "catalog.db").read_bytes() == b"a catalog whose keys were lost"


def test_recover_check_with_the_words_of_another_owner_shows_both_fingerprints(home: Path, call: Call) -> None:
    call("--home", home.parent / "other", "init", "--words-file", home.parent / "others-words")
    said = call("--home", home, "recover", "--check", "--words-file", home.parent / "others-words")
    assert said.code == 13
    assert "these words lead to owner" in said.err


def test_recover_check_without_suppliers_says_so(home: Path, call: Call) -> None:
    said = call("--home", home, "recover", "--check", "--words-file", home.parent / "words")
    assert said.code == 2
    assert "no supplier is hired" in said.err


@pytest.mark.slow
def test_recover_that_was_interrupted_before_the_keys_may_be_run_again(home: Path, tmp_path: Path) -> None:
    (home / "keys").unlink()
    (home / "catalog.db").write_bytes(b"of the recovery before")
    (home / "recovering").touch()
    words = ["recover", f"{NODE}@127.0.0.1:1", "--words-file", str(tmp_path / "words")]
    done = subprocess.run([*PROGRAM, "--home", str(home), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 10
    assert "no supplier has shown a state of this volume" in done.stderr
    assert "The words lead to owner" in done.stderr
