"""This machine burns: an empty one gets the whole tree back from the words and one address."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bitdustfs.edges.home import Home
from tests.mount.practice import Practice
from tests.mount.trees import real_tree, run

pytestmark = pytest.mark.slow


def test_tree_comes_back_from_the_words_and_one_address_when_the_margin_is_dead_too(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source", 500)
    os.setxattr(source / "abc.py", "user.colour", b"blue")
    os.utime(source / "abc.py", ns=(1, 1_234_567_890_123_456_789))
    (source / os.fsdecode(b"odd \xff\nname")).write_bytes(b"odd")
    with (source / "holes").open("wb") as file:
        file.truncate(5_000_000)
        file.write(b"front")
    with Practice(tmp_path / "swarm") as practice:
        run("rsync", "-aHAX", f"{source}/", practice.path / "tree")
        practice.sync()
        practice.run("sync", str(practice.path))
        assert practice.status()["state"] == "safe"
        (practice.path / "later").write_bytes(b"after the snapshot")
        practice.sync()
        assert os.getxattr(practice.path / "later", "user.bitdustfs.state") == b"safe"
        place = practice.places()[2]
        practice.kill_mount()
        burn(practice)
        for number in (1, 2):
            practice.kill_supplier(number)
        new = tmp_path / "new home"
        new.mkdir(mode=0o700)
        (new / "recovering").touch()  # as a recovery leaves it that was killed before it wrote the keys
        (new / "catalog.db").write_bytes(b"of that one")
        words = ("recover", place, "--words-file", str(practice.words))
        said = practice.run(*words, home=new).stdout
        assert "confirmed by 3 of 5 suppliers" in said
        practice.run("mount", "--code=3/5", "--", str(practice.path), home=new)
        try:
            practice.wait_for_suppliers(of=new)
            assert (
                run(
                    "rsync",
                    "-aHAX",
                    "--checksum",
                    "--itemize-changes",
                    "--delete",
                    f"{source}/",
                    practice.path / "tree",
                )
                == ""
            )
            assert (practice.path / "later").read_bytes() == b"after the snapshot"
            assert os.lstat(practice.path / "tree" / "abc.py").st_mtime_ns == 1_234_567_890_123_456_789
            (practice.path / "new").write_bytes(b"it goes on")
            assert (practice.path / "new").read_bytes() == b"it goes on"
        finally:
            practice.run("umount", str(practice.path), home=new)


def test_words_of_nobody_lead_to_nothing_and_say_whose_they_are(tmp_path: Path) -> None:
    with Practice(tmp_path / "swarm", suppliers=1, code="1/1") as practice:
        wrong = tmp_path / "words"
        practice.run("init", "--words-file", str(wrong), home=tmp_path / "another")
        verb = ("recover", practice.places()[0], "--words-file", str(wrong))
        done = practice.run(*verb, home=tmp_path / "new", ok=tuple(range(1, 256)))
        assert "The words lead to owner" in done.stderr
        assert not Home(tmp_path / "new").keys.exists()
        (tmp_path / "kept").mkdir(mode=0o700)
        (tmp_path / "kept" / "catalog.db").write_bytes(b"of a volume whose keys are elsewhere")
        done = practice.run(*verb, home=tmp_path / "kept", ok=tuple(range(1, 256)))
        assert "holds a volume already" in done.stderr


def burn(practice: Practice) -> None:
    """Remove everything of the customer but the suppliers, which live below his home, and the words."""
    run("umount", "-l", practice.path)
    for entry in practice.home.iterdir():
        if entry.name == "demo":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
