"""The errno of each call that must fail: one kind of mistake, one test, tried with every call that can make it."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.mount.support import AT_FDCWD, child_code, code_of, libc, renameat2

Call = Callable[[str], object]
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AT_SYMLINK_FOLLOW = 0x400

MAKING: dict[str, Call] = {
    "create": lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "symlink": lambda path: os.symlink("target", path),
    "link": lambda path: os.link(_beside(path, "f"), path),
    "rename": lambda path: renameat2(_beside(path, "f"), path, NOREPLACE),
}
USING: dict[str, Call] = {
    "open": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "stat": os.stat,
    "chmod": lambda path: os.chmod(path, 0o600),
    "chown": lambda path: os.chown(path, 0, 0),
    "truncate": lambda path: os.truncate(path, 0),
    "utime": os.utime,
    "listdir": os.listdir,
    "setxattr": lambda path: os.setxattr(path, "user.a", b"1"),
}
NAMING: dict[str, Call] = {  # these do not follow a symlink at the end
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "readlink": os.readlink,
    "rename away": lambda path: os.rename(path, _beside(path, "aside")),
    "link away": lambda path: os.link(path, _beside(path, "aside")),
}
ALL = {**NAMING, **MAKING, **USING}


def _beside(path: str, name: str) -> str:
    """A name in the place of the test."""
    return path.split("@")[0] + name


@pytest.fixture
def here(place: Path) -> str:
    """A directory beside a file `f`. Its name is @, so that a call finds the file again."""
    (place / "@").mkdir()
    (place / "f").touch()
    return f"{place}/@"


@pytest.mark.parametrize("call", ALL)
def test_path_through_a_file_is_enotdir(here: str, call: str) -> None:
    Path(here, "file").touch()
    assert code_of(lambda: ALL[call](f"{here}/file/x")) == errno.ENOTDIR


@pytest.mark.parametrize("call", ALL)
def test_path_through_a_missing_directory_is_enoent(here: str, call: str) -> None:
    assert code_of(lambda: ALL[call](f"{here}/missing/x")) == errno.ENOENT


@pytest.mark.parametrize("call", [*NAMING, *USING])
def test_missing_name_is_enoent(here: str, call: str) -> None:
    assert code_of(lambda: ALL[call](f"{here}/missing")) == errno.ENOENT


@pytest.mark.parametrize("call", ALL)
def test_path_through_a_circle_of_symlinks_is_eloop(here: str, call: str) -> None:
    os.symlink("one", f"{here}/other")
    os.symlink("other", f"{here}/one")
    assert code_of(lambda: ALL[call](f"{here}/one/x")) == errno.ELOOP


@pytest.mark.parametrize("call", USING)
def test_circle_of_symlinks_at_the_end_is_eloop(here: str, call: str) -> None:
    os.symlink("loop", f"{here}/loop")
    assert code_of(lambda: ALL[call](f"{here}/loop")) == errno.ELOOP


@pytest.mark.parametrize("call", ALL)
def test_name_of_256_bytes_is_enametoolong(here: str, call: str) -> None:
    assert code_of(lambda: ALL[call](f"{here}/{'n' * 256}")) == errno.ENAMETOOLONG


@pytest.mark.parametrize("call", ALL)
def test_path_of_4096_bytes_is_enametoolong(here: str, call: str) -> None:
    assert code_of(lambda: ALL[call](here.ljust(4095, "/") + "x")) == errno.ENAMETOOLONG


@pytest.mark.parametrize("there", ["file", "directory", "dangling"])
@pytest.mark.parametrize("call", MAKING)
def test_making_what_exists_is_eexist(here: str, call: str, there: str) -> None:
    Path(here, "file").touch()
    os.mkdir(f"{here}/directory")
    os.symlink("nowhere", f"{here}/dangling")
    assert code_of(lambda: ALL[call](f"{here}/{there}")) == errno.EEXIST


def test_last_free_byte_of_a_path_can_be_used(place: Path) -> None:
    path = str(place)
    while len(path) < 4095 - 256:
        path += "/" + "d" * 100
        os.mkdir(path)
    path += "/" + "f" * (4095 - len(path) - 1)
    os.close(os.open(path, os.O_CREAT))
    assert stat.S_ISREG(os.stat(path).st_mode)


def test_symlink_target_has_1_to_4095_bytes(place: Path) -> None:
    os.symlink("t" * 4095, place / "s")
    assert len(os.readlink(place / "s")) == (place / "s").lstat().st_size == 4095
    assert code_of(lambda: os.symlink("t" * 4096, place / "long")) == errno.ENAMETOOLONG
    assert code_of(lambda: os.symlink("", place / "empty")) == errno.ENOENT


# -- opening -------------------------------------------------------------------------------------------------


def test_exclusive_creation_does_not_follow_a_symlink(place: Path) -> None:
    (place / "dangling").symlink_to("new")
    assert code_of(lambda: os.open(place / "dangling", os.O_CREAT | os.O_EXCL)) == errno.EEXIST
    os.close(os.open(place / "dangling", os.O_CREAT | os.O_WRONLY))
    assert (place / "new").is_file()


def test_open_without_following_refuses_a_symlink(place: Path) -> None:
    (place / "f").touch()
    (place / "s").symlink_to("f")
    assert code_of(lambda: os.open(place / "s", os.O_RDONLY | os.O_NOFOLLOW)) == errno.ELOOP


def test_open_as_a_directory_refuses_a_file(place: Path) -> None:
    (place / "f").touch()
    assert code_of(lambda: os.open(place / "f", os.O_RDONLY | os.O_DIRECTORY)) == errno.ENOTDIR


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT])
def test_directory_cannot_be_opened_for_writing(place: Path, flags: int) -> None:
    assert code_of(lambda: os.open(place, flags)) == errno.EISDIR


def test_fifo_without_a_reader_and_a_socket_cannot_be_opened(place: Path) -> None:
    os.mkfifo(place / "p")
    os.mknod(place / "s", stat.S_IFSOCK | 0o600)
    assert code_of(lambda: os.open(place / "s", os.O_RDONLY)) == errno.ENXIO
    assert code_of(lambda: os.open(place / "p", os.O_WRONLY | os.O_NONBLOCK)) == errno.ENXIO


def test_device_is_kept_and_cannot_be_opened(place: Path) -> None:
    for name, kind in (("b", stat.S_IFBLK), ("c", stat.S_IFCHR)):
        os.mknod(place / name, kind | 0o666, os.makedev(7, 300))
        found = (place / name).stat()
        assert (stat.S_IFMT(found.st_mode), found.st_rdev) == (kind, os.makedev(7, 300))
        assert code_of(partial(os.open, place / name, os.O_RDONLY)) == errno.EACCES


# -- sizes ---------------------------------------------------------------------------------------------------


def test_size_needs_a_file_and_sense(place: Path) -> None:
    (place / "f").touch()
    os.mkfifo(place / "p")
    assert code_of(lambda: os.truncate(place, 0)) == errno.EISDIR
    assert code_of(lambda: os.truncate(place / "p", 0)) == errno.EINVAL
    assert code_of(lambda: os.truncate(place / "f", -1)) == errno.EINVAL


def test_write_across_the_largest_size_is_cut_and_beyond_it_efbig(place: Path) -> None:
    with (place / "f").open("wb", buffering=0) as f:
        assert os.pwrite(f.fileno(), b"x" * 100, (1 << 44) - 50) == 50
        assert code_of(lambda: os.pwrite(f.fileno(), b"x", 1 << 44)) == errno.EFBIG
        assert code_of(lambda: os.ftruncate(f.fileno(), (1 << 44) + 1)) == errno.EFBIG
        assert os.fstat(f.fileno()).st_size == 1 << 44


def test_file_size_limit_of_a_process_is_obeyed(place: Path) -> None:
    def write_more_than_allowed() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        descriptor = os.open(place / "f", os.O_CREAT | os.O_WRONLY)
        assert os.pwrite(descriptor, b"x" * 2000, 0) == 1000
        os.pwrite(descriptor, b"x", 1000)
        return 0

    assert child_code(write_more_than_allowed) == errno.EFBIG
    assert (place / "f").stat().st_size == 1000


# -- moving and removing -------------------------------------------------------------------------------------


def test_dots_cannot_be_moved_or_removed(place: Path) -> None:
    (place / "d").mkdir()
    assert code_of(lambda: os.rmdir(f"{place}/d/.")) == errno.EINVAL
    assert code_of(lambda: os.rmdir(f"{place}/d/..")) == errno.ENOTEMPTY
    assert code_of(lambda: os.rename(f"{place}/d/.", place / "e")) == errno.EBUSY
    assert code_of(lambda: os.rename(f"{place}/d/..", place / "e")) == errno.EBUSY


def test_slash_at_the_end_wants_a_directory(place: Path) -> None:
    (place / "f").touch()
    (place / "d").mkdir()
    assert code_of(lambda: os.rename(f"{place}/f/", place / "g")) == errno.ENOTDIR
    assert code_of(lambda: os.rename(place / "f", f"{place}/g/")) == errno.ENOTDIR
    assert code_of(lambda: os.open(f"{place}/g/", os.O_CREAT | os.O_WRONLY)) == errno.EISDIR
    os.rename(f"{place}/d/", f"{place}/e/")
    assert (place / "e").is_dir()


def test_moving_to_another_file_system_is_exdev(place: Path, tmp_path: Path) -> None:
    (place / "f").touch()
    assert code_of(lambda: os.rename(place / "f", tmp_path / "f")) == errno.EXDEV
    assert code_of(lambda: os.link(place / "f", tmp_path / "f")) == errno.EXDEV


def test_directory_cannot_take_the_place_of_one_above_it(place: Path) -> None:
    (place / "d/e").mkdir(parents=True)
    assert code_of(lambda: os.rename(place / "d/e", place / "d")) == errno.ENOTEMPTY
    for one, other in (("d", "d/e"), ("d/e", "d")):
        assert code_of(partial(renameat2, place / one, place / other, EXCHANGE)) == errno.EINVAL


def test_unknown_kinds_of_rename_are_einval(place: Path) -> None:
    (place / "f").touch()
    assert code_of(lambda: renameat2(place / "f", place / "g", WHITEOUT)) == errno.EINVAL
    assert code_of(lambda: renameat2(place / "f", place / "g", NOREPLACE | EXCHANGE)) == errno.EINVAL


def test_deleted_file_cannot_get_a_name_back(place: Path) -> None:
    descriptor = os.open(place / "f", os.O_CREAT | os.O_WRONLY)
    (place / "f").unlink()
    source = os.fsencode(f"/proc/self/fd/{descriptor}")
    assert libc.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(place / "back"), AT_SYMLINK_FOLLOW) == -1
    assert ctypes.get_errno() == errno.ENOENT
    os.close(descriptor)
    assert os.listdir(place) == []
