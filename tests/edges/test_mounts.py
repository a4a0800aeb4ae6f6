"""What the kernel says of mounts, and where nothing can be mounted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.edges import mounts
from bitdustfs.edges.mounts import Mount
from bitdustfs.errors import BadRequest, BitdustError, InUse, NotFound, SetupMissing

INFO = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:27 / /proc rw,nosuid - proc proc rw
91 22 0:60 / /home/anna/Bit\040Dust rw,nosuid shared:9 master:2 - fuse.bitdustfs bitdustfs:/home/anna/state%20dir rw
92 91 0:61 / /home/anna/Bit\040Dust/inner rw - tmpfs tmpfs rw
93 22 0:62 / /mnt/p rw - fuse.bitdustfs bitdustfs-practice:/root/h rw
a line that is none
94 22 0:63 / /mnt/p rw - tmpfs x\134y rw
"""
LISTED = mounts.parse_mountinfo(INFO)


def test_mountinfo_is_read_with_its_escapes() -> None:
    ours = LISTED[2]
    assert ours == Mount("/home/anna/Bit Dust", "fuse.bitdustfs", "bitdustfs:/home/anna/state%20dir")
    assert (ours.is_ours, ours.home) == (True, "/home/anna/state dir")
    assert LISTED[-1].source == "x\\y"


def test_what_is_no_line_of_mountinfo_is_left_out() -> None:
    assert len(LISTED) == 6


@given(st.binary())
def test_any_bytes_can_be_read_as_mountinfo(content: bytes) -> None:
    mounts.parse_mountinfo(content)


def test_of_two_mounts_at_one_place_the_later_counts() -> None:
    found = mounts.mounted_at("/mnt/p", LISTED)
    assert found is not None and found.fstype == "tmpfs"


@pytest.mark.parametrize(
    ("path", "mountpoint"),
    [
        ("/home/anna/Bit Dust", "/home/anna/Bit Dust"),
        ("/home/anna/Bit Dust/a/b", "/home/anna/Bit Dust"),
        ("/home/anna/Bit Dust/inner/x", "/home/anna/Bit Dust/inner"),
        ("/home/anna/Bit Dust2", "/"),
        ("/", "/"),
    ],
)
def test_a_path_lies_in_the_deepest_mount_above_it(path: str, mountpoint: str) -> None:
    found = mounts.mount_of(path, LISTED)
    assert found is not None and found.mountpoint == mountpoint


@given(st.binary(min_size=1), st.booleans())
def test_a_home_is_found_again_in_the_source_of_its_mount(name: bytes, practice: bool) -> None:
    home = os.fsdecode(b"/" + name)
    source = mounts.fsname(home, practice=practice)
    assert Mount("/m", mounts.FSTYPE, source).home == home
    assert not set(source) & set(", \\\n")


def test_a_mount_of_others_has_no_home() -> None:
    assert LISTED[0].home is None


def _missing(directory: Path) -> Path:
    return directory / "missing"


def _file(directory: Path) -> Path:
    (directory / "file").touch()
    return directory / "file"


def _not_empty(directory: Path) -> Path:
    (directory / "full").mkdir()
    (directory / "full" / "x").touch()
    return directory / "full"


def _above_home(directory: Path) -> Path:
    (directory / "state").mkdir()
    return directory


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (_missing, NotFound, "does not exist"),
        (_file, BadRequest, "not a directory"),
        (_not_empty, BadRequest, "not empty"),
        (_above_home, BadRequest, "state directory"),
        (lambda _directory: Path("/proc"), InUse, "mounted at /proc already"),
    ],
)
def test_a_mountpoint_that_cannot_be_one_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], error: type[BitdustError], words: str
) -> None:
    place = str(make(tmp_path))
    with pytest.raises(error, match=words):
        mounts.check_mountpoint(place, str(tmp_path / "state"), mounts.read_mounts())


def test_an_empty_directory_is_a_mountpoint(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    assert not mounts.check_mountpoint(str(tmp_path / "mnt"), str(tmp_path / "state"), mounts.read_mounts())


def test_a_machine_without_dev_fuse_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(SetupMissing, match="does not exist"):
        mounts.check_fuse(dev_fuse=tmp_path / "fuse")


def test_a_machine_without_fusermount3_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupMissing, match="fuse3"):
        mounts.check_fuse()


def test_a_place_is_named_without_symlinks(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mounts.place_of(tmp_path / "link" / "..") == str(tmp_path)
    assert mounts.place_of(tmp_path / "link" / "new") == str(tmp_path / "real" / "new")
    assert mounts.place_of(tmp_path / "link") == str(tmp_path / "real")


def test_an_ordinary_directory_is_not_dead(tmp_path: Path) -> None:
    assert not mounts.is_dead(str(tmp_path))
    assert not mounts.is_dead(str(tmp_path / "missing"))


def test_a_file_system_takes_what_the_kernel_holds_for_it(tmp_path: Path) -> None:
    mounts.sync_filesystem(str(tmp_path), wait_s=60)


def test_nothing_of_ours_is_kept_in_a_mount_of_ours() -> None:
    ours = mounts.Mount("/mnt/ours", mounts.FSTYPE, "bitdustfs:/home")
    others = mounts.Mount("/mnt/ours/others", "ext4", "/dev/sda1")
    with pytest.raises(BadRequest, match="the shelf /mnt/ours/shelf lies in /mnt/ours"):
        mounts.refuse_inside_ours("/mnt/ours/shelf", "the shelf", [ours, others])
    mounts.refuse_inside_ours("/mnt/ours/others/shelf", "the shelf", [ours, others])
    mounts.refuse_inside_ours("/srv/shelf", "the shelf", [ours, others])
