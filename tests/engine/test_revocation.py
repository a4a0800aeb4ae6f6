"""Which epoch revokes everybody else, and who was told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import NO_HEAD
from bitdustfs.engine.errand import ask_once
from bitdustfs.engine.revocation import announce, highest_epoch
from bitdustfs.errors import NodeRevoked
from bitdustfs.model import Supplier, SupplierNo
from bitdustfs.testing.swarm import Swarm, make_identity

CUSTOMER = make_identity("customer")


def node_of(name: str, epoch: int, *, owner: str = "customer") -> Identity:
    return make_identity(name, owner=owner, epoch=epoch)


@asynccontextmanager
async def hired(count: int) -> AsyncIterator[tuple[Swarm, list[Supplier]]]:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, count)
        yield swarm, await swarm.hire_all()
        nursery.cancel_scope.cancel()


async def highest(swarm: Swarm, rows: list[Supplier], who: Identity = CUSTOMER) -> int:
    return await highest_epoch(swarm.network.dialer(who.node), who, rows)


async def tell(swarm: Swarm, rows: list[Supplier], who: Identity) -> Mapping[SupplierNo, str]:
    return await announce(swarm.network.dialer(who.node), who, rows)


async def ping(swarm: Swarm, row: Supplier, who: Identity) -> None:
    await ask_once(swarm.network.dialer(who.node), who, row.node, row.address, wire.Ping(), wire.Done)


async def restart_with_epoch(swarm: Swarm, epoch: int) -> None:
    """Let the first supplier know this epoch of the customer, whatever it knew."""
    first = swarm.suppliers[0]
    first.kill()
    await trio.sleep(1)  # until its address is free
    first.contracts.save_epoch(CUSTOMER.owner, epoch, b"")
    first.start()


async def test_epoch_of_this_node_is_the_least_that_is_known(autojump_clock: MockClock) -> None:
    async with hired(2) as (swarm, rows):
        assert await highest(swarm, rows, node_of("laptop", 7)) == 7
        assert await highest(swarm, [], CUSTOMER) == 1


async def test_supplier_that_refuses_us_as_revoked_tells_the_epoch(autojump_clock: MockClock) -> None:
    async with hired(3) as (swarm, rows):
        assert not await tell(swarm, rows[:1], node_of("thief", 5))
        assert await highest(swarm, rows) == 5


async def test_epoch_of_a_head_that_a_supplier_holds_counts(autojump_clock: MockClock) -> None:
    async with hired(1) as (swarm, rows):
        laptop = node_of("laptop", 4)
        head = heads.sign(laptop, handle=b"h" * 16, version=1, previous=NO_HEAD, sealed=b"sealed")
        dialer = swarm.network.dialer(laptop.node)
        put = wire.PutHead(len(head.raw), 4)
        await ask_once(dialer, laptop, rows[0].node, rows[0].address, put, wire.Done, head.raw)
        await restart_with_epoch(swarm, 1)  # it has forgotten, as from an old disk, but has the head
        assert await highest(swarm, rows) == 4


async def test_silent_suppliers_cost_a_wait_and_are_named(autojump_clock: MockClock) -> None:
    async with hired(3) as (swarm, rows):
        swarm.silence(1)
        swarm.cut(3)
        assert await highest(swarm, rows) == 1
        untold = await tell(swarm, rows, node_of("customer", 2))
        assert untold.keys() == {1, 3}
        assert untold[SupplierNo(1)] == "no answer in 15 s"
        with pytest.raises(NodeRevoked):
            await ping(swarm, rows[1], CUSTOMER)


async def test_supplier_that_knows_a_higher_epoch_is_not_said_to_be_told(
    autojump_clock: MockClock,
) -> None:
    async with hired(2) as (swarm, rows):
        await tell(swarm, rows[1:], node_of("thief", 9))
        assert (await tell(swarm, rows, node_of("customer", 3))).keys() == {2}


async def test_epoch_that_no_certificate_shows_is_a_lie(autojump_clock: MockClock) -> None:
    async with hired(2) as (swarm, rows):
        await restart_with_epoch(swarm, wire.MAX_NUMBER)
        assert await highest(swarm, rows) == 1
