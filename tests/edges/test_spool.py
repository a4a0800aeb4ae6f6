"""The spool: one contract for the fake and the disk, and what only a disk can do."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from bitdustfs.core.sums import sums_of
from bitdustfs.edges.spool_disk import LEAVING_MOST, DiskSpool
from bitdustfs.errors import DiskFault, DiskFull
from bitdustfs.model import SUM_UNIT_BYTES, Ino
from bitdustfs.ports import Spool
from bitdustfs.testing.spool import FaultySpool, MemorySpool

MIB = 1 << 20
SEVEN, EIGHT = Ino(7), Ino(8)


class SpoolContract:
    """What every spool promises."""

    @pytest.fixture
    def spool(self) -> Iterator[Spool]:
        raise NotImplementedError

    def test_written_bytes_are_read_back(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"hello")
        spool.write(SEVEN, 5, memoryview(b" world"))
        spool.write(EIGHT, 0, b"other")
        assert spool.read(SEVEN, 0, 11) == b"hello world"
        assert spool.read(SEVEN, 4, 3) == b"o w"
        assert spool.read(EIGHT, 0, 5) == b"other"

    def test_position_far_out_leaves_a_gap_that_takes_no_space(self, spool: Spool) -> None:
        spool.write(SEVEN, 100 * MIB, b"far")
        assert spool.read(SEVEN, 100 * MIB, 3) == b"far"
        assert spool.used_bytes() < MIB

    def test_read_beyond_the_end_is_a_fault_and_never_short(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"hello")
        for at, length in ((0, 6), (5, 1), (100, 1)):
            with pytest.raises(DiskFault):
                spool.read(SEVEN, at, length)

    def test_read_takes_more_if_there_is_more(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"hello world")
        assert spool.read(SEVEN, 2, 3, extra=4) == b"llo wor"
        assert spool.read(SEVEN, 2, 9, extra=100) == b"llo world"
        with pytest.raises(DiskFault):
            spool.read(SEVEN, 2, 10, extra=100)

    def test_read_of_an_unknown_inode_is_a_fault(self, spool: Spool) -> None:
        with pytest.raises(DiskFault):
            spool.read(SEVEN, 0, 1)

    def test_large_writes_at_odd_positions_are_read_back(self, spool: Spool) -> None:
        content = random.Random(1).randbytes(MIB + 4097)
        spool.write(SEVEN, 13, content)
        assert spool.read(SEVEN, 13, len(content)) == content
        assert spool.read(SEVEN, 13 + 5000, 5000) == content[5000:10000]

    async def test_punch_gives_space_back_and_leaves_its_neighbours(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"x" * MIB)
        used = spool.used_bytes()
        await spool.punch(SEVEN, [(10_000, MIB - 20_000)])
        assert used >= MIB
        assert spool.used_bytes() < used // 2
        assert spool.read(SEVEN, 0, 10_000) == b"x" * 10_000
        assert spool.read(SEVEN, MIB - 10_000, 10_000) == b"x" * 10_000

    async def test_punch_beyond_the_end_or_of_nothing_changes_nothing(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"hello")
        await spool.punch(SEVEN, [(5, 100)])
        await spool.punch(SEVEN, [(0, 0)])
        await spool.punch(EIGHT, [(0, 100)])
        assert spool.read(SEVEN, 0, 5) == b"hello"
        assert spool.inos() == [SEVEN]

    async def test_many_ranges_are_punched_at_once(self, spool: Spool) -> None:
        content = random.Random(3).randbytes(MIB)
        spool.write(SEVEN, 0, content)
        await spool.punch(SEVEN, [(at, 65536) for at in range(0, MIB, 131072)])
        assert spool.used_bytes() <= MIB // 2 + 65536
        for at in range(65536, MIB, 131072):
            assert spool.read(SEVEN, at, 65536) == content[at : at + 65536]

    async def test_write_at_the_end_while_the_end_is_punched_is_kept(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"x" * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spool.punch, SEVEN, [(MIB // 2, MIB // 2)])
            await trio.lowlevel.checkpoint()
            spool.write(SEVEN, MIB, b"y" * MIB)
        assert spool.read(SEVEN, MIB, MIB) == b"y" * MIB

    async def test_space_of_removed_files_is_settled_and_new_ones_are_not_touched(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"x" * MIB)
        spool.remove(SEVEN)
        spool.write(SEVEN, 0, b"new")
        await spool.settle()
        await spool.settle()
        assert spool.read(SEVEN, 0, 3) == b"new"
        assert spool.used_bytes() < MIB

    def test_removed_file_is_forgotten_and_may_come_again(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"x" * MIB)
        spool.write(EIGHT, 0, b"other")
        spool.remove(SEVEN)
        spool.remove(SEVEN)
        assert spool.inos() == [EIGHT]
        assert spool.used_bytes() < MIB
        spool.write(SEVEN, 0, b"new")
        with pytest.raises(DiskFault):
            spool.read(SEVEN, 0, 4)

    def test_inos_are_those_with_a_file_in_order(self, spool: Spool) -> None:
        assert spool.inos() == []
        for ino in (0x107, 7, 2**40):
            spool.write(Ino(ino), 0, b"x")
        assert spool.inos() == [7, 0x107, 2**40]

    async def test_hardened_bytes_are_still_there(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"hello")
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(spool.harden, SEVEN)
        await spool.harden(EIGHT)
        assert spool.read(SEVEN, 0, 5) == b"hello"

    async def test_distrusted_file_does_not_become_durable_until_it_is_written_anew(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"hello")
        spool.write(EIGHT, 0, b"other")
        spool.distrust(SEVEN)
        for _ in range(2):
            with pytest.raises(DiskFault):
                await spool.harden(SEVEN)
        await spool.harden(EIGHT)
        spool.remove(SEVEN)
        spool.write(SEVEN, 0, b"anew")
        await spool.harden(SEVEN)

    async def test_sums_are_those_of_the_bytes_and_given_back_ones_are_zeros(self, spool: Spool) -> None:
        content = random.Random(2).randbytes(MIB + 5)
        spool.write(SEVEN, 0, content)
        assert await spool.sums(SEVEN, 0, MIB + 5) == sums_of(content)
        assert await spool.sums(SEVEN, 2 * SUM_UNIT_BYTES, MIB) == sums_of(content[2 * SUM_UNIT_BYTES : MIB])
        await spool.punch(SEVEN, [(SUM_UNIT_BYTES, SUM_UNIT_BYTES)])
        holed = content[:SUM_UNIT_BYTES] + bytes(SUM_UNIT_BYTES) + content[2 * SUM_UNIT_BYTES :]
        assert await spool.sums(SEVEN, 0, MIB + 100) == sums_of(holed + bytes(95))

    async def test_sums_of_an_unknown_inode_are_a_fault(self, spool: Spool) -> None:
        with pytest.raises(DiskFault):
            await spool.sums(SEVEN, 0, 1)

    async def test_file_removed_while_it_is_hardened_is_gone(self, spool: Spool) -> None:
        spool.write(SEVEN, 0, b"hello")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spool.harden, SEVEN)
            await trio.sleep(0)
            spool.remove(SEVEN)
        assert spool.inos() == []


class TestMemorySpool(SpoolContract):
    @pytest.fixture
    def spool(self) -> Iterator[Spool]:
        yield MemorySpool()


class TestDiskSpool(SpoolContract):
    @pytest.fixture
    def spool(self, tmp_path: Path) -> Iterator[Spool]:
        opened = DiskSpool(tmp_path / "spool")
        yield opened
        opened.close()


class TestDiskSpoolWithOneDescriptor(SpoolContract):
    @pytest.fixture
    def spool(self, tmp_path: Path) -> Iterator[Spool]:
        opened = DiskSpool(tmp_path / "spool", open_files=1)
        yield opened
        opened.close()


class TestFaultySpoolWithoutFaults(SpoolContract):
    @pytest.fixture
    def spool(self) -> Iterator[Spool]:
        yield FaultySpool(MemorySpool())


# --- the fakes ------------------------------------------------------------------------------------------------


async def test_power_loss_takes_what_was_not_hardened() -> None:
    spool = MemorySpool()
    spool.write(SEVEN, 0, b"hard")
    await spool.harden(SEVEN)
    spool.write(SEVEN, 4, b"soft")
    spool.write(EIGHT, 0, b"soft")
    spool.lose_power()
    assert spool.inos() == [SEVEN]
    assert spool.read(SEVEN, 0, 4) == b"hard"
    with pytest.raises(DiskFault):
        spool.read(SEVEN, 4, 1)


async def test_faulty_spool_fails_by_its_script() -> None:
    spool = FaultySpool(MemorySpool(), "..E.N")
    spool.write(SEVEN, 0, b"one")
    assert spool.read(SEVEN, 0, 3) == b"one"
    with pytest.raises(DiskFault):
        spool.write(SEVEN, 0, b"two")
    await spool.punch(SEVEN, [(0, 0)])
    with pytest.raises(DiskFull):
        await spool.harden(SEVEN)
    assert spool.read(SEVEN, 0, 3) == b"one"


# --- the disk -------------------------------------------------------------------------------------------------


class BreakableSync:
    def __init__(self) -> None:
        self.calls = 0
        self.failure: OSError | None = None

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        os.fdatasync(descriptor)
        if self.failure is not None:
            raise self.failure


def test_files_are_found_again_with_their_space(tmp_path: Path) -> None:
    first = DiskSpool(tmp_path)
    first.write(SEVEN, 0, b"x" * MIB)
    first.write(Ino(0x1A07), 5, b"y")
    used = first.used_bytes()
    first.close()
    second = DiskSpool(tmp_path)
    assert second.inos() == [7, 0x1A07]
    assert second.used_bytes() == used
    assert second.read(Ino(0x1A07), 5, 1) == b"y"
    second.close()


def test_files_lie_under_the_low_byte_of_their_ino(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path)
    spool.write(Ino(0x1A07), 0, b"x")
    spool.close()
    assert (tmp_path / "07" / "1a07").read_bytes() == b"x"
    assert (tmp_path / "07" / "1a07").stat().st_mode & 0o777 == 0o600


def test_foreign_files_in_the_spool_are_no_inodes(tmp_path: Path) -> None:
    (tmp_path / "07").mkdir()
    for name in ("readme", "0x7", "+7", "08", "8"):
        (tmp_path / "07" / name).write_bytes(b"?")
    spool = DiskSpool(tmp_path)
    assert spool.inos() == []
    spool.close()


def test_no_more_descriptors_are_kept_than_allowed(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, open_files=4)
    before = len(os.listdir("/proc/self/fd"))
    for ino in range(1, 50):
        spool.write(Ino(ino), 0, b"%d" % ino)
    assert len(os.listdir("/proc/self/fd")) == before + 4
    assert spool.read(Ino(1), 0, 1) == b"1"
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_large_removed_file_leaves_when_it_is_settled_and_not_on_the_loop(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for ino in (SEVEN, EIGHT):
        spool.write(ino, 0, b"x" * MIB)
        spool.remove(ino)
    assert (spool.inos(), spool.used_bytes()) == ([], 0)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    await spool.settle()
    assert len(os.listdir("/proc/self/fd")) == before
    for number in range(1, 100):
        spool.write(Ino(number), 0, b"x" * MIB)
        spool.remove(Ino(number))
    assert len(os.listdir("/proc/self/fd")) == before + LEAVING_MOST
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_others_need_are_given_up(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path / "spool")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 10, before[1]))
    try:
        for ino in range(1, 50):
            spool.write(Ino(ino), 0, b"%d" % ino)
        assert [spool.read(Ino(ino), 0, len(b"%d" % ino)) for ino in range(1, 50)] == [
            b"%d" % ino for ino in range(1, 50)
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        spool.close()


def test_disk_is_full_for_the_spool_before_it_is_for_the_catalog(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    spool = DiskSpool(tmp_path / "spool", reserve_bytes=free // 2)
    assert not spool.fits(free // 4 * 3)
    assert spool.fits(MIB)
    spool.close()


async def test_unchanged_file_is_synced_once(tmp_path: Path) -> None:
    sync = BreakableSync()
    spool = DiskSpool(tmp_path, sync=sync)
    spool.write(SEVEN, 0, b"x")
    await spool.harden(SEVEN)
    await spool.harden(SEVEN)
    assert spool.read(SEVEN, 0, 1) == b"x"
    await spool.harden(SEVEN)
    assert sync.calls == 1
    spool.write(SEVEN, 1, b"y")
    await spool.harden(SEVEN)
    assert sync.calls == 2
    spool.close()


async def test_file_of_an_earlier_process_is_synced_before_it_counts_as_durable(tmp_path: Path) -> None:
    first = DiskSpool(tmp_path)
    first.write(SEVEN, 0, b"x")
    first.close()
    sync = BreakableSync()
    second = DiskSpool(tmp_path, sync=sync)
    await second.harden(SEVEN)
    assert sync.calls == 1
    second.close()


@pytest.mark.parametrize(("number", "expected"), [(errno.EIO, DiskFault), (errno.ENOSPC, DiskFull)])
async def test_failed_sync_is_final_until_the_file_is_written_anew(
    tmp_path: Path, number: int, expected: type[Exception]
) -> None:
    sync = BreakableSync()
    spool = DiskSpool(tmp_path, open_files=1, sync=sync)
    spool.write(SEVEN, 0, b"x")
    sync.failure = OSError(number, "the test says so")
    with pytest.raises(expected):
        await spool.harden(SEVEN)
    sync.failure = None
    spool.write(EIGHT, 0, b"takes the only descriptor")
    spool.write(SEVEN, 1, b"y")
    with pytest.raises(expected):
        await spool.harden(SEVEN)
    await spool.harden(EIGHT)
    spool.remove(SEVEN)
    spool.write(SEVEN, 0, b"anew")
    await spool.harden(SEVEN)
    spool.close()


def test_file_larger_than_the_limit_is_a_fault_and_the_spool_goes_on(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path)
    with pytest.raises(DiskFault):
        spool.write(SEVEN, 2**63 - 2, b"too far")
    spool.write(SEVEN, 0, b"x")
    assert spool.read(SEVEN, 0, 1) == b"x"
    spool.close()
