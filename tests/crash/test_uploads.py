"""Uploads that a crash interrupts: nothing is lost or counted twice, and no key is used for other bytes (I5)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from bitdustfs.model import ROOT_INO, BlockRow
from tests.crash import served
from tests.crash.harness import TRACE, Watched, Yard
from tests.crash.served import Opened
from tests.crash.trace import read

CONTENT = random.Random(5).randbytes(100_000)
FRAGMENTS = 3
PATIENCE_S = 120


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "hit", "when"),
    [
        pytest.param("begin put", 1, "before", marks=pytest.mark.long),
        ("end put", 1, "before"),
        ("end put", 1, "after"),
        pytest.param("end put", 2, "after", marks=pytest.mark.long),
        ("end put", 3, "after"),
    ],
)
def test_upload_that_was_killed_between_acknowledgements_is_done_anew(
    yard: Yard, point: str, hit: int, when: str
) -> None:
    case, suppliers = yard.disk.case(), yard.fresh("suppliers")
    with Watched(yard, case.path, suppliers, TRACE) as mount:
        with (mount.path / "file").open("wb", buffering=0) as file:
            file.write(CONTENT)
            os.fsync(file.fileno())
        case.kill_at(point, hit, when=when)
        mount.rest()
        assert mount.process.wait(PATIENCE_S) != 0
    remarks = read((case.path / TRACE).read_bytes())
    first = {str(remark.facts["name"]) for remark in remarks if remark.what == "put" and remark.word == "begin"}

    blocks = trio.run(_finish_and_check, case.path, suppliers)

    stored = {path.name.partition("-")[2] for path in suppliers.iterdir()}
    assert stored == set().union(*blocks), "what the interrupted upload left is released"
    for names in blocks:
        assert len(names) == FRAGMENTS
        assert names & first in (set(), names), "a block that was not recorded is sealed under another id"


async def _finish_and_check(state: Path, suppliers: Path) -> list[set[str]]:
    """Returns the names of the fragments of each block, those of the replica too."""
    with served.opened(state, suppliers) as volume:
        async with volume.node.running():
            with trio.fail_after(PATIENCE_S):
                await volume.node.writer.flush()
                await volume.node.replica.make_safe()
                while (
                    volume.catalog.uploads()
                    or volume.catalog.count_releases()
                    or volume.node.reporter.missing_fragments()
                    or not volume.node.replica.is_current
                    or volume.node.replica.has_leftovers
                ):
                    await trio.sleep(0.05)
            await volume.node.drop_cache()
            assert await _content(volume) == CONTENT
            for row in volume.catalog.suppliers():
                held = [
                    len(content) for (number, _), content in volume.suppliers.stored.items() if number == row.supplier
                ]
                assert (row.used_bytes, row.used_fragments) == (sum(held), len(held)), "counted once"
            return [_names(volume, block) for block in _blocks(volume)]


def _blocks(volume: Opened) -> list[BlockRow]:
    inode = volume.node.tree.lookup(ROOT_INO, b"file")
    assert inode is not None
    rows = [volume.catalog.block(number) for number in volume.catalog.blocks_of(inode.ino)]
    return [*(row for row in rows if row is not None), *volume.catalog.local_blocks()]


def _names(volume: Opened, row: BlockRow) -> set[str]:
    nodes = {each.supplier: each.node for each in volume.catalog.suppliers()}
    return {
        served.SECRETS.fragment_name(row.block_id, each.index, nodes[each.supplier]).hex()
        for each in volume.catalog.fragments(row.block)
    }


async def _content(volume: Opened) -> bytes:
    inode = volume.node.tree.lookup(ROOT_INO, b"file")
    assert inode is not None
    return await volume.node.files.read(inode.ino, 0, inode.size)
