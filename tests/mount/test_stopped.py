"""Suppliers that stop, or are not there: what is here works on, and what is not ends in time (I12).

How long something takes is measured against the deadline of a read: who is kept back by reads that wait for nothing
waits for one deadline at least.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitdustfs.core.patience import KERNEL_SLOTS, STALLED_MOST
from bitdustfs.core.units import format_size
from bitdustfs.edges import mounts
from bitdustfs.edges.fuse_tuning import MAX_BACKGROUND
from bitdustfs.edges.home import Home, holder
from tests.mount.practice import Practice, wait_until
from tests.mount.support import STOPS_S, code_of

pytestmark = pytest.mark.slow
DEADLINE_S = 20.0
AT_ONCE_S = DEADLINE_S / 2  # takes milliseconds; a busy machine may take its time
READERS = 200
FILE_BYTES = 20_000  # too many to be kept in the catalog
END_S = STOPS_S
DICE = random.Random(12)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Practice]:
    with Practice(tmp_path_factory.mktemp("stopped"), suppliers=3, code="2/3") as practice:
        for number in range(READERS + 1):
            (practice.path / f"cold{number}").write_bytes(DICE.randbytes(FILE_BYTES))
        practice.sync()
        yield practice


def uncached(path: Path) -> bytes:
    """Read a file through the kernel, and not what it has in memory of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


def write_and_fsync(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"y" * 1_000_000)
        file.flush()
        os.fsync(file.fileno())


def took(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


class Readers:
    """Threads that each read the beginning of a file that is not here."""

    def __init__(self, swarm: Practice, count: int) -> None:
        self._swarm = swarm
        self._began = time.monotonic()
        self.codes: list[int | None] = []
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _read(self, number: int) -> None:
        self.codes.append(code_of(lambda: uncached(self._swarm.path / f"cold{number}")))

    def join(self) -> float:
        """Wait for the end of all. Returns how long they took together."""
        for thread in self._threads:
            thread.join()
        return time.monotonic() - self._began


def make_local(swarm: Practice) -> Path:
    """A file that is here."""
    path = swarm.path / "local"
    path.write_bytes(b"l" * 100_000)
    return path


def test_two_hundred_stalled_readers_keep_nobody_back(swarm: Practice) -> None:
    swarm.remount(f"read_timeout={DEADLINE_S:g},max_background={KERNEL_SLOTS}")
    here, place = make_local(swarm), swarm.path
    swarm.forget()
    with swarm.stopped():
        readers = Readers(swarm, READERS)
        at_first_s = took(lambda: uncached(here))  # it stands behind all of them in the kernel's queue
        # no fewer; more where it takes so long that silent suppliers count as gone: see tests/engine/test_reads
        wait_until("all but six gave way", lambda: len(readers.codes) >= READERS - STALLED_MOST)
        measured = {
            "read": took(lambda: uncached(here)),
            "stat": took(lambda: (place / "cold0").stat()),
            "ls": took(lambda: os.listdir(place)),
            "df": took(lambda: os.statvfs(place)),
            "write and fsync": took(lambda: write_and_fsync(place / "new")),
            "mkdir": took((place / "directory").mkdir),
            "rename": took(lambda: (place / "new").rename(place / "directory" / "newer")),
            "truncate": took(lambda: os.truncate(place / "directory" / "newer", 10)),
            "cut what is not here": took(lambda: os.truncate(place / f"cold{READERS}", 10)),
            "unlink": took((place / "directory" / "newer").unlink),
        }
        all_s = readers.join()
    assert at_first_s <= AT_ONCE_S
    assert {what: seconds for what, seconds in measured.items() if seconds > AT_ONCE_S} == {}
    assert set(readers.codes) == {errno.ETIMEDOUT}
    assert all_s <= 2 * DEADLINE_S


def test_no_reader_is_kept_back_either_where_the_kernel_takes_many(swarm: Practice) -> None:
    deadline_s = 10 * DEADLINE_S  # nobody who waits for it is through when we look
    swarm.remount(f"read_timeout={deadline_s:g}")
    here = make_local(swarm)
    swarm.forget()
    with swarm.stopped():
        readers = Readers(swarm, MAX_BACKGROUND)
        wait_until("all but a few gave way", lambda: len(readers.codes) >= MAX_BACKGROUND * 3 // 4 - STALLED_MOST)
        assert took(lambda: uncached(here)) < deadline_s / 4
        assert took(lambda: write_and_fsync(swarm.path / "new")) < deadline_s / 4
    readers.join()
    assert set(readers.codes) <= {errno.ETIMEDOUT, None}
    wait_until("reads work again", lambda: code_of(lambda: uncached(swarm.path / "cold0")) is None)


@pytest.mark.parametrize("mebibytes", [24, pytest.param(500, marks=pytest.mark.long)])
def test_mount_ends_in_time_with_stalled_reads_and_uploads_and_goes_on_later(swarm: Practice, mebibytes: int) -> None:
    content = DICE.randbytes(1 << 20)
    swarm.remount()
    swarm.sync()  # what other tests left
    swarm.forget()
    with swarm.stopped():
        with (swarm.path / "pending").open("wb") as file:
            for number in range(mebibytes):
                file.write(number.to_bytes(4, "big") + content[4:])
        readers = Readers(swarm, STALLED_MOST - 1)
        time.sleep(1)  # not needed: more uploads are on their way then
        os.kill(swarm.mount_pid(), signal.SIGTERM)
        wait_until("the process is gone", lambda: holder(Home(swarm.home)) is None, END_S)
        readers.join()
        assert mounts.mounted_at(str(swarm.path), mounts.read_mounts()) is None
        swarm.mount(wait=False)
        readers = Readers(swarm, STALLED_MOST - 1)
        began = time.monotonic()
        said = swarm.run("umount", str(swarm.path)).stdout
        assert time.monotonic() - began < END_S
        assert f"1 file ({format_size(mebibytes << 20)})" in said
        readers.join()
    swarm.mount()
    swarm.sync()
    swarm.forget()
    with (swarm.path / "pending").open("rb") as file:
        for number in range(mebibytes):
            assert file.read(1 << 20) == number.to_bytes(4, "big") + content[4:]
    (swarm.path / "pending").unlink()


def test_mount_starts_and_works_without_a_network(swarm: Practice) -> None:
    swarm.sync()  # what other tests left
    swarm.umount()
    for number in (1, 2, 3):
        swarm.kill_supplier(number)
    port = int(swarm.places()[0].rpartition(":")[2])
    with socket.socket() as hole:  # takes connections, and never answers; the other two refuse them
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # files are closed one after another: who holds no home any more may listen for another moment
        wait_until("the port is free", lambda: code_of(lambda: hole.bind(("127.0.0.1", port))) is None)
        hole.listen()
        swarm.mount(wait=False)
        (swarm.path / "letter").write_text("dear all")
        assert uncached(swarm.path / "letter") == b"dear all"
        swarm.forget()
        assert took(lambda: code_of(lambda: uncached(swarm.path / "cold1"))) < AT_ONCE_S
        assert code_of(lambda: uncached(swarm.path / "cold1")) == errno.ETIMEDOUT
        assert "0 of 2 needed suppliers answer" in " ".join(swarm.status()["trouble"])
        assert "1 file (8 B)" in swarm.run("umount", str(swarm.path)).stdout
    swarm.up()
    swarm.sync()
    assert (swarm.path / "letter").read_text() == "dear all"
    assert len((swarm.path / "cold1").read_bytes()) == FILE_BYTES
