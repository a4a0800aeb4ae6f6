"""Listing directories: in order, each name once, and in a time that grows with their size and no faster."""

from __future__ import annotations

import stat

import pytest

from bitdustfs.edges import catalog_tree
from bitdustfs.model import ROOT_INO, Cookie, Ino
from tests.engine.names import ME, Names

PAGE = 24  # what the kernel takes at a time


@pytest.fixture
def names() -> Names:
    return Names()


async def test_listing_continues_after_a_cookie(names: Names) -> None:
    for number in range(10):
        names.file(b"%d" % number)
    first = names.tree.listing(ROOT_INO, Cookie(0), 4)
    rest = names.tree.listing(ROOT_INO, first[-1][0].cookie, 100)
    assert [n.name for n, _ in first + rest] == [b"%d" % number for number in range(10)]


async def test_names_that_stay_are_listed_once_while_others_come_and_go(names: Names) -> None:
    for number in range(100):
        names.file(b"stay%d" % number)
        names.file(b"go%d" % number)
    seen: list[bytes] = []
    after = Cookie(0)
    step = 0
    while page := names.tree.listing(ROOT_INO, after, 7):
        seen += [name.name for name, _ in page]
        after = page[-1][0].cookie
        if step < 100:
            names.tree.unlink(ROOT_INO, b"go%d" % step)
            await names.move(b"go%d" % (99 - step), b"moved%d" % step) if step < 49 else None
        step += 1
    assert sorted(n for n in seen if n.startswith(b"stay")) == sorted(b"stay%d" % i for i in range(100))


async def test_listing_leaves_out_what_came_after_it_began(names: Names) -> None:
    names.file(b"before")
    began = names.tree.newest()
    names.file(b"after")
    assert [name.name for name, _ in names.tree.listing(ROOT_INO, Cookie(0), 9, until=began)] == [b"before"]
    assert names.tree.newest() > began


async def test_listing_shows_live_sizes(names: Names) -> None:
    file = names.file(b"f")
    await names.files.write(file, 0, b"12345")
    assert [inode.size for _, inode in names.tree.listing(ROOT_INO, Cookie(0), 10)] == [5]


async def test_listing_counts_only_the_names_that_show_a_fifo(names: Names) -> None:
    fifo = names.tree.mknod(ROOT_INO, b"fifo", stat.S_IFIFO | 0o600, ME).ino
    names.tree.link(fifo, ROOT_INO, b"other")
    names.file(b"new")
    await names.move(b"new", b"fifo")
    assert [(name.name, inode.nlink) for name, inode in names.tree.listing(ROOT_INO, Cookie(0), 9)] == [
        (b"fifo", 1),
        (b"other", 1),
    ]


async def test_children_are_all_in_a_directory(names: Names) -> None:
    inos: list[Ino] = [names.file(b"%d" % number) for number in range(20)]
    assert [inode.ino for inode in names.tree.children(ROOT_INO)] == inos


async def test_page_of_a_listing_is_one_statement(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_tree, "CACHED_INODES", 1)  # as if others had been looked at since
    for number in range(PAGE):
        names.published(b"%d" % number)
    names.restart()
    statements: list[str] = []

    def note(_cursor: object, statement: str, _bindings: object) -> bool:
        statements.append(statement)
        return True

    names.catalog.connection.exec_trace = note
    assert len(names.tree.listing(ROOT_INO, Cookie(0), PAGE)) == PAGE
    assert len(statements) == 1


@pytest.mark.slow
async def test_listing_takes_steps_in_proportion_to_the_names() -> None:
    steps = {count: steps_of_a_listing(count) for count in (500, 4_000)}
    assert steps[4_000] < 10 * steps[500]


@pytest.mark.slow
async def test_making_and_finding_a_name_takes_the_same_steps_in_any_directory(names: Names) -> None:
    made = []
    for number in range(2_000):
        names.count_steps()
        names.file(b"%d" % number)
        names.tree.lookup(ROOT_INO, b"none")
        made.append(names.steps)
    assert max(made[-100:]) <= 2 * max(made[100:200])


def steps_of_a_listing(count: int) -> int:
    """How many instructions SQLite executes, in tens, to list a directory while it changes."""
    names = Names()
    for number in range(count):
        names.file(b"%d" % number)
    names.count_steps()
    after, listed = Cookie(0), 0
    while page := names.tree.listing(ROOT_INO, after, PAGE):
        listed += len(page)
        after = page[-1][0].cookie
        names.tree.unlink(ROOT_INO, page[0][0].name)
    assert listed == count
    return names.steps
