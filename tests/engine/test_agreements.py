"""Contracts that live: both sides keep one history, change it with notice, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import agreement, contract, fragment, wire
from bitdustfs.core.agreement import Wish
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.contract import Allowance, fragments_for
from bitdustfs.core.fragment import leaf_count
from bitdustfs.core.grace import DAY_S, GRACE_S, NOTICE_S
from bitdustfs.core.wire import Refused
from bitdustfs.engine.clerk import SIGN_BURST, SIGN_PER_S, Clerk
from bitdustfs.engine.hiring import agree
from bitdustfs.errors import NotFound, PeerError, PeerFull, PeerGone, PeerRefused
from bitdustfs.model import FragmentName, SupplierNo
from bitdustfs.testing.clock import InlineCrunch, RunningWall
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.network import Break, MemoryNetwork
from bitdustfs.testing.shelf import MemoryContracts
from bitdustfs.testing.swarm import make_identity

MIB = 1 << 20
NAME, OTHER = FragmentName(b"n" * 32), FragmentName(b"o" * 32)
CONTENT = bytes(i % 251 for i in range(300_000))
ROOT = fragment.root(CONTENT)
S1 = SupplierNo(1)


class Friends:
    """Anna and Boris, who give each other 2 MiB, and Carla, who has no contract yet. Anna's clock is her own."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork()
        self.walls = self.hers, self.wall = RunningWall(), RunningWall()
        self.anna, self.boris, self.carla = (
            Daemon(name, self.network, nursery, self.hers if name == "anna" else self.wall, seed=seed)
            for seed, name in enumerate(("anna", "boris", "carla"))
        )
        for one in (self.anna, self.boris, self.carla):
            one.allowed |= {other.owner: 8 * MIB for other in (self.anna, self.boris, self.carla) if other is not one}

    async def agree(self) -> None:
        await self.anna.hire(self.boris, 2 * MIB)
        await self.boris.hire(self.anna, 2 * MIB)
        await self.in_step()

    async def in_step(self) -> None:
        """Wait until both hold the same contract, and are connected."""
        one, other = self.anna, self.boris
        await one.until(lambda: bool(one.suppliers.online() and other.suppliers.online()))
        await one.until(lambda: one.clerk.shown(other.owner) == other.clerk.shown(one.owner))

    def cut(self) -> None:
        self.network.apply(Break.CUT, self.anna.node, self.boris.node)

    def heal(self) -> None:
        self.network.apply(Break.HEAL, self.anna.node, self.boris.node)

    async def wait(self, seconds: float) -> None:
        """Let so much time pass by every clock, and let everybody look at it, and sign his addresses anew."""
        for wall in self.walls:
            wall.move_s(seconds)
        for one in (self.anna, self.boris, self.carla):
            one.presence.look()
        await trio.sleep(1)  # for telling
        for one in (self.anna, self.boris):
            await one.keeper.endings.note(seconds)

    async def jump(self, seconds: float) -> None:
        """Set all clocks, and let everybody look at them."""
        for wall in self.walls:
            wall.move_s(seconds)
        for one in (self.anna, self.boris):
            await one.keeper.endings.note()

    def restart(self) -> None:
        for one in (self.anna, self.boris):
            one.kill()
            one.start()


@asynccontextmanager
async def friends() -> AsyncIterator[Friends]:
    with trio.fail_after(5_000):
        async with trio.open_nursery() as nursery:
            both = Friends(nursery)
            await both.agree()
            yield both
            nursery.cancel_scope.cancel()


def may_store(supplier: Daemon, customer: Daemon) -> int:
    """The bytes that a supplier lets a customer store now."""
    allowed = supplier.clerk.allowance(customer.owner)
    return allowed.bytes if allowed is not None else 0


async def store(customer: Daemon, name: FragmentName = NAME, content: bytes = CONTENT) -> None:
    await customer.until(lambda: S1 in customer.suppliers.online())
    await customer.suppliers.put(S1, name, fragment.root(content), content)


async def can_read(customer: Daemon, name: FragmentName = NAME) -> bool:
    await customer.until(lambda: S1 in customer.suppliers.online())
    read = await customer.suppliers.get(S1, name, 0, leaf_count(len(CONTENT)), hashes=False)
    return bytes(read.content) == CONTENT


