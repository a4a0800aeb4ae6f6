"""Random stories of streams through power losses and killed processes, with small blocks: rows are laid all the time.

As in test_power_loss_random, whatever comes, each file is at a state between its last sync and now. And in the end
the map has nothing behind the end of a file.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import block as blocks
from bitdustfs.core.ranges import chunk_count
from bitdustfs.engine import writer
from bitdustfs.engine.files import Files
from bitdustfs.model import CHUNK_BYTES, Ino
from tests.engine.test_power_loss_random import Story, same_schedule

__all__ = ["same_schedule"]  # a fixture for each test here too
SEEDS = [pytest.param(1, marks=pytest.mark.slow), *(pytest.param(s, marks=pytest.mark.long) for s in range(2, 200))]
BLOCK = 2  # chunks
BOOTS = 4


class StreamStory(Story):
    """Mostly, files grow by some chunks at a time."""

    spool_limit = 64 << 20

    async def change(self, ino: Ino) -> None:
        """Append some chunks, write over what is there, or anything else."""
        dice, history = self.dice, self.histories[ino]
        size = len(history.now)
        if dice.random() < 0.4 and size < 16 * CHUNK_BYTES:
            for _ in range(dice.randrange(2, 8)):
                await self._put(ino, len(history.now), dice.randbytes(CHUNK_BYTES))
                if dice.random() < 0.4:
                    await trio.sleep(dice.choice([0.01, 0.3, 1.1]))
        elif dice.random() < 0.3 and size:
            await self._put(ino, dice.randrange(size), dice.randbytes(dice.choice([10, CHUNK_BYTES, 300_000])))
        elif dice.random() < 0.2 and size:
            await self._cut(ino, dice.randrange(size + 3 * CHUNK_BYTES))
        else:
            await super().change(ino)

    def check_dropped(self) -> None:
        """What lies in blocks that too few suppliers took is kept, and with many small blocks some do."""
        for life in self.volume.files._table:
            assert not life.dirty

    async def _put(self, ino: Ino, offset: int, content: bytes) -> None:
        await self.volume.files.write(ino, offset, content)
        self.histories[ino].now[offset : offset + len(content)] = content
        self.histories[ino].note()


@pytest.fixture
def laid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks of two chunks, and how many rows were laid each time."""
    fits, lay, counts = blocks.fits, Files.lay, list[int]()

    def counted(*args: object) -> list[int]:
        found: list[int] = lay(*args)  # type: ignore[arg-type]
        counts.append(len(found))
        return found

    monkeypatch.setattr(blocks, "fits", lambda lengths, more: len(lengths) < BLOCK and fits(lengths, more))
    monkeypatch.setattr(writer, "BLOCK_CHUNKS", BLOCK)
    monkeypatch.setattr(writer, "LAY_LEAST", 1)
    monkeypatch.setattr(writer, "FREEZE_BYTES", 2 * CHUNK_BYTES)
    monkeypatch.setattr(Files, "lay", counted)
    return counts


@pytest.mark.parametrize("faults", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_streams_whose_rows_are_laid_ahead_survive_whatever_comes(seed: int, faults: bool, laid: list[int]) -> None:
    async def tell() -> None:
        story = StreamStory(seed, faults=faults)
        for number in range(BOOTS):
            await story.boot(number)
        await story.end()
        for ino in story.histories:
            inode = story.catalog.inode(ino)
            assert inode is not None and story.catalog.map_end(ino) <= chunk_count(inode.size)

    trio.run(tell, clock=MockClock(autojump_threshold=0))
    assert sum(laid), "none was laid: this story tells nothing"
