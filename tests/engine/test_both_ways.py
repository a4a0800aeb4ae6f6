"""A connection carries requests both ways, whoever dialled, and one of them is enough."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import fragment
from bitdustfs.core.fragment import leaf_count
from bitdustfs.engine.relation import BACKOFF_CAP_S
from bitdustfs.model import FragmentName
from bitdustfs.testing.clock import FakeWall
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.network import Break, MemoryNetwork

GIB = 1 << 30
NAME = FragmentName(b"n" * 32)
CONTENT = bytes(i % 255 for i in range(300_000))  # long enough for a bulk connection
ROOT = fragment.root(CONTENT)


@asynccontextmanager
async def pair(*, walled: str = "") -> AsyncIterator[tuple[Daemon, Daemon, MemoryNetwork]]:
    """Two friends who allow each other everything. `walled` is behind a firewall, and dials the other."""
    network, wall = MemoryNetwork(), FakeWall()
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            anna = Daemon("anna", network, nursery, wall, listens=walled != "anna", seed=1)
            boris = Daemon("boris", network, nursery, wall, listens=walled != "boris", seed=2)
            for one, other in ((anna, boris), (boris, anna)):
                one.allowed[other.owner] = GIB
                if not one.address:
                    one.dial[other.node] = [other.address]
            yield anna, boris, network
            nursery.cancel_scope.cancel()


async def connected(one: Daemon, other: Daemon) -> None:
    await one.until(lambda: bool(one.connections.of(other.node)) and bool(other.connections.of(one.node)))


async def can_store(customer: Daemon, supplier: Daemon) -> None:
    number = next(row.supplier for row in customer.rows if row.node == supplier.node)
    await customer.until(lambda: number in customer.suppliers.online())
    await customer.suppliers.put(number, NAME, ROOT, CONTENT)
    read = await customer.suppliers.get(number, NAME, 0, leaf_count(len(CONTENT)), hashes=False)
    assert read.content == CONTENT
    assert supplier.shelf.content(customer.owner, NAME) == CONTENT


async def test_friend_behind_a_firewall_gives_and_takes(autojump_clock: MockClock) -> None:
    async with pair(walled="boris") as (anna, boris, _):
        await connected(anna, boris)
        await anna.hire(boris, GIB)
        await boris.hire(anna, GIB, address=anna.address)
        await can_store(anna, boris)
        await can_store(boris, anna)
        assert len(anna.connections.of(boris.node)) == len(boris.connections.of(anna.node)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("first", ["anna", "boris"])
async def test_both_use_the_connection_that_one_dialled(autojump_clock: MockClock, first: str) -> None:
    async with pair() as (anna, boris, network):
        one, other = (anna, boris) if first == "anna" else (boris, anna)
        await one.hire(other, GIB)
        await connected(anna, boris)
        await other.hire(one, GIB)
        await can_store(anna, boris)
        await can_store(boris, anna)
        await trio.sleep(300)
        assert len(anna.connections.of(boris.node)) == len(boris.connections.of(anna.node)) == 1
        assert network.bulk_links() == []  # let go when nobody used them


@pytest.mark.slow
async def test_fragments_take_bulk_connections_also_where_the_supplier_dialled(autojump_clock: MockClock) -> None:
    async with pair() as (anna, boris, network):
        boris.dial[anna.node] = [anna.address]
        await connected(anna, boris)
        await anna.hire(boris, GIB)
        while not network.bulk_links():
            await can_store(anna, boris)


@pytest.mark.slow
async def test_two_who_dial_each_other_at_once_end_with_one_connection(autojump_clock: MockClock) -> None:
    async with pair() as (anna, boris, network):
        await anna.hire(boris, GIB)
        await boris.hire(anna, GIB)
        for _ in range(20):
            await can_store(anna, boris)
            await can_store(boris, anna)
            network.apply(Break.CUT, anna.node, boris.node)
            await anna.until(lambda: not anna.suppliers.online() and not boris.suppliers.online())
            network.apply(Break.HEAL, anna.node, boris.node)
            anna.suppliers.nudge()
            boris.suppliers.nudge()
            await anna.until(lambda: bool(anna.suppliers.online() and boris.suppliers.online()))
            await trio.sleep(5)
            assert anna.suppliers.online() and boris.suppliers.online()
            assert len(anna.connections.of(boris.node)) == len(boris.connections.of(anna.node)) == 1


@pytest.mark.slow
async def test_nothing_under_way_is_lost_when_one_of_two_connections_goes(autojump_clock: MockClock) -> None:
    async with pair() as (anna, boris, network):
        for one, other in ((anna, boris), (boris, anna)):
            await one.hire(other, GIB)
        done = 0

        async def store(customer: Daemon, supplier: Daemon) -> None:
            nonlocal done
            for _ in range(200):
                await can_store(customer, supplier)
                done += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store, anna, boris)
            nursery.start_soon(store, boris, anna)
            for one, other in ((anna, boris), (boris, anna)) * 3:  # one more connection, as a dial that crossed
                link = await network.dialer(one.node).dial(other.address, other.node)
                await trio.sleep(0.05)
                await link.aclose()
        assert done == 400


@pytest.mark.slow
async def test_partner_that_comes_back_is_dialled_within_a_minute(autojump_clock: MockClock) -> None:
    async with pair(walled="boris") as (anna, boris, _):
        await connected(anna, boris)
        anna.kill()
        await trio.sleep(3600)
        anna.start()
        start = trio.current_time()
        await connected(anna, boris)
        assert trio.current_time() - start <= BACKOFF_CAP_S + 1


@pytest.mark.slow
async def test_supplier_that_refuses_us_stays_our_customer(autojump_clock: MockClock) -> None:
    """Its refusals must not end the connection that it stores over."""
    async with pair(walled="anna") as (anna, boris, _):
        await anna.hire(boris, GIB, address=boris.address)
        await connected(anna, boris)
        await boris.hire(anna, GIB)
        await can_store(anna, boris)
        (used,) = boris.connections.of(anna.node)
        anna.shelf.is_there = False
        await boris.until(lambda: not boris.suppliers.online())
        await trio.sleep(3600)
        assert boris.suppliers.online() == ()
        assert boris.connections.of(anna.node) == [used]
        await can_store(anna, boris)
        anna.shelf.is_there = True
        await can_store(boris, anna)


async def test_customer_that_is_given_up_keeps_its_connection(autojump_clock: MockClock) -> None:
    async with pair(walled="anna") as (anna, boris, _):
        await anna.hire(boris, GIB, address=boris.address)
        await connected(anna, boris)
        row = await boris.hire(anna, GIB)
        await can_store(boris, anna)
        (used,) = boris.connections.of(anna.node)
        boris.suppliers.remove(row.supplier)
        await trio.sleep(10)
        assert boris.connections.of(anna.node) == [used]
        await can_store(anna, boris)