# -- one history -----------------------------------------------------------------------------------


async def test_hiring_back_keeps_what_we_give(autojump_clock: MockClock) -> None:
    async with friends() as f:
        assert may_store(f.anna, f.boris) == may_store(f.boris, f.anna) == 2 * MIB
        held = f.anna.clerk.newest(f.boris.owner)
        assert held is not None
        assert held.terms.serial == 2
        assert held.raw == contract.parse(f.boris.rows[0].contract).raw


@pytest.mark.slow
async def test_both_sides_know_the_contract_after_a_restart(autojump_clock: MockClock) -> None:
    async with friends() as f:
        before = f.anna.clerk.shown(f.boris.owner)
        f.restart()
        assert f.anna.clerk.shown(f.boris.owner) == f.boris.clerk.shown(f.anna.owner) == before
        await store(f.anna)
        await store(f.boris)


@pytest.mark.slow
@pytest.mark.parametrize("loser", ["anna", "boris"])
async def test_side_that_lost_its_contracts_is_shown_them(autojump_clock: MockClock, loser: str) -> None:
    async with friends() as f:
        lost, other = (f.anna, f.boris) if loser == "anna" else (f.boris, f.anna)
        lost.kill()
        lost.contracts = type(lost.contracts)()
        lost.start()
        await f.in_step()
        assert may_store(lost, other) == 2 * MIB
        assert lost.contracts.contracts()[other.owner] == other.contracts.contracts()[lost.owner]


@pytest.mark.slow
async def test_answer_that_was_lost_leaves_one_contract(autojump_clock: MockClock) -> None:
    """Boris signs, and Anna never hears of it: the next time they meet she does."""
    async with friends() as f:
        (peer,) = f.anna.connections.of(f.boris.node)
        held = f.anna.clerk.newest(f.boris.owner)
        assert held is not None
        us, them = (f.anna.owner, f.anna.node), (f.boris.owner, f.boris.node)
        wish = Wish(needs_bytes=3 * MIB)
        terms = agreement.next_terms(held, us, them, wish, now_s=f.anna.clerk.now_s(), used=(0, 0))
        await peer.request(wire.Propose(contract.propose(f.anna.identity, terms).raw), wire.Agreed)
        assert may_store(f.boris, f.anna) == 3 * MIB
        assert f.anna.clerk.newest(f.boris.owner) == held
        f.cut()
        await trio.sleep(1)
        f.heal()
        await f.in_step()
        newest = f.anna.clerk.newest(f.boris.owner)
        assert newest is not None and newest.terms.serial == held.terms.serial + 1
        await f.boris.hire(f.anna, 4 * MIB)  # and it goes on from there
        assert may_store(f.anna, f.boris) == 4 * MIB


@pytest.mark.slow
async def test_proposals_that_cross_are_both_agreed_on_one_after_the_other(autojump_clock: MockClock) -> None:
    async with friends() as f:
        for size in range(3, 8):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(f.anna.hire, f.boris, size * MIB)
                nursery.start_soon(f.boris.hire, f.anna, size * MIB)
            await f.in_step()
            assert may_store(f.anna, f.boris) == may_store(f.boris, f.anna) == size * MIB


@pytest.mark.slow
async def test_two_contracts_of_one_serial_become_one(autojump_clock: MockClock) -> None:
    """Each has signed another one, and a crash forgot the proposals."""
    async with friends() as f:
        held = f.anna.clerk.newest(f.boris.owner)
        assert held is not None
        f.cut()
        for proposer, signer, size in ((f.anna, f.boris, 3), (f.boris, f.anna, 4)):
            us, them = (proposer.owner, proposer.node), (signer.owner, signer.node)
            wish = Wish(needs_bytes=size * MIB)
            terms = agreement.next_terms(held, us, them, wish, now_s=proposer.clerk.now_s(), used=(0, 0))
            proposal = contract.propose(proposer.identity, terms)
            await signer.clerk.keep(proposer.owner, contract.countersign(signer.identity, proposal))
        assert f.anna.clerk.shown(f.boris.owner) != f.boris.clerk.shown(f.anna.owner)
        f.heal()
        await f.in_step()


