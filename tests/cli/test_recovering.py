"""What recovery does while too few suppliers answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli.recovering import WAIT_S, Seeks, Wish, find_state
from bitdustfs.core import head as heads
from bitdustfs.core.head import NO_HEAD
from bitdustfs.core.recovery import Answer, Found
from bitdustfs.core.replica import HeadContent, SupplierEntry
from bitdustfs.errors import Unavailable
from bitdustfs.model import NodeId
from bitdustfs.testing.swarm import make_identity

HEAD = heads.sign(make_identity("laptop"), handle=b"h" * 16, version=1, previous=NO_HEAD, sealed=b"sealed")
NODES = [NodeId(bytes([number]) * 32) for number in range(1, 4)]
CONTENT = HeadContent(1, 0, 1, (), (), tuple(SupplierEntry(n[0], n, n, f"s{n[0]}", "h:1") for n in NODES))


def found(answering: int) -> Found:
    """A head that so many of three suppliers show; two must."""
    answers = {n: Answer(HEAD) if n[0] <= answering else Answer(None, trouble="silence") for n in NODES}
    return Found(HEAD, CONTENT, answers)


@dataclass
class Script(Seeks):
    """Finds what it is told to find, one after another."""

    coming: list[Found]

    async def find(self, friends: Iterable[tuple[NodeId, str]]) -> Found:
        return self.coming.pop(0)


async def test_too_few_answers_end_a_recovery_that_neither_waits_nor_accepts() -> None:
    said: list[Found] = []
    with pytest.raises(Unavailable, match=r"2 suppliers must answer .*s2: silence; s3: silence"):
        await find_state(Script([found(1)]), [], Wish(accept=False, wait=False), said.append)
    assert [each.answered for each in said] == [1]


async def test_too_few_answers_are_accepted_when_that_is_wished() -> None:
    taken = await find_state(Script([found(1)]), [], Wish(accept=True, wait=True), lambda _found: None)
    assert not taken.is_certain


async def test_suppliers_are_asked_again_until_enough_answer(autojump_clock: MockClock) -> None:
    said: list[Found] = []
    taken = await find_state(Script([found(1), found(1), found(2)]), [], Wish(accept=False, wait=True), said.append)
    assert taken.is_certain
    assert len(said) == 3
    assert trio.current_time() == 2 * WAIT_S
