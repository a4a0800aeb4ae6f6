"""Power loss and rotten disks: what fsync acknowledged is there, and a damaged byte is never shown and never sent.

The catalog here keeps everything that it committed and the spool nothing that was not synced: of all that a power
loss may do this is the worst, because the catalog then names bytes that are gone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from bitdustfs.core.sums import ROW_BYTES, SUM_BYTES
from bitdustfs.engine.hardener import EARLY_BYTES, HARDEN_AFTER_S, LOOK_EVERY_S
from bitdustfs.errors import SpoolDamaged
from bitdustfs.model import CHUNK_BYTES, HOLE, INLINE_BYTES, Ino
from tests.engine.volume import Volume

DICE = random.Random(5)
LARGE = 300_000
FAST, SLOW, LONG = range(6), range(6, 20), range(20, 200)
SEEDS = [
    *FAST,
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in SLOW),
    *(pytest.param(seed, marks=pytest.mark.long) for seed in LONG),
]


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def lose_power(volume: Volume, boot: bytes = b"second boot") -> None:
    """What a moment without power makes of a volume whose services were just cancelled."""
    volume.spool.lose_power()
    volume.start(boot)


async def content_of(volume: Volume, ino: Ino) -> bytes:
    got = b""
    size = volume.files.attributes(ino).size
    while len(got) < size:
        got += await volume.files.read(ino, len(got), 100_000)
    return got


async def synced(volume: Volume, content: bytes) -> Ino:
    ino = volume.create()
    await volume.files.write(ino, 0, content)
    await volume.files.fsync(ino)
    return ino


async def test_synced_bytes_come_back_from_beneath_newer_ones(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = await synced(volume, old)
        await volume.files.write(ino, 1000, b"new" * 20_000)
        await volume.files.write(ino, LARGE, b"more" * 20_000)
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == old


async def test_synced_small_content_comes_back_when_the_file_grew(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(10_000)
    async with volume.running(upload=False):
        ino = await synced(volume, old)
        await volume.files.write(ino, 5_000, b"new" * 20_000)
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == old


@pytest.mark.parametrize("size", [7_000, 2 * INLINE_BYTES])
async def test_synced_small_content_comes_back_no_longer_than_it_was_cut_to_later(
    autojump_clock: MockClock, size: int
) -> None:
    volume, old = Volume(), DICE.randbytes(10_000)
    async with volume.running(upload=False):
        ino = await synced(volume, old)
        await volume.files.write(ino, 5_000, b"new" * 20_000)
        await volume.files.truncate(ino, size)
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == old[:size]


async def test_published_bytes_come_back_from_beneath_newer_ones(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, old)
        await volume.flush()
        await volume.files.write(ino, 1000, b"new" * 50_000)
        volume.journal.commit()
        lost = volume.files
    lose_power(volume)
    async with volume.running(upload=False):
        assert lost is not volume.files
        assert await content_of(volume, ino) == old


@pytest.mark.slow
async def test_long_stream_is_made_hard_while_it_is_written(autojump_clock: MockClock) -> None:
    volume, piece = Volume(), DICE.randbytes(1 << 20)
    async with volume.running(upload=False):
        ino = volume.create()
        for at in range(0, EARLY_BYTES + EARLY_BYTES // 4, len(piece)):
            await volume.files.write(ino, at, piece)
            await trio.testing.wait_all_tasks_blocked()  # so fast that no time passes
        volume.journal.commit()
    lose_power(volume)
    assert volume.files.attributes(ino).size == EARLY_BYTES
    assert await volume.files.read(ino, EARLY_BYTES - len(piece), 2 * len(piece)) == piece


async def test_file_that_was_never_synced_is_short_and_never_zeros(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, DICE.randbytes(LARGE))
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == b""


async def test_cut_of_a_synced_file_stays_cut(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = await synced(volume, old)
        await volume.files.truncate(ino, 50_000)
        await volume.files.write(ino, 60_000, b"soft" * 5_000)
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == old[:50_000]


async def test_zeros_that_were_synced_come_back_from_beneath_newer_bytes(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, old)
        await volume.flush()
    volume.start()
    async with volume.running(upload=False):
        await volume.files.truncate(ino, 1000)
        await volume.files.truncate(ino, LARGE)
        await volume.files.fsync(ino)
        await volume.files.write(ino, 500, b"new" * 50_000)
        volume.journal.commit()
    lose_power(volume)
    async with volume.running(upload=False):
        assert await content_of(volume, ino) == old[:1000].ljust(LARGE, b"\0")


async def test_what_nobody_synced_is_hard_after_a_while(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, content)
        await trio.sleep(HARDEN_AFTER_S + 2 * LOOK_EVERY_S)
    lose_power(volume)
    assert await content_of(volume, ino) == content


async def test_killed_process_loses_nothing(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, content)
        volume.journal.commit()
    volume.start(b"first boot")
    assert await content_of(volume, ino) == content


async def test_boot_that_cannot_be_told_counts_as_another(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.start(b"")
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, DICE.randbytes(LARGE))
        volume.journal.commit()
    lose_power(volume, b"")
    assert await content_of(volume, ino) == b""


async def test_write_during_a_sync_neither_harms_it_nor_is_taken_for_synced(autojump_clock: MockClock) -> None:
    volume, first = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, first)
        real = volume.spool.harden

        async def slowly(which: Ino) -> None:
            await real(which)
            await trio.sleep(0.01)

        volume.spool.harden = slowly  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.fsync, ino)
            await trio.sleep(0.005)
            await volume.files.write(ino, 5_000, b"during" * 10_000)
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == first


async def test_cut_during_a_sync_stays_cut(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, old)
        real = volume.spool.harden

        async def slowly(which: Ino) -> None:
            await real(which)
            await trio.sleep(0.01)

        volume.spool.harden = slowly  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.fsync, ino)
            await trio.sleep(0.005)
            await volume.files.truncate(ino, 100_000)
        await volume.files.write(ino, 90_000, b"soft" * 10_000)
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == old[:100_000]


async def test_version_older_than_the_last_sync_does_not_replace_it(autojump_clock: MockClock) -> None:
    volume, synced_bytes = Volume(), DICE.randbytes(100_000)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, bytes(LARGE))
        (life,) = volume.files.dirty_lives()
        frozen = volume.files.freeze(life)
        await volume.files.write(ino, 0, synced_bytes)
        await volume.files.fsync(ino)
        await volume.files.write(ino, 0, b"soft" * 10_000)
        assert volume.files.publish(frozen, dict.fromkeys(frozen.changed, HOLE))
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == synced_bytes.ljust(LARGE, b"\0")


async def test_junk_that_a_power_loss_left_behind_hard_bytes_is_harmless(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(150_000)
    async with volume.running(upload=False):
        ino = await synced(volume, old)
        await volume.files.write(ino, 60_000, b"soft" * 7_500)
        volume.journal.commit()
    volume.spool.lose_power()
    volume.spool.write(ino, 150_000, b"junk" * 400)  # the file ends between what was hard and where it ended
    volume.start(b"second boot")
    await volume.files.settle_all()
    volume.journal.commit()
    volume.start(b"second boot")
    assert await content_of(volume, ino) == old


# -- rotten disks ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_flipped_bit_in_dirty_bytes_is_an_error_and_is_never_uploaded(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = await synced(volume, content)
    volume.spool.flip(ino, 100_000)
    async with volume.running():
        with pytest.raises(SpoolDamaged):
            await volume.files.read(ino, 90_000, 20_000)
        assert await volume.files.read(ino, 0, 50_000) == content[:50_000]
        await trio.sleep(60)
        assert volume.files.dirty_totals()[0] == 1
        assert volume.catalog.map_rows(ino, 0, 10) == []
        await volume.files.write(ino, 98_304, content[98_304:114_688])  # written anew, and so it is well again
        assert await content_of(volume, ino) == content
        await volume.flush()


async def test_flipped_bit_in_a_clean_copy_is_fetched_again(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        await trio.sleep(2 * LOOK_EVERY_S)
        volume.spool.flip(ino, 100_000)
        assert await content_of(volume, ino) == content
        assert volume.reader.fetched_bytes > 0
        await trio.sleep(2 * LOOK_EVERY_S)
        assert await content_of(volume, ino) == content


async def test_clean_copies_that_were_not_summed_do_not_outlive_a_start(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        volume.journal.commit()
    lose_power(volume)
    async with volume.running():
        assert await content_of(volume, ino) == content
        assert volume.reader.fetched_bytes > 0


async def test_clean_copies_that_were_summed_are_used_again(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        await trio.sleep(2 * LOOK_EVERY_S)
    volume.start()
    async with volume.running():
        assert await content_of(volume, ino) == content
        assert volume.reader.fetched_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
async def test_damaged_small_content_is_fetched_or_an_error(published: bool, autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(5_000)
    async with volume.running(upload=published):
        ino = await synced(volume, content)
        if published:
            await volume.flush()
    stored = volume.catalog.inline(ino)
    assert stored is not None
    volume.catalog.put_inline(ino, b"?" + stored[0][1:], stored[1])
    volume.catalog.commit()
    volume.start()
    async with volume.running():
        if published:
            assert await content_of(volume, ino) == content
            return
        with pytest.raises(SpoolDamaged):
            await volume.files.read(ino, 0, 10)
        await trio.sleep(60)
        assert volume.catalog.map_rows(ino, 0, 10) == []
        await volume.files.truncate(ino, 0)
        await volume.files.write(ino, 0, content)
        await volume.flush()


async def test_sums_go_with_the_bytes_they_speak_of(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(DICE.randbytes(3 << 20))
        await volume.files.fsync(ino)
        assert len(volume.catalog.sums(ino, 0)) == 64 * SUM_BYTES
        await volume.flush()
        await volume.forget()
        assert volume.spool.inos() == []
        assert [volume.catalog.sums(ino, row) for row in range(4)] == [b""] * 4


async def test_garbage_beside_live_bytes_does_not_break_their_sum(autojump_clock: MockClock) -> None:
    volume, content = Volume(), bytearray(DICE.randbytes(LARGE))
    async with volume.running(upload=False):
        ino = await synced(volume, bytes(content))
        for at in (1_000, 50_000, 50_500, 120_000):
            piece = DICE.randbytes(700)
            content[at : at + 700] = piece
            await volume.files.write(ino, at, piece)
            await volume.files.fsync(ino)
            await volume.files.collect()
        assert await content_of(volume, ino) == content


@pytest.mark.slow
async def test_space_of_bytes_that_were_overwritten_piece_by_piece_comes_back(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await synced(volume, DICE.randbytes(1 << 20))
        for _ in range(3):
            for at in range(0, 1 << 20, 4096):
                await volume.files.write(ino, at, DICE.randbytes(4096))
            await volume.files.fsync(ino)
            await volume.files.collect()
        assert volume.spool.used_bytes() <= 2 << 20


# -- at random ---------------------------------------------------------------------------------------------


class History:
    """Every value that each byte had since the last sync, and every size."""

    def __init__(self) -> None:
        self.now = bytearray()
        self.since: list[bytes] = [b""]

    def note(self) -> None:
        self.since.append(bytes(self.now))

    def synced(self, state: bytes) -> None:
        at = max(i for i, each in enumerate(self.since) if each == state)
        self.since = self.since[at:]

    def check(self, content: bytes) -> None:
        assert len(content) in {len(each) for each in self.since}
        for at in range(0, len(content), 997):
            assert content[at] in {each[at] if at < len(each) else 0 for each in self.since}, at


async def change(volume: Volume, ino: Ino, history: History, dice: random.Random) -> None:
    size = len(history.now)
    match dice.randrange(10):
        case 0:
            cut = dice.choice([0, dice.randrange(20_000), dice.randrange(600_000), size // 2])
            await volume.files.truncate(ino, cut)
            del history.now[cut:]
            history.now.extend(bytes(cut - len(history.now)))
        case 1:
            await volume.forget()
        case 2:
            await trio.sleep(dice.random() * 8)
        case 3:
            await volume.files.collect()
        case _:
            offset = dice.randrange(min(size + 3_000, 500_000) + 1)
            content = dice.randbytes(dice.choice([100, 4_000, 30_000, CHUNK_BYTES]))
            await volume.files.write(ino, offset, content)
            history.now.extend(bytes(max(0, offset - len(history.now))))
            history.now[offset : offset + len(content)] = content
    history.note()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_each_file_is_at_a_state_since_its_last_sync_after_a_power_loss(seed: int) -> None:
    async def story() -> None:
        dice = random.Random(seed)
        volume, history = Volume(spool_limit=8 << 20), History()
        ino = volume.create()
        for boot in range(4):
            async with volume.running(upload=dice.random() < 0.5):
                for _ in range(dice.randrange(4, 20)):
                    await change(volume, ino, history, dice)
                    if dice.random() < 0.3:
                        state = bytes(history.now)
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(volume.files.fsync, ino)
                            if dice.random() < 0.5:
                                await change(volume, ino, history, dice)
                        history.synced(state)
                volume.journal.commit()
            lose_power(volume, bytes([boot]))
            async with volume.running():
                volume.files.open(ino)
                content = await content_of(volume, ino)
                history.check(content)
                history.now = bytearray(content)
                history.since = [content]
                if dice.random() < 0.3:
                    await volume.flush()
                    assert await content_of(volume, ino) == content
            volume.start(bytes([boot]))

    trio.run(story, clock=MockClock(autojump_threshold=0))


async def test_sums_kept_in_memory_are_those_of_what_is_there_now(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = volume.create()
        for _ in range(3):
            content = b""
            for length in (40_000, 5_000, 2 * ROW_BYTES):
                content += DICE.randbytes(length)
                await volume.files.write(ino, len(content) - length, content[-length:])
                await volume.files.fsync(ino)
                assert await content_of(volume, ino) == content
            await volume.files.truncate(ino, 0)
            await volume.files.collect()
            assert volume.spool.inos() == [] and not volume.files._spooled._kept


async def test_sums_kept_in_memory_are_bounded(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitdustfs.engine.spooled.KEPT_ROWS", 2)
    volume, content = Volume(), DICE.randbytes(4 * ROW_BYTES)
    async with volume.running(upload=False):
        ino = await synced(volume, content)
        for _ in range(2):
            assert await content_of(volume, ino) == content
        assert len(volume.files._spooled._kept) == 2
