"""The rules of names, one test for each."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from dataclasses import replace

import pytest

from bitdustfs.engine.tree import EXCHANGE, LINKS, NOREPLACE, Caller
from bitdustfs.errors import FileError
from bitdustfs.model import ROOT_INO, Code
from tests.engine.names import ME, Names


@pytest.fixture
def names() -> Names:
    return Names()


def code_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with."""
    with pytest.raises(FileError) as caught:
        call()
    return caught.value.errno


async def rename_code(names: Names, old: bytes, new: bytes, flags: int = 0) -> int:
    with pytest.raises(FileError) as caught:
        await names.move(old, new, flags)
    return caught.value.errno


# -- looking -------------------------------------------------------------------------------------------------


async def test_missing_name_is_none_and_no_error(names: Names) -> None:
    assert names.tree.lookup(ROOT_INO, b"nothing") is None


async def test_dots_are_understood(names: Names) -> None:
    inner = names.folder(b"inner", names.folder(b"outer"))
    assert names.ino(b".", inner) == inner
    assert names.ino(b"..", inner) == names.ino(b"outer")
    assert names.ino(b"..", ROOT_INO) == ROOT_INO


async def test_lookup_below_a_file_is_enotdir(names: Names) -> None:
    file = names.file(b"f")
    assert code_of(lambda: names.tree.lookup(file, b"x")) == errno.ENOTDIR


async def test_name_may_have_255_bytes_of_anything(names: Names) -> None:
    name = bytes(b for b in range(1, 256) if b != ord("/"))
    assert names.listed() == [] and names.file(name) and names.listed() == [name]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"n" * 256, errno.ENAMETOOLONG),
        (b"", errno.ENOENT),
        (b".", errno.EINVAL),
        (b"..", errno.EINVAL),
        (b"a/b", errno.EINVAL),
        (b"a\0", errno.EINVAL),
    ],
)
async def test_impossible_names_are_refused(names: Names, name: bytes, code: int) -> None:
    assert code_of(lambda: names.file(name)) == code


async def test_too_long_name_is_refused_by_lookup_and_unlink_too(names: Names) -> None:
    assert code_of(lambda: names.tree.lookup(ROOT_INO, b"n" * 256)) == errno.ENAMETOOLONG
    assert code_of(lambda: names.tree.unlink(ROOT_INO, b"n" * 256)) == errno.ENAMETOOLONG


# -- making --------------------------------------------------------------------------------------------------


async def test_new_file_has_owner_mode_code_and_one_time(names: Names) -> None:
    inode = names.tree.mknod(ROOT_INO, b"f", 0o640, ME)
    assert (inode.mode, inode.uid, inode.gid) == (stat.S_IFREG | 0o640, 1000, 100)
    assert (inode.nlink, inode.size, inode.code) == (1, 0, Code(3, 5))
    assert inode.atime_ns == inode.mtime_ns == inode.ctime_ns
    assert names.at(inode.ino) == inode


async def test_existing_name_is_eexist_for_everything(names: Names) -> None:
    file = names.file(b"f")
    assert code_of(lambda: names.file(b"f")) == errno.EEXIST
    assert code_of(lambda: names.folder(b"f")) == errno.EEXIST
    assert code_of(lambda: names.tree.symlink(ROOT_INO, b"f", b"t", ME)) == errno.EEXIST
    assert code_of(lambda: names.tree.link(file, ROOT_INO, b"f")) == errno.EEXIST


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG])
async def test_fifo_socket_and_file_can_be_made(names: Names, kind: int) -> None:
    assert names.tree.mknod(ROOT_INO, b"n", kind | 0o600, ME).mode == kind | 0o600


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
async def test_device_keeps_its_number(names: Names, kind: int) -> None:
    names.tree.mknod(ROOT_INO, b"n", kind | 0o600, ME, rdev=0x703)
    names.restart()
    found = names.at(names.ino(b"n"))
    assert (found.mode, found.rdev) == (kind | 0o600, 0x703)


