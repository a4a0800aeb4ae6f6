"""Releases at rest: who is about to take over what is being let go waits until the supplier has answered."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bitdustfs.engine.releases import AGAIN_S, PATIENCE_S, Releases
from bitdustfs.model import FragmentName, SupplierNo
from bitdustfs.testing.world import SECRETS
from tests.engine.volume import Volume


class SlowToLetGo:
    """One supplier, which lets go when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answers = trio.Event(), trio.Event()

    def online(self) -> Sequence[SupplierNo]:
        return (SupplierNo(1),)

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        self.asked.set()
        await self.answers.wait()


async def test_nobody_is_at_rest_before_the_answer_and_nothing_more_is_let_go(autojump_clock: MockClock) -> None:
    volume, supplier = Volume(), SlowToLetGo()
    releases = Releases(volume.catalog, volume.journal, supplier, SECRETS)
    is_coming, rested = False, trio.Event()
    releases.may_release = lambda: not is_coming
    with volume.journal.operation():
        releases.abandon((SupplierNo(1), FragmentName(bytes([number]) * 32)) for number in range(3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(releases.run)
        await supplier.asked.wait()
        is_coming = True

        async def rest() -> None:
            await releases.at_rest()
            rested.set()

        nursery.start_soon(rest)
        await trio.sleep(5)
        assert not rested.is_set()
        supplier.answers.set()
        await rested.wait()
        await wait_all_tasks_blocked()
        assert not volume.catalog.releases(SupplierNo(1), 0, 10)
        nursery.cancel_scope.cancel()


async def test_what_a_supplier_may_be_told_late_is_not_taken_back_because_it_was_to_be_tried_again(
    autojump_clock: MockClock,
) -> None:
    volume = Volume()
    releases = Releases(volume.catalog, volume.journal, SlowToLetGo(), SECRETS)
    supplier, name = SupplierNo(1), FragmentName(bytes(32))
    is_safe = True
    releases.safe_change = lambda: 0 if is_safe else -1
    with volume.journal.operation():
        releases.abandon([(supplier, name)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(releases.run)
        await trio.sleep(PATIENCE_S + 1)
        is_safe = False  # an older state, which was found, may need it
        await trio.sleep(AGAIN_S)
        assert releases.is_going(supplier, name)
        await trio.sleep(PATIENCE_S)
        assert not releases.is_going(supplier, name)
        nursery.cancel_scope.cancel()
