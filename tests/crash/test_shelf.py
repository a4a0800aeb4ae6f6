"""Crashes of a supplier: what it acknowledged is on its shelf, whatever its disk or its process does."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from bitdustfs.core import fragment
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.shelf_disk import DiskShelf
from bitdustfs.errors import DiskFault, NotFound
from bitdustfs.model import FragmentName, OwnerId
from tests.crash.disk import Case
from tests.crash.harness import Yard
from tests.crash.loss import Manner, power_loss
from tests.crash.oplog import Did

OWNER = OwnerId(b"o" * 32)
CONTENTS = {FragmentName(bytes([n]) * 32): random.Random(n).randbytes(9_000 + 7_000 * n) for n in (1, 2, 0x21)}
DELETED = FragmentName(bytes([2]) * 32)
STEPS = "acknowledged"


def opened(place: Path) -> DiskShelf:
    return DiskShelf.open_or_create(place / "shelf", place / "shelf-id", floor_bytes=0)


def put(shelf: DiskShelf, name: FragmentName) -> None:
    shelf.put(OWNER, name, fragment.root(CONTENTS[name]), CONTENTS[name])


def is_there(shelf: DiskShelf, name: FragmentName) -> bool:
    try:
        leaves = shelf.get(OWNER, name, 0, 100, hashes=True)
    except NotFound:
        return False
    assert leaves.content == CONTENTS[name]
    assert leaves.hashes == fragment.leaf_hashes(CONTENTS[name])
    return True


@pytest.fixture(scope="module")
def case(yard: Yard) -> Case:
    """A disk with a shelf that took three fragments and a deletion; each answer is a byte more in `acknowledged`."""
    case = yard.disk.case()
    with (case.path / STEPS).open("wb", buffering=0) as acknowledged:
        shelf = opened(case.path)
        for name in CONTENTS:
            put(shelf, name)
            acknowledged.write(b"x")
        shelf.delete(OWNER, DELETED, now_s=1)
        acknowledged.write(b"x")
        DiskContracts(case.path / "contracts").save_epoch(OWNER, 1, bytes(138))
        acknowledged.write(b"x")
        DiskContracts(case.path / "contracts").save_epoch(OWNER, 2, bytes(138))
        acknowledged.write(b"x")
    return case


@pytest.mark.slow
@pytest.mark.parametrize("manner", Manner)
def test_shelf_keeps_what_it_acknowledged_and_counts_it_once(yard: Yard, case: Case, manner: Manner) -> None:
    for moment in range(1, len(case.entries()) + 1):
        _check(yard, case, moment, manner, seeds=[moment])


@pytest.mark.slow
def test_fragment_costs_one_sync_of_its_file_and_one_of_its_directory(yard: Yard) -> None:
    case = yard.disk.case()
    shelf = opened(case.path)
    first, second = (FragmentName(b"\x05" + bytes([n]) * 31) for n in (1, 2))  # of one directory
    content = random.Random(3).randbytes(100_000)
    shelf.put(OWNER, first, fragment.root(content), content)
    before = len(case.entries())
    shelf.put(OWNER, second, fragment.root(content), content)
    syncs = [entry.did for entry in case.entries()[before:] if entry.did in (Did.SYNC, Did.SYNC_DIRECTORY)]
    assert syncs == [Did.SYNC, Did.SYNC_DIRECTORY]


@pytest.mark.long
@pytest.mark.parametrize("manner", [Manner.ORDERED, Manner.STRICT])
def test_shelf_keeps_what_it_acknowledged_whatever_is_lost(yard: Yard, case: Case, manner: Manner) -> None:
    for moment in range(1, len(case.entries()) + 1):
        _check(yard, case, moment, manner, seeds=range(50))


def test_shelf_whose_making_was_interrupted_is_remembered_only_once_it_is_durable(yard: Yard) -> None:
    case = yard.disk.case()
    case.fail_at("syncdir shelf", 1, errno.EIO)
    with pytest.raises(DiskFault):
        opened(case.path)
    opened(case.path)
    for seed in range(20):
        image = power_loss(case.entries(), Manner.STRICT, seed)
        assert "shelf/bitdustfs-shelf" in image.files or "shelf-id" not in image.files


def _check(yard: Yard, case: Case, moment: int, manner: Manner, seeds: Iterable[int]) -> None:
    entries = case.entries()[:moment]
    steps = len(power_loss(entries, Manner.KILL, 0).files.get(STEPS, b""))
    for seed in seeds:
        place = yard.fresh("shelf") / "home"
        power_loss(entries, manner, seed).lay_out(place)
        shelf = opened(place)
        deleting = steps >= len(CONTENTS)
        for name in list(CONTENTS)[:steps]:
            assert is_there(shelf, name) or (name == DELETED and deleting), f"{manner} {moment} {seed}"
        if steps > len(CONTENTS):
            assert not is_there(shelf, DELETED)
        _put_again(shelf)
        epoch = DiskContracts(place / "contracts").epochs().get(OWNER, (0, b""))[0]
        assert max(0, steps - 4) <= epoch <= max(0, steps - 3), f"{manner} {moment} {seed}"


def _put_again(shelf: DiskShelf) -> None:
    """A customer who heard no answer sends again: everything is there then, and counted once."""
    in_trash = shelf.used(OWNER)[1] - sum(is_there(shelf, name) for name in CONTENTS)
    assert in_trash in (0, 1)
    for name in CONTENTS:
        put(shelf, name)
        assert is_there(shelf, name)
    bytes_there = sum(map(len, CONTENTS.values())) + in_trash * len(CONTENTS[DELETED])
    assert shelf.used(OWNER) == (bytes_there, len(CONTENTS) + in_trash)
