"""The spool on a simulated disk: what a durable file rests on is durable too."""

from __future__ import annotations

from collections import Counter

import trio

from bitdustfs.edges.spool_disk import DiskSpool
from bitdustfs.model import Ino
from tests.crash.disk import Case
from tests.crash.harness import Yard

SYNCS = ("syncdir spool", "syncdir spool/*")


def hardened(case: Case, spool: DiskSpool, ino: Ino) -> tuple[int, int]:
    """Write to a file and make it durable. Returns how often the spool and its folders were synced for that."""
    before = Counter(case.points())
    spool.write(ino, 0, b"bytes")
    trio.run(spool.harden, ino)
    after = Counter(case.points()) - before
    return after[SYNCS[0]], after[SYNCS[1]]


def test_folder_that_was_made_for_a_file_is_durable_with_it(yard: Yard) -> None:
    case = yard.disk.case()
    spool = DiskSpool(case.path / "spool")
    assert hardened(case, spool, Ino(1)) == (1, 1)
    assert hardened(case, spool, Ino(1)) == (0, 0)
    assert hardened(case, spool, Ino(257)) == (0, 1), "a folder that is durable"
    assert hardened(case, spool, Ino(2)) == (1, 1), "another one"
    spool.close()
    after_a_kill = DiskSpool(case.path / "spool")
    assert hardened(case, after_a_kill, Ino(1)) == (1, 1), "who knows"
    assert hardened(case, after_a_kill, Ino(2)) == (0, 1), "one sync was for all folders"
    after_a_kill.close()


def test_write_behind_an_end_that_is_cut_off_is_kept(yard: Yard) -> None:
    spool = DiskSpool(yard.disk.case().path / "spool")  # a disk without holes

    async def cut_and_write() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spool.punch, Ino(1), [(5, 5), (0, 3), (10, 10)])
            await trio.sleep(0)
            spool.write(Ino(1), 20, b"later")

    spool.write(Ino(1), 0, b"0123456789" * 2)
    trio.run(cut_and_write)
    assert spool.read(Ino(1), 20, 5) == b"later"
    spool.write(Ino(2), 0, b"0123456789" * 2)
    trio.run(spool.punch, Ino(2), [(5, 5), (0, 3), (10, 10)])
    assert spool.read(Ino(2), 0, 0, extra=99) == b"01234"
    spool.close()
