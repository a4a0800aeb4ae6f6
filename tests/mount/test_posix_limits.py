"""Limits, and what the stack cannot do: each fails in the way that tools expect and cope with."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.support import Mount, code_of, libc

FS_IOC_GETFLAGS, FS_IOC_FIEMAP, FICLONE = 0x80086601, 0xC020660B, 0x40049409
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


def allocated(directory: Path) -> int:
    """Bytes on the disk under a directory."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


# -- extended attributes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("user." + "n" * 250, b"1", None),
        ("user." + "n" * 251, b"1", errno.ERANGE),
        ("user.a", b"v" * 65536, None),
        ("user.a", b"v" * 65537, errno.E2BIG),
        ("user.", b"1", errno.EINVAL),
        ("user.with/slash", b"1", None),
        ("user.bitdustfs.own", b"1", errno.EPERM),
        ("trusted.a", b"1", errno.ENOTSUP),
        ("unknown.a", b"1", errno.ENOTSUP),
    ],
)
def test_attribute_that_does_not_fit_is_refused(place: Path, name: str, value: bytes, code: int | None) -> None:
    (place / "f").touch()
    assert code_of(lambda: os.setxattr(place / "f", name, value)) == code


def test_attributes_of_one_file_have_a_limit_together(place: Path) -> None:
    (place / "f").touch()
    os.setxattr(place / "f", "user.a", b"v" * 65536)
    assert code_of(lambda: os.setxattr(place / "f", "user.b", b"v" * 65536)) == errno.ENOSPC
    os.setxattr(place / "f", "user.a", b"small")
    os.setxattr(place / "f", "user.b", b"v" * 65536)


def test_buffer_that_is_too_small_for_an_attribute_is_erange(place: Path) -> None:
    path, buffer = os.fsencode(place / "f"), ctypes.create_string_buffer(2)
    (place / "f").touch()
    os.setxattr(path, "user.a", b"12345")
    assert libc.getxattr(path, b"user.a", None, 0) == 5
    assert libc.getxattr(path, b"user.a", buffer, 2) == -1 and ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(path, buffer, 2) == -1 and ctypes.get_errno() == errno.ERANGE


def test_attributes_are_for_files_and_directories(place: Path) -> None:
    (place / "d").mkdir()
    os.setxattr(place / "d", "user.a", b"1")
    os.mkfifo(place / "p")
    (place / "s").symlink_to("d")
    assert code_of(lambda: os.setxattr(place / "p", "user.a", b"1")) == errno.EPERM
    assert code_of(lambda: os.setxattr(place / "s", "user.a", b"1", follow_symlinks=False)) == errno.EPERM


# -- holes ---------------------------------------------------------------------------------------------------


def test_holes_cost_nothing(mount: Mount, place: Path) -> None:
    before = allocated(mount.state / "spool")
    for number in range(10):
        os.close(os.open(place / f"f{number}", os.O_CREAT | os.O_WRONLY))
        os.truncate(place / f"f{number}", 1 << 40)
        with (place / f"f{number}").open("r+b") as f:
            f.seek(1 << 39)
            f.write(b"x")
            f.flush()
            os.fsync(f.fileno())
    assert allocated(mount.state / "spool") - before < 1 << 20


# -- what there is not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE])
def test_allocation_and_punching_are_not_supported(place: Path, mode: int) -> None:
    with (place / "f").open("w+b") as f:
        assert libc.fallocate(f.fileno(), mode, ctypes.c_long(0), ctypes.c_long(4096)) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP


def test_flags_extents_and_clones_are_not_supported(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    with (place / "f").open("rb") as f, (place / "g").open("wb") as g:
        assert code_of(lambda: fcntl.ioctl(f, FS_IOC_GETFLAGS, bytes(8))) == errno.ENOTTY
        assert code_of(lambda: fcntl.ioctl(f, FS_IOC_FIEMAP, bytes(32))) == errno.EOPNOTSUPP
        assert code_of(lambda: fcntl.ioctl(g, FICLONE, f.fileno())) == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    "command",
    [
        ["cp", "--reflink=auto", "--sparse=always", "f", "copy"],
        ["cp", "-a", "f", "copy"],
        ["rsync", "-aHAX", "--sparse", "f", "copy"],
        ["rsync", "-a", "--preallocate", "f", "copy"],
        ["sh", "-c", "tar -cSf t f && mkdir out && tar -xf t -C out && mv out/f copy"],
        ["dd", "if=f", "of=copy", "conv=sparse,fsync", "status=none"],
        ["dd", "if=f", "of=copy", "bs=4096", "oflag=direct", "iflag=direct", "status=none"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_copying_tools_cope(place: Path, command: list[str]) -> None:
    content = os.urandom(8192) + bytes(1 << 20) + os.urandom(8192)
    (place / "f").write_bytes(content)
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (place / "copy").read_bytes() == content


def test_database_works_in_both_of_its_modes(place: Path) -> None:
    for mode in ("wal", "delete"):
        script = f"pragma journal_mode={mode}; create table t(a); insert into t values(1); pragma integrity_check;"
        done = subprocess.run(["sqlite3", place / f"{mode}.db", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [mode, "ok"]
