"""What may be set on an inode, one test for each rule."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from dataclasses import replace

import pytest

from bitdustfs.engine.attributes import CODE_XATTR, STATE_XATTR, Changes
from bitdustfs.errors import FileError
from bitdustfs.model import ROOT_INO, Code, NodeId
from tests.edges.catalog_rows import SUPPLIER
from tests.engine.names import ME, Names


@pytest.fixture
def names() -> Names:
    return Names()


def code_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with."""
    with pytest.raises(FileError) as caught:
        call()
    return caught.value.errno


async def test_chmod_changes_bits_and_ctime_only(names: Names) -> None:
    file = names.file(b"f")
    before = names.at(file)
    await names.attributes.set(file, Changes(mode=stat.S_IFDIR | 0o1751))
    after = names.at(file)
    assert after.mode == stat.S_IFREG | 0o1751
    assert after.ctime_ns > before.ctime_ns and after.mtime_ns == before.mtime_ns


async def test_owner_and_group_change_apart(names: Names) -> None:
    file = names.file(b"f")
    await names.attributes.set(file, Changes(uid=7))
    await names.attributes.set(file, Changes(gid=8))
    assert (names.at(file).uid, names.at(file).gid) == (7, 8)


async def test_times_are_kept_to_the_nanosecond(names: Names) -> None:
    for ino in (names.file(b"f"), names.folder(b"d"), names.tree.symlink(ROOT_INO, b"s", b"t", ME).ino):
        await names.attributes.set(ino, Changes(atime_ns=1_000_000_001, mtime_ns=-5))
        assert (names.at(ino).atime_ns, names.at(ino).mtime_ns) == (1_000_000_001, -5)


async def test_one_time_can_be_set_without_the_other(names: Names) -> None:
    file = names.file(b"f")
    before = names.at(file)
    await names.attributes.set(file, Changes(atime_ns=3))
    assert (names.at(file).atime_ns, names.at(file).mtime_ns) == (3, before.mtime_ns)


async def test_time_set_on_a_changed_file_belongs_to_its_next_version(names: Names) -> None:
    file = names.published(b"f")
    published = names.catalog.inode(file)
    await names.files.write(file, 0, b"x")
    await names.attributes.set(file, Changes(mtime_ns=4))
    still = names.catalog.inode(file)
    assert published is not None and still is not None
    assert still.mtime_ns == published.mtime_ns and names.at(file).mtime_ns == 4


async def test_times_survive_a_restart(names: Names) -> None:
    file = names.file(b"f")
    await names.files.write(file, 0, b"x")
    await names.attributes.set(file, Changes(atime_ns=3, mtime_ns=4))
    names.restart()
    assert (names.at(file).atime_ns, names.at(file).mtime_ns) == (3, 4)


async def test_size_is_set_with_times_after_it(names: Names) -> None:
    file = names.file(b"f")
    await names.attributes.set(file, Changes(size=10, mtime_ns=4))
    assert (names.at(file).size, names.at(file).mtime_ns) == (10, 4)


async def test_size_of_what_has_none_is_refused(names: Names) -> None:
    folder, fifo = names.folder(b"d"), names.tree.mknod(ROOT_INO, b"p", stat.S_IFIFO | 0o600, ME).ino
    for ino, code in ((folder, errno.EISDIR), (fifo, errno.EINVAL)):
        with pytest.raises(FileError) as caught:
            await names.attributes.set(ino, Changes(size=1))
        assert caught.value.errno == code


@pytest.mark.parametrize(
    "changes", [Changes(uid=5), Changes(gid=5), Changes(size=0)], ids=["chown", "chgrp", "truncate"]
)
async def test_giving_away_or_truncating_takes_set_id_bits(names: Names, changes: Changes) -> None:
    file = names.file(b"f", mode=0o6755)
    await names.attributes.set(file, changes)
    assert names.at(file).mode == stat.S_IFREG | 0o755


async def test_change_of_nothing_takes_set_id_bits(names: Names) -> None:
    file = names.file(b"f", mode=0o6755)
    await names.attributes.set(file, Changes())
    assert names.at(file).mode == stat.S_IFREG | 0o755


async def test_truncation_by_root_leaves_set_id_bits(names: Names) -> None:
    file = names.file(b"f", mode=0o6755)
    await names.attributes.set(file, Changes(size=9), by_root=True)
    assert names.at(file).mode == stat.S_IFREG | 0o6755


async def test_setgid_without_group_execution_is_no_privilege_and_stays(names: Names) -> None:
    file = names.file(b"f", mode=0o2644)
    await names.attributes.set(file, Changes(size=9))
    assert names.at(file).mode == stat.S_IFREG | 0o2644


async def test_chown_leaves_the_bits_of_a_directory(names: Names) -> None:
    folder = names.folder(b"d", mode=0o2755)
    await names.attributes.set(folder, Changes(uid=5))
    assert names.at(folder).mode == stat.S_IFDIR | 0o2755


async def test_mode_given_with_an_owner_wins(names: Names) -> None:
    file = names.file(b"f")
    await names.attributes.set(file, Changes(uid=5, mode=0o4755))
    assert names.at(file).mode == stat.S_IFREG | 0o4755


# -- extended attributes ---------------------------------------------------------------------------------------


async def test_user_attributes_are_kept_and_listed(names: Names) -> None:
    file = names.file(b"f")
    before = names.at(file)
    names.attributes.set_xattr(file, b"user.a", b"\0\xff")
    names.attributes.set_xattr(file, b"user.b", b"")
    assert names.attributes.xattr(file, b"user.a") == b"\0\xff"
    assert names.attributes.xattr(file, b"user.b") == b""
    assert names.attributes.xattr_names(file) == [b"user.a", b"user.b"]
    assert names.at(file).ctime_ns > before.ctime_ns and names.at(file).mtime_ns == before.mtime_ns