async def test_number_of_a_device_is_kept_for_devices_only(names: Names) -> None:
    assert names.tree.mknod(ROOT_INO, b"n", stat.S_IFIFO | 0o600, ME, rdev=0x703).rdev == 0


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFLNK])
async def test_kinds_with_a_call_of_their_own_are_refused(names: Names, kind: int) -> None:
    assert code_of(lambda: names.tree.mknod(ROOT_INO, b"n", kind | 0o600, ME)) == errno.EPERM


async def test_symlink_keeps_its_target(names: Names) -> None:
    inode = names.tree.symlink(ROOT_INO, b"s", b"../\xff", ME)
    assert (inode.mode, inode.size) == (stat.S_IFLNK | 0o777, 4)
    assert names.tree.readlink(inode.ino) == b"../\xff"


async def test_symlink_target_has_limits(names: Names) -> None:
    assert code_of(lambda: names.tree.symlink(ROOT_INO, b"s", b"", ME)) == errno.ENOENT
    assert code_of(lambda: names.tree.symlink(ROOT_INO, b"s", b"t" * 4096, ME)) == errno.ENAMETOOLONG


async def test_readlink_of_a_file_is_einval(names: Names) -> None:
    file = names.file(b"f")
    assert code_of(lambda: names.tree.readlink(file)) == errno.EINVAL


async def test_making_changes_the_parent(names: Names) -> None:
    before = names.at(ROOT_INO)
    names.file(b"f")
    names.folder(b"d")
    after = names.at(ROOT_INO)
    assert (after.size, after.nlink) == (2, 3)
    assert after.mtime_ns == after.ctime_ns > before.mtime_ns
    assert after.atime_ns == before.atime_ns


async def test_code_is_inherited_from_the_parent(names: Names) -> None:
    root = names.catalog.inode(ROOT_INO)
    assert root is not None
    folder = names.folder(b"d")
    assert names.at(folder).code == names.at(names.file(b"f", folder)).code == root.code


async def test_setgid_directory_hands_down_its_group(names: Names) -> None:
    folder = names.tree.mkdir(ROOT_INO, b"d", 0o2775, Caller(uid=1, gid=77)).ino
    inner, file = names.at(names.folder(b"inner", folder)), names.at(names.file(b"f", folder))
    assert (inner.gid, file.gid) == (77, 77)
    assert inner.mode & stat.S_ISGID and not file.mode & stat.S_ISGID


# -- links ---------------------------------------------------------------------------------------------------


async def test_link_shares_the_inode(names: Names) -> None:
    file = names.file(b"f")
    before = names.at(file)
    names.tree.link(file, ROOT_INO, b"g")
    assert names.ino(b"g") == file
    assert names.at(file).nlink == 2
    assert names.at(file).ctime_ns > before.ctime_ns and names.at(file).mtime_ns == before.mtime_ns


async def test_file_stays_until_its_last_name_goes(names: Names) -> None:
    file = names.file(b"f")
    names.tree.link(file, ROOT_INO, b"g")
    names.tree.unlink(ROOT_INO, b"f")
    assert names.at(file).nlink == 1
    names.tree.unlink(ROOT_INO, b"g")
    assert not names.exists(file)


async def test_directory_cannot_be_linked(names: Names) -> None:
    folder = names.folder(b"d")
    assert code_of(lambda: names.tree.link(folder, ROOT_INO, b"e")) == errno.EPERM


async def test_deleted_file_cannot_be_linked(names: Names) -> None:
    file = names.file(b"f")
    names.tree.lives.remember(file)
    names.tree.unlink(ROOT_INO, b"f")
    assert code_of(lambda: names.tree.link(file, ROOT_INO, b"g")) == errno.ENOENT


async def test_links_have_a_limit(names: Names) -> None:
    file = names.file(b"f")
    names.catalog.put_inode(replace(names.at(file), nlink=LINKS))
    assert code_of(lambda: names.tree.link(file, ROOT_INO, b"g")) == errno.EMLINK