@pytest.mark.slow
async def test_contract_of_others_that_is_shown_is_not_taken(autojump_clock: MockClock) -> None:
    async with friends() as f:
        for size in range(1, 6):  # of a higher serial than theirs
            await f.carla.hire(f.boris, size * MIB)
        before = f.anna.clerk.shown(f.boris.owner)
        (peer,) = f.boris.connections.of(f.anna.node)
        await peer.request(wire.Compare(f.boris.clerk.shown(f.carla.owner)), wire.Compared)
        forged = bytearray(before[-1])
        forged[1:9] = (99).to_bytes(8, "big")
        await peer.request(wire.Compare((bytes(forged),)), wire.Compared)
        assert f.anna.clerk.shown(f.boris.owner) == before


# -- changes ---------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_more_is_given_at_once(autojump_clock: MockClock) -> None:
    async with friends() as f:
        _signed, is_agreed = await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=5 * MIB))
        assert is_agreed
        assert may_store(f.anna, f.boris) == 5 * MIB
        assert may_store(f.boris, f.anna) == 2 * MIB
        await f.in_step()


@pytest.mark.slow
async def test_less_than_is_not_used_is_given_at_once(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=MIB))
        assert may_store(f.anna, f.boris) == MIB


@pytest.mark.slow
async def test_less_than_is_used_needs_notice_and_until_then_the_old_quota_holds(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.boris.suppliers.stat(S1)
        _signed, is_agreed = await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=100_000))
        assert is_agreed
        assert may_store(f.anna, f.boris) == 2 * MIB
        await store(f.boris, OTHER)
        f.restart()
        await f.wait(NOTICE_S - DAY_S)
        assert may_store(f.anna, f.boris) == 2 * MIB
        await f.wait(2 * DAY_S)
        assert may_store(f.anna, f.boris) == 100_000
        assert await can_read(f.boris)
        assert await can_read(f.boris, OTHER)
        with pytest.raises(PeerFull):
            await store(f.boris, FragmentName(b"p" * 32))


@pytest.mark.slow
@pytest.mark.parametrize("changer", ["anna", "boris"])
async def test_another_change_during_a_notice_does_not_cut_it_short(autojump_clock: MockClock, changer: str) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.boris.suppliers.stat(S1)
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=0))
        one, other = (f.anna, f.boris) if changer == "anna" else (f.boris, f.anna)
        if changer == "anna":
            await one.accords.change(other.owner, Wish(needs_bytes=3 * MIB))
        else:
            await one.accords.change(other.owner, Wish(gives_bytes=3 * MIB))
        await f.wait(NOTICE_S - DAY_S)
        assert may_store(f.anna, f.boris) == 2 * MIB
        assert f.anna.contracts.endings() == {}
        await store(f.boris, OTHER)
        await f.wait(2 * DAY_S)
        assert may_store(f.anna, f.boris) == 0
        assert may_store(f.boris, f.anna) == 3 * MIB


@pytest.mark.slow
async def test_change_that_cuts_a_signed_notice_short_is_not_signed(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.boris.suppliers.stat(S1)
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=0))
        (peer,) = f.anna.connections.of(f.boris.node)
        us, them = (f.anna.owner, f.anna.node), (f.boris.owner, f.boris.node)
        held, now_s = f.anna.clerk.newest(f.boris.owner), f.anna.clerk.now_s()
        terms = agreement.next_terms(held, us, them, Wish(needs_bytes=MIB), now_s=now_s, used=(0, 0))
        proposal = contract.propose(f.anna.clerk.identity, terms)
        with pytest.raises(PeerRefused, match="needs a notice of 30 days"):
            await peer.request(wire.Propose(proposal.raw), wire.Agreed)


