"""Programs at work in a mount whose process is killed: SQLite, git, rsync, cp."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.mount import bookkeeper
from tests.mount.practice import Practice, wait_until
from tests.mount.test_swarm import REPOSITORY, digest
from tests.mount.trees import real_tree, run

WRITERS = 2  # of each database
ENDS_S = 60  # whoever writes to a dead mount is told so
pytestmark = pytest.mark.slow


class Books:
    """A database in the mount, and what its writers were told is committed."""

    def __init__(self, path: Path, said: Path) -> None:
        self.path = path
        self._said = [said / f"{path.name}-{writer}" for writer in range(WRITERS)]
        for file in self._said:
            file.touch()
        bookkeeper.make(str(path))

    def committed(self, writer: int) -> int:
        return self._said[writer].read_bytes().count(b"\n")

    @property
    def total(self) -> int:
        return sum(map(self.committed, range(WRITERS)))

    def start(self) -> list[subprocess.Popen[bytes]]:
        """Let everybody write."""
        running = []
        for writer, file in enumerate(self._said):
            words = [str(self.path), str(writer), str(self.committed(writer))]
            with file.open("ab") as said:
                command = [sys.executable, "-m", "tests.mount.bookkeeper", *words]
                running.append(subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL))
        return running

    def check(self) -> None:
        """The database is whole, and has every row that was committed, and at most one more of each writer."""
        with closing(bookkeeper.opened(str(self.path))) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for writer in range(WRITERS):
                rows = database.execute(
                    "SELECT number, note FROM entry WHERE writer = ? AND number >= 0 ORDER BY number", (writer,)
                ).fetchall()
                safe = self.committed(writer)
                assert [number for number, _ in rows] == list(range(len(rows)))
                assert len(rows) in (safe, safe + 1)
                assert all(note == bookkeeper.note(writer, number) for number, note in rows)


@contextmanager
def writing(books: Sequence[Books]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """All writers of these databases; whoever has not ended by then is killed."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for each in books:
            running += each.start()
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_sqlite_with_several_writers_loses_no_commit_when_the_mount_is_killed(
    rough_swarm: Practice, tmp_path: Path, kills: int
) -> None:
    dice = random.Random(kills)
    books = [Books(rough_swarm.path / f"books-{mode}-{kills}", tmp_path) for mode in bookkeeper.MODES]
    for _ in range(kills):
        goals = [each.total + dice.randint(5, 30) for each in books]
        with writing(books) as writers:
            for each, goal in zip(books, goals, strict=True):
                wait_until("rows are committed", lambda each=each, goal=goal: each.total >= goal)
            rough_swarm.kill_mount()
            for writer in writers:
                writer.wait(ENDS_S)
        rough_swarm.mount()
        for each in books:
            each.check()
    rough_swarm.sync()
    rough_swarm.forget()
    for each in books:
        each.check()


def test_git_repository_is_whole_after_the_mount_is_killed(rough_swarm: Practice) -> None:
    clone = rough_swarm.path / "clone"
    run("git", "clone", "--quiet", "--no-local", REPOSITORY, clone)
    (clone / "README.md").write_text("changed")
    commit = ("-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--all", "--message", "change")
    run("git", "-C", clone, *commit)
    run("git", "-C", clone, "gc", "--quiet")
    head = run("git", "-C", clone, "rev-parse", "HEAD")
    directory = os.open(clone, os.O_RDONLY)
    os.fsync(directory)  # references are renamed without it
    os.close(directory)
    rough_swarm.kill_mount()
    rough_swarm.mount()
    run("git", "-C", clone, "fsck", "--full")
    assert run("git", "-C", clone, "rev-parse", "HEAD") == head
    assert run("git", "-C", clone, "status", "--porcelain") == ""


def test_rsync_copies_once_and_then_finds_nothing_to_do(rough_swarm: Practice, tmp_path: Path) -> None:
    source, target = real_tree(tmp_path / "source", 120), rough_swarm.path / "rsync"
    os.setxattr(source / "abc.py", "user.colour", b"blue")
    os.utime(source / "abc.py", ns=(1, 1_234_567_890_123_456_789))
    run("rsync", "-aHAX", f"{source}/", target)
    again = ("rsync", "-aHAX", "--itemize-changes", "--delete")
    assert run(*again, f"{source}/", target) == ""
    rough_swarm.sync()
    rough_swarm.umount()
    rough_swarm.mount()
    rough_swarm.forget()
    assert run(*again, f"{source}/", target) == ""
    assert "regular files transferred: 0" in run("rsync", "-aHAX", "--stats", f"{source}/", target)
    assert run(*again, "--checksum", f"{source}/", target) == ""
    assert run(*again, "--checksum", f"{target}/", source) == ""
    assert os.getxattr(target / "abc.py", "user.colour") == b"blue"


def test_rsync_changes_a_file_in_place(rough_swarm: Practice, tmp_path: Path) -> None:
    source, target = tmp_path / "file", rough_swarm.path / "in-place"
    content = bytearray(random.Random(1).randbytes(3_000_000))
    source.write_bytes(content)
    run("rsync", "--inplace", source, target)
    rough_swarm.sync()
    rough_swarm.forget()
    before = target.stat().st_ino
    content[1_000_000:1_000_100] = bytes(100)
    source.write_bytes(content[:-500_000])
    run("rsync", "--inplace", "--no-whole-file", "--ignore-times", source, target)
    assert target.stat().st_ino == before
    assert digest(target) == digest(source)


def test_rsync_that_was_interrupted_goes_on(rough_swarm: Practice, tmp_path: Path) -> None:
    source, target = tmp_path / "file", rough_swarm.path / "partial"
    source.write_bytes(random.Random(2).randbytes(4_000_000))
    target.mkdir()
    command = ["rsync", "--partial", "--bwlimit=100", str(source), f"{target}/"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as started:
        wait_until("some bytes are there", lambda: any(p.stat().st_size > 300_000 for p in target.iterdir()))
        started.send_signal(signal.SIGINT)
    wait_until("the part is kept", lambda: os.listdir(target) == ["file"])  # by a child that ends later
    assert 0 < (target / "file").stat().st_size < 4_000_000
    again = run("rsync", "--partial", "--no-whole-file", "--stats", source, f"{target}/")
    assert "Matched data: 0 bytes" not in again
    assert digest(target / "file") == digest(source)
    assert [p.name for p in target.iterdir()] == ["file"]


def test_sparse_copies_there_and_back_are_the_same(rough_swarm: Practice, tmp_path: Path) -> None:
    source, target = tmp_path / "sparse", rough_swarm.path / "sparse"
    with source.open("wb") as file:
        for at in (0, 300_000, 262_144 * 8 - 5, 5_000_000):
            file.seek(at)
            file.write(b"some bytes")
        file.truncate(7_000_000)
    run("cp", "-a", "--sparse=always", source, target)
    rough_swarm.sync()
    rough_swarm.forget()
    run("cp", "-a", "--sparse=always", target, tmp_path / "back")
    run("rsync", "-aS", target, tmp_path / "back-again")
    run("tar", "-C", rough_swarm.path, "--sparse", "-cf", tmp_path / "tar", "sparse")
    run("tar", "-C", tmp_path, "-xf", tmp_path / "tar", "--transform", "s/sparse/from-tar/")
    assert {digest(tmp_path / name) for name in ("back", "back-again", "from-tar")} == {digest(source)}
    assert (tmp_path / "back").stat().st_mtime_ns == source.stat().st_mtime_ns
