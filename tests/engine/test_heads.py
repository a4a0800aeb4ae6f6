"""Heads that a supplier keeps: never back, never to a fork, and nothing for a node that was revoked."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TypeVar

import pytest
import trio
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from bitdustfs.core import contract, fragment, wire
from bitdustfs.core import head as heads
from bitdustfs.core.certificate import MAX_EPOCH, Identity
from bitdustfs.core.contract import NO_CONTRACT, Party, Terms
from bitdustfs.core.framing import Frame, Parser
from bitdustfs.core.head import LINK_BYTES, NO_HEAD, NO_SEAT, Head
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.engine.keeper import _ROLES, Keeper
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import (
    DiskFault,
    HeadBehind,
    HeadForked,
    NodeRevoked,
    PeerError,
    PeerGone,
    PeerRefused,
)
from bitdustfs.model import FragmentName, OwnerId, Role, SupplierNo
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import Swarm, connect, make_identity

SUPPLIER = make_identity("supplier")
LAPTOP = make_identity("laptop", owner="customer")
DESKTOP = make_identity("desktop", owner="customer")
NEW_LAPTOP = make_identity("new laptop", owner="customer", epoch=2)
TABLET = make_identity("tablet", owner="customer", role=Role.READER)
NAS = make_identity("nas", owner="customer", role=Role.SUPPLIER)
FRIEND = make_identity("friend")
STRANGER = make_identity("stranger")
HANDLE = b"the volume's 16b"
NAME = FragmentName(b"n" * 32)
CONTENT = b"fragment" * 5000
ROOT = fragment.root(CONTENT)
MIB = 1 << 20
S1 = SupplierNo(1)
GET_HEAD = wire.GetHead()

T = TypeVar("T")


def line(
    *versions: int,
    after: Head | None = None,
    by: Identity = LAPTOP,
    sealed: bytes = b"sealed",
    handle: bytes = HANDLE,
) -> list[Head]:
    """Heads of these versions, each after the one before."""
    made: list[Head] = []
    previous = after.digest if after else NO_HEAD
    for version in versions:
        made.append(heads.sign(by, handle=handle, version=version, previous=previous, sealed=sealed))
        previous = made[-1].digest
    return made


LINE = line(1, 2, 3, 4, 5)
FORK = line(1, 2, 3, 4, 5, sealed=b"another history")
MIXED = [*LINE[:2], *line(3, 4, 5, after=LINE[1], by=DESKTOP, sealed=b"another future")]
OTHER_VOLUME = line(1, 2, 3, 4, 5, handle=b"another volume!!")
TAKEOVER = line(2, 3, 4, 5, 6, after=LINE[0], by=NEW_LAPTOP)


def put_of(head: bytes, by: Identity) -> wire.PutHead:
    return wire.PutHead(len(head), by.certificate.epoch)


def links(some: list[Head]) -> bytes:
    return b"".join(each.link for each in some)


class SlowCrunch:
    """A ports.Crunch that lets others run before and after the work."""

    threads = 1

    async def run(self, work: Callable[..., T], *args: object) -> T:
        await trio.sleep(0)
        done = work(*args)
        await trio.sleep(0)
        return done


class Kept:
    """A supplier without connections."""

    def __init__(self, store: MemoryContracts | None = None, crunch: InlineCrunch | SlowCrunch | None = None) -> None:
        self.store = store or MemoryContracts()
        self.crunch = crunch or InlineCrunch()
        self.shelf = MemoryShelf(donated_bytes=10 * MIB)
        for customer in (LAPTOP, FRIEND):
            second = Party(SUPPLIER.owner, SUPPLIER.node, MIB, 1000, SUPPLIER.node)
            terms = Terms(1, NO_CONTRACT, 1_767_225_600, 0, Party(customer.owner, customer.node), second)
            signed = contract.countersign(SUPPLIER, contract.propose(customer, terms))
            self.store.save_contract(customer.owner, signed.raw)
        self.start()

    def start(self) -> None:
        self.wall = FakeWall()
        self.keeper = Keeper(SUPPLIER, self.shelf, self.store, allowed={}, crunch=self.crunch, wall=self.wall)

    async def ask(self, by: Identity, request: wire.Request, body: bytes = b"") -> tuple[wire.Answer, bytes]:
        refusal = self.keeper.admit(by.certificate, request)
        if refusal is not None:
            return refusal, b""
        try:
            answer, parts = await self.keeper.answer(by.certificate, request, body)
        finally:
            self.keeper.forget(by.certificate, request)
        return answer, b"".join(parts)

    async def put(self, head: Head | bytes, between: bytes = b"", by: Identity = LAPTOP) -> wire.Answer:
        raw = head if isinstance(head, bytes) else head.raw
        return (await self.ask(by, put_of(raw, by), raw + between))[0]

    async def refuses(self, code: Refused, detail: int, head: Head | bytes, between: bytes = b"") -> bool:
        """Say whether the laptop's head is refused so, and what was held is held."""
        before = self.store.heads()
        answer = await self.put(head, between)
        assert isinstance(answer, Refusal)
        return (answer.code, answer.detail) == (code, detail) and self.store.heads() == before

    async def held(self, by: Identity = LAPTOP) -> bytes:
        answer, raw = await self.ask(by, GET_HEAD)
        assert isinstance(answer, wire.HeadIs)
        return raw[: answer.head_bytes]