@pytest.mark.slow
async def test_less_than_is_used_is_not_signed_without_notice(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.boris.suppliers.stat(S1)
        (peer,) = f.anna.connections.of(f.boris.node)
        for wish in (
            Wish(gives_bytes=100_000, since_s=f.anna.clerk.now_s()),
            Wish(gives_bytes=0, since_s=f.anna.clerk.now_s()),
            Wish(until_s=f.anna.clerk.now_s() + NOTICE_S - 2 * DAY_S),
        ):
            with pytest.raises(PeerRefused, match="needs a notice of 30 days"):
                await agree(peer, f.anna.clerk, wish)
            await f.anna.clerk.abandon(f.boris.owner)
        assert may_store(f.anna, f.boris) == 2 * MIB


async def test_less_is_not_signed_without_notice_where_nobody_knows_what_is_stored(autojump_clock: MockClock) -> None:
    async with friends() as f:
        f.boris.clerk.used_there = None  # he only serves: his catalog is closed
        (peer,) = f.anna.connections.of(f.boris.node)
        with pytest.raises(PeerRefused, match="needs a notice of 30 days"):
            await agree(peer, f.anna.clerk, Wish(gives_bytes=MIB, since_s=f.anna.clerk.now_s()))
        held = f.boris.clerk.newest(f.anna.owner)
        assert held is not None and held.gives(f.anna.owner) == 2 * MIB


@pytest.mark.slow
async def test_more_than_is_allowed_is_not_agreed_on(autojump_clock: MockClock) -> None:
    async with friends() as f:
        with pytest.raises(PeerRefused, match="at most"):
            await f.anna.accords.change(f.boris.owner, Wish(needs_bytes=9 * MIB))
        assert f.anna.clerk.proposal(f.boris.owner) is None
        f.boris.allowed.clear()
        await f.anna.accords.change(f.boris.owner, Wish(needs_bytes=MIB))  # less is never refused
        with pytest.raises(PeerRefused, match="not on our list"):
            await f.anna.accords.change(f.boris.owner, Wish(needs_bytes=2 * MIB))
        with pytest.raises(NotFound):
            await f.anna.accords.change(f.carla.owner, Wish(needs_bytes=MIB))


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_contract_ends_after_notice_and_what_was_stored_stays(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        ends_s = f.anna.clerk.now_s() + NOTICE_S
        _signed, is_agreed = await f.anna.accords.change(f.boris.owner, Wish(until_s=ends_s))
        assert is_agreed
        await f.wait(NOTICE_S - DAY_S)
        await store(f.boris, OTHER)
        await f.wait(2 * DAY_S)
        with pytest.raises(PeerRefused, match="has ended"):
            await store(f.boris, FragmentName(b"p" * 32))
        f.restart()
        await f.wait(10 * GRACE_S)
        assert await can_read(f.boris)  # nobody needs the space
        assert await can_read(f.boris, OTHER)


@pytest.mark.slow
async def test_after_the_end_what_was_stored_yields_only_after_grace_and_to_space_needed(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.anna.accords.change(f.boris.owner, Wish(until_s=f.anna.clerk.now_s() + NOTICE_S))
        f.anna.shelf.donated_bytes = 350_000
        await f.wait(NOTICE_S + 1)
        await f.wait(GRACE_S - DAY_S)
        with pytest.raises(PeerFull):
            await f.carla.hire(f.anna, 300_000)
        assert await can_read(f.boris)
        await f.wait(2 * DAY_S)
        await f.carla.hire(f.anna, 310_000)
        assert await can_read(f.boris)  # a promise takes no space
        await store(f.carla)
        assert f.anna.shelf.content(f.boris.owner, NAME) is None
        assert f.anna.shelf.content(f.carla.owner, NAME) == CONTENT


@pytest.mark.slow
async def test_notice_to_who_is_away_holds_and_he_learns_of_it_when_he_comes(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        f.boris.kill()
        await f.wait(DAY_S)
        ends_s = f.anna.clerk.now_s() + NOTICE_S
        with pytest.raises(PeerGone):
            await f.anna.accords.change(f.boris.owner, Wish(needs_bytes=5 * MIB))
        _notice, is_agreed = await f.anna.accords.change(f.boris.owner, Wish(until_s=ends_s))
        assert not is_agreed
        f.anna.kill()
        f.anna.start()
        assert f.anna.clerk.allowance(f.boris.owner) == Allowance(2 * MIB, fragments_for(2 * MIB), ends_s)
        f.boris.start()
        await f.in_step()
        newest = f.boris.clerk.newest(f.anna.owner)
        assert newest is not None
        await f.boris.until(lambda: f.boris.clerk.newest(f.anna.owner).terms.until_s == ends_s)  # type: ignore[union-attr]
        assert f.anna.clerk.proposal(f.boris.owner) is None
        assert await can_read(f.boris)


async def test_second_notice_does_not_take_back_the_first(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        f.boris.kill()
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=100_000))
        ends_s = f.anna.clerk.now_s() + 2 * NOTICE_S
        await f.anna.accords.change(f.boris.owner, Wish(until_s=ends_s))
        assert may_store(f.anna, f.boris) == 2 * MIB
        await f.wait(NOTICE_S + DAY_S)
        assert f.anna.clerk.allowance(f.boris.owner) == Allowance(100_000, fragments_for(100_000), ends_s)


async def test_notice_that_was_not_delivered_can_be_taken_back(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        f.boris.kill()
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=0))
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=2 * MIB))
        f.anna.kill()
        f.anna.start()
        await f.wait(NOTICE_S + DAY_S)
        assert may_store(f.anna, f.boris) == 2 * MIB
        assert f.anna.contracts.endings() == {}


