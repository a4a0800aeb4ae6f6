"""Suppliers: kept connections, truthful answers, and nothing that waits for who is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import contract, fragment, wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.fragment import leaf_count
from bitdustfs.engine.handler import RefuseAll
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.relation import BACKOFF_CAP_S, BACKOFF_S, SILENCE_S
from bitdustfs.engine.suppliers import PING_S, Suppliers
from bitdustfs.errors import PeerError, PeerFull, PeerGone, PeerLacks, PeerRefused, ProtocolViolation, WrongPeer
from bitdustfs.model import LEAF_BYTES, FragmentName, NodeId, SupplierNo
from bitdustfs.ports import Leaves
from bitdustfs.testing.clock import FakeWall
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import Break, Fault, Line, MemoryDialer, MemoryLink
from bitdustfs.testing.shelf import flipped, garbage, half, other_fragment, shorter
from bitdustfs.testing.swarm import Swarm, make_identity

NAME = FragmentName(b"n" * 32)
CONTENT = bytes(i % 255 for i in range(100_000))
ROOT = fragment.root(CONTENT)
GIB = 1 << 30
S1, S2, S3 = SupplierNo(1), SupplierNo(2), SupplierNo(3)
ALL = (S1, S2, S3)


@asynccontextmanager
async def swarm(count: int = 3, line: Line | None = None) -> AsyncIterator[tuple[Swarm, Suppliers]]:
    """Hired suppliers, all online."""
    with trio.fail_after(1_000_000):
        async with trio.open_nursery() as nursery:
            world = Swarm(nursery, count, line=line)
            side = world.customer_side(await world.hire_all())
            nursery.start_soon(side.run)
            await until(side, lambda: len(side.online()) == count)
            yield world, side
            nursery.cancel_scope.cancel()


async def until(side: Suppliers, condition: Callable[[], bool]) -> None:
    while not condition():
        await side.wait_for_change()


# -- requests --------------------------------------------------------------------------------------


async def test_fragments_are_put_read_listed_and_deleted(autojump_clock: MockClock) -> None:
    async with swarm() as (_, side):
        await side.put(S1, NAME, ROOT, memoryview(CONTENT))
        whole = await side.get(S1, NAME, 0, leaf_count(len(CONTENT)), hashes=True)
        assert whole == Leaves(len(CONTENT), fragment.leaf_hashes(CONTENT), CONTENT)
        part = await side.get(S1, NAME, 2, 3, hashes=False)
        assert part == Leaves(len(CONTENT), b"", CONTENT[2 * LEAF_BYTES : 5 * LEAF_BYTES])
        assert await side.names(S1, b"") == ((NAME, len(CONTENT)),)
        with pytest.raises(PeerLacks):
            await side.get(S2, NAME, 0, 1, hashes=False)
        await side.delete(S1, [NAME, FragmentName(b"m" * 32)])
        with pytest.raises(PeerLacks):
            await side.get(S1, NAME, 0, 1, hashes=False)


async def test_put_of_wrong_bytes_is_refused(autojump_clock: MockClock) -> None:
    async with swarm() as (_, side):
        with pytest.raises(PeerRefused):
            await side.put(S1, NAME, ROOT, CONTENT[:-1])


@pytest.mark.parametrize("bend", [flipped, garbage, other_fragment], ids=lambda bend: bend.__name__)
async def test_wrong_bytes_of_the_right_length_reach_the_reader_to_judge(
    autojump_clock: MockClock, bend: Callable[[Leaves], Leaves]
) -> None:
    async with swarm() as (world, side):
        await side.put(S1, NAME, ROOT, CONTENT)
        world.suppliers[0].shelf.bend = bend
        leaves = await side.get(S1, NAME, 0, 99, hashes=True)
        is_genuine = fragment.root_of(leaves.hashes, leaves.length) == ROOT and fragment.leaves_are_genuine(
            leaves.hashes, 0, leaves.content
        )
        assert not is_genuine
        assert len(leaves.content) == len(CONTENT)


async def test_half_an_answer_ends_the_connection(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        await side.put(S1, NAME, ROOT, CONTENT)
        world.suppliers[0].shelf.bend = half
        with pytest.raises(ProtocolViolation):
            await side.get(S1, NAME, 0, 99, hashes=True)
        await until(side, lambda: side.online() == (S2, S3))
        await until(side, lambda: side.online() == ALL)


async def test_shorter_fragment_is_seen_by_its_length(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        await side.put(S1, NAME, ROOT, CONTENT)
        world.suppliers[0].shelf.bend = shorter
        leaves = await side.get(S1, NAME, 0, 99, hashes=True)
        assert fragment.root_of(leaves.hashes, leaves.length) != ROOT


@pytest.mark.slow
async def test_supplier_that_never_answers_costs_the_callers_deadline_only(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        await side.put(S1, NAME, ROOT, CONTENT)
        world.suppliers[0].mute.is_mute = True
        for _ in range(100):  # more than may be under way: the connection is renewed when it is clogged
            try:
                with trio.fail_after(5):
                    await side.get(S1, NAME, 0, 1, hashes=False)
            except (trio.TooSlowError, PeerGone):
                pass
        world.suppliers[0].mute.is_mute = False
        await until(side, lambda: S1 in side.online())
        with trio.fail_after(200):
            await eventually_get(side, S1)


async def eventually_get(side: Suppliers, supplier: SupplierNo) -> None:
    while True:
        try:
            with trio.fail_after(5):
                await side.get(supplier, NAME, 0, 1, hashes=False)
            return
        except (trio.TooSlowError, PeerError):
            await trio.sleep(1)


async def test_request_to_who_is_not_there_fails_at_once(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        world.cut(2)
        await until(side, lambda: side.online() == (S1, S3))
        start = trio.current_time()
        with pytest.raises(PeerGone):
            await side.put(S2, NAME, ROOT, CONTENT)
        with pytest.raises(PeerGone):
            await side.get(SupplierNo(99), NAME, 0, 1, hashes=False)
        assert trio.current_time() == start


async def test_nothing_hangs_without_run(autojump_clock: MockClock) -> None:
    async with swarm() as (world, _):
        idle = world.customer_side(await world.hire_all())
        assert idle.online() == ()
        with pytest.raises(PeerGone):
            await idle.get(S1, NAME, 0, 1, hashes=False)


# -- room ------------------------------------------------------------------------------------------


async def test_space_follows_what_is_put(autojump_clock: MockClock) -> None:
    async with swarm() as (_, side):
        assert side.space()[S1] == (GIB, GIB // 8192)
        await side.put(S1, NAME, ROOT, CONTENT)
        assert side.space()[S1] == (GIB - len(CONTENT), GIB // 8192 - 1)
        status = await side.stat(S1)
        assert (status.used_bytes, status.used_fragments) == (len(CONTENT), 1)
        assert side.space()[S1] == (GIB - len(CONTENT), GIB // 8192 - 1)


async def test_space_is_still_known_of_who_is_away(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        await side.put(S1, NAME, ROOT, CONTENT)
        world.suppliers[0].kill()
        await until(side, lambda: side.online() == (S2, S3))
        assert side.space()[S1] == (GIB - len(CONTENT), GIB // 8192 - 1)


async def test_full_supplier_has_no_space(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = Swarm(nursery, 1)
        side = world.customer_side(await world.hire_all(150_000))
        nursery.start_soon(side.run)
        await until(side, lambda: bool(side.online()))
        await side.put(S1, NAME, ROOT, CONTENT)
        with pytest.raises(PeerFull):
            await side.put(S1, FragmentName(b"m" * 32), ROOT, CONTENT)
        assert side.space()[S1] == (0, 0)
        await trio.sleep(PING_S + 1)
        assert side.space()[S1] == (50_000, 1023)
        nursery.cancel_scope.cancel()


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_supplier_that_comes_back_is_used_again(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        await side.put(S1, NAME, ROOT, CONTENT)
        world.suppliers[0].kill()
        await until(side, lambda: side.online() == (S2, S3))
        await trio.sleep(3600)
        world.suppliers[0].start()
        start = trio.current_time()
        await until(side, lambda: side.online() == ALL)
        assert trio.current_time() - start <= BACKOFF_CAP_S + 1
        assert (await side.get(S1, NAME, 0, 99, hashes=False)).content == CONTENT


@pytest.mark.slow
async def test_nudge_tries_at_once(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        world.suppliers[0].kill()
        await until(side, lambda: side.online() == (S2, S3))
        await trio.sleep(3600)
        world.suppliers[0].start()
        start = trio.current_time()
        side.nudge()
        await until(side, lambda: side.online() == ALL)
        assert trio.current_time() - start < 1


async def test_who_is_away_is_dialled_more_and_more_seldom_and_by_nobody_at_the_same_moment(
    autojump_clock: MockClock,
) -> None:
    class Nobody(MemoryDialer):
        async def dial(self, address: str, expected: NodeId) -> MemoryLink:
            dialled.setdefault(address, []).append(trio.current_time())
            raise PeerGone(peer=address, what="nobody is there")

    dialled: dict[str, list[float]] = {}
    async with swarm() as (world, _), trio.open_nursery() as nursery:
        rows, dialer = await world.hire_all(), Nobody(world.network, world.identity.node)
        side = Suppliers(world.identity, dialer, rows, entropy=SeededEntropy(), wall=FakeWall())
        nursery.start_soon(side.run)
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    shares = []
    for moments in dialled.values():
        pauses = [late - early for early, late in pairwise(moments)]
        assert len(pauses) > 60  # it is not given up
        wished = [min(BACKOFF_S * 2**number, BACKOFF_CAP_S) for number in range(len(pauses))]
        shares += [pause / most for pause, most in zip(pauses, wished, strict=True)]
    assert len(dialled) == 3
    assert 0.5 <= min(shares) < 0.55  # a half to the whole of it, and anything between
    assert 0.95 < max(shares) <= 1.001
    assert len({round(share, 4) for share in shares}) > len(shares) * 0.9


async def test_supplier_that_moved_is_not_waited_for_where_somebody_silent_took_its_place(
    autojump_clock: MockClock,
) -> None:
    async with swarm() as (world, side):
        rows, first = await world.hire_all(), world.suppliers[0]
        first.kill()
        await until(side, lambda: side.online() == (S2, S3))
        world.network.listen(first.node, first.address)  # and never answers
        side.nudge()
        await trio.sleep(1)
        first.address = "s1:8000"
        first.start()
        start = trio.current_time()
        side.add(replace(rows[0], address=first.address))
        await until(side, lambda: side.online() == ALL)
        assert trio.current_time() - start < 1


async def test_silent_supplier_is_noticed_without_a_request(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side):
        start = trio.current_time()
        world.silence(2)
        await until(side, lambda: side.online() == (S1, S3))
        assert trio.current_time() - start <= PING_S + SILENCE_S + 1


async def test_slow_line_that_moves_is_not_taken_for_dead(autojump_clock: MockClock) -> None:
    async with swarm(1, Line(latency_s=0.3, bytes_per_s=50_000)) as (_, side):
        body = bytes(8_000_000)
        await side.put(S1, NAME, fragment.root(body), body)  # takes nearly three minutes
        assert len((await side.get(S1, NAME, 0, 488, hashes=False)).content) > 7_900_000
        assert side.online() == (S1,)


async def test_timetable_of_faults_ends_with_all_online(autojump_clock: MockClock) -> None:
    async with swarm() as (world, side), trio.open_nursery() as nursery:
        one, two, three = (s.node for s in world.suppliers)
        timetable = [
            Fault(5, Break.CUT, one),
            Fault(7, Break.SILENCE, two, world.identity.node),
            Fault(200, Break.CUT, three),
            Fault(230, Break.HEAL, three),
            Fault(250, Break.HEAL, two, world.identity.node),
            Fault(300, Break.HEAL, one),
        ]
        nursery.start_soon(world.network.run, timetable)
        await trio.sleep(100)
        assert side.online() == (S3,)
        await trio.sleep(300)
        assert side.online() == ALL


@pytest.mark.slow
async def test_fault_in_one_suppliers_task_leaves_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Exploding(MemoryDialer):
        async def dial(self, address: str, expected: NodeId) -> MemoryLink:
            if address == "s2:7000":
                raise ZeroDivisionError
            return await super().dial(address, expected)

    async with swarm() as (world, _), trio.open_nursery() as nursery:
        rows = await world.hire_all()
        dialer = Exploding(world.network, world.identity.node)
        side = Suppliers(world.identity, dialer, rows, entropy=SeededEntropy(), wall=FakeWall())
        nursery.start_soon(side.run)
        await until(side, lambda: len(side.online()) == 2)
        await trio.sleep(1000)
        assert side.online() == (S1, S3)
        nursery.cancel_scope.cancel()
    assert "ZeroDivisionError" in caplog.text


async def test_corruption_under_way_costs_a_connection_and_no_more(autojump_clock: MockClock) -> None:
    """In memory there is no TLS to notice it: the frames do, or the leaves."""
    async with swarm() as (world, side):
        await side.put(S1, NAME, ROOT, CONTENT)
        spoil = world.suppliers[0].node

        def tamper(sender: NodeId, receiver: NodeId, content: bytes) -> bytes:
            return b"\xff" + content[1:] if sender == spoil else content

        world.network.tamper = tamper
        with pytest.raises(PeerError):
            await side.get(S1, NAME, 0, 1, hashes=False)
        world.network.tamper = None
        await until(side, lambda: side.online() == ALL)
        assert (await side.get(S1, NAME, 0, 99, hashes=False)).content == CONTENT


async def test_connection_that_the_supplier_dialled_is_used(autojump_clock: MockClock) -> None:
    async with swarm(2) as (world, side):
        first = world.suppliers[0]
        await side.put(S1, NAME, ROOT, CONTENT)
        world.network.apply(Break.CUT, first.node, world.identity.node)
        await until(side, lambda: side.online() == (S2,))
        world.network.apply(Break.HEAL, first.node, world.identity.node)
        first.kill()  # so that dialling it fails, as behind a router
        async with trio.open_nursery() as nursery:
            listener = world.network.listen(world.identity.node, "customer:1")
            link = await world.network.dialer(first.node).dial("customer:1", world.identity.node)
            theirs = Peer(link, first.identity, first.keeper)
            ours = Peer(await listener.accept(), world.identity)
            async with trio.open_nursery() as greeting:
                greeting.start_soon(theirs.greet)
                greeting.start_soon(ours.greet)
            nursery.start_soon(theirs.run)
            nursery.start_soon(ours.run)
            assert side.adopt(ours)
            await until(side, lambda: side.online() == (S1, S2))
            assert not side.adopt(ours)
            assert (await side.get(S1, NAME, 0, 99, hashes=False)).content == CONTENT
            nursery.cancel_scope.cancel()
        await until(side, lambda: side.online() == (S2,))
        first.start()
        await until(side, lambda: side.online() == (S1, S2))


async def test_connection_of_somebody_else_is_not_adopted(autojump_clock: MockClock) -> None:
    async with swarm(1) as (world, side):
        stranger = make_identity("stranger")
        listener = world.network.listen(world.identity.node, "customer:1")
        link = await world.network.dialer(stranger.node).dial("customer:1", world.identity.node)
        assert not side.adopt(Peer(await listener.accept(), world.identity))
        await link.aclose()


async def test_suppliers_are_added_and_removed_while_running(autojump_clock: MockClock) -> None:
    async with swarm(3) as (world, side):
        rows = await world.hire_all()
        side.remove(S3)
        assert side.online() == (S1, S2)
        assert S3 not in side.space()
        with pytest.raises(PeerGone):
            await side.get(S3, NAME, 0, 1, hashes=False)
        side.add(rows[2])
        await until(side, lambda: side.online() == ALL)


# -- hiring ----------------------------------------------------------------------------------------


async def test_hire_returns_a_row_with_a_contract_for_both(autojump_clock: MockClock) -> None:
    async with swarm(1) as (world, side):
        supplier = world.suppliers[0]
        row = await world.customer_side(()).hire(supplier.address, supplier.node, GIB, label="Ann")
        signed = contract.parse(row.contract)
        allowance = signed.allowance(world.identity.owner, supplier.node)
        assert allowance == contract.Allowance(GIB, contract.fragments_for(GIB), 0)
        assert (row.supplier, row.node, row.owner) == (0, supplier.node, supplier.identity.owner)
        assert (row.label, row.address) == ("Ann", supplier.address)
        assert (row.capacity_bytes, row.capacity_fragments) == (GIB, contract.fragments_for(GIB))
        assert supplier.contracts.contracts() == {world.identity.owner: row.contract}
        assert side.online() == (S1,)


async def test_hiring_again_for_the_same_keeps_the_contract(autojump_clock: MockClock) -> None:
    async with swarm(1) as (world, side):
        supplier = world.suppliers[0]
        before = supplier.contracts.contracts()[world.identity.owner]
        row = await side.hire(supplier.address, supplier.node, GIB)
        assert row.contract == before
        assert row.supplier == S1


async def test_hiring_again_for_more_makes_the_next_contract(autojump_clock: MockClock) -> None:
    async with swarm(1) as (world, side):
        supplier = world.suppliers[0]
        before = contract.parse(supplier.contracts.contracts()[world.identity.owner])
        row = await side.hire(supplier.address, supplier.node, 2 * GIB)
        after = contract.parse(row.contract)
        assert (after.terms.serial, after.terms.previous) == (2, before.digest)
        side.add(row)
        assert (await side.stat(S1)).quota_bytes == 2 * GIB
        assert side.space()[S1][0] == 2 * GIB


async def test_hire_says_why_not(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = Swarm(nursery, 1, allowed_bytes=GIB)
        supplier = world.suppliers[0]
        side = world.customer_side(())
        with pytest.raises(PeerRefused, match=f"at most {GIB} bytes"):
            await side.hire(supplier.address, supplier.node, GIB + 1)
        supplier.allowed.clear()
        with pytest.raises(PeerRefused, match="not on our list"):
            await side.hire(supplier.address, supplier.node, GIB)
        with pytest.raises(WrongPeer):
            await side.hire(supplier.address, make_identity("x").node, GIB)
        with pytest.raises(PeerGone):
            await side.hire("nowhere:1", supplier.node, GIB)
        nursery.cancel_scope.cancel()


async def test_hire_ends_at_the_callers_deadline(autojump_clock: MockClock) -> None:
    async with swarm(1) as (world, _):
        supplier = world.suppliers[0]
        world.silence(1)
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(30):
                await world.customer_side(()).hire(supplier.address, supplier.node, GIB)


async def test_contract_that_was_changed_by_the_supplier_is_not_taken(autojump_clock: MockClock) -> None:
    class Cheat(RefuseAll):
        def __init__(self, world: Swarm) -> None:
            self.world = world

        def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
            return None if isinstance(request, wire.Propose) else super().admit(caller, request)

        async def answer(
            self, caller: Certificate, request: wire.Request, body: bytes | memoryview
        ) -> tuple[wire.Answer, tuple[bytes, ...]]:
            assert isinstance(request, wire.Propose)
            asked = contract.parse(request.contract).terms
            less = replace(asked, second=replace(asked.second, gives_bytes=1))
            return wire.Agreed(contract.propose(self.world.identity, less).raw), ()

    async with trio.open_nursery() as nursery:
        world = Swarm(nursery, 0)
        cheat = make_identity("cheat")
        listener = world.network.listen(cheat.node, "cheat:1")

        async def serve() -> None:
            peer = Peer(await listener.accept(), cheat, Cheat(world))
            await peer.greet()
            await peer.run()

        nursery.start_soon(serve)
        with pytest.raises(ProtocolViolation):
            await world.customer_side(()).hire("cheat:1", cheat.node, GIB)
        nursery.cancel_scope.cancel()