async def test_removed_attribute_is_gone(names: Names) -> None:
    file = names.file(b"f")
    names.attributes.set_xattr(file, b"user.a", b"1")
    names.attributes.drop_xattr(file, b"user.a")
    assert code_of(lambda: names.attributes.xattr(file, b"user.a")) == errno.ENODATA
    assert code_of(lambda: names.attributes.drop_xattr(file, b"user.a")) == errno.ENODATA


@pytest.mark.parametrize("name", [b"trusted.a", b"system.posix_acl_access", b"security.capability", b"a"])
async def test_other_namespaces_are_not_supported(names: Names, name: bytes) -> None:
    file = names.file(b"f")
    reading = errno.ENODATA if name.startswith(b"security.") else errno.ENOTSUP
    assert code_of(lambda: names.attributes.xattr(file, name)) == reading
    assert code_of(lambda: names.attributes.set_xattr(file, name, b"")) == errno.ENOTSUP
    assert code_of(lambda: names.attributes.drop_xattr(file, name)) == errno.ENOTSUP


async def test_attribute_sizes_have_limits(names: Names) -> None:
    file = names.file(b"f")
    names.attributes.set_xattr(file, b"user." + b"n" * 250, b"v" * 65536)
    assert code_of(lambda: names.attributes.set_xattr(file, b"user." + b"n" * 251, b"")) == errno.ERANGE
    assert code_of(lambda: names.attributes.set_xattr(file, b"user.a", b"v" * 65537)) == errno.ERANGE


async def test_all_attributes_of_a_file_together_have_a_limit(names: Names) -> None:
    file = names.file(b"f")
    names.attributes.set_xattr(file, b"user.a", b"v" * 65000)
    names.attributes.set_xattr(file, b"user.b", b"v" * 65000)
    assert code_of(lambda: names.attributes.set_xattr(file, b"user.c", b"v" * 2000)) == errno.ENOSPC
    names.attributes.set_xattr(file, b"user.a", b"")
    names.attributes.set_xattr(file, b"user.c", b"v" * 2000)


async def test_state_can_be_read_but_is_not_listed_and_not_set(names: Names) -> None:
    file = names.file(b"f")
    assert names.attributes.xattr(file, STATE_XATTR) == b"local"
    assert names.attributes.xattr_names(file) == []
    assert code_of(lambda: names.attributes.set_xattr(file, STATE_XATTR, b"safe")) == errno.EPERM
    assert code_of(lambda: names.attributes.drop_xattr(file, STATE_XATTR)) == errno.EPERM


async def test_only_files_have_a_state(names: Names) -> None:
    folder = names.folder(b"d")
    assert code_of(lambda: names.attributes.xattr(folder, STATE_XATTR)) == errno.ENODATA
    assert code_of(lambda: names.attributes.xattr(names.file(b"f"), b"user.bitdustfs.x")) == errno.ENODATA


async def test_attributes_go_with_their_inode(names: Names) -> None:
    file = names.file(b"f")
    names.attributes.set_xattr(file, b"user.a", b"1")
    names.tree.unlink(ROOT_INO, b"f")
    assert names.catalog.xattrs(file) == []


# -- the code of a directory -----------------------------------------------------------------------------------


def hire(names: Names, count: int) -> None:
    for number in range(count):
        names.catalog.put_supplier(replace(SUPPLIER, node=NodeId(bytes([number]) * 32)))


async def test_code_of_a_directory_is_inherited_and_kept_on_rename(names: Names) -> None:
    hire(names, 4)
    folder = names.tree.mkdir(ROOT_INO, b"precious", 0o755, ME).ino
    names.attributes.set_xattr(folder, CODE_XATTR, b"1/4")
    inner = names.tree.mkdir(folder, b"inner", 0o755, ME).ino
    file = names.tree.mknod(inner, b"f", stat.S_IFREG | 0o644, ME).ino
    await names.tree.rename(inner, b"f", ROOT_INO, b"f")
    assert [names.at(ino).code for ino in (folder, inner, file)] == [Code(1, 4)] * 3
    assert names.attributes.xattr(file, CODE_XATTR) == b"1/4"
    assert names.attributes.xattr_names(folder) == names.attributes.xattr_names(file) == []
    names.attributes.drop_xattr(file, CODE_XATTR)
    assert code_of(lambda: names.attributes.xattr(file, CODE_XATTR)) == errno.ENODATA
    assert code_of(lambda: names.attributes.drop_xattr(file, CODE_XATTR)) == errno.ENODATA


@pytest.mark.parametrize("value", [b"", b"4", b"4/1", b"0/3", b"1/5", b"\xff/3", b"1/256"])
async def test_code_that_makes_no_sense_or_needs_more_suppliers_is_refused(names: Names, value: bytes) -> None:
    hire(names, 4)
    folder = names.tree.mkdir(ROOT_INO, b"precious", 0o755, ME).ino
    before = names.at(folder).code
    assert code_of(lambda: names.attributes.set_xattr(folder, CODE_XATTR, value)) == errno.EINVAL
    assert names.at(folder).code == before


async def test_symbolic_link_has_no_code(names: Names) -> None:
    hire(names, 4)
    link = names.tree.symlink(ROOT_INO, b"link", b"target", ME).ino
    assert code_of(lambda: names.attributes.set_xattr(link, CODE_XATTR, b"1/2")) == errno.EPERM
