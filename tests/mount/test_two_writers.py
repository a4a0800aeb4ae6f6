"""Two machines of one owner that write by turns, and follow meanwhile, with real processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bitdustfs.edges import mounts
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home, holder
from tests.mount.practice import PROGRAM, Practice, wait_until
from tests.mount.support import HANGS_S, code_of

pytestmark = pytest.mark.slow
LETTER = bytes(i * i % 251 for i in range(300_000))
NO_SNAPSHOTS = "".join(f"snapshots.{each} = 0\n" for each in ("hourly", "daily", "weekly", "monthly"))


class Second:
    """Another machine of the same owner, that may write too."""

    def __init__(self, swarm: Practice, directory: Path) -> None:
        self.swarm = swarm
        self.home = directory / "second"
        self.path = directory / "there"
        self.path.mkdir()

    def recover(self) -> str:
        words = ("--words-file", str(self.swarm.words))
        said = self.swarm.run("recover", self.swarm.places()[0], "--beside", *words, home=self.home).stdout
        (self.home / "config.toml").write_text(f'patience = "1h"\n{NO_SNAPSHOTS}')
        return said

    def mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        done = self.swarm.run("mount", *options, str(self.path), home=self.home)
        self.swarm.wait_for_suppliers(self.home)
        return done

    def umount(self) -> None:
        self.swarm.run("umount", str(self.path), home=self.home)

    def sync(self) -> None:
        self.swarm.run("sync", str(self.path), home=self.home)


@contextmanager
def two(directory: Path) -> Iterator[tuple[Practice, Second]]:
    """A machine that wrote a letter and goes on, and one that was recovered beside it."""
    with Practice(directory, suppliers=3, code="1/3") as swarm:
        (swarm.path / "letter").write_bytes(LETTER)
        swarm.sync()
        second = Second(swarm, directory)
        assert "No machine of yours was revoked" in second.recover()
        with closing(SqliteCatalog(Home(second.home).catalog)) as catalog:  # what the first one sends is not let go
            assert not catalog.local_value("orphans")
        yield swarm, second


def test_volume_goes_to_the_other_machine_and_back_and_what_was_never_sent_is_put_aside(tmp_path: Path) -> None:
    with two(tmp_path) as (swarm, second):
        (swarm.path / "last").write_bytes(b"last")  # after the second one was made, and not sent yet
        listing, held = os.scandir(swarm.path), (swarm.path / "letter").open("rb")
        said = second.mount()
        assert "Waiting for another machine of yours" in said.stderr
        assert "has let it go" in said.stdout
        assert (second.path / "letter").read_bytes() == LETTER
        assert (second.path / "last").read_bytes() == b"last"
        assert not list(second.path.glob("Put aside *"))
        assert code_of((swarm.path / "never").touch) == errno.EROFS
        assert (swarm.path / "letter").read_bytes() == LETTER
        (second.path / "there").write_bytes(b"there")
        (second.path / "letter").write_bytes(b"another letter")
        second.sync()
        shows(swarm.path / "there", b"there")  # in the same mount
        shows(swarm.path / "letter", b"another letter")
        with listing, held:  # what was open stays so
            assert sorted(each.name for each in listing) == ["last", "letter", "there"]
            assert held.read() == LETTER
        assert "written by node" in swarm.run("status", ok=(0, 30, 31)).stdout
        (second.path / "letter").write_bytes(LETTER)

        swarm.remount()  # and back
        assert (swarm.path / "there").read_bytes() == b"there"
        assert code_of((second.path / "never").touch) == errno.EROFS
        (swarm.path / "last").write_bytes(b"changed")
        swarm.sync()
        shows(second.path / "last", b"changed")
        second.umount()
        second.mount("-o", "ro")
        (swarm.path / "last").write_bytes(b"last")
        swarm.sync()
        shows(second.path / "last", b"last")
        second.umount()
        with swarm.stopped():
            write_durably(swarm.path / "unsent", b"unsent")
            swarm.kill_mount()

        interrupted(swarm, second, signal.SIGTERM)
        interrupted(swarm, second, signal.SIGINT)
        said = second.mount("--take-over")
        assert "What that one had not sent is put into a folder" in said.stdout
        assert sorted(os.listdir(second.path)) == ["last", "letter", "there"]
        (second.path / "taken").write_bytes(b"taken")

        greeting = swarm.run("mount", f"--code={swarm.code}", "--", str(swarm.path)).stdout
        assert "written by another machine of yours (node " in greeting and "set back" not in greeting
        assert (swarm.path / "taken").read_bytes() == b"taken"
        wait_until("all is put aside", lambda: not list(Home(swarm.home).aside.glob("*/catalog.db")))
        (folder,) = swarm.path.glob("Put aside *")
        assert (folder / "unsent").read_bytes() == b"unsent"
        letter = (folder / "What was put aside.txt").read_text()
        assert "written by another machine of yours (node " in letter and "set back" not in letter
        assert sorted(os.listdir(swarm.path)) == sorted([folder.name, "last", "letter", "taken", "there"])
        swarm.sync()
        second.umount()


def shows(path: Path, content: bytes) -> None:
    wait_until(f"{path} shows it", lambda: path.exists() and path.read_bytes() == content)


def write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def interrupted(swarm: Practice, second: Second, number: signal.Signals) -> None:
    """Try to mount while the other machine is dead and keeps the volume, and give up with a signal."""
    command = [*PROGRAM, "--home", str(second.home), "mount", str(second.path)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background may have it ignored
    try:
        started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=swarm.environment())
    finally:
        signal.signal(signal.SIGINT, before)
    with started as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Waiting for another machine of yours"), line
        process.send_signal(number)
        assert process.wait(HANGS_S) == 130
    assert holder(Home(second.home)) is None, "its daemon waits on"
    assert mounts.mounted_at(str(second.path), mounts.read_mounts()) is None
