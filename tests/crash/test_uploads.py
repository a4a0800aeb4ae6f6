"""Uploads that a crash interrupts: nothing is lost or counted twice, and no key is used for other bytes (I5)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from bitdustfs.model import ROOT_INO
from tests.crash import served
from tests.crash.harness import TRACE, Watched, Yard
from tests.crash.served import Opened
from tests.crash.trace import read

CONTENT = random.Random(5).randbytes(100_000)
FRAGMENTS = 3
PATIENCE_S = 60


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

    trio.run(_finish_and_check, case.path, suppliers)

    stored = {path.name.partition("-")[2] for path in suppliers.iterdir()}
    assert len(stored) == FRAGMENTS, "what the interrupted upload left is released"
    assert stored & first in (set(), stored), "a block that was not recorded is sealed under another id"


async def _finish_and_check(state: Path, suppliers: Path) -> None:
    with served.opened(state, suppliers) as volume:
        async with volume.node.running():
            with trio.fail_after(PATIENCE_S):
                await volume.node.writer.flush()
                while volume.catalog.uploads() or volume.node.reporter.missing_fragments():
                    await trio.sleep(0.05)
            await volume.node.drop_cache()
            assert await _content(volume) == CONTENT
            for row in volume.catalog.suppliers():
                held = [
                    len(content) for (number, _), content in volume.suppliers.stored.items() if number == row.supplier
                ]
                assert (row.used_bytes, row.used_fragments) == (sum(held), len(held)), "counted once"


async def _content(volume: Opened) -> bytes:
    inode = volume.node.tree.lookup(ROOT_INO, b"file")
    assert inode is not None
    return await volume.node.files.read(inode.ino, 0, inode.size)
