"""Several users in one mount: who may do what, and what is taken from a file that changes hands."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.support import as_user, code_of, make

ME, OTHER, MINE = 1234, 2345, 4321  # two users, each with the group of the same number; a further group of mine


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def make_for(path: Path, kind: str, owner: int) -> None:
    make(path, kind)
    os.lchown(path, owner, owner)


def append(path: Path) -> None:
    with path.open("ab", buffering=0) as f:
        f.write(b"x")


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": append,
    "truncate": lambda path: os.truncate(path, 0),
    "open": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
}


def remove(path: Path) -> None:
    path.rmdir() if stat.S_ISDIR(path.lstat().st_mode) else path.unlink()


# -- sticky directories --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "symlink"])
@pytest.mark.parametrize(
    ("directory_of", "file_of", "allowed"),
    [(ME, ME, True), (OTHER, ME, True), (ME, OTHER, True), (OTHER, OTHER, False)],
)
def test_sticky_directory_lets_its_owner_and_the_owner_of_the_file(
    place: Path, kind: str, directory_of: int, file_of: int, allowed: bool
) -> None:
    os.chown(place, directory_of, directory_of)
    place.chmod(0o1777)
    make_for(place / "removed", kind, file_of)
    make_for(place / "renamed", kind, file_of)
    make_for(place / "replaced", kind, file_of)
    make_for(place / "mine", kind, ME)
    calls: list[Callable[[], object]] = [
        lambda: remove(place / "removed"),
        lambda: os.rename(place / "renamed", place / "new name"),
        lambda: os.rename(place / "mine", place / "replaced"),
    ]
    with as_user(ME, ME):
        assert [code_of(call) for call in calls] == [None if allowed else errno.EPERM] * 3


# -- owners and groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "symlink"])
def test_owner_gives_a_file_to_a_group_of_his_and_to_nobody_else(place: Path, kind: str) -> None:
    make_for(place / "f", kind, ME)
    with as_user(ME, ME, [MINE]):
        os.lchown(place / "f", ME, MINE)
        assert code_of(lambda: os.lchown(place / "f", -1, OTHER)) == errno.EPERM
        assert code_of(lambda: os.lchown(place / "f", OTHER, -1)) == errno.EPERM
    with as_user(OTHER, OTHER, [MINE]):
        assert code_of(lambda: os.lchown(place / "f", -1, MINE)) == errno.EPERM
        assert code_of(lambda: os.lchown(place / "f", -1, -1)) is None
    found = (place / "f").lstat()
    assert (found.st_uid, found.st_gid) == (ME, MINE)


@pytest.mark.parametrize(("kind", "left"), [("file", 0o555), ("fifo", 0o555), ("directory", 0o6555)])
def test_change_of_hands_takes_set_id_bits_of_all_but_directories(place: Path, kind: str, left: int) -> None:
    make_for(place / "f", kind, ME)
    (place / "f").chmod(0o6555)
    with as_user(ME, ME, [MINE]):
        os.chown(place / "f", -1, MINE)
    assert mode(place / "f") == left


def test_set_group_id_needs_the_group(place: Path) -> None:
    make_for(place / "f", "file", ME)
    os.chown(place / "f", ME, MINE)
    with as_user(ME, ME, [MINE]):
        (place / "f").chmod(0o2755)
    assert mode(place / "f") == 0o2755
    with as_user(ME, ME):
        (place / "f").chmod(0o2755)
    assert mode(place / "f") == 0o755


@pytest.mark.parametrize(
    ("before", "after"), [(0o4777, 0o777), (0o2777, 0o777), (0o6777, 0o777), (0o2767, 0o2767), (0o1777, 0o1777)]
)
@pytest.mark.parametrize("how", ["write", "truncate", "open"])
def test_changing_the_content_takes_set_id_bits(place: Path, how: str, before: int, after: int) -> None:
    (place / "f").write_bytes(b"content")
    (place / "f").chmod(before)
    with as_user(ME, ME):
        CHANGES[how](place / "f")
    assert mode(place / "f") == after


@pytest.mark.parametrize("how", ["write", "truncate", "open"])
def test_change_of_the_content_by_root_leaves_set_id_bits(place: Path, how: str) -> None:
    (place / "f").write_bytes(b"content")
    (place / "f").chmod(0o6777)
    CHANGES[how](place / "f")
    assert mode(place / "f") == 0o6777


def test_new_file_in_a_directory_of_a_foreign_group_has_no_set_group_id(place: Path) -> None:
    os.chown(place, 0, MINE)
    place.chmod(0o2777)
    with as_user(ME, ME):
        os.close(os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o2755))
        os.mkfifo(place / "p", 0o2755)
    assert (mode(place / "f"), mode(place / "p")) == (0o755, 0o755)
    assert ((place / "f").stat().st_gid, (place / "p").stat().st_gid) == (MINE, MINE)


# -- permissions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda d: (d / "f").read_bytes(), errno.EACCES),
        (lambda d: (d / "f").open("ab"), errno.EACCES),
        (lambda d: os.truncate(d / "f", 0), errno.EACCES),
        (lambda d: (d / "f").unlink(), errno.EACCES),
        (lambda d: os.rename(d / "f", d / "g"), errno.EACCES),
        (lambda d: os.link(d / "f", d / "g"), errno.EPERM),  # fs.protected_hardlinks, else EACCES
        (lambda d: (d / "new").mkdir(), errno.EACCES),
        (lambda d: (d / "new").symlink_to("x"), errno.EACCES),
        (lambda d: os.mkfifo(d / "new"), errno.EACCES),
        (lambda d: (d / "f").chmod(0o777), errno.EPERM),
        (lambda d: os.setxattr(d / "f", "user.a", b"1"), errno.EACCES),
        (lambda d: os.getxattr(d / "f", "user.a"), errno.EACCES),
        (lambda d: os.stat(d / "closed/f"), errno.EACCES),
        (lambda d: os.listdir(d / "closed"), errno.EACCES),
    ],
)
def test_other_users_are_kept_out(place: Path, call: Callable[[Path], object], code: int) -> None:
    (place / "f").write_bytes(b"x")
    (place / "f").chmod(0o600)
    (place / "closed").mkdir()
    (place / "closed/f").touch()
    (place / "closed").chmod(0o700)
    with as_user():
        assert code_of(lambda: call(place)) in (code, errno.EACCES)


def test_directory_of_another_owner_does_not_move_to_another_parent(place: Path) -> None:
    (place / "from/d").mkdir(parents=True)
    (place / "to").mkdir()
    for directory in ("from", "to"):
        (place / directory).chmod(0o777)
    os.chown(place / "from/d", OTHER, OTHER)
    with as_user(ME, ME):
        assert code_of(lambda: os.rename(place / "from/d", place / "to/d")) == errno.EACCES
        os.rename(place / "from/d", place / "from/e")


def test_devices_are_made_by_root_only(place: Path) -> None:
    place.chmod(0o777)
    with as_user():
        assert code_of(lambda: os.mknod(place / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))) == errno.EPERM
