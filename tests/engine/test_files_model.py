"""Files against a model: random operations, cache drops, crashes and dead suppliers; no byte may differ (I1)."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.model import Ino
from tests.engine.volume import Volume

SLOW, LONG = range(5), range(5, 100)
SEEDS = [*SLOW, *(pytest.param(seed, marks=pytest.mark.long) for seed in LONG)]
STEPS = 250


class Model:
    """What the files of a volume should contain."""

    def __init__(self) -> None:
        self.contents: dict[Ino, bytearray] = {}

    def write(self, ino: Ino, offset: int, content: bytes) -> None:
        file = self.contents[ino]
        if len(file) < offset:
            file.extend(bytes(offset - len(file)))
        file[offset : offset + len(content)] = content

    def truncate(self, ino: Ino, size: int) -> None:
        file = self.contents[ino]
        del file[size:]
        file.extend(bytes(size - len(file)))


async def check_all(volume: Volume, model: Model) -> None:
    for ino, content in model.contents.items():
        assert volume.files.attributes(ino).size == len(content)
        got = bytearray()
        while len(got) < len(content):
            got += await volume.files.read(ino, len(got), 100_000)
        assert got == content


async def some_steps(volume: Volume, model: Model, dice: random.Random, steps: int) -> None:
    for _ in range(steps):
        ino = dice.choice(list(model.contents))
        size = len(model.contents[ino])
        what = dice.random()
        if what < 0.5:
            large = dice.random() < 0.5
            offset = dice.randrange(min(size + (300_000 if large else 3_000), 1_500_000) + 1)
            length = dice.randrange(1, 400_000 if large else 4_000)
            content = dice.randbytes(length) if dice.random() < 0.8 else bytes(length)
            await volume.files.write(ino, offset, content)
            model.write(ino, offset, content)
        elif what < 0.65:
            cut = dice.choice([0, dice.randrange(20_000), dice.randrange(1_500_000), size // 2])
            await volume.files.truncate(ino, cut)
            model.truncate(ino, cut)
        elif what < 0.9:
            offset, length = dice.randrange(size + 1), dice.randrange(1, 300_000)
            assert await volume.files.read(ino, offset, length) == model.contents[ino][offset : offset + length]
        elif what < 0.93:
            await volume.forget()
        elif what < 0.95:
            await volume.flush()
        elif what < 0.97:
            await volume.files.fsync(ino)
        else:
            await trio.sleep(dice.random() * 3)
        if dice.random() < 0.3:
            await trio.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_files_read_as_a_dictionary_would_through_crashes_and_losses(seed: int) -> None:
    async def story() -> None:
        dice = random.Random(seed)
        volume, model = Volume(spool_limit=8 << 20), Model()
        for _ in range(5):
            model.contents[volume.create()] = bytearray()
        for _ in range(3):
            async with volume.running():
                await some_steps(volume, model, dice, STEPS // 3)
                volume.journal.commit()  # what a crash may cost at most is what came after the last commit
            volume.start()
            await check_uploads_of_the_dead_are_released(volume)
        async with volume.running():
            await volume.flush()
            assert volume.files.dirty_totals() == (0, 0)
            volume.remote.gone = set(dice.sample(range(1, 6), 2))
            await volume.forget()
            await check_all(volume, model)

    trio.run(story, clock=MockClock(autojump_threshold=0))


async def check_uploads_of_the_dead_are_released(volume: Volume) -> None:
    async with volume.running(upload=True):
        await trio.sleep(30)
        assert volume.catalog.uploads() == []
