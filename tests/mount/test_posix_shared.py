"""What several descriptors, processes, names and maps of one file see of each other: sizes, bytes, locks."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import struct
from functools import partial
from pathlib import Path

import pytest

from bitdustfs.model import CHUNK_BYTES
from tests.mount.support import child, child_code, code_of

F_OFD_SETLK = 37
_LOCK = "hhqqi4x"  # struct flock


def lock(kind: int, start: int = 0, length: int = 0) -> bytes:
    return struct.pack(_LOCK, kind, os.SEEK_SET, start, length, 0)


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


# -- sizes ---------------------------------------------------------------------------------------------------


def test_size_is_right_after_each_write_whoever_asks(place: Path) -> None:
    (place / "f").touch()
    os.link(place / "f", place / "g")
    with (place / "f").open("ab", buffering=0) as one, (place / "g").open("rb") as other:
        for count in range(1, 6):
            one.write(b"x" * 1000)
            sizes = {(place / "f").stat().st_size, (place / "g").stat().st_size, os.fstat(other.fileno()).st_size}
            assert sizes == {count * 1000}
            assert os.fstat(other.fileno()).st_blocks == -(-count * 1000 // 512)


def test_append_goes_to_the_end_that_another_truncation_made(place: Path) -> None:
    appending = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    other = os.open(place / "f", os.O_RDWR)
    os.write(appending, b"12345")
    os.ftruncate(other, 2)
    os.write(appending, b"67")
    os.ftruncate(other, 6)
    os.write(appending, b"8")
    assert (place / "f").read_bytes() == b"1267\0\08"
    os.close(appending)
    os.close(other)


@pytest.mark.slow
def test_appends_of_several_processes_all_arrive(place: Path) -> None:
    def append(letter: bytes) -> None:
        descriptor = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for _ in range(100):
            os.write(descriptor, letter * 77)

    letters = (b"a", b"b", b"c")
    writers = [child(partial(append, letter)) for letter in letters]
    assert [ended(writer) for writer in writers] == [0, 0, 0]
    content = (place / "f").read_bytes()
    parts = [content[i : i + 77] for i in range(0, len(content), 77)]
    assert sorted(parts) == sorted(letter * 77 for letter in letters for _ in range(100))


def test_truncation_between_a_write_and_its_sync_wins(place: Path) -> None:
    with (place / "f").open("w+b", buffering=0) as f:
        f.write(b"x" * (CHUNK_BYTES + 5000))
        os.truncate(place / "f", CHUNK_BYTES - 1)
        os.fsync(f.fileno())
        os.truncate(place / "f", CHUNK_BYTES + 10)
        f.seek(0)
        assert f.read() == b"x" * (CHUNK_BYTES - 1) + bytes(11)


def test_file_opened_with_truncation_is_empty_for_those_who_have_it(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 300_000)
    with (place / "f").open("r+b", buffering=0) as f:
        os.close(os.open(place / "f", os.O_WRONLY | os.O_TRUNC))
        assert f.read() == b""
        f.seek(100)
        f.write(b"y")
    assert (place / "f").read_bytes() == bytes(100) + b"y"


# -- maps ----------------------------------------------------------------------------------------------------


def test_truncation_leaves_zeros_in_a_shared_map(place: Path) -> None:
    (place / "f").write_bytes(b"a" * 10_000)
    with (place / "f").open("r+b", buffering=0) as f, mmap.mmap(f.fileno(), 10_000) as mapped:
        os.ftruncate(f.fileno(), 5_000)
        os.ftruncate(f.fileno(), 10_000)
        assert mapped[:] == b"a" * 5_000 + bytes(5_000)
        mapped[9_000] = 7
        os.ftruncate(f.fileno(), 8_292)
        os.ftruncate(f.fileno(), 10_000)
        mapped.flush()
        assert os.pread(f.fileno(), 10_000, 0) == b"a" * 5_000 + bytes(5_000)


def test_store_beyond_the_end_of_the_file_in_its_last_page_is_lost(place: Path) -> None:
    (place / "f").write_bytes(b"a" * 4_096)
    with (place / "f").open("r+b", buffering=0) as f, mmap.mmap(f.fileno(), 4_096) as mapped:
        os.ftruncate(f.fileno(), 100)
        mapped[200] = 7
        mapped.flush()
        assert os.fstat(f.fileno()).st_size == 100
        os.ftruncate(f.fileno(), 4_096)
        assert os.pread(f.fileno(), 4_096, 0) == b"a" * 100 + bytes(3_996)


def test_private_map_changes_nothing(place: Path) -> None:
    (place / "f").write_bytes(b"a" * 5_000)
    with (place / "f").open("rb") as f, mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[0:3] = b"new"
        assert mapped[0:3] == b"new"
    assert (place / "f").read_bytes() == b"a" * 5_000


# -- locks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_record_locks_of_two_processes_exclude_each_other(place: Path) -> None:
    with (place / "f").open("w+b") as f:

        def take(start: int) -> None:
            with (place / "f").open("r+b") as mine:
                fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)

        fcntl.lockf(f, fcntl.LOCK_EX, 10, 0)
        assert child_code(lambda: take(5)) == errno.EAGAIN
        assert child_code(lambda: take(10)) == 0
        (place / "f").open("rb").close()  # closing any descriptor of the file gives up all locks of the process
        assert child_code(lambda: take(5)) == 0


def test_locks_go_with_the_process_that_had_them(place: Path) -> None:
    (place / "f").touch()
    ready, say = os.pipe()

    def hold() -> None:
        descriptor = os.open(place / "f", os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.write(say, b"!")
        signal.pause()

    holder = child(hold)
    os.read(ready, 1)
    with (place / "f").open("r+b") as f:
        assert code_of(lambda: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EAGAIN
        assert code_of(lambda: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EAGAIN
        asked = struct.unpack(_LOCK, fcntl.fcntl(f, fcntl.F_GETLK, lock(fcntl.F_WRLCK)))
        assert (asked[0], asked[4]) == (fcntl.F_WRLCK, holder)
        os.kill(holder, signal.SIGKILL)
        assert ended(holder) == -signal.SIGKILL
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(ready)
    os.close(say)


def test_locks_of_descriptors_exclude_each_other_in_one_process(place: Path) -> None:
    with (place / "f").open("w+b") as one, (place / "f").open("r+b") as other:
        fcntl.fcntl(one, F_OFD_SETLK, lock(fcntl.F_WRLCK, 0, 10))
        assert code_of(lambda: fcntl.fcntl(other, F_OFD_SETLK, lock(fcntl.F_RDLCK, 5, 10))) == errno.EAGAIN
        fcntl.fcntl(other, F_OFD_SETLK, lock(fcntl.F_WRLCK, 10, 10))


def test_shared_lock_becomes_exclusive_when_it_is_the_only_one(place: Path) -> None:
    with (place / "f").open("w+b") as one:
        fcntl.flock(one, fcntl.LOCK_SH)
        with (place / "f").open("r+b") as other:
            fcntl.flock(other, fcntl.LOCK_SH)
            assert code_of(lambda: fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EAGAIN
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
