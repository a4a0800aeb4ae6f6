"""Inodes stay while somebody needs them, and go when nobody does."""

from __future__ import annotations

import pytest

from bitdustfs.engine.tree import EXCHANGE
from bitdustfs.model import NO_INO, ROOT_INO, Ino
from tests.engine.names import ME, Names


@pytest.fixture
def names() -> Names:
    return Names()


# -- open and unlinked -----------------------------------------------------------------------------------------


async def test_unlinked_file_stays_until_the_kernel_forgets_it(names: Names) -> None:
    file = names.file(b"f")
    names.tree.lives.remember(file)
    names.tree.lives.remember(file)
    names.tree.unlink(ROOT_INO, b"f")
    assert names.at(file).nlink == 0
    names.tree.lives.forget(file, 1)
    assert names.exists(file)
    names.tree.lives.forget(file, 1)
    assert not names.exists(file)


async def test_unlinked_file_stays_while_it_is_open(names: Names) -> None:
    file = names.file(b"f")
    names.tree.lives.opened(file)
    names.tree.unlink(ROOT_INO, b"f")
    assert await names.files.write(file, 0, b"still here") == 10
    assert await names.files.read(file, 0, 100) == b"still here"
    names.tree.lives.closed(file)
    assert not names.exists(file)


async def test_open_file_that_was_replaced_stays_readable(names: Names) -> None:
    old = names.file(b"old")
    await names.files.write(old, 0, b"old")
    names.tree.lives.opened(old)
    names.file(b"new")
    await names.move(b"new", b"old")
    assert await names.files.read(old, 0, 100) == b"old"
    names.tree.lives.closed(old)
    assert not names.exists(old)


async def test_file_with_a_name_survives_being_forgotten_and_closed(names: Names) -> None:
    file = names.file(b"f")
    names.tree.lives.remember(file)
    names.tree.lives.opened(file)
    names.tree.lives.forget(file, 1)
    names.tree.lives.closed(file)
    assert names.exists(file)


async def test_unlinked_file_goes_when_the_mount_ends(names: Names) -> None:
    file, folder = names.file(b"f"), names.folder(b"d")
    for ino in (file, folder):
        names.tree.lives.remember(ino)
    names.tree.lives.opened(file)
    names.tree.unlink(ROOT_INO, b"f")
    names.tree.rmdir(ROOT_INO, b"d")
    names.tree.lives.forget_all()
    assert not names.exists(file) and not names.exists(folder)


async def test_orphans_of_a_dead_process_go_at_the_next_start(names: Names) -> None:
    file, folder, kept = names.file(b"f"), names.folder(b"d"), names.file(b"kept")
    for ino in (file, folder, kept):
        names.tree.lives.remember(ino)
    names.tree.unlink(ROOT_INO, b"f")
    names.tree.rmdir(ROOT_INO, b"d")
    assert names.restart() == 2
    assert not names.exists(file) and not names.exists(folder)
    assert names.exists(kept) and names.exists(ROOT_INO)


async def test_known_are_those_that_the_kernel_did_not_forget(names: Names) -> None:
    inos = [names.file(b"%d" % number) for number in range(3)]
    for ino in inos:
        names.tree.lives.remember(ino)
    names.tree.lives.forget(inos[1], 1)
    assert list(names.tree.lives.known()) == [inos[0], inos[2]]


# -- superseded ------------------------------------------------------------------------------------------------


async def test_published_file_replaced_by_an_unborn_one_is_kept(names: Names) -> None:
    old, new = names.published(b"f"), names.file(b"tmp")
    await names.move(b"tmp", b"f")
    assert names.ino(b"f") == new
    assert names.superseded(b"f") == old and names.exists(old)
    assert names.listed() == [b"f"]


async def test_superseded_file_goes_when_the_new_one_is_published(names: Names) -> None:
    old, new = names.published(b"f"), names.file(b"tmp")
    await names.move(b"tmp", b"f")
    names.publish(new)
    assert names.superseded(b"f") == NO_INO
    assert names.ino(b"f") == new and not names.exists(old)


async def test_file_replaced_by_a_published_one_goes_at_once(names: Names) -> None:
    old = names.published(b"f")
    names.published(b"tmp")
    await names.move(b"tmp", b"f")
    assert not names.exists(old) and names.superseded(b"f") == NO_INO


async def test_replaced_symlink_is_kept_too(names: Names) -> None:
    link = names.tree.symlink(ROOT_INO, b"f", b"target", ME).ino
    names.file(b"tmp")
    await names.move(b"tmp", b"f")
    assert names.superseded(b"f") == link and names.exists(link)


async def test_of_many_replacements_the_oldest_published_is_kept(names: Names) -> None:
    oldest = names.published(b"f")
    first, second = names.file(b"tmp1"), names.file(b"tmp2")
    await names.move(b"tmp1", b"f")
    await names.move(b"tmp2", b"f")
    assert names.superseded(b"f") == oldest
    assert not names.exists(first)
    names.publish(second)
    assert not names.exists(oldest)