# -- removing ------------------------------------------------------------------------------------------------


async def test_unlink_of_a_directory_is_eisdir(names: Names) -> None:
    names.folder(b"d")
    assert code_of(lambda: names.tree.unlink(ROOT_INO, b"d")) == errno.EISDIR


async def test_unlink_and_rmdir_of_nothing_are_enoent(names: Names) -> None:
    assert code_of(lambda: names.tree.unlink(ROOT_INO, b"x")) == errno.ENOENT
    assert code_of(lambda: names.tree.rmdir(ROOT_INO, b"x")) == errno.ENOENT


async def test_rmdir_of_a_file_is_enotdir(names: Names) -> None:
    names.file(b"f")
    assert code_of(lambda: names.tree.rmdir(ROOT_INO, b"f")) == errno.ENOTDIR


async def test_rmdir_of_a_full_directory_is_enotempty(names: Names) -> None:
    names.file(b"f", names.folder(b"d"))
    assert code_of(lambda: names.tree.rmdir(ROOT_INO, b"d")) == errno.ENOTEMPTY


async def test_rmdir_changes_the_parent(names: Names) -> None:
    names.folder(b"d")
    names.tree.rmdir(ROOT_INO, b"d")
    assert (names.at(ROOT_INO).nlink, names.at(ROOT_INO).size, names.listed()) == (2, 0, [])


async def test_nothing_can_be_made_in_a_removed_directory(names: Names) -> None:
    folder = names.folder(b"d")
    names.tree.lives.remember(folder)
    names.tree.rmdir(ROOT_INO, b"d")
    assert code_of(lambda: names.file(b"f", folder)) == errno.ENOENT
    assert names.at(folder).nlink == 0


# -- moving --------------------------------------------------------------------------------------------------


async def test_rename_moves_a_name(names: Names) -> None:
    file, folder = names.file(b"f"), names.folder(b"d")
    before = names.at(file)
    await names.tree.rename(ROOT_INO, b"f", folder, b"g")
    assert (names.listed(), names.listed(folder)) == ([b"d"], [b"g"])
    assert names.ino(b"g", folder) == file
    assert names.at(file).ctime_ns > before.ctime_ns and names.at(file).mtime_ns == before.mtime_ns


async def test_rename_keeps_the_code(names: Names) -> None:
    folder, file = names.folder(b"d"), names.file(b"f")
    names.catalog.put_inode(replace(names.at(folder), code=Code(1, 2)))
    await names.tree.rename(ROOT_INO, b"f", folder, b"f")
    assert names.at(file).code == Code(3, 5)


async def test_rename_over_a_file_drops_it(names: Names) -> None:
    old, new = names.file(b"old"), names.file(b"new")
    await names.move(b"new", b"old")
    assert names.listed() == [b"old"]
    assert names.ino(b"old") == new and not names.exists(old)
    assert names.at(ROOT_INO).size == 1


async def test_rename_to_another_name_of_the_same_file_does_nothing(names: Names) -> None:
    file = names.file(b"f")
    names.tree.link(file, ROOT_INO, b"g")
    await names.move(b"f", b"g")
    await names.move(b"f", b"f")
    assert names.listed() == [b"f", b"g"]


async def test_rename_of_nothing_is_enoent(names: Names) -> None:
    assert await rename_code(names, b"x", b"y") == errno.ENOENT


async def test_rename_without_replacing_is_eexist(names: Names) -> None:
    file = names.file(b"f")
    names.file(b"g")
    assert await rename_code(names, b"f", b"g", NOREPLACE) == errno.EEXIST
    await names.move(b"f", b"h", NOREPLACE)
    assert names.ino(b"h") == file


async def test_unknown_rename_flags_are_einval(names: Names) -> None:
    names.file(b"f")
    assert await rename_code(names, b"f", b"g", 4) == errno.EINVAL
    assert await rename_code(names, b"f", b"g", NOREPLACE | EXCHANGE) == errno.EINVAL


