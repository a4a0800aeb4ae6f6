"""`demo` without processes: what it takes for a practice swarm, and what it deletes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from bitdustfs.edges.config import load, store
from bitdustfs.edges.home import Home
from tests.cli.conftest import Call, contents

OURS = ("keys", "catalog.db", "catalog.db-wal", "log", "log.1", "spool/1", "shelf/x", "contracts/c")
OURS_IN_DEMO = ("recovery-words", "supplier1.words", "supplier1/keys")
FOREIGN = ("log.txt", "logbook", "letters/a", "demo/notes", "demo/supplier2/a", "demo/supplierX/a")


@pytest.fixture
def swarm_home(tmp_path: Path) -> Path:
    """The home of a practice swarm of one supplier that does not run, with things in it that are not of the swarm."""
    home = tmp_path / "swarm"
    for name in (*OURS, *(f"demo/{name}" for name in OURS_IN_DEMO), *FOREIGN):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"")
    home.chmod(0o700)
    (home / "demo").chmod(0o700)
    write_plan(home)
    store(home / "config.toml", "practice", "true")
    return home


def write_plan(home: Path, **other: object) -> None:
    member = {"number": 1, "spare": False, "place": "", "hired": True}
    plan: Mapping[str, object] = {
        "version": 1,
        "mountpoint": str(home.parent / "mnt"),
        "code": "1/1",
        "members": [member],
        "made_mountpoint": False,
    }
    (home / "demo" / "swarm.json").write_text(json.dumps({**plan, **other}))


def files_in(home: Path) -> set[str]:
    return {name for name, content in contents(home).items() if content is not None}


def test_purge_deletes_what_the_swarm_made_and_nothing_else(swarm_home: Path, call: Call) -> None:
    said = call("--home", swarm_home, "demo", "down", "--purge")
    assert said.code == 0, said.err
    assert files_in(swarm_home) == set(FOREIGN)
    assert not (swarm_home / "demo" / "supplier1").exists()
    assert not (swarm_home / "spool").exists()


DIRECTORIES = {"adopting", "aside", "spool", "shelf", "contracts", "invitations", "addresses"}


def test_purge_leaves_nothing_of_all_that_a_home_can_have(tmp_path: Path, call: Call) -> None:
    home = Home(tmp_path / "swarm")
    home.demo.mkdir(parents=True)
    for directory in (home.path, home.demo):
        directory.chmod(0o700)
    write_plan(home.path)
    store(home.config, "practice", "true")
    paths: list[Path] = [getattr(home, name) for name, what in vars(Home).items() if isinstance(what, property)]
    (home.path / "before fsck 2026-11-28 18.00.00").mkdir()
    for path in paths:
        if path.name in DIRECTORIES:
            path.mkdir()
            (path / "something").write_bytes(b"")
        elif not path.exists():
            path.write_bytes(b"")
    said = call("--home", home.path, "demo", "down", "--purge")
    assert said.code == 0, said.err
    assert not home.path.exists(), list(home.path.iterdir())


def test_swarm_is_made_beside_empty_directories_of_an_older_one(tmp_path: Path, call: Call) -> None:
    home = tmp_path / "swarm"
    for name in ("spool", "aside", "demo"):
        (home / name).mkdir(parents=True)
    home.chmod(0o700)
    (home / "demo" / "supplier1").write_bytes(b"")  # so that none is started
    assert "supplier1 is of no practice swarm" in call("--home", home, "demo", "up", tmp_path / "mnt").err


@pytest.mark.parametrize("words", [["down"], ["down", "--purge"], ["up", "mnt"]])
def test_a_directory_that_is_no_swarm_is_refused_whatever_its_names(
    tmp_path: Path, call: Call, words: list[str]
) -> None:
    home = tmp_path / "project"
    for name in ("demo/main.py", "log", "spool/a", "catalog.db"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    home.chmod(0o700)
    before = contents(home)
    said = call("--home", home, "demo", *words)
    assert said.code == 2
    assert contents(home) == before


def test_purge_needs_the_mark_when_the_plan_is_damaged(swarm_home: Path, call: Call) -> None:
    (swarm_home / "demo" / "swarm.json").write_text("{")
    (swarm_home / "config.toml").unlink()
    (swarm_home / "keys").unlink()
    before = contents(swarm_home)
    assert call("--home", swarm_home, "demo", "down", "--purge").code == 2
    assert contents(swarm_home) == before


@pytest.mark.parametrize("plan", [b"{", b"[]", b'{"version": 9}', b'{"version": 1, "members": [{}]}'])
def test_purge_works_when_the_plan_is_damaged_as_the_error_promises(
    swarm_home: Path, call: Call, plan: bytes
) -> None:
    (swarm_home / "demo" / "swarm.json").write_bytes(plan)
    said = call("--home", swarm_home, "demo", "down")
    assert said.code == 19
    assert "`demo down --purge` removes it" in said.err
    said = call("--home", swarm_home, "demo", "down", "--purge")
    assert said.code == 0, said.err
    assert files_in(swarm_home) == set(FOREIGN) - {"demo/supplier2/a"}


def test_a_plan_whose_suppliers_are_not_numbered_is_damaged(swarm_home: Path, call: Call) -> None:
    write_plan(swarm_home, members=[{"number": "1/../../letters", "spare": False}])
    assert call("--home", swarm_home, "demo", "down").code == 19


@pytest.mark.parametrize("purge", [[], ["--purge"]])
def test_down_refuses_a_directory_that_is_not_the_swarms_mountpoint(
    swarm_home: Path, tmp_path: Path, call: Call, purge: list[str]
) -> None:
    before = files_in(swarm_home)
    (tmp_path / "other").mkdir()
    said = call("--home", swarm_home, "demo", "down", *purge, tmp_path / "other")
    assert said.code == 2
    assert f"mounted at {tmp_path / 'mnt'}" in said.err
    assert files_in(swarm_home) - {"demo/lock"} == before


def test_purge_takes_the_swarms_mountpoint_though_nothing_is_mounted(
    swarm_home: Path, tmp_path: Path, call: Call
) -> None:
    assert call("--home", swarm_home, "demo", "down", "--purge", tmp_path / "mnt").code == 0
    assert not (swarm_home / "keys").exists()


def test_a_swarm_whose_making_was_interrupted_is_no_real_volume(tmp_path: Path, call: Call) -> None:
    home = tmp_path / "swarm"
    for directory in (home, home / "demo"):
        directory.mkdir(mode=0o700)
    write_plan(home)
    (home / "demo" / "supplier1").write_bytes(b"")  # no home can be made there
    for _ in range(2):
        said = call("--home", home, "demo", "up", tmp_path / "mnt")
        assert said.code == 2
        assert "supplier1 cannot be a state directory" in said.err
    assert (home / "keys").exists()
    assert load(home / "config.toml").practice
    assert call("--home", home, "demo", "down", "--purge").code == 0
    assert not (home / "keys").exists()