@pytest.mark.slow
async def test_who_comes_back_after_the_notice_has_run_out_still_reads(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        f.boris.kill()
        await f.anna.accords.change(f.boris.owner, Wish(until_s=f.anna.clerk.now_s() + NOTICE_S))
        await f.wait(NOTICE_S + DAY_S)
        f.boris.start()
        assert await can_read(f.boris)
        with pytest.raises(PeerRefused):
            await store(f.boris, OTHER)


@pytest.mark.slow
async def test_customer_who_is_away_for_a_year_finds_everything(autojump_clock: MockClock) -> None:
    """I14: no missed ping, no restart and no date takes anything away while the contract holds."""
    async with friends() as f:
        await store(f.boris)
        f.boris.kill()
        f.anna.shelf.donated_bytes = 320_000
        for _ in range(12):
            await f.wait(30 * DAY_S)
            f.anna.kill()
            f.anna.start()
            with pytest.raises(PeerFull):
                await f.carla.hire(f.anna, 300_000)
        f.boris.start()
        assert await can_read(f.boris)


@pytest.mark.slow
async def test_grace_is_not_shorter_for_a_clock_that_was_behind_when_the_end_was_seen(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.anna.accords.change(f.boris.owner, Wish(until_s=f.anna.clerk.now_s() + NOTICE_S))
        f.anna.shelf.donated_bytes = 350_000
        await f.jump(-3650 * DAY_S)  # started without a clock
        f.hers.move_s(3650 * DAY_S + NOTICE_S + DAY_S)  # and then it was set
        f.wall.move_s(3650 * DAY_S + NOTICE_S + DAY_S)
        with pytest.raises(PeerFull):
            await f.carla.hire(f.anna, 310_000)
        f.restart()
        await f.wait(GRACE_S - 2 * DAY_S)
        with pytest.raises(PeerFull):
            await f.carla.hire(f.anna, 310_000)
        assert await can_read(f.boris)
        await f.wait(2 * DAY_S)
        await f.carla.hire(f.anna, 310_000)


@pytest.mark.slow
async def test_clock_that_jumps_after_the_end_was_noted_does_not_shorten_the_grace(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.anna.accords.change(f.boris.owner, Wish(until_s=f.anna.clerk.now_s() + NOTICE_S))
        f.anna.shelf.donated_bytes = 350_000
        await f.wait(NOTICE_S + DAY_S)
        await f.jump(365 * DAY_S)
        f.restart()
        await f.wait(DAY_S)
        with pytest.raises(PeerFull):
            await f.carla.hire(f.anna, 310_000)
        assert f.anna.keeper.endings.grace_ends_s(f.boris.owner) > f.anna.clerk.now_s() + GRACE_S - 3 * DAY_S
        await f.wait(GRACE_S - DAY_S)
        await f.carla.hire(f.anna, 310_000)


@pytest.mark.slow
async def test_clock_that_is_wrong_for_a_while_ends_nothing(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await store(f.boris)
        await f.anna.accords.change(f.boris.owner, Wish(until_s=f.anna.clerk.now_s() + NOTICE_S))
        f.anna.shelf.donated_bytes = 350_000
        await f.jump(3650 * DAY_S)
        with pytest.raises(PeerFull):
            await f.carla.hire(f.anna, 310_000)
        await f.jump(-3650 * DAY_S)
        await store(f.boris, OTHER, CONTENT[:40_000])
        assert f.anna.contracts.endings() == {}
        assert await can_read(f.boris)


async def test_no_message_of_a_stranger_changes_a_contract(autojump_clock: MockClock) -> None:
    async with friends() as f:
        before = f.anna.clerk.shown(f.boris.owner)
        f.carla.dial[f.anna.node] = [f.anna.address]
        await f.carla.until(lambda: bool(f.carla.connections.of(f.anna.node)))
        (peer,) = f.carla.connections.of(f.anna.node)
        held = f.anna.clerk.newest(f.boris.owner)
        assert held is not None
        terms = replace(held.terms, serial=3, previous=held.digest, since_s=f.anna.clerk.now_s())
        proposer = f.anna if terms.first.owner == f.anna.owner else f.boris
        with pytest.raises(PeerRefused) as caught:
            await peer.request(wire.Propose(contract.propose(proposer.identity, terms).raw), wire.Agreed)
        assert caught.value.facts["code"] is Refused.BAD_REQUEST
        told, _ = await peer.request(wire.Compare(before), wire.Compared)
        assert told.contracts == ()
        assert f.anna.clerk.shown(f.boris.owner) == before
        assert f.anna.clerk.newest(f.carla.owner) is None


# -- stolen machines -------------------------------------------------------------------------------


async def test_revoked_node_signs_nothing_for_its_owner(autojump_clock: MockClock) -> None:
    """Boris lost his machine, which is still connected, and has certified another one."""
    async with friends() as f:
        new = make_identity("boris's new machine", owner="boris", epoch=2)
        await f.anna.keeper.answer(new.certificate, wire.Ping(), b"")
        before = f.anna.clerk.newest(f.boris.owner)
        with pytest.raises(PeerGone):
            await f.anna.accords.change(f.boris.owner, Wish(needs_bytes=4 * MIB))
        notice, is_signed = await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=MIB))
        assert not is_signed and not notice.is_signed_by_both
        assert f.anna.clerk.newest(f.boris.owner) == before


async def test_contract_that_our_own_stolen_machine_signed_is_not_taken() -> None:
    """Its thief and a friend of ours agree that we give him all."""
    stolen, new = make_identity("stolen", owner="anna"), make_identity("new", owner="anna", epoch=2)
    boris = make_identity("boris")

    def terms(ours: Identity, serial: int, previous: bytes, gives: int) -> contract.Terms:
        first = contract.Party(boris.owner, boris.node)
        second = contract.Party(ours.owner, ours.node, gives, fragments_for(gives), new.node)
        return contract.Terms(serial, previous, 1000, 0, first, second)

    clerk = Clerk(new, MemoryContracts(), crunch=InlineCrunch(), wall=RunningWall())
    held = contract.countersign(new, contract.propose(boris, terms(new, 1, contract.NO_CONTRACT, MIB)))
    await clerk.take(boris.owner, [held.raw])
    assert clerk.newest(boris.owner) == held
    for serial, previous in ((2, held.digest), (1, contract.NO_CONTRACT)):
        for gives in range(100 * MIB, 100 * MIB + 5):  # one of them has a smaller digest
            forged = contract.countersign(stolen, contract.propose(boris, terms(stolen, serial, previous, gives)))
            await clerk.take(boris.owner, [forged.raw])
            assert clerk.newest(boris.owner) == held
    again = contract.countersign(new, contract.propose(boris, terms(new, 2, held.digest, 2 * MIB)))
    await clerk.take(boris.owner, [again.raw])
    assert clerk.newest(boris.owner) == again


async def test_old_contract_does_not_come_back_before_one_that_is_still_to_begin() -> None:
    """A friend signs our notice, does not say so, and shows it later behind the first that we ever had."""
    anna, boris = make_identity("anna"), make_identity("boris")
    wall = RunningWall()
    clerk = Clerk(anna, MemoryContracts(), crunch=InlineCrunch(), wall=wall)
    now_s = clerk.now_s()

    def signed(serial: int, previous: bytes, gives: int, since_s: int) -> contract.Contract:
        first = contract.Party(anna.owner, anna.node, gives, fragments_for(gives), anna.node)
        second = contract.Party(boris.owner, boris.node)
        terms = contract.Terms(serial, previous, since_s, 0, first, second)
        return contract.countersign(boris, contract.propose(anna, terms))

    generous = signed(1, contract.NO_CONTRACT, 100 * MIB, now_s - 20)
    fair = signed(2, generous.digest, 10 * MIB, now_s - 10)
    notice = signed(3, fair.digest, MIB, now_s + NOTICE_S)
    await clerk.keep(boris.owner, generous)
    await clerk.keep(boris.owner, fair)
    await clerk.take(boris.owner, [generous.raw, notice.raw])
    allowed = clerk.allowance(boris.owner)
    assert allowed is not None and allowed.bytes == 10 * MIB
    await clerk.take(boris.owner, [fair.raw, notice.raw])
    assert clerk.newest(boris.owner) == notice
    allowed = clerk.allowance(boris.owner)
    assert allowed is not None and allowed.bytes == 10 * MIB


# -- proposals that were refused ---------------------------------------------------------------------


async def refused_proposal(f: Friends) -> contract.Contract:
    """Anna asks for 5 MiB of Boris, who has none to give her; he keeps what she signed."""
    kept: list[bytes] = []
    sign = f.boris.clerk.sign

    async def refuse(caller: Certificate, raw: bytes, allowed_bytes: int | None) -> wire.Agreed | wire.Refusal:
        kept.append(raw)
        return wire.Refusal(Refused.NOT_ALLOWED, "not now")

    f.boris.clerk.sign = refuse  # type: ignore[method-assign]
    with pytest.raises(PeerRefused):
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=7 * MIB, needs_bytes=MIB))
    f.boris.clerk.sign = sign  # type: ignore[method-assign]
    return contract.parse(kept[-1])


