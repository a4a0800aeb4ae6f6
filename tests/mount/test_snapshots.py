"""Snapshots of the volume through the kernel and by the verbs: what a person does to have yesterday back."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.practice import Practice, wait_until

pytestmark = pytest.mark.slow
README = Path(__file__).resolve().parents[2] / "README.md"
BY_ITSELF = re.compile(r"(auto-\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\dZ\n)+")


@pytest.fixture
def swarm(rough_swarm: Practice) -> Iterator[Practice]:
    yield rough_swarm


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Practice]:
    """A small swarm whose configuration says nothing of snapshots."""
    directory = tmp_path_factory.mktemp("usual")
    with Practice(directory, suppliers=2, code="1/2", snapshots=True) as practice:
        yield practice


def tree_of(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory: kinds, modes, owners, times, content."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, folders, files in os.walk(top):
        for name in folders + files:
            path = Path(directory, name)
            stat = path.lstat()
            what: object = b""
            if path.is_symlink():
                what = os.readlink(path)
            elif path.is_file():
                what = path.read_bytes(), sorted((each, os.getxattr(path, each)) for each in os.listxattr(path))
            found[str(path.relative_to(top))] = (stat.st_mode, stat.st_uid, stat.st_nlink, stat.st_mtime_ns, what)
    return found


def test_person_has_yesterday_back(swarm: Practice) -> None:
    docs = swarm.path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "letter").write_bytes(b"dear friend\n" * 50_000)
    (docs / "deep" / "note").write_bytes(b"note")
    (docs / "link").symlink_to("letter")
    os.link(docs / "letter", docs / "again")
    os.setxattr(docs / "letter", "user.colour", b"red")
    os.chmod(docs / "deep" / "note", 0o640)
    before = tree_of(docs)
    assert os.stat(swarm.path / ".snapshots").st_nlink == 2
    assert "Made the snapshot yesterday" in swarm.run("snapshot", "create", "yesterday").stdout
    assert os.stat(swarm.path / ".snapshots").st_nlink == 3  # at once: the kernel keeps nothing of it
    shown = swarm.path / ".snapshots" / "yesterday" / "docs"
    assert tree_of(shown) == before

    (docs / "letter").write_bytes(b"ruined")
    shutil.rmtree(docs / "deep")
    (docs / "new").write_bytes(b"x")
    swarm.sync()
    swarm.forget()
    assert tree_of(shown) == before
    told = swarm.run("snapshot", "diff", "yesterday").stdout.splitlines()
    assert {"M docs/letter", "- docs/deep/", "- docs/deep/note", "+ docs/new"} <= set(told)
    subprocess.run(["cp", "-a", shown / "deep", docs], check=True)
    subprocess.run(["cp", "-a", shown / "letter", docs / "letter"], check=True)
    assert (docs / "letter").read_bytes() == b"dear friend\n" * 50_000
    assert (docs / "deep" / "note").read_bytes() == b"note"

    assert ".snapshots" not in os.listdir(swarm.path)
    assert "yesterday" in os.listdir(swarm.path / ".snapshots")
    for change in (
        lambda: (shown / "letter").write_bytes(b"x"),
        lambda: (shown / "new").mkdir(),
        lambda: (shown / "letter").unlink(),
        lambda: os.rename(docs / "letter", shown / "letter"),
        lambda: os.rename(shown / "letter", docs / "other"),
        lambda: os.link(docs / "letter", shown / "other"),
        lambda: os.chmod(shown / "letter", 0o600),
        lambda: os.setxattr(shown / "letter", "user.a", b"1"),
        lambda: os.truncate(shown / "letter", 0),
        lambda: (swarm.path / ".snapshots").rmdir(),
        lambda: os.rename(docs, swarm.path / ".snapshots"),
    ):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno in (errno.EROFS, errno.ENOTEMPTY), change
    assert tree_of(shown) == before

    swarm.remount()
    assert tree_of(shown) == before
    assert "yesterday" in swarm.run("snapshot", "list").stdout
    assert "Deleted the snapshot yesterday" in swarm.run("snapshot", "delete", "yesterday").stdout
    assert not (swarm.path / ".snapshots" / "yesterday").exists()
    assert "there is no snapshot 'yesterday'" in swarm.run("snapshot", "delete", "yesterday", ok=(10,)).stderr
    assert "There is no snapshot" in swarm.run("snapshot", "list").stdout


def test_snapshots_are_made_by_themselves_where_nobody_said_otherwise(usual: Practice) -> None:
    (usual.path / "letter").write_bytes(b"dear friend")
    usual.sync()
    usual.remount()  # the first look is at the start

    def made() -> list[dict[str, Any]]:
        told = json.loads(usual.run("snapshot", "list", "--json").stdout)["snapshots"]
        return [each for each in told if each["automatic"]]

    wait_until("a snapshot is made", lambda: bool(made()))
    (usual.path / "letter").unlink()
    name, *_ = (each["name"] for each in made())  # more than one if an hour has just ended
    assert name.startswith("auto-")
    assert (usual.path / ".snapshots" / name / "letter").read_bytes() == b"dear friend"
    usual.run("config", "set", "snapshots.hourly", "0")
    usual.remount()
    assert name in [each["name"] for each in made()]  # of the day


def test_session_about_yesterday_is_as_readme_prints_it(usual: Practice) -> None:
    """Run in a volume with a letter; how many snapshots were made by themselves, and when, may differ."""
    (usual.path / "letters").mkdir(exist_ok=True)
    (usual.path / "letters" / "anna.txt").write_text("Dear Anna\n")
    before = tree_of(usual.path / "letters")
    usual.sync()
    usual.run("config", "set", "snapshots.hourly", "24")
    usual.remount()
    wait_until("a snapshot is made", lambda: "auto-" in "".join(os.listdir(usual.path / ".snapshots")))
    session = README.read_text().partition("\n## Yesterday\n")[2].partition("\n## ")[0].split("```")[1]
    steps = session.strip("\n").removeprefix("$ ").split("\n$ ")
    assert len(steps) > 6
    for step in steps:
        command, _, printed = step.partition("\n")
        words = shlex.split(command.replace("~/BitDust", str(usual.path)))
        if words[0] == "bitdustfs":
            said = usual.run(*words[1:]).stdout
        else:
            said = subprocess.run(words, check=True, text=True, capture_output=True).stdout
        assert BY_ITSELF.sub("AUTO\n", said) == BY_ITSELF.sub("AUTO\n", printed + "\n" * bool(printed)), command
    assert tree_of(usual.path / "letters") == before
