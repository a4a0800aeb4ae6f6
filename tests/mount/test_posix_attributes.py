"""Attributes, users, locks and limits through the kernel: one rule, one test. `test_posix` has names and bytes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

import pytest

from tests.mount.support import NOBODY, Mount, as_user, code_of

# -- attributes ----------------------------------------------------------------------------------------------


def test_times_are_kept_to_the_nanosecond(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", ns=(1_234_567_890_123_456_789, 987_654_321_098_765_432))
    times = (place / "f").stat()
    assert (times.st_atime_ns, times.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_098_765_432)


def test_reading_changes_no_time(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    before = (place / "f").stat()
    (place / "f").read_bytes()
    after = (place / "f").stat()
    assert (after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_atime_ns,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_writing_changes_mtime_and_ctime(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", ns=(1, 1))
    before = (place / "f").stat()
    with (place / "f").open("ab") as f:
        f.write(b"y")
    after = (place / "f").stat()
    assert after.st_mtime_ns > 1 and after.st_ctime_ns > before.st_ctime_ns and after.st_atime_ns == 1


def test_changing_bits_changes_ctime_only(place: Path) -> None:
    (place / "f").touch()
    before = (place / "f").stat()
    (place / "f").chmod(0o751)
    after = (place / "f").stat()
    assert after.st_mode == stat.S_IFREG | 0o751
    assert after.st_ctime_ns > before.st_ctime_ns and after.st_mtime_ns == before.st_mtime_ns


def test_umask_is_applied(place: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(place / "f", os.O_CREAT, 0o666))
        os.mkdir(place / "d", 0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o750


def test_chown_takes_set_id_bits(place: Path) -> None:
    (place / "f").touch()
    (place / "f").chmod(0o6755)
    os.chown(place / "f", NOBODY, -1)
    assert (place / "f").stat().st_mode == stat.S_IFREG | 0o755
    assert ((place / "f").stat().st_uid, (place / "f").stat().st_gid) == (NOBODY, 0)


def test_writing_takes_set_id_bits_and_stat_shows_it(place: Path) -> None:
    (place / "f").touch()
    (place / "f").chmod(0o6777)
    assert (place / "f").stat().st_mode == stat.S_IFREG | 0o6777
    with as_user():
        (place / "f").write_bytes(b"x")
    assert (place / "f").stat().st_mode == stat.S_IFREG | 0o777


def test_block_count_follows_the_size(place: Path) -> None:
    (place / "f").write_bytes(bytes(1000))
    assert (place / "f").stat().st_blocks == 2
    assert (place / "f").stat().st_blksize >= 4096


def test_statfs_is_answered(mount: Mount) -> None:
    space = os.statvfs(mount.path)
    assert space.f_namemax == 255
    assert space.f_bavail <= space.f_blocks
    assert space.f_ffree > 1_000_000


# -- extended attributes -------------------------------------------------------------------------------------


def test_user_attributes_are_set_read_listed_and_removed(place: Path) -> None:
    (place / "f").touch()
    os.setxattr(place / "f", "user.colour", b"red\0")
    os.setxattr(place / "f", "user.empty", b"")
    assert os.getxattr(place / "f", "user.colour") == b"red\0"
    assert os.getxattr(place / "f", "user.empty") == b""
    assert sorted(os.listxattr(place / "f")) == ["user.colour", "user.empty"]
    os.removexattr(place / "f", "user.colour")
    assert code_of(lambda: os.getxattr(place / "f", "user.colour")) == errno.ENODATA
    assert code_of(lambda: os.removexattr(place / "f", "user.colour")) == errno.ENODATA


def test_attribute_flags_are_obeyed(place: Path) -> None:
    (place / "f").touch()
    assert code_of(lambda: os.setxattr(place / "f", "user.a", b"1", os.XATTR_REPLACE)) == errno.ENODATA
    os.setxattr(place / "f", "user.a", b"1", os.XATTR_CREATE)
    assert code_of(lambda: os.setxattr(place / "f", "user.a", b"2", os.XATTR_CREATE)) == errno.EEXIST
    os.setxattr(place / "f", "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(place / "f", "user.a") == b"3"


def test_attribute_of_64_kib_is_kept(place: Path) -> None:
    value = os.urandom(65536)
    (place / "f").touch()
    os.setxattr(place / "f", "user.big", value)
    assert os.getxattr(place / "f", "user.big") == value


@pytest.mark.parametrize("name", ["trusted.a", "security.a"])
def test_other_attributes_are_not_supported(place: Path, name: str) -> None:
    (place / "f").touch()
    assert code_of(lambda: os.setxattr(place / "f", name, b"1")) == errno.ENOTSUP


def test_access_lists_are_not_supported(place: Path) -> None:
    owner_group_others = ((0x01, 6), (0x04, 4), (0x20, 4))
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, 0xFFFFFFFF) for tag, bits in owner_group_others
    )
    (place / "f").touch()
    assert code_of(lambda: os.setxattr(place / "f", "system.posix_acl_access", acl)) == errno.ENOTSUP
    assert code_of(lambda: os.setxattr(place, "system.posix_acl_default", acl)) == errno.ENOTSUP
    assert code_of(lambda: os.getxattr(place / "f", "system.posix_acl_access")) == errno.ENOTSUP


def test_state_is_an_attribute_that_is_not_listed(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    assert os.getxattr(place / "f", "user.bitdustfs.state") == b"local"
    assert os.listxattr(place / "f") == []
    assert code_of(lambda: os.setxattr(place / "f", "user.bitdustfs.state", b"safe")) == errno.EPERM


# -- several users -------------------------------------------------------------------------------------------


def test_bits_keep_others_out(place: Path) -> None:
    (place / "secret").write_bytes(b"x")
    (place / "secret").chmod(0o600)
    with as_user():
        assert code_of(lambda: (place / "secret").read_bytes()) == errno.EACCES
        assert code_of(lambda: (place / "new").touch()) == errno.EACCES
        assert code_of(lambda: (place / "secret").chmod(0o666)) == errno.EPERM


def test_files_belong_to_who_made_them(place: Path) -> None:
    place.chmod(0o777)
    with as_user(uid=1234, gid=2345):
        (place / "f").touch()
    assert ((place / "f").stat().st_uid, (place / "f").stat().st_gid) == (1234, 2345)


def test_supplementary_groups_count(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.chown(place / "f", 0, 4321)
    (place / "f").chmod(0o640)
    with as_user(groups=[4321]):
        assert (place / "f").read_bytes() == b"x"


def test_sticky_directory_protects_the_files_of_others(place: Path) -> None:
    place.chmod(0o1777)
    (place / "mine").touch()
    with as_user():
        assert code_of(lambda: (place / "mine").unlink()) == errno.EPERM
        (place / "theirs").touch()
        (place / "theirs").unlink()


def test_setgid_directory_hands_down_its_group(place: Path) -> None:
    os.chown(place, -1, 777)
    place.chmod(0o2777)
    with as_user():
        (place / "f").touch()
        (place / "d").mkdir()
    assert ((place / "f").stat().st_gid, (place / "d").stat().st_gid) == (777, 777)
    assert (place / "d").stat().st_mode & stat.S_ISGID


# -- locks, and what the stack cannot do ---------------------------------------------------------------------


def test_locks_exclude_each_other(place: Path) -> None:
    with (place / "f").open("w") as one, (place / "f").open("w") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        assert code_of(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EAGAIN
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_allocation_ahead_is_emulated_by_the_c_library(place: Path) -> None:
    with (place / "f").open("wb") as f:
        os.posix_fallocate(f.fileno(), 0, 100_000)
    assert (place / "f").read_bytes() == bytes(100_000)


def test_copy_inside_the_kernel_works(place: Path) -> None:
    content = os.urandom(300_000)
    (place / "f").write_bytes(content)
    with (place / "f").open("rb") as source, (place / "g").open("wb") as copy:
        while os.copy_file_range(source.fileno(), copy.fileno(), 1 << 20):
            pass
    assert (place / "g").read_bytes() == content


def test_search_for_holes_takes_all_for_bytes(place: Path) -> None:
    with (place / "f").open("w+b") as f:
        f.truncate(1 << 20)
        assert os.lseek(f.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(f.fileno(), 0, os.SEEK_HOLE) == 1 << 20