async def test_proposal_that_was_refused_cannot_be_signed_later(autojump_clock: MockClock) -> None:
    async with friends() as f:
        before = f.anna.clerk.newest(f.boris.owner)
        late = contract.countersign(f.boris.identity, await refused_proposal(f))
        await f.anna.clerk.take(f.boris.owner, [late.raw])
        assert f.anna.clerk.newest(f.boris.owner) == before
        f.anna.kill()
        f.anna.start()  # it is remembered
        await f.anna.clerk.take(f.boris.owner, [late.raw])
        assert f.anna.clerk.newest(f.boris.owner) == before
        await f.in_step()
        signed, is_agreed = await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=3 * MIB))
        assert is_agreed and signed.terms.serial > late.terms.serial
        await f.in_step()
        assert f.anna.contracts.floors() == {}
        await f.anna.clerk.take(f.boris.owner, [late.raw])
        assert f.anna.clerk.newest(f.boris.owner) == signed


async def test_refused_proposal_is_void_also_after_the_friend_has_changed_the_contract(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f:
        refused = [contract.countersign(f.boris.identity, await refused_proposal(f)) for _ in range(7)]
        signed = f.anna.clerk.newest(f.boris.owner)
        for number in range(7):  # with the serials that the refused ones had, one after the other
            signed, is_agreed = await f.boris.accords.change(f.anna.owner, Wish(gives_bytes=(3 + number % 2) * MIB))
            assert is_agreed
            await f.in_step()
            for late in refused:
                await f.anna.clerk.take(f.boris.owner, [late.raw])
            assert f.anna.clerk.newest(f.boris.owner) == signed
        assert signed is not None and signed.terms.serial in {late.terms.serial for late in refused}
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=4 * MIB))
        assert f.anna.contracts.floors() == {}


