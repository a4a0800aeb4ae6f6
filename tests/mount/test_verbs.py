"""`mount`, `umount`, `serve` and `hire` for real, each on homes of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitdustfs.cli.common import Asked
from bitdustfs.cli.init import init
from bitdustfs.edges import mounts
from bitdustfs.edges.home import Home, find_home, holder
from tests.mount.practice import done_here, wait_until
from tests.test_manual import fields_of, status_fields

PROGRAM = [sys.executable, "-m", "bitdustfs.cli.main"]
PATIENCE_S = 120
pytestmark = pytest.mark.slow


class Machine:
    """Homes and mounts in one temporary directory, and what runs for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.apart = False  # each verb is a process of its own, as for a person; else those that go on are
        self.running: list[subprocess.Popen[str]] = []

    def home(self, name: str) -> Path:
        """A home with keys."""
        home = self.directory / name
        words = ["--words-file", str(self.directory / f"{name}.words")]
        with contextlib.redirect_stdout(io.StringIO()):  # in this process: it makes a key file and nothing else
            init.main(words, standalone_mode=False, obj=Asked(home=str(home)))
        return home

    def place(self, name: str = "mnt") -> Path:
        """An empty directory."""
        place = self.directory / name
        place.mkdir()
        return place

    def run(self, *words: str | Path, ends: int = 0) -> str:
        """Run a verb to its end; it must end with this code. Returns what it said."""
        said = [str(word) for word in words]
        done = self._as_a_person(said) if self.apart else done_here(said, os.environ)
        assert done.returncode == ends, done.stdout + done.stderr
        return done.stdout + done.stderr

    def _as_a_person(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )

    def start(self, *words: str | Path) -> tuple[subprocess.Popen[str], str]:
        """Start a verb that goes on. Returns it with its first line."""
        process = subprocess.Popen(
            [*PROGRAM, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.running.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def clean(self) -> None:
        """End everything."""
        for mount in mounts.read_mounts():
            if mount.is_ours and mounts.is_inside(mount.mountpoint, str(self.directory)):
                pid = holder(find_home(mount.home))
                if pid:
                    os.kill(pid, signal.SIGKILL)
                mounts.detach(mount.mountpoint, lazy=True)
        for process in self.running:
            process.kill()
            process.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.clean()


def is_mounted(place: Path) -> bool:
    return mounts.mounted_at(str(place), mounts.read_mounts()) is not None


def kill(home: Path) -> None:
    """End the process of a home by SIGKILL."""
    pid = holder(Home(home))
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until("the home is free", lambda: holder(Home(home)) is None)


def test_a_mount_without_suppliers_works_and_says_so(machine: Machine) -> None:
    machine.apart = True
    home, place = machine.home("home"), machine.place()
    assert "No supplier is hired" in machine.run("--home", home, "mount", place)
    (place / "letter").write_text("dear all")
    told = json.loads(machine.run("status", place, "--json", ends=32))
    assert told["files_local"] == 1
    assert fields_of(told) <= set(status_fields())
    assert {field for field in status_fields() if "." not in field} - told.keys() == {"view"}
    assert told["longest_step"]["cpu_s"] > 0 and told["longest_step"]["task"]
    said = machine.run("umount", place)
    assert "Only on this machine: 1 file (8 B)" in said
    assert not is_mounted(place)
    assert holder(Home(home)) is None
    machine.run("--home", home, "mount", place)
    assert (place / "letter").read_text() == "dear all"


def test_what_is_mounted_or_in_use_is_refused(machine: Machine) -> None:
    home, place, other = machine.home("home"), machine.place(), machine.place("other")
    machine.run("--home", home, "mount", place)
    assert "mounted at" in machine.run("--home", home, "mount", place, ends=12)
    assert "in use by process" in machine.run("--home", home, "mount", other, ends=12)
    assert "mounted at" in machine.run("--home", machine.home("second"), "mount", place, ends=12)
    assert not is_mounted(other)
    assert f"run `bitdustfs umount {place}` first" in machine.run("fsck", place, ends=12)
    kill(home)
    assert "catalog: sound" in machine.run("fsck", "--offline", place)  # its mount, which is left, says which home


def test_several_homes_are_mounted_at_once_and_found_by_their_paths(machine: Machine) -> None:
    strange = "hömé, with 100% 'all' \\ of it"
    for name in ("plain", strange):
        place = machine.place(f"mount of {name}")
        machine.run("--home", machine.home(name), "mount", place)
        (place / "x").touch()
        answer = json.loads(machine.run("status", place / "x", "--json", ends=32))
        assert (answer["home"], answer["path"]) == (str(machine.directory / name), "/x")
    machine.run("umount", machine.directory / f"mount of {strange}")
    assert (machine.directory / "mount of plain" / "x").exists()


def test_a_killed_mount_is_mounted_again_without_cleaning(machine: Machine) -> None:
    home, place = machine.home("home"), machine.place()
    machine.run("--home", home, "mount", place)
    with (place / "kept").open("wb", buffering=0) as file:
        file.write(b"kept")
        os.fsync(file.fileno())
    kill(home)
    wait_until("the mount is dead", lambda: mounts.is_dead(str(place)))
    machine.run("status", place, ends=14)
    machine.run("--home", home, "mount", place)
    assert (place / "kept").read_text() == "kept"


def test_the_mount_of_a_killed_process_can_be_unmounted(machine: Machine) -> None:
    home, place = machine.home("home"), machine.place()
    machine.run("--home", home, "mount", place)
    pid = holder(Home(home))
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert "process was gone" in machine.run("umount", place)
    assert not is_mounted(place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_mount_in_the_foreground_ends_cleanly_by_a_signal(machine: Machine, number: signal.Signals) -> None:
    home, place = machine.home("home"), machine.place()
    process, line = machine.start("--home", home, "mount", "-f", place)
    assert line == f"Mounted {place}."
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert not is_mounted(place)


def test_a_read_only_mount_takes_no_writes(machine: Machine) -> None:
    home, place = machine.home("home"), machine.place()
    machine.run("--home", home, "mount", place, "-o", "ro")
    with pytest.raises(OSError, match="Read-only"):
        (place / "x").touch()


def test_a_supplier_is_hired_only_if_its_owner_allowed_it(machine: Machine) -> None:
    home, friend, place = machine.home("home"), machine.home("friend"), machine.place()
    owner = machine.run("--home", home, "id", "--owner").strip()
    serve = ("--home", friend, "serve", "--listen", "127.0.0.1:0")
    process, address = machine.start(*serve)
    assert "refused" in machine.run("--home", home, "hire", address, "--size", "1G", ends=13)
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0

    _, address = machine.start(*serve, "--allow", f"{owner}:1G")
    assert "Hired anna" in machine.run("--home", home, "hire", address, "--size", "1G", "--label", "anna")
    machine.run("--home", home, "mount", place)
    assert "Hired anna" in machine.run("--home", home, "hire", address, "--size", "512M")
    (place / "letter").write_text("dear all")
    machine.run("sync", place)
    answer = json.loads(machine.run("status", place, "--json"))
    assert [(s["label"], s["capacity_bytes"]) for s in answer["suppliers"]] == [("anna", 512 * 1024**2)]
    assert "Nothing exists only here" in machine.run("umount", place, "--sync", "--timeout", "1m")
