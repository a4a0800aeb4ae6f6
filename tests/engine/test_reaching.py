"""Whether a machine can be dialled is tried by a partner, who dials nobody else for anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import wire
from bitdustfs.engine.errand import ask_once
from bitdustfs.engine.reaching import BURST, DIAL_S
from bitdustfs.errors import PeerRefused
from bitdustfs.testing.clock import RunningWall
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.network import Break, MemoryNetwork
from bitdustfs.testing.swarm import make_identity

GIB = 1 << 30


class Pair:
    """Anna stores with Boris."""

    def __init__(self, nursery: trio.Nursery, *, listens: bool) -> None:
        self.network, wall = MemoryNetwork(), RunningWall()
        self.anna = Daemon("anna", self.network, nursery, wall, listens=listens)
        self.boris = Daemon("boris", self.network, nursery, wall, seed=1)

    async def agree(self) -> None:
        self.boris.allowed[self.anna.owner] = GIB
        await self.anna.hire(self.boris, GIB)
        await self.anna.until(lambda: bool(self.anna.suppliers.online()))
        await trio.sleep(30)  # and have told each other where they are


@asynccontextmanager
async def pair(*, listens: bool = True) -> AsyncIterator[Pair]:
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            them = Pair(nursery, listens=listens)
            await them.agree()
            yield them
            nursery.cancel_scope.cancel()


async def test_partner_says_where_he_could_dial_us(autojump_clock: MockClock) -> None:
    async with pair() as them:
        for one, other in ((them.anna, them.boris), (them.boris, them.anna)):
            (told,) = await one.reaching.ask()
            assert (told.node, told.reached, told.tried) == (other.node, one.address, one.address)
        assert len(them.anna.connections.peers()) == 1  # and has hung up


async def test_who_dialled_us_tries_the_same_place_again(autojump_clock: MockClock) -> None:
    """Though we do not know of it: a router may forward a port of its own."""
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            them = Pair(nursery, listens=True)
            them.anna.allowed[them.boris.owner] = GIB
            await them.boris.hire(them.anna, GIB)
            await them.boris.until(lambda: bool(them.boris.suppliers.online()))
            await trio.sleep(30)
            them.anna.book.announce([])
            await trio.sleep(30)
            (told,) = await them.anna.reaching.ask()
            assert told.reached == them.anna.address
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_who_cannot_be_dialled_is_told_so_in_a_moment(autojump_clock: MockClock) -> None:
    async with pair() as them:
        them.network.stop_listening(them.anna._listener)  # type: ignore[arg-type]  # a firewall
        (told,) = await them.anna.reaching.ask()
        assert (told.reached, told.tried) == ("", them.anna.address)
    async with pair(listens=False) as them:
        (told,) = await them.anna.reaching.ask()
        assert (told.reached, told.tried) == ("", "")


async def test_partner_who_says_nothing_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with pair() as them:
        them.network.apply(Break.SILENCE, them.boris.node)
        since = trio.current_time()
        assert await them.anna.reaching.ask() == []
        assert trio.current_time() - since < 2 * DIAL_S + 1


@pytest.mark.parametrize(
    "said", ["8.8.8.8", "8.8.8.8:0", "8.8.8.8:99999", "8.8.8.8]:22", "here:22", "\x1b[2J", "[::1%\x1b]:5"]
)
async def test_partner_who_names_no_place_says_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    async with pair() as them:

        async def lie(*_request: object) -> tuple[wire.Answer, tuple[bytes, ...]]:
            return wire.Reached(said, True), ()

        monkeypatch.setattr(them.boris.reaching, "answer", lie)
        (told,) = await them.anna.reaching.ask()
        assert (told.reached, told.tried) in (("", ""), ("8.8.8.8:22", "8.8.8.8:22"))


async def test_stranger_makes_nobody_dial(autojump_clock: MockClock) -> None:
    async with pair() as them:
        eve = make_identity("eve")
        with pytest.raises(PeerRefused):
            await ask_once(
                them.network.dialer(eve.node), eve, them.boris.node, them.boris.address, wire.Reach(), wire.Reached
            )


@pytest.mark.slow
async def test_partner_is_dialled_a_few_times_and_then_later(autojump_clock: MockClock) -> None:
    async with pair() as them:
        answers = [await them.anna.reaching.ask() for _number in range(3 * BURST)]
        assert [len(each) for each in answers] == [1] * BURST + [0] * 2 * BURST
        await trio.sleep(60)
        assert len(await them.anna.reaching.ask()) == 1
