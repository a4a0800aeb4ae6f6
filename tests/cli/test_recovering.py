"""What recovery does while too few suppliers answer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli.recovering import WAIT_S, Seeks, Wish, find_state, refuse_older
from bitdustfs.core import head as heads
from bitdustfs.core.head import NO_HEAD, Head
from bitdustfs.core.recovery import Answer, Found
from bitdustfs.core.replica import HeadContent, SupplierEntry
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home
from bitdustfs.engine.publisher import keep_head
from bitdustfs.errors import NotFound, Unavailable
from bitdustfs.model import NodeId
from bitdustfs.testing.swarm import make_identity

LAPTOP = make_identity("laptop")
OLDER = heads.sign(LAPTOP, handle=b"h" * 16, version=1, previous=NO_HEAD, sealed=b"sealed")
HEAD = heads.sign(LAPTOP, handle=b"h" * 16, version=2, previous=OLDER.digest, sealed=b"sealed")
NODES = [NodeId(bytes([number]) * 32) for number in range(1, 4)]
CONTENT = HeadContent(1, 0, 1, (), (), tuple(SupplierEntry(n[0], n, n, f"s{n[0]}", "h:1") for n in NODES))


def found(answering: int, head: Head = HEAD) -> Found:
    """A head that so many of three suppliers show; two must."""
    answers = {n: Answer(head) if n[0] <= answering else Answer(None, trouble="silence") for n in NODES}
    return Found(head, CONTENT, answers)


@dataclass
class Script(Seeks):
    """Finds what it is told to find, one after another; None: nothing."""

    coming: list[Found | None]
    asked: list[dict[NodeId, str]] = field(default_factory=list)

    async def find(self, friends: Iterable[tuple[NodeId, str]]) -> Found:
        self.asked.append(dict(friends))
        coming = self.coming.pop(0)
        if coming is None:
            raise NotFound(what="nobody answers")
        return coming


async def test_too_few_answers_are_told_and_taken_as_they_are_if_nothing_is_wished() -> None:
    said: list[Found] = []
    taken = await find_state(Script([found(1)]), [], Wish(accept=False, wait=False), said.append)
    assert not taken.is_certain
    assert said == [taken]


async def test_suppliers_are_asked_again_until_enough_answer(autojump_clock: MockClock) -> None:
    said: list[Found] = []
    taken = await find_state(Script([found(1), found(1), found(2)]), [], Wish(accept=False, wait=True), said.append)
    assert taken.is_certain
    assert len(said) == 3
    assert trio.current_time() == 2 * WAIT_S


async def test_waiting_goes_on_when_the_friend_is_gone_and_others_are_known(autojump_clock: MockClock) -> None:
    seeker = Script([found(1), None, found(2)])
    taken = await find_state(seeker, [(NODES[0], "friend:1")], Wish(accept=False, wait=True), lambda _found: None)
    assert taken.is_certain
    assert [set(each) for each in seeker.asked] == [{NODES[0]}, set(NODES), set(NODES)]


async def test_waiting_does_not_end_with_an_older_state_than_was_seen(autojump_clock: MockClock) -> None:
    seeker = Script([found(1), found(2, OLDER), found(2)])
    taken = await find_state(seeker, [], Wish(accept=False, wait=True), lambda _found: None)
    assert taken.head == HEAD


async def test_nobody_who_knows_the_volume_ends_even_a_recovery_that_waits() -> None:
    with pytest.raises(NotFound):
        await find_state(Script([None]), [], Wish(accept=False, wait=True), lambda _found: None)


def test_older_state_than_the_one_that_is_only_read_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.keys.touch()
    with closing(SqliteCatalog(home.catalog, create=True)) as catalog:
        keep_head(catalog, HEAD.raw)
        catalog.commit()
    refuse_older(home, found(1))
    with pytest.raises(Unavailable, match=r"show version 1, and version 2 is here"):
        refuse_older(home, found(2, OLDER))
