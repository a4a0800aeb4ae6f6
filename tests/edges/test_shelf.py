"""Shelves: one contract for the one on disk and the one in memory, and what only a disk can do."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from bitdustfs.core import fragment
from bitdustfs.core.grace import DAY_S
from bitdustfs.core.lease import MAX_STORED_BYTES
from bitdustfs.core.ledger import MAX_PAGE_BYTES
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.durable import translated
from bitdustfs.edges.fragment_file import HEADER_BYTES
from bitdustfs.edges.shelf_disk import DiskShelf
from bitdustfs.edges.shelf_marker import MARKER, create_shelf
from bitdustfs.errors import (
    AlreadyThere,
    BadFormat,
    BadLeaf,
    BitdustError,
    DiskFault,
    DiskFull,
    NotFound,
    Unavailable,
)
from bitdustfs.model import LEAF_BYTES, FragmentName, OwnerId, Root
from bitdustfs.ports import ContractStore, LedgerStore, Shelf
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf

OWNER = OwnerId(b"\x01" * 32)
OTHER = OwnerId(b"\x02" * 32)
CONTENT = bytes(i % 253 for i in range(40_000))  # three leaves
HASHES = fragment.leaf_hashes(CONTENT)
DONATED = 1_000_000
NOW_S = 1_767_225_600


def name(number: int) -> FragmentName:
    return FragmentName(bytes([number]) * 32)


def put(shelf: Shelf, number: int, content: bytes = CONTENT, owner: OwnerId = OWNER) -> None:
    shelf.put(owner, name(number), fragment.root(content), content)


class ShelfContract:
    """What every shelf does."""

    def make(self, tmp_path: Path) -> Shelf:
        raise NotImplementedError

    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return self.make(tmp_path)

    def test_get_returns_what_was_put(self, shelf: Shelf) -> None:
        put(shelf, 1)
        leaves = shelf.get(OWNER, name(1), 0, 3, hashes=True)
        assert (leaves.length, leaves.hashes, leaves.content) == (len(CONTENT), HASHES, CONTENT)

    @pytest.mark.parametrize(
        "first,count", [(0, 1), (1, 1), (1, 2), (2, 1), (2, 5), (0, 0), (3, 1), (2**32 - 1, 2**32 - 1)]
    )
    def test_get_returns_the_leaves_that_there_are(self, shelf: Shelf, first: int, count: int) -> None:
        put(shelf, 1)
        leaves = shelf.get(OWNER, name(1), first, count, hashes=False)
        assert leaves.content == CONTENT[first * LEAF_BYTES : (first + count) * LEAF_BYTES]
        assert leaves.hashes == b""

    def test_get_of_what_was_never_put_is_not_found(self, shelf: Shelf) -> None:
        put(shelf, 1)
        with pytest.raises(NotFound):
            shelf.get(OWNER, name(2), 0, 1, hashes=False)

    def test_owners_do_not_see_each_other(self, shelf: Shelf) -> None:
        put(shelf, 1)
        with pytest.raises(NotFound):
            shelf.get(OTHER, name(1), 0, 1, hashes=False)
        assert not shelf.delete(OTHER, name(1), now_s=NOW_S)
        assert shelf.names(OTHER, b"", 10) == []
        assert shelf.used(OTHER) == (0, 0)

    def test_wrong_root_is_refused_and_nothing_stays(self, shelf: Shelf) -> None:
        with pytest.raises(BadLeaf):
            shelf.put(OWNER, name(1), Root(b"r" * 32), CONTENT)
        assert shelf.used(OWNER) == (0, 0)
        with pytest.raises(NotFound):
            shelf.get(OWNER, name(1), 0, 1, hashes=False)

    def test_same_fragment_twice_counts_once(self, shelf: Shelf) -> None:
        put(shelf, 1)
        put(shelf, 1)
        assert shelf.used(OWNER) == (len(CONTENT), 1)

    def test_name_is_not_given_to_another_fragment(self, shelf: Shelf) -> None:
        put(shelf, 1)
        with pytest.raises(AlreadyThere):
            put(shelf, 1, b"other")
        assert shelf.get(OWNER, name(1), 0, 9, hashes=False).content == CONTENT

    def test_deleted_fragment_is_gone_but_counts(self, shelf: Shelf) -> None:
        put(shelf, 1)
        assert shelf.delete(OWNER, name(1), now_s=NOW_S)
        assert not shelf.delete(OWNER, name(1), now_s=NOW_S)
        with pytest.raises(NotFound):
            shelf.get(OWNER, name(1), 0, 1, hashes=False)
        assert shelf.names(OWNER, b"", 10) == []
        assert shelf.used(OWNER) == (len(CONTENT), 1)

    def test_deleted_fragment_can_be_put_and_deleted_again(self, shelf: Shelf) -> None:
        put(shelf, 1)
        shelf.delete(OWNER, name(1), now_s=NOW_S)
        put(shelf, 1)
        assert shelf.used(OWNER) == (2 * len(CONTENT), 2)
        shelf.delete(OWNER, name(1), now_s=NOW_S + 1)
        assert shelf.used(OWNER) == (len(CONTENT), 1)

    def test_names_come_in_order_and_in_portions(self, shelf: Shelf) -> None:
        for number in (200, 3, 77, 4):
            put(shelf, number)
        assert shelf.names(OWNER, b"", 3) == [(name(n), len(CONTENT)) for n in (3, 4, 77)]
        assert shelf.names(OWNER, name(77), 3) == [(name(200), len(CONTENT))]
        assert shelf.names(OWNER, name(200), 3) == []

    def test_old_trash_goes_oldest_first_and_no_more_than_is_wanted(self, shelf: Shelf) -> None:
        for number, days in ((1, 3), (2, 1), (3, 2), (4, 20)):
            put(shelf, number)
            assert shelf.delete(OWNER, name(number), now_s=NOW_S + days * DAY_S)
        before_s = NOW_S + 10 * DAY_S
        assert shelf.trash(OWNER, before_s) == (3 * len(CONTENT), 3)
        shelf.empty_trash(OWNER, len(CONTENT) + 1, 1, before_s)
        assert shelf.used(OWNER) == (2 * len(CONTENT), 2)
        assert shelf.trash(OWNER, NOW_S + 3 * DAY_S) == (0, 0)
        shelf.empty_trash(OWNER, 10**9, 10**9, before_s)
        assert shelf.used(OWNER) == (len(CONTENT), 1)
        assert shelf.trash(OWNER, NOW_S + 30 * DAY_S) == (len(CONTENT), 1)

    def test_trash_of_one_owner_is_nobody_elses(self, shelf: Shelf) -> None:
        put(shelf, 1)
        shelf.delete(OWNER, name(1), now_s=NOW_S)
        shelf.empty_trash(OTHER, 10**9, 10**9, NOW_S + 30 * DAY_S)
        assert shelf.trash(OTHER, NOW_S + 30 * DAY_S) == (0, 0)
        assert shelf.used(OWNER) == (len(CONTENT), 1)

    def test_what_was_deleted_again_is_in_the_trash_once(self, shelf: Shelf) -> None:
        for days in (1, 9):
            put(shelf, 1)
            shelf.delete(OWNER, name(1), now_s=NOW_S + days * DAY_S)
        assert shelf.trash(OWNER, NOW_S + 5 * DAY_S) == (0, 0)
        assert shelf.trash(OWNER, NOW_S + 15 * DAY_S) == (len(CONTENT), 1)

    def test_scrub_keeps_what_is_whole(self, shelf: Shelf) -> None:
        put(shelf, 1)
        assert shelf.owners() == [OWNER]
        assert shelf.scrub(OWNER, name(1))
        assert shelf.get(OWNER, name(1), 0, 9, hashes=False).content == CONTENT

    def test_scrub_of_what_is_not_there_is_not_found(self, shelf: Shelf) -> None:
        put(shelf, 1)
        with pytest.raises(NotFound):
            shelf.scrub(OWNER, name(2))

    def test_donation_is_a_limit(self, shelf: Shelf) -> None:
        assert shelf.free_bytes() == DONATED
        put(shelf, 1, bytes(900_000))
        assert shelf.free_bytes() == 100_000
        with pytest.raises(DiskFull):
            put(shelf, 2, bytes(100_001), OTHER)
        assert shelf.used(OTHER) == (0, 0)
        put(shelf, 2, bytes(100_000), OTHER)
        assert shelf.free_bytes() == 0

    def test_shelf_that_is_away_is_unavailable_and_never_empty(self, shelf: Shelf, tmp_path: Path) -> None:
        put(shelf, 1)
        self.take_away(shelf, tmp_path)
        for act in (
            lambda: put(shelf, 2),
            lambda: shelf.get(OWNER, name(1), 0, 1, hashes=False),
            lambda: shelf.get(OWNER, name(9), 0, 1, hashes=False),
            lambda: shelf.delete(OWNER, name(1), now_s=NOW_S),
            lambda: shelf.names(OWNER, b"", 1),
            lambda: shelf.used(OWNER),
            lambda: shelf.free_bytes(),
        ):
            with pytest.raises(Unavailable):
                act()
        self.bring_back(shelf, tmp_path)
        assert shelf.get(OWNER, name(1), 0, 9, hashes=False).content == CONTENT

    def take_away(self, shelf: Shelf, tmp_path: Path) -> None:
        raise NotImplementedError

    def bring_back(self, shelf: Shelf, tmp_path: Path) -> None:
        raise NotImplementedError


class TestMemoryShelf(ShelfContract):
    def make(self, tmp_path: Path) -> Shelf:
        return MemoryShelf(donated_bytes=DONATED)

    def take_away(self, shelf: Shelf, tmp_path: Path) -> None:
        assert isinstance(shelf, MemoryShelf)
        shelf.is_there = False

    def bring_back(self, shelf: Shelf, tmp_path: Path) -> None:
        assert isinstance(shelf, MemoryShelf)
        shelf.is_there = True


def disk_shelf(tmp_path: Path) -> DiskShelf:
    create_shelf(tmp_path / "shelf")
    return DiskShelf(tmp_path / "shelf", donated_bytes=DONATED, floor_bytes=0)


def files_below(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != MARKER)


class TestDiskShelf(ShelfContract):
    def make(self, tmp_path: Path) -> Shelf:
        return disk_shelf(tmp_path)

    def take_away(self, shelf: Shelf, tmp_path: Path) -> None:
        (tmp_path / "shelf").rename(tmp_path / "unplugged")

    def bring_back(self, shelf: Shelf, tmp_path: Path) -> None:
        (tmp_path / "unplugged").rename(tmp_path / "shelf")


def test_disk_shelf_survives_a_restart(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    put(shelf, 2, b"x")
    put(shelf, 3, bytes(LEAF_BYTES), OTHER)
    shelf.delete(OWNER, name(2), now_s=NOW_S)
    again = disk_shelf(tmp_path)
    assert again.used(OWNER) == (len(CONTENT) + 1, 2)
    assert again.used(OTHER) == (LEAF_BYTES, 1)
    assert again.get(OWNER, name(1), 0, 9, hashes=True).content == CONTENT
    assert again.free_bytes() == DONATED - len(CONTENT) - 1 - LEAF_BYTES


@pytest.mark.parametrize(
    "length", [1, 31, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 5 * LEAF_BYTES, 5 * LEAF_BYTES + 1]
)
def test_length_is_known_from_the_size_of_the_file(tmp_path: Path, length: int) -> None:
    put(disk_shelf(tmp_path), 1, bytes(length))
    assert disk_shelf(tmp_path).used(OWNER) == (length, 1)


def test_trash_is_counted_again_after_a_restart(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    shelf.delete(OWNER, name(1), now_s=NOW_S)
    again = DiskShelf(tmp_path / "shelf", floor_bytes=0)
    again.free_bytes()
    assert again.trash(OWNER, NOW_S + 2 * DAY_S) == (len(CONTENT), 1)


def test_trash_remembers_when_it_was_filled(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    shelf.delete(OWNER, name(1), now_s=NOW_S)
    (trashed,) = files_below(tmp_path / "shelf")
    assert trashed.parent.name == "trash"
    assert int(trashed.stat().st_mtime) == NOW_S


def test_unfinished_fragments_are_removed_at_start(tmp_path: Path) -> None:
    disk_shelf(tmp_path).free_bytes()
    (tmp_path / "shelf" / "incoming" / "123-0").write_bytes(b"half")
    disk_shelf(tmp_path).free_bytes()
    assert files_below(tmp_path / "shelf") == []


def test_directory_without_marker_is_no_shelf(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    with pytest.raises(Unavailable):
        put(DiskShelf(tmp_path / "shelf"), 1)
    assert list((tmp_path / "shelf").iterdir()) == []


def test_full_directory_is_not_made_a_shelf(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"mine")
    with pytest.raises(AlreadyThere):
        create_shelf(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["photo"]


def test_making_a_shelf_twice_changes_nothing(tmp_path: Path) -> None:
    put(disk_shelf(tmp_path), 1)
    assert disk_shelf(tmp_path).used(OWNER) == (len(CONTENT), 1)


def test_shelf_of_another_version_is_refused(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    (tmp_path / "shelf" / MARKER).write_bytes(b"bitdustfs shelf 1\n")
    with pytest.raises(BadFormat):
        shelf.free_bytes()


# -- the shelf of a home -----------------------------------------------------------------------------------


def home_shelf(tmp_path: Path) -> DiskShelf:
    return DiskShelf.open_or_create(tmp_path / "shelf", tmp_path / "shelf-id", floor_bytes=0)


def assert_unavailable(shelf: Shelf) -> None:
    with pytest.raises(Unavailable):
        shelf.get(OWNER, name(1), 0, 9, hashes=False)
    with pytest.raises(Unavailable):
        put(shelf, 2)


def test_home_finds_its_shelf_again(tmp_path: Path) -> None:
    put(home_shelf(tmp_path), 1)
    assert home_shelf(tmp_path).used(OWNER) == (len(CONTENT), 1)


@pytest.mark.parametrize("mountpoint", [True, False])
def test_supplier_that_starts_without_its_disk_lacks_nothing_and_takes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mountpoint: bool
) -> None:
    put(home_shelf(tmp_path), 1)
    (tmp_path / "shelf").rename(tmp_path / "unplugged")
    if mountpoint:
        (tmp_path / "shelf").mkdir()
    shelf = home_shelf(tmp_path)
    assert_unavailable(shelf)
    assert not mountpoint or list((tmp_path / "shelf").iterdir()) == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    (tmp_path / "unplugged").rename(tmp_path / "shelf")
    assert shelf.get(OWNER, name(1), 0, 9, hashes=False).content == CONTENT


def test_shelf_of_another_home_is_as_good_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(home_shelf(tmp_path), 1)
    (tmp_path / "shelf").rename(tmp_path / "unplugged")
    create_shelf(tmp_path / "shelf")
    shelf = home_shelf(tmp_path)
    assert_unavailable(shelf)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert files_below(tmp_path / "shelf") == []
    (tmp_path / "shelf").rename(tmp_path / "wrong")
    (tmp_path / "unplugged").rename(tmp_path / "shelf")
    assert shelf.get(OWNER, name(1), 0, 9, hashes=False).content == CONTENT


def test_wrong_disk_that_is_plugged_in_while_serving_is_noticed(tmp_path: Path) -> None:
    shelf = home_shelf(tmp_path)
    put(shelf, 1)
    (tmp_path / "shelf").rename(tmp_path / "unplugged")
    create_shelf(tmp_path / "shelf")
    assert_unavailable(shelf)


def test_home_that_was_stopped_before_it_remembered_takes_the_shelf_it_made(tmp_path: Path) -> None:
    made = create_shelf(tmp_path / "shelf")
    home_shelf(tmp_path)
    assert made.hex() in (tmp_path / "shelf-id").read_text()


def test_home_without_a_shelf_leaves_a_full_directory_alone(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "photo").write_bytes(b"mine")
    with pytest.raises(AlreadyThere):
        home_shelf(tmp_path)
    assert not (tmp_path / "shelf-id").exists()


def test_damaged_memory_of_the_shelf_is_said(tmp_path: Path) -> None:
    (tmp_path / "shelf-id").write_bytes(b"")
    with pytest.raises(BadFormat):
        home_shelf(tmp_path)
    assert not (tmp_path / "shelf").exists()


# -- what a disk does -----------------------------------------------------------------------------------------


def test_empty_file_is_counted_but_is_no_fragment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    put(shelf, 2)
    os.truncate(tmp_path / "shelf" / OWNER.hex() / "01" / name(1).hex(), 0)
    again = disk_shelf(tmp_path)
    assert again.names(OWNER, b"", 10) == [(name(2), len(CONTENT))]
    assert again.used(OWNER) == (len(CONTENT), 2)
    assert "1 damaged" in caplog.text
    put(again, 1)
    assert again.used(OWNER) == (2 * len(CONTENT), 2)


def test_what_has_no_name_of_ours_is_passed_over(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    (tmp_path / "shelf" / ("z" * 64)).mkdir()
    (tmp_path / "shelf" / OWNER.hex() / "01" / ("z" * 64)).write_bytes(b"stray")
    again = disk_shelf(tmp_path)
    assert again.used(OWNER) == (len(CONTENT), 1)
    assert again.names(OWNER, b"", 10) == [(name(1), len(CONTENT))]


@contextmanager
def files_no_longer_than(length: int) -> Iterator[None]:
    """Let the kernel refuse longer files, as a full disk does (with EFBIG)."""
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_write_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    with files_no_longer_than(20_000), pytest.raises(DiskFault):
        put(shelf, 1)
    assert files_below(tmp_path / "shelf") == []
    assert shelf.used(OWNER) == (0, 0)
    assert shelf.free_bytes() == DONATED
    put(shelf, 1)


def test_full_disk_is_said_to_be_full() -> None:
    error = translated(OSError(errno.ENOSPC, "No space left on device"), Path("/shelf"))
    assert isinstance(error, DiskFull)


def test_floor_of_the_disk_is_kept(tmp_path: Path) -> None:
    create_shelf(tmp_path / "shelf")
    shelf = DiskShelf(tmp_path / "shelf", floor_bytes=1 << 60)
    with pytest.raises(DiskFull):
        put(shelf, 1)
    assert files_below(tmp_path / "shelf") == []


@pytest.mark.parametrize("at", [0, 8, 9, 16, 30, 60])
def test_damaged_header_is_never_believed(tmp_path: Path, at: int) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    (path,) = files_below(tmp_path / "shelf")
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BadFormat):
        shelf.get(OWNER, name(1), 0, 1, hashes=False)


@pytest.mark.parametrize("size", [0, HEADER_BYTES - 1, HEADER_BYTES + 50, HEADER_BYTES + 96 + 100])
def test_file_that_was_cut_is_an_error(tmp_path: Path, size: int) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    (path,) = files_below(tmp_path / "shelf")
    os.truncate(path, size)
    with pytest.raises(BadFormat):
        shelf.get(OWNER, name(1), 0, 9, hashes=True)


def test_symlink_in_the_shelf_is_not_followed(tmp_path: Path) -> None:
    """F52: planted in the shelf."""
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    (path,) = files_below(tmp_path / "shelf")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BitdustError):
        shelf.get(OWNER, name(1), 0, 1, hashes=False)


@pytest.mark.parametrize("bad", [b"", b"../../etc/passwd", b"\0" * 31, b"a" * 33, b"a" * 4096])
def test_only_names_of_32_bytes_become_paths(tmp_path: Path, bad: bytes) -> None:
    shelf = disk_shelf(tmp_path)
    with pytest.raises(ValueError):
        shelf.put(OWNER, FragmentName(bad), fragment.root(CONTENT), CONTENT)
    with pytest.raises(ValueError):
        shelf.get(OWNER, FragmentName(bad), 0, 1, hashes=False)
    assert files_below(tmp_path) == [tmp_path / "shelf" / MARKER][1:]


def test_folders_of_one_digit_are_made_together(tmp_path: Path) -> None:
    """One fsync for sixteen of them, and not one for each of the first fragments."""
    put(disk_shelf(tmp_path), 0x2F)
    folders = sorted(each.name for each in (tmp_path / "shelf" / OWNER.hex()).iterdir())
    assert folders == [f"2{digit:x}" for digit in range(16)]


def test_many_threads_count_right(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: put(shelf, i % 10, bytes(100)), range(40)))
    assert shelf.used(OWNER) == (1000, 10)
    assert shelf.free_bytes() == DONATED - 1000
    assert disk_shelf(tmp_path).used(OWNER) == (1000, 10)


def test_files_and_directories_are_private(tmp_path: Path) -> None:
    put(disk_shelf(tmp_path), 1)
    for path in [tmp_path / "shelf", *(tmp_path / "shelf").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_contract_stores_keep_the_newest(tmp_path: Path, kind: str) -> None:
    store: ContractStore = MemoryContracts() if kind == "memory" else DiskContracts(tmp_path / "contracts")
    store.save_contract(OWNER, b"a" * 685)
    store.save_contract(OWNER, b"b" * 685)
    store.save_contract(OTHER, b"c" * 685)
    store.save_epoch(OWNER, 7, b"p" * 138)
    store.save_epoch(OWNER, 2**63, b"q" * 138)
    store.save_head(OWNER, b"first")
    store.save_head(OWNER, b"second head")
    store.save_head(OTHER, b"")
    again = store if kind == "memory" else DiskContracts(tmp_path / "contracts")
    assert again.contracts() == {OWNER: b"b" * 685, OTHER: b"c" * 685}
    assert again.epochs() == {OWNER: (2**63, b"q" * 138)}
    assert again.heads() == {OWNER: b"second head", OTHER: b""}


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_ledger_stores_keep_the_newest_page_of_each_direction(tmp_path: Path, kind: str) -> None:
    store: LedgerStore = MemoryContracts() if kind == "memory" else DiskContracts(tmp_path / "contracts")
    store.save_account(OWNER, b"first")
    store.save_account(OWNER, b"second")
    store.save_gift(OWNER, b"third")
    store.save_gift(OTHER, b"fourth")
    again = store if kind == "memory" else DiskContracts(tmp_path / "contracts")
    assert again.accounts() == {OWNER: b"second"}
    assert again.gifts() == {OWNER: b"third", OTHER: b"fourth"}


def test_page_of_the_ledger_that_cannot_be_read_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "contracts"
    store = DiskContracts(directory)
    store.save_gift(OTHER, b"theirs")
    (directory / f"{OWNER.hex()}.given").mkdir()
    with (directory / f"{OWNER.hex()}.taken").open("wb") as file:
        file.truncate(1 << 40)
    assert store.gifts() == {OWNER: b"", OTHER: b"theirs"}
    assert len(store.accounts()[OWNER]) == MAX_PAGE_BYTES + 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_head_that_cannot_be_read_is_told_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "contracts"
    store = DiskContracts(directory)
    store.save_head(OTHER, b"theirs")
    (directory / f"{OWNER.hex()}.head").mkdir()
    assert store.heads() == {OWNER: b"", OTHER: b"theirs"}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with pytest.raises(DiskFault):
        store.save_head(OWNER, b"new")


def test_giant_file_in_place_of_a_head_is_not_read_whole(tmp_path: Path) -> None:
    store = DiskContracts(tmp_path / "contracts")
    with (tmp_path / "contracts" / f"{OWNER.hex()}.head").open("wb") as file:
        file.truncate(1 << 40)
    assert len(store.heads()[OWNER]) == MAX_STORED_BYTES + 1


def test_epoch_of_another_version_is_refused(tmp_path: Path) -> None:
    store = DiskContracts(tmp_path / "contracts")
    store.save_epoch(OWNER, 7, b"p" * 138)
    (path,) = (tmp_path / "contracts").iterdir()
    for version, length in ((3, 147), (1, 147), (2, 9), (2, 146)):
        path.write_bytes((bytes([version]) + path.read_bytes()[1:]).ljust(147, b"p")[:length])
        with pytest.raises(BadFormat):
            store.epochs()


def test_epoch_of_the_first_version_has_no_proof(tmp_path: Path) -> None:
    store = DiskContracts(tmp_path / "contracts")
    (tmp_path / "contracts" / f"{OWNER.hex()}.epoch").write_bytes(b"\x01" + (7).to_bytes(8, "big"))
    assert store.epochs() == {OWNER: (7, b"")}


@pytest.mark.parametrize("file", ["nohex" + "z" * 59 + ".contract", "00" * 32 + ".epoch", "00.head"])
def test_damaged_contract_store_is_said(tmp_path: Path, file: str) -> None:
    store = DiskContracts(tmp_path / "contracts")
    (tmp_path / "contracts" / file).write_bytes(b"x")
    with pytest.raises(BadFormat):
        store.contracts(), store.epochs(), store.heads()


@pytest.mark.parametrize("at", [3, HEADER_BYTES + 5, -1], ids=["header", "hash list", "content"])
def test_scrub_removes_what_is_damaged_and_leaves_the_rest(tmp_path: Path, at: int) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    put(shelf, 2)
    (damaged,) = (path for path in files_below(tmp_path) if path.name == name(1).hex())
    content = bytearray(damaged.read_bytes())
    content[at] ^= 1
    damaged.write_bytes(content)
    assert not shelf.scrub(OWNER, name(1))
    assert shelf.scrub(OWNER, name(2))
    with pytest.raises(NotFound):
        shelf.get(OWNER, name(1), 0, 1, hashes=False)
    assert shelf.used(OWNER) == (len(CONTENT), 1)
    put(shelf, 1)
    assert shelf.scrub(OWNER, name(1))


def test_scrub_keeps_what_a_newer_version_wrote(tmp_path: Path) -> None:
    shelf = disk_shelf(tmp_path)
    put(shelf, 1)
    (newer,) = (path for path in files_below(tmp_path) if path.name == name(1).hex())
    content = newer.read_bytes()
    fields = content[:8] + bytes([99]) + content[9 : HEADER_BYTES - 8]
    newer.write_bytes(fields + blake3(fields).digest(8) + content[HEADER_BYTES:])
    assert shelf.scrub(OWNER, name(1))
    assert newer.exists()