async def test_proposal_without_an_answer_is_void_once_the_other_side_does_not_show_it(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f:
        before, kept = f.anna.clerk.newest(f.boris.owner), list[bytes]()

        async def vanish(caller: Certificate, raw: bytes, allowed_bytes: int | None) -> wire.Agreed | wire.Refusal:
            kept.append(raw)
            await trio.sleep_forever()
            raise AssertionError

        f.boris.clerk.sign = vanish  # type: ignore[method-assign]
        with pytest.raises(PeerGone):
            await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=7 * MIB, needs_bytes=MIB))
        f.boris.kill()
        f.boris.start()
        await f.in_step()
        await f.anna.until(lambda: f.anna.clerk.proposal(f.boris.owner) is None)
        late = contract.countersign(f.boris.identity, contract.parse(kept[-1]))
        await f.anna.clerk.take(f.boris.owner, [late.raw])
        assert f.anna.clerk.newest(f.boris.owner) == before


async def test_two_who_disagree_whether_one_was_signed_agree_on_the_next(autojump_clock: MockClock) -> None:
    async with friends() as f:
        late = contract.countersign(f.boris.identity, await refused_proposal(f))
        await f.boris.clerk.keep(f.anna.owner, late)
        signed, is_agreed = await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=8 * MIB))
        assert is_agreed and signed.terms.serial > late.terms.serial
        await f.in_step()
        assert f.boris.clerk.newest(f.anna.owner) == f.anna.clerk.newest(f.boris.owner) == signed


