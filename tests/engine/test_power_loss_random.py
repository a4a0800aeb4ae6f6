"""Random stories of two files through power losses, killed processes and faults of the disk.

A power loss leaves any commit of the catalog since the last that was durable, and of the spool any mixture of what
was synced and what was written since. Whatever it leaves, each file is at a state
between its last sync and now, and a read is what was written last or an error.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import BitdustError, DiskFault, DiskFull, TooFewFragments
from bitdustfs.model import CHUNK_BYTES, Ino
from bitdustfs.ports import Spool
from bitdustfs.testing.spool import FaultySpool, MemorySpool
from tests.engine.volume import Volume

FAST, SLOW, LONG = range(1), range(1, 5), range(5, 500)
SEEDS = [
    *FAST,
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in SLOW),
    *(pytest.param(seed, marks=pytest.mark.long) for seed in LONG),
]
BOOTS = 4


class CutCatalog(SqliteCatalog):
    """Remembers each commit that is not durable: a power loss goes back to one of them."""

    def __init__(self, dice: random.Random, image: bytes = b"") -> None:
        super().__init__(":memory:")
        if image:
            self.connection.deserialize("main", image)
            self._counters = dict(self._rows("SELECT name, value FROM r_counter"))
        self._dice = dice
        self.images = [image] if image else []
        self._first = 0  # number of the first image

    def commit(self) -> None:
        """Commit, and remember."""
        super().commit()
        image = self.connection.serialize("main")
        if not self.images or image != self.images[-1]:
            self.images.append(image)

    async def harden(self) -> None:
        """Make everything up to now durable, after a while."""
        upto = self._first + len(self.images) - 1
        await trio.sleep(self._dice.choice([0, 0.001, 0.3]))
        drop = max(0, upto - self._first)
        del self.images[:drop]
        self._first += drop

    def make_durable(self) -> None:
        """At once."""
        self._first += len(self.images) - 1
        del self.images[:-1]

    def gone_back(self, *, to_last: bool) -> CutCatalog:
        """One of the commits again, without anything that came later."""
        return CutCatalog(self._dice, self.images[-1] if to_last else self._dice.choice(self.images))


class CutSpool(MemorySpool):
    """Loses any part of what was not synced."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    async def harden(self, ino: Ino) -> None:
        """Fix what is there now, after a while."""
        before = self._files[ino].copy() if ino in self._files else None
        await trio.sleep(self._dice.choice([0, 0.001, 0.3]))
        if before is not None and ino in self._files:
            self._hard[ino] = before
            for page in self._hard[ino].pages.keys() - self._files[ino].pages.keys():
                del self._hard[ino].pages[page]  # punched meanwhile

    async def sums(self, ino: Ino, start: int, end: int) -> bytes:
        """After a while."""
        await trio.sleep(self._dice.choice([0, 0.001, 0.2]))
        return await super().sums(ino, start, end)

    def lose_some(self) -> None:
        """Lose power: of each page that was not synced any state that it had."""
        mode = self._dice.choice(["nothing", "all", "some"])
        if mode == "nothing":
            return
        soft = self._files
        self.lose_power()
        if mode == "some":
            for ino, file in soft.items():
                if ino not in self._files and self._dice.random() < 0.5:
                    continue
                kept = self._files.setdefault(ino, type(file)())
                for page, content in file.pages.items():
                    if self._dice.random() < 0.5:
                        kept.pages[page] = content
                        kept.end = max(kept.end, min(file.end, (page + 1) * 4096))
        self._hard = {ino: file.copy() for ino, file in self._files.items()}


class History:
    """Every state that a file had since the last sync."""

    def __init__(self) -> None:
        self.now = bytearray()
        self._since: list[bytes] = [b""]
        self._first = 0

    @property
    def number(self) -> int:
        """Of the state that it has now."""
        return self._first + len(self._since) - 1

    def note(self) -> None:
        self._since.append(bytes(self.now))

    def synced(self, number: int) -> None:
        drop = max(0, number - self._first)
        del self._since[:drop]
        self._first += drop

    def check(self, content: bytes) -> None:
        assert len(content) in {len(each) for each in self._since}
        if content in self._since:
            return
        for at in range(0, len(content), 97):
            assert content[at] in {each[at] if at < len(each) else 0 for each in self._since}, at

    def restart(self, content: bytes) -> None:
        self.now = bytearray(content)
        self._since, self._first = [content], 0