# -- forward only ----------------------------------------------------------------------------------


async def test_head_is_kept_durably_and_given_back() -> None:
    kept = Kept()
    assert await kept.held() == b""
    assert await kept.put(LINE[2]) == wire.Done()
    assert kept.store.heads() == {LAPTOP.owner: LINE[2].raw}
    kept.start()
    assert await kept.held() == LINE[2].raw


async def test_next_head_comes_with_the_links_between() -> None:
    kept = Kept()
    await kept.put(LINE[0])
    assert await kept.put(LINE[1]) == wire.Done()
    assert await kept.put(LINE[4], links(LINE[2:4])) == wire.Done()
    assert await kept.put(LINE[4]) == wire.Done()  # its answer was lost
    assert await kept.held() == LINE[4].raw


async def test_head_that_is_not_newer_is_behind_and_told_by_how_much() -> None:
    kept = Kept()
    await kept.put(LINE[2])
    assert await kept.refuses(Refused.BEHIND, 3, LINE[1])
    assert await kept.refuses(Refused.BEHIND, 3, FORK[2])
    kept.start()
    assert await kept.refuses(Refused.BEHIND, 3, LINE[0])


async def test_head_that_does_not_come_from_the_held_one_is_a_fork() -> None:
    kept = Kept()
    await kept.put(LINE[1])
    assert await kept.refuses(Refused.FORKED, 2, FORK[2])
    assert await kept.refuses(Refused.FORKED, 2, FORK[3], links(FORK[2:3]))
    assert await kept.refuses(Refused.FORKED, 2, LINE[4])  # a jump without its chain
    assert await kept.refuses(Refused.FORKED, 2, LINE[4], links(LINE[3:4]))
    assert await kept.refuses(Refused.FORKED, 2, OTHER_VOLUME[0])
    assert await kept.refuses(Refused.FORKED, 2, OTHER_VOLUME[2])
    assert await kept.put(LINE[4], links(LINE[2:4])) == wire.Done()


async def test_head_of_another_node_of_the_owner_follows_as_well() -> None:
    kept = Kept()
    await kept.put(MIXED[1])
    assert await kept.put(MIXED[2], by=DESKTOP) == wire.Done()
    assert await kept.put(MIXED[3], by=LAPTOP) == wire.Done()  # whoever of them brings it


async def test_links_behind_a_head_are_kept_and_told() -> None:
    kept = Kept()
    await kept.put(LINE[1])
    await kept.put(LINE[2])
    await kept.put(LINE[4], links(LINE[3:4]))
    for _ in range(2):
        answer, content = await kept.ask(TABLET, GET_HEAD)
        assert answer == wire.HeadIs(len(LINE[4].raw))
        assert content == LINE[4].raw + links(LINE[1:4])
        kept.start()