async def test_notice_that_was_taken_back_cannot_be_signed_later(autojump_clock: MockClock) -> None:
    async with friends() as f:
        f.boris.kill()
        notice, _ = await f.anna.accords.change(f.boris.owner, Wish(until_s=f.anna.clerk.now_s() + NOTICE_S))
        held, _ = await f.anna.accords.change(f.boris.owner, Wish(until_s=0))
        late = contract.countersign(f.boris.identity, notice)
        await f.anna.clerk.take(f.boris.owner, [late.raw])
        assert f.anna.clerk.newest(f.boris.owner) == held


async def test_serial_that_leaves_no_room_for_later_ones_is_not_signed(autojump_clock: MockClock) -> None:
    async with friends() as f:
        held = f.boris.clerk.newest(f.anna.owner)
        sides = (f.anna.owner, f.anna.node), (f.boris.owner, f.boris.node)
        for serial in (1 << 63, (1 << 64) - 1):
            terms = agreement.next_terms(
                held, *sides, Wish(gives_bytes=3 * MIB), now_s=f.anna.clerk.now_s(), used=(0, 0), serial=serial
            )
            raw = contract.propose(f.anna.identity, terms).raw
            refusal = await f.boris.clerk.sign(f.anna.identity.certificate, raw, 8 * MIB)
            assert isinstance(refusal, wire.Refusal) and refusal.code is Refused.BAD_REQUEST


async def test_serial_that_a_stolen_node_asks_for_does_not_keep_its_owner_from_agreeing(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f:
        sign = f.boris.clerk.sign

        async def cross(caller: Certificate, raw: bytes, allowed_bytes: int | None) -> wire.Agreed | wire.Refusal:
            return wire.Refusal(Refused.CROSSED, "mine had higher serials", (1 << 63) - 1)

        f.boris.clerk.sign = cross  # type: ignore[method-assign]
        with pytest.raises(PeerError, match="busy"):
            await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=4 * MIB))
        f.boris.clerk.sign = sign  # type: ignore[method-assign]
        await f.boris.accords.change(f.anna.owner, Wish(gives_bytes=3 * MIB))
        await f.in_step()
        await f.anna.accords.change(f.boris.owner, Wish(gives_bytes=4 * MIB))
        await f.in_step()
        assert (may_store(f.anna, f.boris), may_store(f.boris, f.anna)) == (4 * MIB, 3 * MIB)


async def test_friend_who_has_contracts_signed_in_a_loop_waits_and_another_one_does_not(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f:

        async def signed(times: int) -> int:
            """How many of so many changes are signed."""
            count = 0
            for number in range(times):
                held = f.boris.clerk.newest(f.anna.owner)
                sides = (f.anna.owner, f.anna.node), (f.boris.owner, f.boris.node)
                wish = Wish(gives_bytes=(3 + number % 2) * MIB)
                terms = agreement.next_terms(held, *sides, wish, now_s=f.anna.clerk.now_s(), used=(0, 0))
                raw = contract.propose(f.anna.identity, terms).raw
                answer = await f.boris.clerk.sign(f.anna.identity.certificate, raw, 8 * MIB)
                count += isinstance(answer, wire.Agreed)
            return count

        assert await signed(3 * SIGN_BURST) <= SIGN_BURST
        await f.carla.hire(f.boris, MIB)
        await trio.sleep(1 / SIGN_PER_S)
        assert await signed(3) == 1