class Story:
    """One volume, two files, and what they should be."""

    spool_limit = 8 << 20

    def __init__(self, seed: int, *, faults: bool) -> None:
        self.dice = random.Random(seed)
        self.faults = faults
        self.catalog = CutCatalog(self.dice)
        self.spool = CutSpool(self.dice)
        self.volume = Volume(spool_limit=self.spool_limit, catalog=self.catalog, spool=self.spool, coat=self._coat)
        self.histories = {self.volume.create(): History() for _ in range(2)}
        self.volume.journal.commit()
        self.catalog.make_durable()
        self.open = set(self.histories)
        self.last_boot = b"first boot"

    def _coat(self, spool: Spool) -> Spool:
        if not self.faults:
            return spool
        return FaultySpool(spool, "".join(self.dice.choices(".EN", [60, 1, 1], k=600)))

    async def content_of(self, ino: Ino) -> bytes:
        got, size = b"", self.volume.files.attributes(ino).size
        while len(got) < size:
            got += await self._read(ino, len(got))
        return got

    async def _read(self, ino: Ino, offset: int) -> bytes:
        for _ in range(50):
            try:
                return await self.volume.files.read(ino, offset, 200_000)
            except (DiskFault, DiskFull):
                assert self.faults
        raise AssertionError("it fails for ever")

    async def change(self, ino: Ino) -> None:
        """Change a file, or what is kept of it."""
        dice, history, files = self.dice, self.histories[ino], self.volume.files
        size = len(history.now)
        what = dice.randrange(20)
        if what < 9:
            offset = dice.choice([0, size, dice.randrange(min(size + 3_000, 500_000) + 1)])
            content = dice.randbytes(dice.choice([100, 4_096, 30_000, 16_384, CHUNK_BYTES]))
            await files.write(ino, offset, content)
            history.now.extend(bytes(max(0, offset - len(history.now))))
            history.now[offset : offset + len(content)] = content
            history.note()
        elif what < 12:
            await self._cut(ino, dice.choice([0, dice.randrange(20_000), dice.randrange(600_000), size // 2]))
            if dice.random() < 0.3:
                await self._cut(ino, size)
        elif what == 12:
            await self.volume.forget()
        elif what == 13:
            await files.collect()
        elif what == 14:
            await files.settle(ino)
        elif what == 15:
            self.toggle(ino)
        elif what == 16:
            self.volume.remote.silent = set(dice.choice([(), (1, 2, 3), (1, 2)]))
            self.volume.remote.delay_s = dice.choice([0.01, 0.4, 2])
        else:
            await trio.sleep(dice.choice([0.001, 0.1, 1, 5.5, 6, 12]))

    async def _cut(self, ino: Ino, size: int) -> None:
        await self.volume.files.truncate(ino, size)
        now = self.histories[ino].now
        del now[size:]
        now.extend(bytes(size - len(now)))
        self.histories[ino].note()

    def toggle(self, ino: Ino) -> None:
        if ino in self.open:
            self.volume.files.close(ino)
        else:
            self.volume.files.open(ino)
        self.open ^= {ino}

    async def fsync(self, ino: Ino) -> None:
        number = self.histories[ino].number
        try:
            with trio.move_on_after(self.dice.choice([0.01, 100])) as limit:
                await self.volume.files.fsync(ino)
        except (DiskFault, DiskFull):
            assert self.faults
            return
        if not limit.cancelled_caught:
            self.histories[ino].synced(number)

    async def step(self, ino: Ino) -> None:
        """One change; and, at random, a sync beside it, or a read."""
        try:
            async with self._syncs(ino):
                await self.change(ino)
        except (DiskFault, DiskFull):
            assert self.faults
        if self.dice.random() < 0.3:
            await self.check_read(ino)

    @asynccontextmanager
    async def _syncs(self, ino: Ino) -> AsyncIterator[None]:
        errors: list[BaseException] = []
        async with trio.open_nursery() as nursery:
            if self.dice.random() < 0.4:
                nursery.start_soon(self.fsync, self.dice.choice(list(self.histories)))
            if self.dice.random() < 0.5:
                await trio.sleep(self.dice.choice([0, 0.0005, 0.1, 0.25]))
            try:
                yield
            except BitdustError as e:
                errors.append(e)
        if errors:
            raise errors[0]

    async def check_read(self, ino: Ino) -> None:
        now = self.histories[ino].now
        assert self.volume.files.attributes(ino).size == len(now)
        offset = self.dice.randrange(len(now) + 1)
        try:
            got = await self.volume.files.read(ino, offset, 200_000)
        except TooFewFragments:  # suppliers are, or just were, silent
            return
        except (DiskFault, DiskFull):
            assert self.faults
            return
        assert got == now[offset : offset + 200_000]

    async def boot(self, number: int) -> None:
        """Work for a while; then the process is killed, or the power is lost."""
        dice, volume = self.dice, self.volume
        async with volume.running(upload=dice.random() < 0.7):
            for _ in range(dice.randrange(4, 30)):
                await self.step(dice.choice(list(self.histories)))
            killed = dice.random() < 0.3
            if killed or dice.random() < 0.5:
                await self.commit()
            images = list(self.catalog.images)
        self.catalog.images = images  # services that are cancelled commit once more; a machine does not
        if killed:
            self.go_back(to_last=True)
            self.restart(volume_boot=self.last_boot)
        else:
            self.spool.lose_some()
            self.go_back(to_last=False)
            self.last_boot = bytes([number])
            self.restart(volume_boot=self.last_boot)
        volume.remote.reconnect()
        async with volume.running(upload=dice.random() < 0.5):
            for ino, history in self.histories.items():
                volume.files.open(ino)
                content = await self.content_of(ino)
                if killed:
                    assert content == history.now
                else:
                    history.check(content)
                    history.restart(content)
            self.open = set(self.histories)

    def go_back(self, *, to_last: bool) -> None:
        self.catalog = self.volume.catalog = self.catalog.gone_back(to_last=to_last)

    async def commit(self) -> None:
        for _ in range(50):
            try:
                return self.volume.journal.commit()
            except (DiskFault, DiskFull):
                assert self.faults

    def restart(self, volume_boot: bytes) -> None:
        faults, self.faults = self.faults, False  # a mount that cannot start is another story
        self.volume.start(volume_boot)
        self.volume.journal.commit()
        self.catalog.make_durable()
        self.volume.files.sweep()
        self.faults = faults

    async def end(self) -> None:
        """Everything is published, and is the same without a spool."""
        self.faults = False
        async with self.volume.running():
            await self.commit()
        self.restart(volume_boot=self.last_boot)
        async with self.volume.running():
            await self.volume.flush()
            await self.volume.forget()
            for ino, history in self.histories.items():
                self.volume.files.open(ino)
                assert await self.content_of(ino) == history.now
                self.volume.files.close(ino)
            await self.volume.forget()
            await trio.sleep(30)
            self.check_dropped()

    def check_dropped(self) -> None:
        assert self.spool.inos() == []
        assert list(self.volume.files._table) == []


@pytest.fixture(autouse=True)
def same_schedule(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trio run tasks in an order that the seed says, so that a failure comes again."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr("trio._core._run._r", random.Random(seed))


def run(seed: int, *, faults: bool) -> None:
    async def story() -> None:
        told = Story(seed, faults=faults)
        for number in range(BOOTS):
            await told.boot(number)
        await told.end()

    trio.run(story, clock=MockClock(autojump_threshold=0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_files_are_at_a_state_since_their_last_sync_whatever_a_power_loss_leaves(seed: int) -> None:
    run(seed, faults=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_files_are_at_a_state_since_their_last_sync_although_the_disk_fails(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    run(seed, faults=True)