async def test_directory_replaces_only_an_empty_directory(names: Names) -> None:
    moved, empty = names.folder(b"moved"), names.folder(b"empty")
    names.file(b"f", names.folder(b"full"))
    names.file(b"file")
    assert await rename_code(names, b"moved", b"full") == errno.ENOTEMPTY
    assert await rename_code(names, b"moved", b"file") == errno.ENOTDIR
    assert await rename_code(names, b"file", b"moved") == errno.EISDIR
    await names.move(b"moved", b"empty")
    assert names.ino(b"empty") == moved and not names.exists(empty)
    assert names.at(ROOT_INO).nlink == 4


async def test_directory_cannot_move_below_itself(names: Names) -> None:
    inner = names.folder(b"inner", names.folder(b"outer"))
    for place in (inner, names.ino(b"outer")):
        with pytest.raises(FileError) as caught:
            await names.tree.rename(ROOT_INO, b"outer", place, b"x")
        assert caught.value.errno == errno.EINVAL


async def test_moved_directory_counts_in_its_new_parent(names: Names) -> None:
    one, other = names.folder(b"one"), names.folder(b"other")
    moved = names.folder(b"moved", one)
    await names.tree.rename(one, b"moved", other, b"moved")
    assert (names.at(one).nlink, names.at(other).nlink) == (2, 3)
    assert names.tree.parent_of(moved) == other


async def test_exchange_swaps_two_names(names: Names) -> None:
    folder, file = names.folder(b"d"), names.file(b"f", names.folder(b"e"))
    await names.tree.rename(ROOT_INO, b"d", names.ino(b"e"), b"f", EXCHANGE)
    assert names.ino(b"d") == file and names.ino(b"f", names.ino(b"e")) == folder
    assert names.at(names.ino(b"e")).nlink == 3 and names.at(ROOT_INO).nlink == 3


async def test_exchange_needs_both_names(names: Names) -> None:
    names.file(b"f")
    assert await rename_code(names, b"f", b"g", EXCHANGE) == errno.ENOENT


async def test_exchange_cannot_put_a_directory_below_itself(names: Names) -> None:
    inner = names.folder(b"inner", names.folder(b"outer"))
    names.folder(b"leaf", inner)
    for old, new_parent, new in ((ROOT_INO, inner, b"leaf"),):
        with pytest.raises(FileError) as caught:
            await names.tree.rename(old, b"outer", new_parent, new, EXCHANGE)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(FileError) as caught:
        await names.tree.rename(inner, b"leaf", ROOT_INO, b"outer", EXCHANGE)
    assert caught.value.errno == errno.EINVAL


async def test_bytes_are_durable_before_the_name_that_replaces(names: Names) -> None:
    new = names.file(b"new")
    names.file(b"old")
    await names.files.write(new, 0, b"x" * 20_000)
    await names.move(b"new", b"old")
    names.spool.lose_power()
    assert names.spool.read(new, 0, 20_000) == b"x" * 20_000


async def test_rename_sees_what_happened_while_bytes_became_durable(names: Names) -> None:
    names.file(b"new")
    names.file(b"old")
    names.files.meanwhile = lambda: names.tree.unlink(ROOT_INO, b"new")
    assert await rename_code(names, b"new", b"old") == errno.ENOENT
    assert names.listed() == [b"old"]


async def test_rename_keeps_its_place_when_the_target_goes_meanwhile(names: Names) -> None:
    new = names.file(b"new")
    names.file(b"old")
    names.files.meanwhile = lambda: names.tree.unlink(ROOT_INO, b"old")
    await names.move(b"new", b"old")
    assert names.ino(b"old") == new and names.at(ROOT_INO).size == 1


async def test_failed_rename_changes_nothing(names: Names) -> None:
    names.file(b"f", names.folder(b"full"))
    names.folder(b"d")
    before = (names.listed(), names.at(ROOT_INO))
    assert await rename_code(names, b"d", b"full") == errno.ENOTEMPTY
    assert (names.listed(), names.at(ROOT_INO)) == before
