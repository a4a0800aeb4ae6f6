"""An old copy of this machine's disk is put back, with changes in it that were never sent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitdustfs.edges.home import Home
from tests.mount.practice import Practice, wait_until

pytestmark = pytest.mark.slow


def test_disk_that_was_set_back_takes_the_newer_state_and_puts_aside_what_was_never_sent(tmp_path: Path) -> None:
    with Practice(tmp_path / "swarm", suppliers=3, code="1/3") as practice:
        path = practice.path
        (path / "a").write_bytes(b"a" * 100_000)
        practice.sync()
        practice.umount()
        copy = tmp_path / "copy"
        keep(practice.home, copy)
        practice.mount()
        (path / "b").write_bytes(b"b" * 100_000)
        practice.sync()
        practice.umount()

        put_back(copy, practice.home)
        with practice.stopped():
            practice.mount(wait=False)
            (path / "folder").mkdir()
            (path / "folder" / "d").write_bytes(b"d" * 100_000)
            (path / "small d").write_bytes(b"small d")
            practice.umount()
        said = practice.run("mount", f"--code={practice.code}", "--", str(path)).stdout
        assert "written by this machine before its disk was set back" in said and "Not in it: 3 files" in said
        assert (path / "a").read_bytes() == b"a" * 100_000
        assert (path / "b").read_bytes() == b"b" * 100_000
        wait_until("all is put aside", lambda: not list(Home(practice.home).aside.glob("*/catalog.db")))
        (folder,) = path.glob("Put aside *")
        assert sorted(entry.name for entry in path.iterdir()) == sorted(["a", "b", folder.name])
        assert (folder / "folder" / "d").read_bytes() == b"d" * 100_000
        assert (folder / "small d").read_bytes() == b"small d"
        letter = (folder / "What was put aside.txt").read_text()
        assert "  small d" in letter and "before its disk was set back" in letter
        practice.sync()
        assert practice.status()["state"] == "safe"
        practice.run("demo", "down", "--purge")
        assert not practice.home.exists(), list(practice.home.iterdir())


def keep(home: Path, copy: Path) -> None:
    """Copy a home without the practice suppliers, who live in it."""
    shutil.copytree(home, copy, ignore=lambda _directory, names: [name for name in names if name == "demo"])


def put_back(copy: Path, home: Path) -> None:
    """Put a copy in the place of a home."""
    for entry in home.iterdir():
        if entry.is_dir() and entry.name != "demo":
            shutil.rmtree(entry)
        elif entry.name != "demo":
            entry.unlink()
    shutil.copytree(copy, home, dirs_exist_ok=True)
