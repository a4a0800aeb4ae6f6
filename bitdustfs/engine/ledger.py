"""The ledger of one process: what friends keep for us, and we for them, counted and kept (core/ledger).

    each TICK_S: holdings, of suppliers that answer -> windows of our accounts       `proven`, `lost`: the auditor
                 what owners store here who are there -> gifts                       `heard`: their STATs
    each NOTE_S, at each receipt, and at the end -> the store

A look counts only until the next one, and only if both saw the same supplier answer: with the lesser of what the two
saw. A page that is damaged costs what is written on it, and what was signed comes back from the other side
(engine/receipts).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeVar

import trio

from bitdustfs.core import ledger, receipt
from bitdustfs.core.grace import seen_s
from bitdustfs.core.ledger import Account, Gift
from bitdustfs.core.receipt import Receipt, View
from bitdustfs.core.report import BalanceReport
from bitdustfs.errors import BadFormat, DiskFault, DiskFull, Unavailable
from bitdustfs.model import NodeId, OwnerId, short
from bitdustfs.ports import Crunch, LedgerStore, Wall

log = logging.getLogger(__name__)

TICK_S: Final = 60.0  # (tune) between two looks
NOTE_S: Final = 900.0  # (tune) between two notes: what a crash may forget
PRESENT_S: Final = 300.0  # (tune) a customer asks for his room every 30 s: who has not for so long is not there
_LAST_WORDS_S: Final = 2.0  # for the last note
_DISK_ERRORS = (DiskFull, DiskFault, Unavailable)

P = TypeVar("P", Account, Gift)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one node of an owner holds for us now."""

    owner: OwnerId
    node: NodeId
    bytes: int
    answers: bool
    counts: bool = True  # its fragments count as held, and will when it is back


async def holds_nothing() -> Sequence[Holding]:
    """No holdings: of a process without a catalog."""
    return ()


