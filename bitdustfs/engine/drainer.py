"""The drainer: bring what a leaving supplier holds to others, and then give it up.

    LEAVING -> each fragment it holds: another supplier acknowledges it -> one transaction notes it there, and lets
    it go here when that is safe -> it holds nothing that is needed -> FIRED -> the next head does not list it

At no moment does a block have fewer held fragments (invariant I9). A fragment comes from the leaving supplier if it
answers, else it is made again from k others, and its root is checked either way (I10). The catalog is all that is
remembered: a killed process goes on with what is still there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from bitdustfs.core import erasure, fragment, placement
from bitdustfs.core.placement import Candidate
from bitdustfs.core.standing import Event
from bitdustfs.core.surplus import Place, spread
from bitdustfs.core.units import format_size
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.holder_pages import holder_pages
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.monitor import Monitor
from bitdustfs.engine.passed_over import PassedOver
from bitdustfs.engine.rebuilder import Rebuilder
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.sending import FragmentSink, send
from bitdustfs.engine.uploads import Uploads
from bitdustfs.errors import BadRequest, BitdustError, NotFound, PeerError, PeerFull, PeerRefused, RootDiffers
from bitdustfs.model import (
    BlockRow,
    FragmentName,
    FragmentRow,
    FragmentState,
    Standing,
    Supplier,
    SupplierNo,
    Wanting,
    short,
)
from bitdustfs.ports import Catalog, Crunch

LOOK_EVERY_S = 5.0
TIDY_EVERY_S = 600.0  # (tune) it goes through all that those have who were given up
AT_ONCE = 3  # (tune) fragments on their way: each takes up to 8 MiB of memory
PAGE = 64  # fragments looked at in one go
_log = logging.getLogger(__name__)


class Drainer:
    """Empty the suppliers that are leaving.

    Attributes:
        may_drain: whether nobody is known to know more than we do.
        waiting: of suppliers that are leaving, how many fragments nobody takes now, as the last look found.
        may_erase: says whether a supplier owes us nothing any more: it is not asked to let anything go.
        n_with_one_less: how many suppliers blocks want when one less is hired.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        fragments: Fragments,
        sink: FragmentSink,
        uploads: Uploads,
        releases: Releases,
        rebuilder: Rebuilder,
        monitor: Monitor,
        crunch: Crunch,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._fragments = fragments
        self._sink = sink
        self._uploads = uploads
        self._releases = releases
        self._rebuilder = rebuilder
        self._monitor = monitor
        self._crunch = crunch
        self._passed_over = PassedOver(sink)
        self._looks = Looks(journal.bell, LOOK_EVERY_S)
        self.may_drain: Callable[[], bool] = lambda: True
        self.waiting: dict[SupplierNo, int] = {}
        self._tidied_at = -TIDY_EVERY_S
        self.may_erase: Callable[[SupplierNo], bool] = lambda _supplier: False
        self.n_with_one_less: Callable[[], int] = lambda: max((code.n for code in catalog.codes()), default=0)

    async def run(self) -> None:
        """Drain until cancelled."""
        while True:
            leaving = [row for row in self._catalog.suppliers() if row.standing is Standing.LEAVING]
            for row in leaving:
                if self._journal.refusal is None and self.may_drain():
                    await self._drain(row)
            self.waiting = {s: count for s, count in self.waiting.items() if s in {row.supplier for row in leaving}}
            if trio.current_time() - self._tidied_at >= TIDY_EVERY_S:
                self._tidied_at = trio.current_time()
                for row in self._catalog.suppliers():
                    is_gone = row.standing is Standing.FIRED or (row.is_lost and self.may_erase(row.supplier))
                    if is_gone and self._journal.refusal is None and self.may_drain():
                        await self._tidy(row)
            tidied_s = trio.current_time() - self._tidied_at
            await self._looks.next(within_s=0 if leaving else TIDY_EVERY_S - tidied_s)

    def leave(self, label: str) -> Supplier:
        """Begin to give a supplier up. Returns its row of now.

        Raises:
            NotFound: nobody has that label. BadRequest: the others are too few, or have too little room; or it is
                lost, and something can be read again only if it comes back.
            DiskFull, DiskFault, ReadOnly.
        """
        row = self._called(label)
        if row.standing is Standing.HIRED and (why := self.why_not(row)):
            raise BadRequest(what=why)
        if row.is_lost and self._is_last_hope(row):
            raise BadRequest(
                what=f"{label} is lost, and some of what it kept can be read again only if it comes back: it is "
                f"waited for. `bitdustfs status` says what that is; delete that, and {label} can leave"
            )
        self._monitor.meets(row, Event.LEAVE)
        return self._called(label)

    def stay(self, label: str) -> Supplier:
        """End what `leave` began; what was brought elsewhere stays there. Returns its row of now.

        Raises:
            NotFound: nobody has that label. BadRequest: it is not leaving. DiskFull, DiskFault, ReadOnly.
        """
        row = self._called(label)
        if row.standing is not Standing.LEAVING:
            raise BadRequest(what=f"{label} is not leaving; `bitdustfs hire` takes on one that was given up")
        self._monitor.meets(row, Event.HIRE)
        return self._called(label)

    def _called(self, label: str) -> Supplier:
        for row in self._catalog.suppliers():
            if row.label == label:
                return row
        raise NotFound(what=f"no supplier is called {label!r}; `bitdustfs suppliers` lists them")

    def why_not(self, leaving: Supplier) -> str:
        """Why the others cannot take what a supplier holds, and what to do; "": they can."""
        rows = self._catalog.suppliers()
        others = [row for row in rows if row.is_hired and row.supplier != leaving.supplier]
        online = set(self._sink.online())
        spares = [row for row in rows if row.standing is Standing.CANDIDATE and row.supplier in online]
        need = self.n_with_one_less()
        if len(others) + len(spares) < need:
            return (
                f"without {leaving.label} too few suppliers are left, {len(others) + len(spares)} where each "
                f"block needs {need}: hire another supplier first, or choose a code with fewer fragments "
                "(`bitdustfs mount --code`), then let this one leave"
            )
        known = self._sink.space()
        room = sum(
            max(0, known[row.supplier][0] if row.supplier in online else row.capacity_bytes - row.used_bytes)
            for row in [*others, *spares]
        )
        if room < leaving.used_bytes:
            return (
                f"{leaving.label} keeps {format_size(leaving.used_bytes)} for you, and the others have room for "
                f"{format_size(room)}: hire more space first, then let this one leave"
            )
        return ""

    def _is_last_hope(self, lost: Supplier) -> bool:
        """Whether a block that cannot be read has a fragment there, which no head would tell of any more."""
        at: Wanting | None = None
        while page := self._catalog.wanting_blocks(PAGE, at):
            at = page[-1]
            for block in (each.block for each in page if each.spare < 0):
                if any(row.supplier == lost.supplier and _is_absent(row) for row in self._catalog.fragments(block)):
                    return True
            if at.spare >= 0:
                break
        return False

    # -- one supplier ------------------------------------------------------------------------------------------

    async def _drain(self, leaving: Supplier) -> None:
        """Go once through what it holds, and give it up if that is nothing any more."""
        places = trio.CapacityLimiter(AT_ONCE)
        left = 0

        async def move(row: FragmentRow) -> None:
            nonlocal left
            async with places:
                try:
                    left += not await self._move(row, leaving)
                except BitdustError as error:
                    left += 1
                    _log.info("a fragment of block %d stays with %s for now: %s", row.block, leaving.label, error)

        for page in holder_pages(self._catalog, leaving.supplier, FragmentState.HELD, PAGE):
            async with trio.open_nursery() as nursery:
                for row in page:
                    nursery.start_soon(move, row)
            await trio.lowlevel.checkpoint()
        self.waiting[leaving.supplier] = left
        if not left:
            await self._give_up(leaving)

    async def _give_up(self, leaving: Supplier) -> None:
        """Forget what it was to get or has lost, and fire it. What came to it meanwhile is for the next look."""
        if self._catalog.fragments_at(leaving.supplier, FragmentState.ABSENT, 1):
            return  # it was lost a moment ago, and is back: they are held again soon
        if self._is_on_its_way_to(leaving.supplier):
            return  # who is given up gets nothing that would count as held
        for state in (FragmentState.WANTED, FragmentState.LOST):
            while page := self._catalog.fragments_at(leaving.supplier, state, PAGE):
                with self._journal.operation():
                    for row in page:
                        block = self._catalog.block(row.block)
                        if block is not None:
                            self._releases.forget_fragments(block, [row])
                await trio.lowlevel.checkpoint()
        # no await from here on
        if self._catalog.fragments_at(leaving.supplier, FragmentState.HELD, 1):
            return
        now = next((row for row in self._catalog.suppliers() if row.supplier == leaving.supplier), leaving)
        if now.standing is Standing.LEAVING:
            self._monitor.meets(now, Event.EMPTY)
            _log.warning("supplier %s holds nothing any more that is needed, and is given up", now.label)

    def _is_on_its_way_to(self, supplier: SupplierNo) -> bool:
        """Whether some block that began to leave before is still being sent there."""
        begun = (each for _block_id, fragments in self._catalog.uploads() for each, _name in fragments)
        placed = (row for block in self._uploads.on_their_way for row in self._catalog.fragments(block))
        return supplier in begun or any(
            row.supplier == supplier and row.state is FragmentState.WANTED for row in placed
        )

    async def _tidy(self, gone: Supplier) -> None:
        """Forget what is with one who was given up, where others have enough, so that no row stays for ever."""
        for page in holder_pages(self._catalog, gone.supplier, FragmentState.ABSENT, PAGE):
            with self._journal.operation():
                for row in page:
                    block = self._catalog.block(row.block)
                    if block is not None and len({index for index, _ in self._others(row)}) >= block.code.n:
                        self._releases.forget_fragments(block, [row])
            await trio.lowlevel.checkpoint()
        if not self.may_erase(gone.supplier):
            return
        while names := self._catalog.releases(gone.supplier, self._catalog.last_change + 1, PAGE):
            with self._journal.operation():
                self._catalog.drop_releases(gone.supplier, names)
            await trio.lowlevel.checkpoint()

    # -- one fragment ------------------------------------------------------------------------------------------

    async def _move(self, row: FragmentRow, leaving: Supplier) -> bool:
        """See that a fragment is not needed any more where it is. False: nobody takes it now."""
        is_elsewhere = await self._is_elsewhere(row)
        block = self._catalog.block(row.block)
        if block is None:
            return True
        if row.block in self._uploads.on_their_way or row.block in self._rebuilder.at_work:
            return False
        if (is_elsewhere or row not in self._catalog.fragments(row.block)) and self._let_go(block, row):
            return True
        target = self._target(block, row)
        if target is None:
            return False
        self._rebuilder.at_work.add(row.block)
        try:
            content = await self._content(block, row)
            name = self._releases.name(block, row.index, target.supplier)
            assert name is not None
            async with self._uploads.errand([(target.supplier, name)]):
                if not await self._send(block, row.index, target, name, content):
                    return False
                self._note(block, row, target, name, len(content))
        finally:
            self._rebuilder.at_work.discard(row.block)
            self._journal.bell.ring()
        return True

    async def _is_elsewhere(self, row: FragmentRow) -> bool:
        """Whether the others show enough of its block for this one: who was away may be back with an empty disk.

        Another one has the same fragment; or, where n was lowered, n others have other ones.
        """
        block = self._catalog.block(row.block)
        if block is None:
            return False
        others = sorted(self._others(row))
        for index, supplier in others:
            if index == row.index and await self._fragments.leaves.proves(supplier, block, index):
                return True
        if len({index for index, _ in others}) < block.code.n or spread(others) < block.code.n:
            return False
        for index, supplier in others:
            if not await self._fragments.leaves.proves(supplier, block, index):
                return False
        return True

    def _let_go(self, block: BlockRow, row: FragmentRow) -> bool:
        """Let a fragment go at once if its block has as many without it. True too if it is not held any more."""
        others, here = self._others(row), (row.index, row.supplier)
        if here in {(each.index, each.supplier) for each in self._catalog.fragments(row.block) if _is_held(each)}:
            if len({index for index, _ in others}) < min(block.code.n, len({index for index, _ in {*others, here}})):
                return False
            if spread(others) < min(block.code.n, spread({*others, here})):
                return False
            self._releases.forget_fragments(block, [row])
        return True

    def _others(self, row: FragmentRow) -> set[Place]:
        """The other held fragments of its block that are with hired suppliers, who are not leaving or lost too."""
        hired = {each.supplier for each in self._catalog.suppliers() if each.is_hired}
        held = {(each.index, each.supplier) for each in self._catalog.fragments(row.block) if _is_held(each)}
        return {place for place in held if place[1] in hired and place != (row.index, row.supplier)}

    def _target(self, block: BlockRow, row: FragmentRow) -> Supplier | None:
        """Who could take a fragment: hired, with room, and without any of that block, or with a spare one only."""
        rows = self._catalog.fragments(block.block)
        busy = {each.supplier for each in rows if each.state is not FragmentState.WANTED}
        has_it = {
            each.supplier for each in rows if each.index == row.index and each.state is not FragmentState.WANTED
        }
        length = erasure.fragment_length(block.length, block.code.k)
        others = self._others(row)
        answering = self._uploads.candidates()
        free = [
            c
            for c in answering
            if c.supplier not in has_it
            and c.supplier not in self._passed_over
            and not self._is_going(block, row.index, c.supplier)
            and spread({*others, (row.index, c.supplier)}) > spread(others)
        ]
        holding = {supplier for _, supplier in others}
        taken: Sequence[Candidate] = [c for c in answering if c.supplier in holding]
        for some in ([c for c in free if c.supplier not in busy], free):
            elsewhere = [c for c in taken if c.supplier not in {each.supplier for each in some}]
            if chosen := placement.choose(some, 1, fragment_bytes=length, taken=elsewhere):
                return next(each for each in self._catalog.suppliers() if each.supplier == chosen[0])
        return None

    def _is_going(self, block: BlockRow, index: int, supplier: SupplierNo) -> bool:
        name = self._releases.name(block, index, supplier)
        return name is None or self._releases.is_going(supplier, name)

    async def _content(self, block: BlockRow, row: FragmentRow) -> bytes | memoryview:
        """A fragment as it should be: from who has it, else made again. Raises RootDiffers."""
        got = await self._fragments.leaves.whole(block, row.index, row.supplier)
        if got is not None:
            return got
        content = await self._fragments.block_range(block, 0, block.length)

        def make() -> bytes | memoryview:
            (made,) = erasure.remake(content, block.code.k, [row.index])
            if fragment.root(made) != block.roots[row.index]:
                raise RootDiffers(block=short(block.block_id), index=row.index)
            return made

        return await self._crunch.run(make)

    async def _send(
        self, block: BlockRow, index: int, target: Supplier, name: FragmentName, content: bytes | memoryview
    ) -> bool:
        began, said = trio.current_time(), self._sink.says(target.supplier)
        try:
            await send(self._sink, target.supplier, name, block.roots[index], content)
        except (PeerError, trio.TooSlowError) as error:
            if isinstance(error, (PeerFull, PeerRefused)):
                self._uploads.refused(name)
            self._passed_over.note(target.supplier, error, said=said, took_s=trio.current_time() - began)
            _log.info("%s did not take a fragment: %s", target.label, error)
            return False
        return True

    def _note(self, block: BlockRow, row: FragmentRow, target: Supplier, name: FragmentName, length: int) -> None:
        """The target holds it: note that, and let it go where it was."""
        # no await: it is decided by what is there now
        with self._journal.operation():
            if not self._uploads.arrived(target.supplier, name):
                return
            now = self._catalog.block(block.block)
            if now is None or self._releases.is_given_up(target.supplier):  # the block, or the target, meanwhile
                self._releases.give_back([(target.supplier, name)])
                return
            for each in self._catalog.fragments(block.block):
                if (
                    each.supplier == target.supplier
                    and each.state is FragmentState.WANTED
                    and each.index != row.index
                ):
                    self._releases.forget_fragments(block, [each])  # a send of before may have arrived there
            self._catalog.put_fragment(FragmentRow(block.block, row.index, target.supplier, FragmentState.HELD))
            self._catalog.charge_supplier(target.supplier, length, 1)
            self._let_go(now, row)


def _is_held(row: FragmentRow) -> bool:
    return row.state is FragmentState.HELD


def _is_absent(row: FragmentRow) -> bool:
    return row.state is FragmentState.ABSENT
