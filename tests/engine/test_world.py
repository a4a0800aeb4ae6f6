"""The whole engine in virtual time: a customer, real keepers and connections, a network that fails by a timetable."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.errors import ContractsFull, TooFewFragments
from bitdustfs.model import Code
from bitdustfs.testing.network import Break, MemoryLink
from bitdustfs.testing.shelf import flipped, garbage, half, other_fragment
from bitdustfs.testing.world import World

CONTENT = random.Random(4).randbytes(2_000_000)
CODE = Code(3, 5)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_what_was_synced_is_read_back_without_n_minus_k_suppliers(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        assert await world.sync() == "safe"
        assert (await world.status())["margin"] == 2
        await world.node.drop_cache()
        world.swarm.cut(1)
        world.swarm.suppliers[2].kill()
        await trio.sleep(120)
        assert (await world.status())["margin"] == 0
        assert await world.read("file") == CONTENT


@pytest.mark.slow
async def test_reads_fail_while_too_few_suppliers_answer_and_work_when_one_is_back(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        await world.node.drop_cache()
        for number in (1, 2, 3):
            world.swarm.cut(number)
        await trio.sleep(120)
        with pytest.raises(TooFewFragments), trio.fail_after(1):
            await world.read("file")
        await world.write("other", b"goes on")
        assert await world.read("other") == b"goes on"
        world.swarm.heal(2)
        await trio.sleep(120)
        assert await world.read("file") == CONTENT


@pytest.mark.slow
async def test_bulk_connections_that_come_and_go_change_nothing_that_is_stored(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        network = world.swarm.network
        cut: list[MemoryLink] = []

        async def trouble() -> None:
            for _ in range(50):
                await trio.sleep(0.3)
                cut.extend(network.bulk_links())
                network.apply_to_bulk(Break.CUT)
                await trio.sleep(0.1)
                network.apply_to_bulk(Break.HEAL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble)
            for number in range(10):
                await world.write(f"file {number}", CONTENT[number:])
                assert await world.sync() == "safe"
        assert cut
        await world.node.drop_cache()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble)
            for number in range(10):
                assert await world.read(f"file {number}") == CONTENT[number:]
        assert (await world.status())["margin"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("bend", [flipped, half, garbage, other_fragment])
async def test_lying_shelves_are_noticed_and_read_around(
    autojump_clock: MockClock, bend: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        await world.node.drop_cache()
        for supplier in world.swarm.suppliers[:2]:
            supplier.shelf.bend = bend  # type: ignore[assignment]
        assert await world.read("file") == CONTENT


@pytest.mark.slow
async def test_supplier_that_stops_answering_delays_a_read_but_never_stops_it(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        await world.node.drop_cache()
        world.swarm.silence(1)
        with trio.fail_after(30):
            assert await world.read("file") == CONTENT


@pytest.mark.slow
async def test_full_contracts_keep_the_rest_here_and_say_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(code=CODE, contract_bytes=1_000_000).running() as world:
        await world.write("first", CONTENT)
        await trio.sleep(60)
        dice = random.Random(9)
        for number in range(4):
            await world.write(f"more {number}", dice.randbytes(1_000_000))
        await trio.sleep(120)
        status = await world.status()
        assert status["state"] == "local"
        assert status["files_local"] > 0
        for number in range(4):
            assert len(await world.read(f"more {number}")) == 1_000_000


@pytest.mark.slow
async def test_supplier_that_was_away_gets_its_fragments_when_it_is_back(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        world.swarm.suppliers[4].kill()
        await trio.sleep(60)
        await world.write("file", CONTENT)
        await trio.sleep(60)
        assert (await world.status())["held"] == 4
        world.swarm.suppliers[4].start()
        assert await world.sync() == "safe"
        await trio.sleep(120)
        assert (await world.status())["held"] == 5


@pytest.mark.slow
async def test_statfs_counts_what_contracts_leave(autojump_clock: MockClock) -> None:
    async with World(code=CODE, contract_bytes=100 << 20).running() as world:
        before = world.node.space()
        assert before.free_bytes == 3 * (100 << 20)
        await world.write("file", CONTENT)
        await world.sync()
        after = world.node.space()
        assert before.free_bytes - after.free_bytes >= len(CONTENT)
        assert after.total_bytes - after.free_bytes == len(CONTENT)


@pytest.mark.slow
async def test_fragment_that_rotted_is_given_back_to_its_supplier(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        await world.node.drop_cache()
        world.swarm.suppliers[0].shelf.bend = flipped
        assert await world.read("file") == CONTENT
        world.swarm.suppliers[0].shelf.bend = None
        await trio.sleep(60)
        status = await world.status()
        assert (status["held"], status["missing_fragments"]) == (5, 0)


@pytest.mark.slow
async def test_sync_says_what_is_missing_when_a_supplier_stays_away(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        world.swarm.suppliers[4].kill()
        await trio.sleep(60)
        await world.write("file", CONTENT)
        started = trio.current_time()
        report = await world.node.sync(_listen, None)
        assert (report["state"], report["missing"]) == ("safe", ["s5"])
        assert report["missing_fragments"] > 0
        assert trio.current_time() - started < 120


@pytest.mark.slow
async def test_sync_ends_while_somebody_goes_on_writing(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world, trio.open_nursery() as nursery:

        async def write_on() -> None:
            for number in range(10**6):
                await world.write(f"later {number % 20}", CONTENT[number : number + 20_000])
                await trio.sleep(0.2)

        for supplier in world.swarm.suppliers[3:]:
            supplier.mute.delay_s = 2  # some fragment is always under way
        await world.write("file", CONTENT)
        nursery.start_soon(write_on)
        with trio.fail_after(300):
            report = await world.node.sync(_listen, None)
        assert (report["state"], report["missing_fragments"], report["files_local"]) == ("safe", 0, 0)
        assert world.node.files.dirty_totals() != (0, 0)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_sync_gives_up_on_a_supplier_that_is_away_while_somebody_goes_on_writing(
    autojump_clock: MockClock,
) -> None:
    async with World(code=CODE).running() as world, trio.open_nursery() as nursery:

        async def write_on() -> None:
            for number in range(10**6):
                await world.write(f"later {number % 20}", CONTENT[number : number + 20_000])
                await trio.sleep(5)

        world.swarm.suppliers[4].kill()
        await trio.sleep(60)
        await world.write("file", CONTENT)
        nursery.start_soon(write_on)
        with trio.fail_after(300):
            report = await world.node.sync(_listen, None)
        assert report["missing"] == ["s5"]
        assert report["missing_fragments"] > 0
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_supplier_that_is_killed_and_started_in_one_moment_is_there_again(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        world.swarm.suppliers[0].kill()
        world.swarm.suppliers[0].start()
        while len(world.node.suppliers.online()) == 5:
            await world.node.suppliers.wait_for_change()
        with trio.fail_after(60):
            while len(world.node.suppliers.online()) < 5:
                await world.node.suppliers.wait_for_change()


async def _listen(_step: object) -> None:
    return


@pytest.mark.slow
async def test_status_of_a_path_speaks_of_that_path_only(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("placed", CONTENT)
        await world.sync()
        await world.write("local", b"only here")
        placed, local = await world.node.status("/placed"), await world.node.status("/local")
        assert (placed["state"], placed["files"], placed["bytes"]) == ("safe", 1, len(CONTENT))
        assert (local["state"], local["files_local"], local["bytes_local"]) == ("local", 1, 9)
        assert (placed["held"], placed["margin"], local["blocks"]) == (5, 2, 0)
        assert (await world.status())["bytes"] == len(CONTENT) + 9


@pytest.mark.slow
async def test_write_ends_with_a_quota_error_when_contracts_and_spool_are_full(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(code=CODE, contract_bytes=1_000_000, spool_limit=4 << 20).running() as world:
        dice = random.Random(10)
        with pytest.raises(ContractsFull):
            for number in range(20):
                await world.write(f"file {number}", dice.randbytes(1_000_000))
        assert len(await world.read("file 0")) == 1_000_000