class Ledger:
    """The accounts with all owners, and the gifts to them.

    Args:
        store, crunch: None: they are forgotten with the process.
        present_s: how long an owner counts as there after `heard`.
    Attributes:
        holdings: tells what suppliers hold for us; set by whoever has a catalog.
        keeps: tells how many bytes we keep for an owner; 0 too while nobody can say.
    Raises:
        DiskFault, BadFormat: the ledger cannot be read at all.
    """

    def __init__(
        self,
        store: LedgerStore | None,
        *,
        crunch: Crunch | None,
        wall: Wall,
        tick_s: float = TICK_S,
        present_s: float = PRESENT_S,
    ) -> None:
        self._store = store
        self._crunch = crunch
        self._wall = wall
        self._tick_s = tick_s
        self._present_s = present_s
        self._accounts = _read(store.accounts() if store is not None else {}, ledger.decode_account, Account())
        self._gifts = _read(store.gifts() if store is not None else {}, ledger.decode_gift, Gift())
        self._held: dict[NodeId, int] = {}  # by suppliers that answered, when it was looked last
        self._kept: dict[OwnerId, int] = {}  # for owners that were there, when it was looked last
        self._heard: dict[OwnerId, float] = {}  # when an owner last asked for his room
        self._unsaved: set[tuple[bool, OwnerId]] = set()  # whether it is an account, and whose
        self._saving = trio.Lock()  # two pages of one owner must not be written in the wrong order
        self.holdings: Callable[[], Awaitable[Sequence[Holding]]] = holds_nothing
        self.keeps: Callable[[OwnerId], int] = lambda _owner: 0

    # -- what there is ------------------------------------------------------------------------------------------

    def account(self, owner: OwnerId) -> Account:
        """What an owner keeps for us."""
        return self._accounts.get(owner) or Account()

    def gift(self, owner: OwnerId) -> Gift:
        """What we keep for an owner."""
        return self._gifts.get(owner) or Gift()

    def balance(self, owner: OwnerId) -> BalanceReport:
        """Both, for people."""
        account, gift = self.account(owner), self.gift(owner)
        his, view = _receipt_in(gift.receipt), _view_in(account.view)
        ours = _receipt_in(account.receipt) if view is not None else None
        signed = his.byte_hours if his is not None else 0
        return BalanceReport(
            given_byte_hours=signed,
            given_since_s=his.since_s if his is not None else 0,
            given_until_s=his.told.to_s if his is not None else 0,
            given_bytes=his.told.held_bytes if his is not None else 0,
            given_counted=gift.byte_hours,
            given_differs=ledger.differs(signed=signed, counted=gift.byte_hours, held_bytes=gift.held_bytes),
            taken_byte_hours=account.byte_hours,
            taken_since_s=account.since_s,
            taken_bytes=account.held_bytes,
            taken_counted=view.byte_hours if view is not None else 0,
            taken_until_s=ours.told.to_s if ours is not None else 0,
            taken_differs=view is not None
            and ledger.differs(
                signed=account.byte_hours,
                counted=view.byte_hours,
                held_bytes=max(account.held_bytes, ours.told.held_bytes if ours is not None else 0),
            ),
        )

    def owners(self) -> Set[OwnerId]:
        """With whom anything was counted."""
        return self._accounts.keys() | self._gifts.keys()

    def now_s(self) -> int:
        return max(0, self._wall.now_ns() // 1_000_000_000)

    # -- what happens -------------------------------------------------------------------------------------------

    def proven(self, owner: OwnerId, node: NodeId) -> None:
        """A supplier has answered an audit well."""
        self._put_account(owner, ledger.proven(self.account(owner), node))

    def lost(self, owner: OwnerId, node: NodeId, lost_bytes: int) -> None:
        """A supplier has lost a fragment."""
        self._put_account(owner, ledger.lost(self.account(owner), node, lost_bytes))

    def heard(self, owner: OwnerId) -> None:
        """An owner with a contract has asked for his room: he is there, and counts too."""
        self._heard[owner] = trio.current_time()

    async def note_receipt(self, owner: OwnerId, account: Account) -> None:
        """Keep an account with a new receipt, durably. Raises DiskFull, DiskFault, Unavailable: nothing changed."""
        before = self.account(owner)
        self._put_account(owner, account)
        try:
            await self.save([(True, owner)])
        except _DISK_ERRORS:
            now = self.account(owner)  # it may have been counted meanwhile
            self._put_account(owner, replace(now, receipt=before.receipt, view=before.view))
            raise

    async def take_receipt(self, owner: OwnerId, raw: bytes) -> Gift:
        """Keep the receipt of an owner, durably. Raises DiskFull, DiskFault, Unavailable: nothing changed."""
        before = self.gift(owner)
        self._put_gift(owner, replace(before, receipt=raw))
        try:
            await self.save([(False, owner)])
        except _DISK_ERRORS:
            self._put_gift(owner, replace(self.gift(owner), receipt=before.receipt))
            raise
        return self.gift(owner)

    # -- over time ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Count until cancelled."""
        looked_at = noted_at = trio.current_time()
        try:
            while True:
                now = trio.current_time()
                await self.look(round(seen_s(now - looked_at, self._tick_s) * 1000))
                looked_at = now
                if now - noted_at >= NOTE_S:
                    await self._note()
                    noted_at = now
                await trio.sleep(self._tick_s)
        finally:
            with trio.move_on_after(_LAST_WORDS_S, shield=True):
                await self._note()

    async def look(self, elapsed_ms: int) -> None:
        """Count that what there was at the last look is there still, so much later."""
        held: dict[NodeId, int] = {}
        totals: dict[OwnerId, int] = {}
        for each in await self.holdings():
            totals[each.owner] = totals.get(each.owner, 0) + each.bytes
            if not each.counts:
                self._put_account(each.owner, ledger.given_up(self.account(each.owner), each.node))
            elif each.answers:
                held[each.node] = each.bytes
                least = min(each.bytes, self._held.get(each.node, 0))
                if least and elapsed_ms:
                    self._see(each, least, elapsed_ms)
        self._held = held
        for owner, total in totals.items():
            if total != self.account(owner).held_bytes:
                self._put_account(owner, replace(self.account(owner), held_bytes=total))
        self._look_here(elapsed_ms)

    async def save(self, pages: Iterable[tuple[bool, OwnerId]]) -> None:
        """Write pages durably. Raises DiskFull, DiskFault, Unavailable."""
        async with self._saving:
            for page in pages:
                self._unsaved.discard(page)
                if self._store is None or self._crunch is None:
                    continue
                is_account, owner = page
                try:
                    if is_account:
                        content = ledger.encode_account(self.account(owner))
                        await self._crunch.run(self._store.save_account, owner, content)
                    else:
                        content = ledger.encode_gift(self.gift(owner))
                        await self._crunch.run(self._store.save_gift, owner, content)
                except BaseException:
                    self._unsaved.add(page)
                    raise

    # -- private ------------------------------------------------------------------------------------------------

    def _see(self, holding: Holding, least: int, elapsed_ms: int) -> None:
        account = self.account(holding.owner)
        seen = ledger.seen(account, holding.node, least, elapsed_ms, now_s=self.now_s())
        self._put_account(holding.owner, seen)

    def _look_here(self, elapsed_ms: int) -> None:
        """What we keep for those who are there."""
        now, kept = trio.current_time(), {}
        self._heard = {owner: at for owner, at in self._heard.items() if now - at <= self._present_s}
        for owner in self._heard:
            kept[owner] = here = self.keeps(owner)
            least, gift = min(here, self._kept.get(owner, 0)), self.gift(owner)
            if least and elapsed_ms:
                gift = ledger.kept(gift, least, elapsed_ms, now_s=self.now_s())
            self._put_gift(owner, replace(gift, held_bytes=here))
        self._kept = kept

    def _put_account(self, owner: OwnerId, account: Account) -> None:
        if account != self.account(owner):
            self._accounts[owner] = account
            self._unsaved.add((True, owner))

    def _put_gift(self, owner: OwnerId, gift: Gift) -> None:
        if gift != self.gift(owner):
            self._gifts[owner] = gift
            self._unsaved.add((False, owner))

    async def _note(self) -> None:
        try:
            await self.save(tuple(self._unsaved))
        except _DISK_ERRORS as error:
            log.warning("the ledger is kept later: %s", error)


def _read(pages: Mapping[OwnerId, bytes], decode: Callable[[bytes], P], nothing: P) -> dict[OwnerId, P]:
    found = {}
    for owner, raw in pages.items():
        try:
            found[owner] = page = decode(raw)
            kept = _receipt_in(page.receipt)
            whose = kept and (kept.told.supplier if isinstance(page, Account) else kept.told.customer)
            if whose not in (None, owner):
                raise BadFormat(what="its receipt is about another owner")
            _view_in(page.view if isinstance(page, Account) else b"")
        except BadFormat as bad:
            log.error("the ledger's page for owner %s is damaged, and begins anew: %s", short(owner), bad)
            found[owner] = nothing
    return found


@lru_cache(maxsize=1024)  # `status --watch` asks for all of them again and again
def _receipt_in(raw: bytes) -> Receipt | None:
    return receipt.parse(raw) if raw else None


@lru_cache(maxsize=1024)
def _view_in(raw: bytes) -> View | None:
    return receipt.parse_view(raw) if raw else None
