"""Small values in the catalog that a disk damaged: the volume works, and begins again what they told of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import adoption, replica
from bitdustfs.engine.kept import kept
from bitdustfs.engine.orphans import expect_orphans
from bitdustfs.errors import BadFormat
from bitdustfs.model import Code
from bitdustfs.testing.world import World

CONTENT = bytes(range(256)) * 500
LOCAL = ("orphans", "listed before", "codes_followed")
REPLICATED = ("codes_spread", "recode")
DAMAGES = (
    b"\xff\x00",  # no text
    b"{}",  # of another shape
    b'[["x", "9/3", [[1, 0]]]]',  # no code
    b'[["3/5", "", []]]',  # nothing left to do
    b"[" * 5000,
)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.parametrize("raw", DAMAGES, ids=("no text", "shape", "no code", "done", "deep"))
def test_damaged_value_is_none(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert kept(raw, list[int], "it is begun again") is None
    assert "it is begun again" in caplog.text


def test_value_is_as_it_was_kept() -> None:
    assert kept(b"[1, 2]", list[int], "") == [1, 2]
    assert kept(b"", list[int], "") is None
    assert kept(None, list[int], "") is None


@pytest.mark.parametrize("raw", DAMAGES, ids=("no text", "shape", "no code", "done", "deep"))
def test_damaged_notes_that_cannot_be_done_without_are_told_as_what_they_are(raw: bytes) -> None:
    with pytest.raises(BadFormat, match="snapshot is damaged"):
        replica.decode_note(raw)
    with pytest.raises(BadFormat, match="older state's progress is damaged"):
        adoption.decode_progress(raw)


@pytest.mark.slow
@pytest.mark.parametrize("raw", DAMAGES, ids=("no text", "shape", "no code", "done", "deep"))
async def test_volume_is_mounted_and_works_with_damaged_values(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    world = World(code=Code(3, 5))
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            await world.write("file", CONTENT)
            await world.sync()
        expect_orphans(world.catalog)
        for key in LOCAL:
            world.catalog.put_local_value(key, raw)
        for key in REPLICATED:
            world.catalog.put_value(key, raw)
        world.catalog.commit()
        async with world.machine(world.catalog, world.spool):
            await world.write("more", CONTENT)
            assert await world.sync() == "safe"
            await world.node.drop_cache()
            assert await world.read("file") == CONTENT
            await trio.sleep(60)
            assert (await world.status())["trouble"] == []
            assert not world.catalog.local_value("orphans")
            assert not world.catalog.value("codes_spread")
