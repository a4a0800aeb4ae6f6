"""Leases: one holder at a time at a supplier, whoever asks in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitdustfs.core import head as heads
from bitdustfs.core import lease as leases
from bitdustfs.core.head import Head, Verdict
from bitdustfs.core.lease import LEASE_S, Answer, Holder, Lease
from bitdustfs.model import NodeId
from bitdustfs.testing.swarm import make_identity
from tests.core.leased import COPY, HANDLE, SEAT, head_of

LAPTOP, DESKTOP = (make_identity(name, owner="customer") for name in ("laptop", "desktop"))
SEATS = SEAT, COPY
HOLDERS = [Holder(NodeId(bytes([node]) * 32), seat) for node in (1, 2) for seat in SEATS]


def head(version: int, after: Head | None = None, *, desktop: bool = False, **how: Any) -> Head:
    return head_of(DESKTOP if desktop else LAPTOP, version, after, **how)


FIRST = head(1)
FROM_0 = Lease(Holder(LAPTOP.node, SEATS[0]), LEASE_S)


@given(
    st.lists(
        st.tuples(st.sampled_from(HOLDERS), st.sampled_from([0, 10, 600]), st.integers(0, 700)),
        max_size=20,
    )
)
def test_nobody_gets_what_another_holds(asked: list[tuple[Holder, int, int]]) -> None:
    lease: Lease | None = None
    until_s: dict[Holder, float] = {}  # as each was told
    now_s = 0.0
    for asker, lease_s, step_s in asked:
        now_s += step_s
        said, lease = leases.ask(lease, asker, lease_s=lease_s, takes_over=False, now_s=now_s)
        others = [other for other, end_s in until_s.items() if other != asker and now_s < end_s]
        assert (said is Answer.YOURS) is (not others)
        if said is Answer.YOURS:
            until_s[asker] = now_s + lease_s


def test_holder_lets_go_and_nobody_else_does_it_for_him() -> None:
    mine, other = HOLDERS[:2]
    held = Lease(mine, 600.0)
    assert leases.ask(held, other, lease_s=0, takes_over=False, now_s=1.0) == (Answer.HELD, held)
    assert leases.ask(held, mine, lease_s=0, takes_over=False, now_s=1.0) == (Answer.YOURS, None)
    assert leases.ask(None, other, lease_s=60, takes_over=False, now_s=1.0) == (Answer.YOURS, Lease(other, 61.0))


def test_who_takes_over_gets_it_whoever_holds_it() -> None:
    mine, other = HOLDERS[:2]
    said, noted = leases.ask(Lease(mine, 600.0), other, lease_s=60, takes_over=True, now_s=1.0)
    assert (said, noted) == (Answer.YOURS, Lease(other, 61.0))


def test_head_gives_its_writer_a_lease_or_lets_the_volume_go() -> None:
    assert leases.of_head(FIRST, now_s=0.0) == FROM_0
    assert leases.of_head(head(1, lease_s=0), now_s=0.0) is None


@pytest.mark.parametrize("now_s,may", [(0.0, False), (LEASE_S - 1.0, False), (float(LEASE_S), True)])
def test_another_writers_head_is_taken_when_the_lease_has_run_out(now_s: float, may: bool) -> None:
    other = head(2, FIRST, desktop=True)
    assert leases.may_follow(other, b"", FIRST, FROM_0, now_s=now_s) is may


def test_copy_of_a_home_is_another_writer() -> None:
    assert leases.may_follow(head(2, FIRST), b"", FIRST, FROM_0, now_s=1.0)
    assert not leases.may_follow(head(2, FIRST, seat=SEATS[1]), b"", FIRST, FROM_0, now_s=1.0)


def test_another_writers_head_is_taken_after_the_writer_let_go_in_the_chain() -> None:
    gone = head(2, FIRST, lease_s=0)
    other = head(3, gone, desktop=True)
    assert leases.may_follow(other, gone.link, FIRST, FROM_0, now_s=1.0)
    assert leases.may_follow(other, b"", gone, Lease(FROM_0.holder, 600.0), now_s=1.0)


def test_another_writers_head_is_taken_when_it_says_that_it_takes_over() -> None:
    taken = head(2, FIRST, desktop=True, takes_over=True)
    after = head(3, taken, desktop=True)
    assert leases.may_follow(taken, b"", FIRST, FROM_0, now_s=1.0)
    assert leases.may_follow(after, taken.link, FIRST, FROM_0, now_s=1.0)
    assert not leases.may_follow(after, head(2, FIRST, desktop=True).link, FIRST, FROM_0, now_s=1.0)


def test_new_epoch_asks_no_lease() -> None:
    recovered = make_identity("recovered", owner="customer", epoch=2)
    made = heads.sign(recovered, handle=HANDLE, version=2, previous=FIRST.digest, sealed=b"sealed")
    assert leases.may_follow(made, b"", FIRST, FROM_0, now_s=1.0)


@given(st.floats(0, 1e6), st.floats(0, 300), st.integers(1, 3600), st.floats(0.95, 1.05), st.floats(0, 4000))
def test_holder_never_counts_on_a_supplier_longer_than_it_counts_on_him(
    sent_s: float, on_its_way_s: float, lease_s: int, pace: float, later_s: float
) -> None:
    """A supplier's clock may go faster by a twentieth, and nobody's clocks agree."""
    his = leases.counts_until_s(sent_s, lease_s)
    is_counted = sent_s + on_its_way_s + later_s < his
    its_time = later_s * pace
    assert not is_counted or its_time < lease_s


# -- two writers, some suppliers, and anything that may happen -------------------------------------


class Shelf:
    """What one supplier knows."""

    def __init__(self) -> None:
        self.held: Head | None = None
        self.lease: Lease | None = None
        self.now_s = 0.0

    def restart(self) -> None:
        self.lease = leases.of_head(self.held, now_s=self.now_s) if self.held is not None else None

    def put(self, made: Head, links: bytes) -> bool:
        verdict = heads.judge(made, links, self.held)
        if verdict is not Verdict.NEWER:
            return False
        if self.held is not None and not leases.may_follow(made, links, self.held, self.lease, now_s=self.now_s):
            return False
        self.held, self.lease = made, leases.of_head(made, now_s=self.now_s)
        return True


class Story:
    """Two writers of one owner who write when they like, and three suppliers."""

    def __init__(self) -> None:
        self.shelves = [Shelf() for _ in range(3)]
        self.lines: dict[bytes, tuple[Head, ...]] = {}  # by digest of a head: all up to it
        self.own: list[tuple[Head, ...]] = [(), ()]
        self.counted: list[tuple[Head, ...]] = []

    def write(self, who: int, *, takes_over: bool) -> None:
        line = self.own[who]
        made = head(len(line) + 1, line[-1] if line else None, desktop=bool(who), takes_over=takes_over)
        self.own[who] = self.lines[made.digest] = (*line, made)

    def bring(self, who: int, at: int) -> None:
        shelf, line = self.shelves[at], self.own[who]
        if not line:
            return
        known = self.lines[shelf.held.digest] if shelf.held is not None else ()
        between = line[len(known) : -1] if line[: len(known)] == known else ()
        shelf.put(line[-1], b"".join(each.link for each in between))
        self.note()

    def adopt(self, who: int, at: int) -> None:
        found = self.shelves[at].held
        if found is not None:
            self.own[who] = self.lines[found.digest]

    def ask(self, who: int, at: int, *, takes_over: bool) -> bool:
        shelf = self.shelves[at]
        asker = Holder((DESKTOP if who else LAPTOP).node, SEATS[0])
        said, shelf.lease = leases.ask(shelf.lease, asker, lease_s=LEASE_S, takes_over=takes_over, now_s=shelf.now_s)
        return said is Answer.YOURS

    def note(self) -> None:
        """Note what counts now. It must lie on one line with all that ever did."""
        held = [self.lines[shelf.held.digest] for shelf in self.shelves if shelf.held is not None]
        for line in held:
            if sum(other[: len(line)] == line for other in held) >= 2:
                self.counted.append(line)
                for before in self.counted:
                    shorter, longer = sorted((before, line), key=len)
                    assert longer[: len(shorter)] == shorter, "two writers were accepted"


ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("bring"), st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.just("bring"), st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.just("adopt"), st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.just("ask"), st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.just("restart"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("time"), st.integers(0, 2), st.sampled_from([1, LEASE_S, 10 * LEASE_S])),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, min_size=10, max_size=40))
def test_never_two_accepted_writers_whatever_clocks_and_people_do(story: list[tuple[str, int, int]]) -> None:
    """Not by leases: writers here write without asking, take over at will, and clocks go as they like."""
    world = Story()
    for what, who, more in story:
        match what:
            case "write":
                world.write(who, takes_over=bool(more))
            case "bring":
                world.bring(who, more)
            case "adopt":
                world.adopt(who, more)
            case "ask":
                world.ask(who, more, takes_over=False)
            case "restart":
                world.shelves[who].restart()
            case "time":
                world.shelves[who].now_s += more


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 2), st.sampled_from([0.0, 0.0, 1.0, 590.0]), st.booleans()),
        max_size=40,
    ),
    st.lists(st.floats(0.96, 1.04), min_size=5, max_size=5),
)
def test_never_two_take_themselves_for_the_holder(
    story: list[tuple[int, int, float, bool]], paces: list[float]
) -> None:
    """Nobody takes over; clocks agree on nothing, and go at paces that differ by less than a twentieth."""
    world, true_s = Story(), 0.0
    until_s: list[dict[int, float]] = [{}, {}]
    for who, at, later_s, is_lost in story:
        true_s += later_s
        for shelf, pace in zip(world.shelves, paces, strict=False):
            shelf.now_s = true_s * pace
        sent_s = true_s * paces[3 + who]
        is_granted = world.ask(who, at, takes_over=False)
        if is_granted and not is_lost:
            until_s[who][at] = leases.counts_until_s(sent_s, LEASE_S)
        elif not is_granted:
            until_s[who].pop(at, None)
        holders = [sum(true_s * paces[3 + each] < end_s for end_s in until_s[each].values()) >= 2 for each in (0, 1)]
        assert not all(holders)


def test_liar_that_answers_first_names_nobody_whom_more_do_not_name() -> None:
    liar, told = NodeId(b"l" * 32), NodeId(b"t" * 32)
    assert leases.most_named([liar, told, told]) == told
    assert leases.most_named([liar]) == liar


@pytest.mark.parametrize("links", [b"", b"l" * heads.LINK_BYTES, b"l" * heads.LINK_BYTES * heads.KEPT_LINKS])
def test_note_of_the_holder_comes_back_from_behind_the_links(links: bytes) -> None:
    assert leases.split_note(links) == (links, b"")
    for lease in (None, Lease(HOLDERS[0], 100.0), Lease(HOLDERS[3], 100.0)):
        kept, noted = leases.split_note(links + leases.note(lease, now_s=90.0))
        assert kept == links
        again = leases.of_note(noted, now_s=1000.0)
        assert again == (None if lease is None else Lease(lease.holder, 1010.0))


def test_note_that_is_damaged_names_nobody() -> None:
    noted = bytearray(leases.note(Lease(HOLDERS[0], 100.0), now_s=90.0))
    noted[-4] = 255
    assert leases.of_note(bytes(noted), now_s=0.0) is None
