"""What a mount may use: memory, spool and descriptors are bounded, and its end is quick, whatever goes through it."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from bitdustfs.edges.control import named
from bitdustfs.model import INLINE_BYTES
from tests.mount.practice import Practice, wait_until
from tests.mount.support import STOPS_S, Mount

pytestmark = pytest.mark.slow
MIB = 1 << 20
MOUNT_KIB, SUPPLIER_KIB = 300 * 1024, 150 * 1024
DESCRIPTORS = 64


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def used_bytes(directory: Path) -> int:
    """What the files in a directory take."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


@contextmanager
def watched(directory: Path) -> Iterator[list[int]]:
    """Look at the size of a directory again and again. At the end the list holds all that was seen."""
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            seen.append(used_bytes(directory))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@contextmanager
def swarm_with_spool(directory: Path, mib: int) -> Iterator[Practice]:
    with Practice(directory, spares=0) as practice:
        practice.run("umount", str(practice.path))
        practice.run("mount", str(practice.path), "-o", f"spool={mib}M")
        yield practice


@pytest.mark.parametrize("spool_mib", [16, pytest.param(64, marks=pytest.mark.long)])
def test_ten_times_the_spool_streams_through(tmp_path: Path, spool_mib: int) -> None:
    piece = random.Random(8).randbytes(MIB)
    with swarm_with_spool(tmp_path, spool_mib) as practice:
        with watched(practice.home / "spool") as spool:
            with (practice.path / "stream").open("wb") as file:
                for number in range(10 * spool_mib):
                    file.write(number.to_bytes(8, "big") + piece[8:])
            practice.sync()
            with (practice.path / "stream").open("rb") as file:
                for number in range(10 * spool_mib):
                    assert file.read(MIB) == number.to_bytes(8, "big") + piece[8:], number
        assert 0 < max(spool) <= spool_mib * MIB + 2 * MIB
        assert peak_kib(practice.mount_pid()) < MOUNT_KIB
        assert max(peak_kib(pid) for pid in practice.supplier_pids()) < SUPPLIER_KIB


@pytest.mark.long
def test_ten_times_the_spool_of_small_files_goes_through(tmp_path: Path) -> None:
    dice = random.Random(4)
    contents = {f"{number:05}": dice.randbytes(INLINE_BYTES) for number in range(10_240)}
    with swarm_with_spool(tmp_path, 16) as practice:
        for name, content in contents.items():
            (practice.path / name).write_bytes(content)
        practice.sync()
        for name, content in contents.items():
            assert (practice.path / name).read_bytes() == content, name
        assert peak_kib(practice.mount_pid()) < MOUNT_KIB
        assert max(peak_kib(pid) for pid in practice.supplier_pids()) < SUPPLIER_KIB


# -- descriptors ----------------------------------------------------------------------------------------------


class FewDescriptors(Mount):
    """A mount whose process may have few files open."""

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", sys.executable, "-m", *self._command()]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self) -> socket.socket:
        """To the control socket, without asking anything."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with named(self.state / "control.sock") as path:
            connection.connect(path)
        return connection


def test_few_descriptors_are_enough_for_many_open_files() -> None:
    with FewDescriptors() as mount:
        before = mount.descriptors()
        content = random.Random(3).randbytes(20_000)
        files = [(mount.path / f"{number}").open("w+b", buffering=0) for number in range(3 * DESCRIPTORS)]
        for file in files:
            file.write(content)
        for file in files:
            os.fsync(file.fileno())
            file.seek(0)
            assert file.read() == content
            file.close()
        wait_until("no descriptor is lost", lambda: mount.descriptors() <= before + DESCRIPTORS // 4)


def test_strangers_at_the_socket_take_no_descriptor_for_good() -> None:
    with FewDescriptors() as mount:
        before = mount.descriptors()
        strangers = [mount.connect() for _ in range(DESCRIPTORS)]
        wait_until("no more descriptors", lambda: mount.descriptors() >= DESCRIPTORS - 2)
        for number in range(20):  # each is done, or fails for now
            try:
                (mount.path / f"{number}").write_bytes(bytes(20_000))
            except OSError as error:
                assert error.errno == errno.ETIMEDOUT
        assert len(os.listdir(mount.path)) == 20
        for stranger in strangers:
            stranger.close()
        wait_until("no descriptor is lost", lambda: mount.descriptors() <= before + DESCRIPTORS // 4)
        (mount.path / "after").write_bytes(bytes(20_000))


# -- the end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mib", [24, pytest.param(500, marks=pytest.mark.long)])
def test_signal_ends_a_mount_that_has_much_to_send_and_the_next_one_goes_on(mib: int) -> None:
    piece = random.Random(2).randbytes(MIB)
    with Mount("spool=2G") as mount:
        with (mount.path / "pending").open("wb") as file:
            for number in range(mib):
                file.write(number.to_bytes(8, "big") + piece[8:])
        started = time.monotonic()
        assert mount.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < STOPS_S
        assert re.search(r"unmounted .*Only on this machine: 1 file \([0-9.]+ MiB\)", mount.log.read_text())
        mount.start()
        with (mount.path / "pending").open("rb") as file:
            for number in range(mib):
                assert file.read(MIB) == number.to_bytes(8, "big") + piece[8:], number
