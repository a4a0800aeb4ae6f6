"""Who did not take a fragment is passed over for a while; not longer than until he would take one for certain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.wire import Refused
from bitdustfs.engine.passed_over import PASS_OVER_S, PassedOver
from bitdustfs.errors import HeadBehind, PeerGone
from bitdustfs.model import SupplierNo
from bitdustfs.testing.suppliers import MemorySuppliers

ONE, OTHER = SupplierNo(1), SupplierNo(2)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def behind(version: int) -> HeadBehind:
    return HeadBehind(peer="s1", what="it knows it", code=Refused.BEHIND, detail=version)


async def test_supplier_that_took_nothing_is_passed_over_for_a_while(autojump_clock: MockClock) -> None:
    passed_over = PassedOver(MemorySuppliers(2))
    passed_over.note(ONE, PeerGone(peer="s1", what="no answer"), said=0, took_s=PASS_OVER_S)
    assert ONE in passed_over and OTHER not in passed_over
    await trio.sleep(passed_over.ends_in_s() - 1)
    assert ONE in passed_over
    await trio.sleep(1)
    assert ONE not in passed_over
    assert trio.current_time() == 2 * PASS_OVER_S


async def test_supplier_that_knows_a_newer_head_is_asked_again_as_soon_as_one_as_new_is_said(
    autojump_clock: MockClock,
) -> None:
    sink = MemorySuppliers(2)
    passed_over = PassedOver(sink)
    passed_over.note(ONE, behind(5), said=2, took_s=0)
    sink.head_version = 4
    assert ONE in passed_over
    sink.goes_over[ONE] = 5
    assert ONE not in passed_over


async def test_supplier_that_was_told_meanwhile_is_asked_again_at_once(autojump_clock: MockClock) -> None:
    sink = MemorySuppliers(2)
    sink.goes_over[ONE] = 5
    passed_over = PassedOver(sink)
    passed_over.note(ONE, behind(5), said=2, took_s=0)
    assert ONE not in passed_over


async def test_supplier_that_refuses_whatever_is_said_is_passed_over(autojump_clock: MockClock) -> None:
    sink = MemorySuppliers(2)
    sink.head_version = 5
    passed_over = PassedOver(sink)
    passed_over.note(ONE, behind(5), said=5, took_s=0)
    sink.head_version = 6
    assert ONE in passed_over


async def test_what_a_supplier_said_before_is_not_held_against_what_it_says_now(autojump_clock: MockClock) -> None:
    sink = MemorySuppliers(2)
    passed_over = PassedOver(sink)
    passed_over.note(ONE, behind(5), said=2, took_s=0)
    passed_over.note(ONE, PeerGone(peer="s1", what="no answer"), said=2, took_s=0)
    sink.head_version = 9
    assert ONE in passed_over
