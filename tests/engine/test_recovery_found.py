"""Ways in which a supplier, or the old machine, could spoil a recovery that a reader found, each held fast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.engine.recovery import Seeker
from bitdustfs.model import Code
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import SECRETS, World

CODE = Code(3, 5)
FAR = 2**63 - 1


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def second(epoch: int) -> Identity:
    """The machine that recovers."""
    return make_identity("second machine", owner="customer", epoch=epoch)


def seeker(world: World) -> Seeker:
    node = second(1)
    return Seeker(world.swarm.network.dialer(node.node), second, SECRETS, node.owner)


LIES = {
    "no proof": b"",
    "garbage": b"\1" * 138,
    "another owner": make_identity("stranger", epoch=9).certificate.raw,
    "the same epoch": make_identity("customer").certificate.raw,
}


@pytest.mark.parametrize("proof", LIES.values(), ids=LIES)
async def test_supplier_that_says_revoked_without_proof_is_not_believed_in_recovery(
    autojump_clock: MockClock, proof: bytes
) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        liar = world.swarm.suppliers[1]
        liar.mute.refusal = wire.Refusal(wire.Refused.STALE, "you are in a stale epoch", FAR, proof)
        seeking = seeker(world)
        first = world.swarm.suppliers[0]
        found = await seeking.find([(first.node, first.address)])
        assert seeking.epoch == 1  # not one number is burnt
        assert (found.answered, found.confirming) == (4, 4)
        assert "no proof" in found.silent["s2"]


async def test_supplier_that_proves_a_newer_epoch_is_asked_again_in_it(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        supplier = world.swarm.suppliers[1]
        await supplier.keeper.answer(second(7).certificate, wire.Ping(), b"")
        seeking = seeker(world)
        found = await seeking.find([(supplier.node, supplier.address)])
        assert (seeking.epoch, found.answered) == (7, 5)


@pytest.mark.parametrize("proof", LIES.values(), ids=LIES)
async def test_suppliers_that_cannot_prove_it_stop_no_mounted_machine(
    autojump_clock: MockClock, proof: bytes
) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        for liar in world.swarm.suppliers:
            liar.mute.refusal = wire.Refusal(wire.Refused.STALE, "you are in a stale epoch", FAR, proof)
        await trio.sleep(200)
        assert not world.node.publisher.is_disowned
        await world.write("file", b"still written")


async def test_one_supplier_that_proves_it_stops_a_mounted_machine(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.sync()
        await world.swarm.suppliers[1].keeper.answer(second(2).certificate, wire.Ping(), b"")
        await trio.sleep(200)
        assert world.node.publisher.is_disowned
        assert "certified his machines anew" in str(world.node.journal.refusal)
