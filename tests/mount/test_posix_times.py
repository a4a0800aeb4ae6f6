"""Times through the kernel: what each operation changes and what it leaves, and what utimensat(2) may set."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.mount.support import AT_FDCWD, as_user, code_of, libc, make

AT_SYMLINK_NOFOLLOW = 0x100
NOW, OMIT = (0, (1 << 30) - 1), (0, (1 << 30) - 2)  # UTIME_NOW and UTIME_OMIT, as (seconds, nanoseconds)
OLD_NS = 1_000_000_000_000_000_007
KINDS = ("file", "directory", "fifo", "symlink", "socket", "device")


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    if libc.utimensat(AT_FDCWD, os.fsencode(path), times, AT_SYMLINK_NOFOLLOW) != 0:
        raise OSError(ctypes.get_errno(), "utimensat")


@dataclass(frozen=True)
class Times:
    """Of one path, at one moment."""

    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def times(path: Path) -> Times:
    found = path.lstat()
    return Times(found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)


def changed(path: Path, call: Callable[[], object]) -> str:
    """Which times of a path a call moves forward, as the letters of `stat`; a call that fails is fine."""
    before = times(path)
    time.sleep(0.001)  # clocks have a grain
    code_of(call)
    after = times(path)
    moved = [
        letter
        for letter, old, new in (
            ("m", before.mtime_ns, after.mtime_ns),
            ("c", before.ctime_ns, after.ctime_ns),
        )
        if new > old
    ]
    assert after.atime_ns == before.atime_ns, "the mount is noatime"
    return "".join(moved)


# -- what changes --------------------------------------------------------------------------------------------

OF_THE_FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "write": (lambda f: f.write_bytes(b"y"), "mc"),
    "empty write": (lambda f: _write(f, b""), ""),
    "truncate": (lambda f: os.truncate(f, 0), "mc"),
    "truncate to the same size": (lambda f: os.truncate(f, 1), "mc"),
    "open with O_TRUNC": (lambda f: os.close(os.open(f, os.O_WRONLY | os.O_TRUNC)), "mc"),
    "read": (lambda f: f.read_bytes(), ""),
    "chmod": (lambda f: f.chmod(0o600), "c"),
    "chown": (lambda f: os.chown(f, 1, 1), "c"),
    "setxattr": (lambda f: os.setxattr(f, "user.a", b"1"), "c"),
    "link": (lambda f: os.link(f, f.with_name("other")), "c"),
    "rename": (lambda f: _there_and_back(f), "c"),
    "rename over it in vain": (lambda f: os.rename(f.parent, f), ""),
    "chmod in vain": (lambda f: _as_other(lambda: f.chmod(0o777)), ""),
    "chown in vain": (lambda f: _as_other(lambda: os.chown(f, 1, 1)), ""),
    "truncate in vain": (lambda f: _as_other(lambda: os.truncate(f, 9)), ""),
    "truncate beyond the limit": (lambda f: os.truncate(f, 1 << 60), ""),
    "link in vain": (lambda f: os.link(f, f.parent), ""),
}


def _there_and_back(path: Path) -> None:
    os.rename(path, path.with_name("g"))
    os.rename(path.with_name("g"), path)


def _write(path: Path, content: bytes) -> None:
    with path.open("ab", buffering=0) as f:
        f.write(content)


def _as_other(call: Callable[[], object]) -> None:
    with as_user():
        call()


@pytest.mark.parametrize("operation", OF_THE_FILE)
def test_operation_moves_the_times_of_its_file(place: Path, operation: str) -> None:
    call, letters = OF_THE_FILE[operation]
    (place / "f").write_bytes(b"x")
    assert changed(place / "f", lambda: call(place / "f")) == letters


OF_THE_DIRECTORY: dict[str, tuple[Callable[[Path], object], str]] = {
    "making a file": (lambda d: make(d / "new", "file"), "mc"),
    "making a directory": (lambda d: make(d / "new", "directory"), "mc"),
    "making a fifo": (lambda d: make(d / "new", "fifo"), "mc"),
    "making a symlink": (lambda d: make(d / "new", "symlink"), "mc"),
    "link": (lambda d: os.link(d / "f", d / "g"), "mc"),
    "unlink": (lambda d: (d / "f").unlink(), "mc"),
    "rmdir": (lambda d: (d / "empty").rmdir(), "mc"),
    "rename": (lambda d: os.rename(d / "f", d / "g"), "mc"),
    "rename out": (lambda d: os.rename(d / "f", d.parent / "f"), "mc"),
    "rename in": (lambda d: os.rename(d.parent / "outside", d / "f"), "mc"),
    "listing": (os.listdir, ""),
    "writing to a file in it": (lambda d: (d / "f").write_bytes(b"y"), ""),
    "making what exists": (lambda d: (d / "f").mkdir(), ""),
    "unlink of nothing": (lambda d: (d / "nothing").unlink(), ""),
    "rmdir of what is full": (lambda d: (d / "full").rmdir(), ""),
    "rename of nothing": (lambda d: os.rename(d / "nothing", d / "g"), ""),
    "rename over what is full": (lambda d: os.rename(d / "empty", d / "full"), ""),
}


@pytest.mark.parametrize("operation", OF_THE_DIRECTORY)
def test_operation_moves_the_times_of_the_directory(place: Path, operation: str) -> None:
    call, letters = OF_THE_DIRECTORY[operation]
    directory = place / "d"
    (directory / "full/inner").mkdir(parents=True)
    (directory / "empty").mkdir()
    (directory / "f").touch()
    (place / "outside").touch()
    assert changed(directory, lambda: call(directory)) == letters


def test_replaced_file_that_is_open_has_no_link_and_a_new_ctime(place: Path) -> None:
    (place / "old").touch()
    (place / "new").touch()
    with (place / "old").open("rb") as f:
        before = os.fstat(f.fileno())
        time.sleep(0.001)
        os.rename(place / "new", place / "old")
        after = os.fstat(f.fileno())
    assert after.st_nlink == 0 and after.st_ctime_ns > before.st_ctime_ns


@pytest.mark.parametrize("kind", KINDS)
def test_everything_new_has_the_time_of_now(place: Path, kind: str) -> None:
    before = time.time_ns() - 50_000_000  # the kernel's clock is coarse
    make(place / "f", kind)
    assert min(vars(times(place / "f")).values()) >= before


# -- what may be set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [-(1 << 31), -1, 1 << 32, 1 << 33])
def test_times_before_1970_and_far_ahead_are_kept(place: Path, kind: str, seconds: int) -> None:
    make(place / "f", kind)
    utimensat(place / "f", (seconds, 1), (seconds, 999_999_999))
    found = times(place / "f")
    assert (found.atime_ns, found.mtime_ns) == (seconds * 10**9 + 1, seconds * 10**9 + 999_999_999)


def test_time_beyond_the_years_that_are_kept_becomes_the_last_of_them(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", (1 << 34, 1 << 34))
    assert times(place / "f").mtime_ns == (1 << 63) - 1
    os.utime(place / "f", (-(1 << 34), -(1 << 34)))
    assert times(place / "f").mtime_ns == -((1 << 63) - 1)
    with (place / "f").open("r+b") as f:
        os.fsync(f.fileno())


def test_time_that_is_omitted_stays(place: Path) -> None:
    (place / "f").touch()
    utimensat(place / "f", (1, 2), (3, 4))
    utimensat(place / "f", OMIT, (5, 6))
    assert (times(place / "f").atime_ns, times(place / "f").mtime_ns) == (1_000_000_002, 5_000_000_006)
    utimensat(place / "f", (7, 8), OMIT)
    assert (times(place / "f").atime_ns, times(place / "f").mtime_ns) == (7_000_000_008, 5_000_000_006)
    assert changed(place / "f", lambda: utimensat(place / "f", OMIT, OMIT)) == ""


def test_time_of_now_is_one_moment(place: Path) -> None:
    (place / "f").touch()
    os.utime(place / "f", ns=(OLD_NS, OLD_NS))
    utimensat(place / "f", NOW, OMIT)
    assert times(place / "f").atime_ns > OLD_NS == times(place / "f").mtime_ns
    utimensat(place / "f", NOW, NOW)
    assert times(place / "f").atime_ns == times(place / "f").mtime_ns > OLD_NS


def test_who_may_write_may_set_the_time_of_now_and_no_other(place: Path) -> None:
    (place / "f").touch()
    (place / "f").chmod(0o666)
    with as_user():
        utimensat(place / "f", NOW, NOW)
        utimensat(place / "f", OMIT, OMIT)
        for atime, mtime in (((1, 1), (1, 1)), (NOW, OMIT), (OMIT, NOW), (NOW, (1, 1))):
            assert code_of(partial(utimensat, place / "f", atime, mtime)) == errno.EPERM
    (place / "f").chmod(0o644)
    with as_user():
        assert code_of(lambda: utimensat(place / "f", NOW, NOW)) == errno.EACCES


# -- what comes late changes nothing -------------------------------------------------------------------------


def test_time_set_before_the_close_stays_after_it(place: Path) -> None:
    with (place / "f").open("wb") as f:
        f.write(os.urandom(300_000))
        f.flush()
        os.utime(f.fileno(), ns=(OLD_NS, OLD_NS))
    assert times(place / "f").mtime_ns == OLD_NS
    with (place / "f").open("rb") as f:
        os.fsync(f.fileno())
    assert times(place / "f").mtime_ns == OLD_NS


def test_stores_through_a_map_move_the_times_when_they_are_flushed(place: Path) -> None:
    (place / "f").write_bytes(bytes(10_000))
    os.utime(place / "f", ns=(OLD_NS, OLD_NS))
    with (place / "f").open("r+b") as f, mmap.mmap(f.fileno(), 0) as mapped:
        mapped[5_000] = 1
        mapped.flush()
        assert times(place / "f").mtime_ns > OLD_NS