async def test_superseded_file_looks_deleted_to_who_has_it_open(names: Names) -> None:
    old = names.published(b"f")
    names.tree.lives.opened(old)
    names.file(b"tmp")
    await names.move(b"tmp", b"f")
    assert names.at(old).nlink == 0
    names.tree.lives.closed(old)
    assert names.exists(old)


async def test_superseded_open_file_goes_when_published_and_closed(names: Names) -> None:
    old, new = names.published(b"f"), names.file(b"tmp")
    names.tree.lives.opened(old)
    await names.move(b"tmp", b"f")
    names.publish(new)
    assert names.exists(old)
    names.tree.lives.closed(old)
    assert not names.exists(old)


async def test_superseded_file_with_another_name_stays(names: Names) -> None:
    old = names.published(b"f")
    names.tree.link(old, ROOT_INO, b"also")
    new = names.file(b"tmp")
    await names.move(b"tmp", b"f")
    assert names.at(old).nlink == 1
    names.publish(new)
    assert names.at(old).nlink == 1 and names.ino(b"also") == old


async def test_superseded_file_survives_the_unlink_of_its_other_name(names: Names) -> None:
    old = names.published(b"f")
    names.tree.link(old, ROOT_INO, b"also")
    new = names.file(b"tmp")
    await names.move(b"tmp", b"f")
    names.tree.unlink(ROOT_INO, b"also")
    assert names.exists(old) and names.superseded(b"f") == old
    names.publish(new)
    assert not names.exists(old)


async def test_superseded_file_goes_with_the_name_that_keeps_it(names: Names) -> None:
    old, new = names.published(b"f"), names.file(b"tmp")
    await names.move(b"tmp", b"f")
    names.tree.unlink(ROOT_INO, b"f")
    assert not names.exists(old) and not names.exists(new)


async def test_superseded_file_moves_on_with_the_file_that_replaced_it(names: Names) -> None:
    old = names.published(b"f")
    names.file(b"tmp")
    await names.move(b"tmp", b"f")
    await names.move(b"f", b"elsewhere")
    assert names.superseded(b"elsewhere") == old


async def test_replaced_name_keeps_its_own_past_rather_than_the_movers(names: Names) -> None:
    past_of_f, past_of_g = names.published(b"f"), names.published(b"g")
    names.file(b"tmp")
    await names.move(b"tmp", b"f")
    await names.move(b"f", b"g")
    assert names.superseded(b"g") == past_of_g
    assert not names.exists(past_of_f)


@pytest.mark.parametrize(("one", "other"), [(b"f", b"g"), (b"g", b"f")])
async def test_exchange_takes_superseded_files_along(names: Names, one: bytes, other: bytes) -> None:
    old = names.published(b"f")
    names.published(b"g")
    names.file(b"tmp")
    await names.move(b"tmp", b"f")
    await names.move(one, other, EXCHANGE)
    assert names.superseded(b"g") == old and names.superseded(b"f") == NO_INO


async def test_old_file_moved_back_over_its_replacement_is_itself_again(names: Names) -> None:
    old = names.published(b"f")
    names.tree.link(old, ROOT_INO, b"f.orig")
    new = names.file(b"tmp")
    await names.move(b"tmp", b"f")
    await names.move(b"f.orig", b"f")
    assert names.ino(b"f") == old and names.superseded(b"f") == NO_INO
    assert names.at(old).nlink == 1 and not names.exists(new)


async def test_linked_unborn_file_frees_all_that_its_names_keep(names: Names) -> None:
    one, other = names.published(b"one"), names.published(b"other")
    new = names.file(b"tmp")
    names.tree.link(new, ROOT_INO, b"tmp2")
    await names.move(b"tmp", b"one")
    await names.move(b"tmp2", b"other")
    assert (names.superseded(b"one"), names.superseded(b"other")) == (one, other)
    names.publish(new)
    assert not names.exists(one) and not names.exists(other)
    assert names.at(new).nlink == 2


async def test_superseded_file_survives_a_restart(names: Names) -> None:
    old, new = names.published(b"f"), names.file(b"tmp")
    names.tree.link(old, ROOT_INO, b"also")
    await names.move(b"tmp", b"f")
    assert names.restart() == 0
    assert names.at(old).nlink == 1
    names.tree.unlink(ROOT_INO, b"also")
    assert names.exists(old)
    names.publish(new)
    assert not names.exists(old)


async def test_undone_removal_leaves_the_file(names: Names) -> None:
    file: Ino = names.file(b"f")
    names.tree.lives.remember(file)
    with pytest.raises(ZeroDivisionError):
        with names.journal.operation():
            names.tree.unlink(ROOT_INO, b"f")
            raise ZeroDivisionError
    names.tree.lives.forget(file, 1)
    assert names.ino(b"f") == file