@pytest.mark.slow
async def test_so_many_links_are_kept_and_no_more() -> None:
    long = line(*range(1, heads.KEPT_LINKS + 11))
    kept = Kept()
    await kept.put(long[0])
    await kept.put(long[-2], links(long[1:-2]))
    await kept.put(long[-1])
    _, content = await kept.ask(LAPTOP, GET_HEAD)
    assert content == long[-1].raw + links(long[-1 - heads.KEPT_LINKS : -1])


async def test_links_that_are_damaged_or_do_not_belong_are_not_told() -> None:
    kept = Kept()
    await kept.put(LINE[4], links(FORK[1:4]))  # the first one: no links are needed
    assert (await kept.ask(LAPTOP, GET_HEAD))[1] == LINE[4].raw
    damaged = bytes([LINE[2].link[0] ^ 1]) + LINE[2].link[1:]
    kept.store.save_head(LAPTOP.owner, LINE[4].raw + LINE[1].link + damaged + LINE[3].link)
    kept.start()
    assert (await kept.ask(LAPTOP, GET_HEAD))[1] == LINE[4].raw + LINE[3].link


class RecordingContracts(MemoryContracts):
    """Notes each head that is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[bytes] = []

    def save_head(self, owner: OwnerId, head: bytes) -> None:
        super().save_head(owner, head)
        self.saved.append(heads.split(head)[0])


OFFERS = st.tuples(
    st.sampled_from([LINE, FORK, MIXED, OTHER_VOLUME, TAKEOVER]),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 4),
)


@pytest.mark.slow
@given(st.lists(st.lists(OFFERS, min_size=1, max_size=4), max_size=6))
@settings(max_examples=40)
def test_supplier_never_goes_back_and_never_forks(rounds: list[list[tuple[list[Head], int, int, int]]]) -> None:
    """I11: in whatever order heads and links come, some of them at once, with a restart after each round.

    Only a node of a higher epoch, whom the owner certified, goes on from elsewhere; and nobody goes back behind it.
    """

    async def offer(kept: Kept, line: list[Head], newest: int, first: int, last: int) -> None:
        await kept.put(line[newest], links(line[first:last]), by=NEW_LAPTOP if line is TAKEOVER else LAPTOP)

    async def play() -> RecordingContracts:
        store = RecordingContracts()
        kept = Kept(store, SlowCrunch())
        for some in rounds:
            async with trio.open_nursery() as nursery:
                for each in some:
                    nursery.start_soon(offer, kept, *each)
            assert kept.keeper.head_version(LAPTOP.owner) == (heads.parse(store.saved[-1]).version)
            kept.start()
        return store

    saved = trio.run(play).saved
    lines = [[each.raw for each in (*old, *TAKEOVER)] for old in (LINE, FORK, MIXED, OTHER_VOLUME)]
    assert any(saved == [raw for raw in line if raw in saved] for line in lines)


# -- whose head it is ------------------------------------------------------------------------------


async def test_owners_have_their_own_heads() -> None:
    kept = Kept()
    theirs = line(1, by=FRIEND)[0]
    await kept.put(LINE[3])
    assert await kept.put(theirs, by=FRIEND) == wire.Done()
    assert (await kept.held(), await kept.held(FRIEND)) == (LINE[3].raw, theirs.raw)


async def test_head_signed_for_another_owner_is_refused() -> None:
    """I8: also one that is genuine."""
    kept = Kept()
    assert await kept.refuses(Refused.NOT_ALLOWED, 0, line(1, by=FRIEND)[0])
    assert await kept.refuses(Refused.NOT_ALLOWED, 0, line(1, by=STRANGER)[0])


async def test_stranger_neither_puts_nor_gets_heads() -> None:
    kept = Kept()
    await kept.put(LINE[0])
    theirs = line(1, by=STRANGER)[0].raw
    for request, body in ((put_of(theirs, STRANGER), theirs), (put_of(LINE[1].raw, STRANGER), LINE[1].raw)):
        answer, _ = await kept.ask(STRANGER, request, body)
        assert isinstance(answer, Refusal) and answer.code is Refused.NO_CONTRACT
    answer, raw = await kept.ask(STRANGER, GET_HEAD)
    assert isinstance(answer, Refusal) and answer.code is Refused.NO_CONTRACT and raw == b""


async def test_reader_gets_the_head_and_puts_none() -> None:
    kept = Kept()
    await kept.put(LINE[0])
    assert await kept.held(TABLET) == LINE[0].raw
    answer = await kept.put(LINE[1], by=TABLET)
    assert isinstance(answer, Refusal) and answer.code is Refused.NOT_ALLOWED
    answer, _ = await kept.ask(NAS, GET_HEAD)
    assert isinstance(answer, Refusal) and answer.code is Refused.NOT_ALLOWED


def test_every_request_says_which_roles_may_ask_it() -> None:
    assert set(_ROLES) == set(EVERY_REQUEST)


# -- heads that are none (fault F38) ---------------------------------------------------------------


def forged(*, version: int = 2, sealed: bytes = b"sealed", said: bytes = b"sealed") -> bytes:
    """A head with a genuine signature over a link that `heads.sign` would not make."""
    about = blake3(said).digest(), len(said), NO_SEAT, 0, 0, NO_HEAD
    link = struct.pack(">B16sQQ32s32sI16sIB32s", heads.VERSION, HANDLE, version, 1, b"p" * 32, *about)
    return link + LAPTOP.certificate.raw + LAPTOP.sign("head", link) + sealed


@pytest.mark.parametrize(
    "raw",
    [
        bytes([heads.VERSION]),
        b"\x01" + LINE[1].raw[1:],
        LINE[1].raw[:-1],
        LINE[1].raw[:LINK_BYTES],
        LINE[1].raw[:250] + bytes([LINE[1].raw[250] ^ 1]) + LINE[1].raw[251:],
        forged(version=2**64 - 1),
        forged(version=2**62),
        forged(version=0),
        forged(said=b"others"),
    ],
    ids=["short", "format", "cut", "link only", "signature", "2^64-1", "2^63", "0", "other content"],
)
async def test_head_that_is_none_is_refused_before_use(raw: bytes) -> None:
    kept = Kept()
    assert await kept.refuses(Refused.BAD_REQUEST, 0, raw)
    await kept.put(LINE[0])
    assert await kept.refuses(Refused.BAD_REQUEST, 0, raw)


async def test_refusal_of_a_head_fits_its_message() -> None:
    answer = await Kept().put(b"\x01" * 400)
    assert isinstance(answer, Refusal)
    parser = Parser("supplier")
    parser.open_up(lambda: False)
    parser.feed(wire.encode(1, answer))
    assert parser.next() == Frame(1, answer, b"")


@pytest.mark.parametrize("head_bytes,body_bytes", [(10_000_000, 10_000_000), (65_537, 65_537), (303, 10_000_000)])
async def test_head_of_ten_megabytes_is_not_taken_in(
    autojump_clock: MockClock, head_bytes: int, body_bytes: int
) -> None:
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            swarm = Swarm(nursery, suppliers=1)
            rows = await swarm.hire_all()
            peer = await connect(nursery, swarm.network, swarm.identity, rows[0].address, rows[0].node)
            with pytest.raises(PeerGone):
                await peer.request(wire.PutHead(head_bytes, 1), wire.Done, bytes(body_bytes))
            assert swarm.suppliers[0].contracts.heads() == {}
            nursery.cancel_scope.cancel()


# -- revoked nodes ---------------------------------------------------------------------------------

EVERY_REQUEST: Mapping[type[wire.Request], tuple[wire.Request, bytes]] = {
    wire.Ping: (wire.Ping(), b""),
    wire.Put: (wire.Put(b"m" * 32, ROOT, len(CONTENT), 1, 99), CONTENT),
    wire.Get: (wire.Get(NAME, 0, 3, True), b""),
    wire.Delete: (wire.Delete((NAME,), 1, 99), b""),
    wire.List: (wire.List(b"", 10), b""),
    wire.Stat: (wire.Stat(), b""),
    wire.Propose: (wire.Propose(b"contract"), b""),
    wire.Bulk: (wire.Bulk(b"k" * 32), b""),
    wire.PutHead: (put_of(LINE[1].raw, LAPTOP), LINE[1].raw),
    wire.GetHead: (GET_HEAD, b""),
    wire.Watch: (wire.Watch(0, 0), b""),
    wire.Hold: (wire.Hold(bytes(16), 60, True, True, False), b""),
    wire.Compare: (wire.Compare(()), b""),
}


def test_every_request_is_among_those_that_revoked_nodes_try() -> None:
    assert set(EVERY_REQUEST) == set(wire.ANSWERS) - {
        wire.Knock,
        wire.Join,
        wire.Here,
        wire.Where,
        wire.Reach,
        wire.Receipt,
    }  # others answer those before they come here


@pytest.mark.parametrize("asked", EVERY_REQUEST, ids=lambda kind: kind.__name__)
async def test_revoked_node_is_refused_whatever_it_asks(asked: type[wire.Request]) -> None:
    kept = Kept()
    kept.shelf.put(LAPTOP.owner, NAME, ROOT, CONTENT)
    await kept.put(LINE[0])
    await kept.ask(NEW_LAPTOP, wire.Ping())
    request, body = EVERY_REQUEST[asked]
    for _ in range(2):
        answer, content = await kept.ask(LAPTOP, request, body)
        assert isinstance(answer, Refusal)
        assert (answer.code, answer.detail, content) == (Refused.STALE, 2, b"")
        assert answer.proof == NEW_LAPTOP.certificate.raw
        kept.start()
    assert await kept.held(NEW_LAPTOP) == LINE[0].raw
    assert kept.shelf.used(LAPTOP.owner) == (len(CONTENT), 1)


@pytest.mark.parametrize("asked", EVERY_REQUEST, ids=lambda kind: kind.__name__)
async def test_request_that_was_admitted_before_the_revocation_is_refused_after_it(asked: type[wire.Request]) -> None:
    kept = Kept()
    kept.shelf.put(LAPTOP.owner, NAME, ROOT, CONTENT)
    request, body = EVERY_REQUEST[asked]
    assert kept.keeper.admit(LAPTOP.certificate, request) is None
    await kept.ask(NEW_LAPTOP, wire.Ping())  # while the body comes
    answer, _ = await kept.keeper.answer(LAPTOP.certificate, request, body)
    assert isinstance(answer, Refusal) and answer.code is Refused.STALE
    assert kept.shelf.used(LAPTOP.owner) == (len(CONTENT), 1)


async def test_head_of_a_newer_epoch_revokes_who_brings_it() -> None:
    kept = Kept()
    newer = line(1, by=NEW_LAPTOP)[0]
    answer = await kept.put(newer, by=LAPTOP)
    assert isinstance(answer, Refusal) and (answer.code, answer.detail) == (Refused.STALE, 2)
    assert kept.store.epochs() == {LAPTOP.owner: (2, NEW_LAPTOP.certificate.raw)}
    assert await kept.held(NEW_LAPTOP) == b""


async def test_head_that_a_revoked_node_signed_is_refused_unless_it_is_held() -> None:
    kept = Kept()
    await kept.put(LINE[0])
    answer = await kept.put(LINE[1], by=NEW_LAPTOP)
    assert isinstance(answer, Refusal) and answer.code is Refused.NOT_ALLOWED  # not STALE: who brings it is not
    assert await kept.put(LINE[0], by=NEW_LAPTOP) == wire.Done()
    assert await kept.held(NEW_LAPTOP) == LINE[0].raw
    newer = line(2, after=LINE[0], by=NEW_LAPTOP)[0]
    assert await kept.put(newer, by=NEW_LAPTOP) == wire.Done()


@pytest.mark.parametrize("steps", range(12))
async def test_head_told_to_a_new_epoch_is_changed_by_no_revoked_node_any_more(steps: int) -> None:
    store = RecordingContracts()
    kept = Kept(store, SlowCrunch())
    await kept.put(LINE[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.put, LINE[1])
        for _ in range(steps):
            await trio.sleep(0)
        told = await kept.held(NEW_LAPTOP)
        saved = tuple(store.saved)
    assert (saved[-1], tuple(store.saved)) == (told, saved)


async def test_refusal_of_a_revoked_node_fits_its_message() -> None:
    kept = Kept()
    far = make_identity("far laptop", owner="customer", epoch=MAX_EPOCH)
    await kept.ask(far, wire.Ping())
    answer, _ = await kept.ask(LAPTOP, wire.Ping())
    assert isinstance(answer, Refusal)
    parser = Parser("supplier")
    parser.open_up(lambda: False)
    parser.feed(wire.encode(1, answer))
    expected = wire.Refusal(Refused.STALE, answer.text, MAX_EPOCH, far.certificate.raw)
    assert parser.next() == Frame(1, expected, b"")


async def test_epoch_said_must_be_that_of_the_certificate() -> None:
    answer, _ = await Kept().ask(LAPTOP, wire.PutHead(len(LINE[0].raw), 2), LINE[0].raw)
    assert isinstance(answer, Refusal) and answer.code is Refused.BAD_REQUEST


# -- changes by nodes that do not know the newest head ---------------------------------------------


def put_at(version: int) -> wire.Put:
    return wire.Put(bytes([version]) * 32, ROOT, len(CONTENT), 1, version)


async def test_node_that_missed_another_ones_head_stores_nothing() -> None:
    kept = Kept()
    await kept.put(LINE[2])
    answer, _ = await kept.ask(DESKTOP, put_at(2), CONTENT)
    assert isinstance(answer, Refusal) and (answer.code, answer.detail) == (Refused.BEHIND, 3)
    assert (await kept.ask(DESKTOP, put_at(3), CONTENT))[0] == wire.Done()
    assert (await kept.ask(DESKTOP, put_at(4), CONTENT))[0] == wire.Done()


async def test_fragments_under_way_beside_the_own_new_head_are_taken() -> None:
    kept = Kept()
    await kept.put(LINE[2])
    assert (await kept.ask(LAPTOP, put_at(1), CONTENT))[0] == wire.Done()


async def test_nobody_deletes_who_does_not_know_the_newest_head() -> None:
    kept = Kept()
    kept.shelf.put(LAPTOP.owner, NAME, ROOT, CONTENT)
    await kept.put(LINE[2])
    for node in (LAPTOP, DESKTOP):
        answer, _ = await kept.ask(node, wire.Delete((NAME,), 1, 2))
        assert isinstance(answer, Refusal) and (answer.code, answer.detail) == (Refused.BEHIND, 3)
    assert (await kept.ask(DESKTOP, wire.Delete((NAME,), 1, 3)))[0] == wire.Deleted(1)


async def test_delete_that_is_replayed_after_its_time_takes_nothing() -> None:
    """F49: the very request, after a newer head, and on either side of a recovery."""
    kept = Kept()
    old, last = wire.Delete((NAME,), 1, 2), wire.Delete((NAME,), 1, 3)  # the last of the first epoch
    await kept.put(LINE[1])
    assert (await kept.ask(LAPTOP, old))[0] == wire.Deleted(0)
    kept.shelf.put(LAPTOP.owner, NAME, ROOT, CONTENT)
    await kept.put(LINE[2])
    answers = [(await kept.ask(LAPTOP, old))[0]]
    await kept.ask(NEW_LAPTOP, wire.Ping())
    answers += [(await kept.ask(by, each))[0] for by in (NEW_LAPTOP, LAPTOP) for each in (old, last)]
    codes = [answer.code for answer in answers if isinstance(answer, Refusal)]
    assert codes == [Refused.BEHIND, Refused.BEHIND, Refused.BAD_REQUEST, Refused.STALE, Refused.STALE]
    assert kept.shelf.names(LAPTOP.owner, b"", 10) == [(NAME, len(CONTENT))]


async def test_no_request_of_a_device_empties_the_trash() -> None:
    """F48: what was deleted stays for a week, whatever is asked, and however much room is wanted."""
    kept = Kept()
    kept.shelf.put(LAPTOP.owner, NAME, ROOT, CONTENT)
    assert (await kept.ask(LAPTOP, wire.Delete((NAME,), 1, 0)))[0] == wire.Deleted(1)
    big = bytes(MIB - len(CONTENT) + 1)  # has room if the trash goes
    too_much = wire.Put(b"q" * 32, fragment.root(big), len(big), 1, 99), big
    codes = set()
    for request, body in (too_much, *EVERY_REQUEST.values(), too_much):
        answer, _ = await kept.ask(LAPTOP, request, body)
        codes |= {answer.code} if isinstance(answer, Refusal) else set()
    assert Refused.QUOTA in codes
    assert kept.shelf.trash(LAPTOP.owner, 1 << 40) == (len(CONTENT), 1)


async def test_body_that_came_after_another_ones_head_is_not_stored() -> None:
    kept = Kept()
    await kept.put(MIXED[1])
    request = put_at(2)
    assert kept.keeper.admit(LAPTOP.certificate, request) is None
    await kept.put(MIXED[2], by=DESKTOP)  # while the body comes
    answer, _ = await kept.keeper.answer(LAPTOP.certificate, request, CONTENT)
    assert isinstance(answer, Refusal) and answer.code is Refused.BEHIND
    assert kept.shelf.used(LAPTOP.owner) == (0, 0)


# -- the supplier's disk ---------------------------------------------------------------------------


async def test_damaged_head_costs_its_owner_only_and_is_not_taken_for_none(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    kept.shelf.put(LAPTOP.owner, NAME, ROOT, CONTENT)
    theirs = line(1, by=FRIEND)[0]
    await kept.put(theirs, by=FRIEND)
    kept.store.save_head(LAPTOP.owner, LINE[2].raw[:-1])
    kept.start()
    assert await kept.held(FRIEND) == theirs.raw
    for request in (GET_HEAD, wire.Delete((NAME,), 1, 99)):
        answer, content = await kept.ask(LAPTOP, request)
        assert isinstance(answer, Refusal) and answer.code is Refused.FAULT and content == b""
    assert (await kept.ask(LAPTOP, put_at(1), CONTENT))[0] == wire.Done()
    assert (await kept.ask(LAPTOP, wire.Get(NAME, 0, 3, False)))[1] == CONTENT
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_next_head_heals_a_damaged_one(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    kept.store.save_head(LAPTOP.owner, b"")
    kept.start()
    assert await kept.put(LINE[4]) == wire.Done()
    assert await kept.held() == LINE[4].raw
    assert await kept.refuses(Refused.BEHIND, 5, LINE[3])
    assert "waits for a new one" in caplog.text


async def test_damaged_head_whose_signed_part_is_whole_still_prevents_going_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept()
    damaged = LINE[2].raw[:-1] + b"!"
    kept.store.save_head(LAPTOP.owner, damaged)
    kept.start()
    assert await kept.refuses(Refused.BEHIND, 3, LINE[1])
    assert await kept.refuses(Refused.BEHIND, 3, FORK[2])
    assert await kept.refuses(Refused.FORKED, 3, FORK[3])
    assert await kept.refuses(Refused.FORKED, 3, LINE[4])
    assert isinstance((await kept.ask(LAPTOP, GET_HEAD))[0], Refusal)
    assert await kept.put(LINE[4], links(LINE[3:4])) == wire.Done()
    assert await kept.held() == LINE[4].raw
    kept.store.save_head(LAPTOP.owner, damaged)
    kept.start()
    assert await kept.put(LINE[2]) == wire.Done()  # the very one
    assert await kept.held() == LINE[2].raw
    assert len(caplog.records) >= 2


async def test_head_that_cannot_be_saved_is_not_acknowledged_nor_held(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenHeads(MemoryContracts):
        is_broken = True

        def save_head(self, owner: OwnerId, head: bytes) -> None:
            if self.is_broken:
                raise DiskFault(path="/contracts", why="broken")
            super().save_head(owner, head)

    store = BrokenHeads()
    kept = Kept(store)
    assert await kept.refuses(Refused.FAULT, 0, LINE[0])
    assert await kept.held() == b""
    store.is_broken = False
    assert await kept.put(LINE[0]) == wire.Done()
    assert "broken" in caplog.text


# -- the customer's side ---------------------------------------------------------------------------


async def supplied(nursery: trio.Nursery) -> tuple[Swarm, Suppliers]:
    """One supplier, online."""
    swarm = Swarm(nursery, suppliers=1)
    side = swarm.customer_side(await swarm.hire_all())
    nursery.start_soon(side.run)
    while not side.online():
        await side.wait_for_change()
    return swarm, side


async def test_customer_puts_heads_and_asks_for_them(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    swarm, side = await supplied(nursery)
    mine = line(1, 2, 3, 4, by=swarm.identity)
    assert await side.head(S1) == b""
    await side.put_head(S1, mine[0].raw, b"")
    await side.put_head(S1, mine[3].raw, links(mine[1:3]))
    await side.put_head(S1, mine[3].raw, b"")
    assert await side.head(S1) == mine[3].raw
    assert side.online() == (S1,)


async def test_customer_tells_refusals_of_heads_apart(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    swarm, side = await supplied(nursery)
    mine = line(1, 2, 3, 4, by=swarm.identity)
    await side.put_head(S1, mine[1].raw, b"")
    with pytest.raises(HeadBehind, match="version 2") as behind:
        await side.put_head(S1, mine[0].raw, b"")
    with pytest.raises(HeadForked, match="version 2") as forked:
        await side.put_head(S1, mine[3].raw, b"")
    assert [(each.value.code, each.value.detail) for each in (behind, forked)] == [
        (Refused.BEHIND, 2),
        (Refused.FORKED, 2),
    ]
    with pytest.raises(PeerRefused) as refused:
        await side.put_head(S1, mine[3].raw[:-1], b"")
    assert (type(refused.value), refused.value.code, refused.value.detail) == (PeerRefused, Refused.BAD_REQUEST, 0)


async def test_customer_changes_things_as_of_the_head_that_it_knows(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    _swarm, side = await supplied(nursery)
    await side.put(S1, NAME, ROOT, CONTENT)
    await side.put_head(S1, line(3, after=LINE[1], by=make_identity("desktop", owner="customer"))[0].raw, b"")
    side.head_version = 2
    with pytest.raises(HeadBehind):
        await side.delete(S1, [NAME])
    with pytest.raises(HeadBehind):
        await side.put(S1, FragmentName(b"m" * 32), ROOT, CONTENT)
    side.head_version = 3
    await side.put(S1, FragmentName(b"m" * 32), ROOT, CONTENT)
    await side.delete(S1, [NAME])


async def test_revoked_customer_is_told_the_newer_epoch(
    autojump_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    swarm, side = await supplied(nursery)
    row = swarm.suppliers[0]
    newer = make_identity("new laptop", owner="customer", epoch=7)
    peer = await connect(nursery, swarm.network, newer, row.address, row.node)
    await peer.request(GET_HEAD, wire.HeadIs)
    with pytest.raises(NodeRevoked, match="epoch 7") as revoked:
        await side.head(S1)
    assert (revoked.value.code, revoked.value.detail) == (Refused.STALE, 7)
    assert side.revoked_in() == {}
    side.doubt(S1)
    with trio.fail_after(10):
        while not side.revoked_in():
            await side.wait_for_change()
    assert (side.revoked_in(), side.online()) == ({S1: 7}, ())
    swarm.suppliers[0].kill()
    await trio.sleep(200)  # it is asked again and again
    swarm.suppliers[0].start()
    await trio.sleep(200)
    assert side.revoked_in() == {S1: 7}
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_chain_that_no_message_can_carry_is_not_sent(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    swarm, side = await supplied(nursery)
    mine = line(1, by=swarm.identity)[0].raw
    between = bytes(LINK_BYTES * (wire.MAX_BODY_BYTES // LINK_BYTES))
    with pytest.raises(PeerError, match="versions behind"):
        await side.put_head(S1, mine, between)
    assert await side.head(S1) == b""
