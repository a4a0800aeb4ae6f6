"""Endings: which contracts have ended, and what becomes of what was stored under them.

It stays and can be read. Only GRACE_S after the end was first seen does it yield, and only to space needed: those
whose contract ended first go first. A clock that is wrong for a while ends nothing for good: an end that is not one
any more is forgotten. And the grace has to pass by three clocks: that on the wall, which may be wrong; the time for
which we have run since, which cannot jump; and that of a partner, by what he has signed last (AddressBook.others_s).
So whatever our own clock shows, nothing goes before another machine says too that it is that late.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

import trio

from bitdustfs.core.agreement import SKEW_S
from bitdustfs.core.grace import GRACE_S
from bitdustfs.engine.clerk import Clerk
from bitdustfs.errors import DiskFault, DiskFull, Unavailable
from bitdustfs.model import OwnerId, short
from bitdustfs.ports import ContractStore, Crunch, Shelf, Wall

log = logging.getLogger(__name__)

LOOK_S: Final = 900.0  # how often it is looked which contracts have ended: a run that is shorter adds no time


class Endings:
    """The ends of all contracts. Raises DiskFault, BadFormat: what is known of them cannot be read.

    Attributes:
        others_s: how late it is at least by a clock that is not ours, wall seconds; 0: nobody says, and nothing goes.
    """

    def __init__(self, clerk: Clerk, shelf: Shelf, store: ContractStore, crunch: Crunch, wall: Wall) -> None:
        self._clerk = clerk
        self._shelf = shelf
        self._store = store
        self._crunch = crunch
        self._wall = wall
        noted = store.endings()
        self._endings = {owner: at_s for owner, (at_s, _) in noted.items()}
        self._run_s = {owner: float(run_s) for owner, (_, run_s) in noted.items()}  # since they were noted
        self.others_s: Callable[[], int] = lambda: 0

    def use_shelf(self, shelf: Shelf, crunch: Crunch) -> None:
        """Look there from now on for what is stored."""
        self._shelf, self._crunch = shelf, crunch

    async def run(self) -> None:
        """Note which contracts end, until cancelled."""
        looked_at = trio.current_time()
        while True:
            now = trio.current_time()
            try:
                await self.note(min(now - looked_at, 2 * LOOK_S))
            except (DiskFull, DiskFault, Unavailable) as error:
                log.warning("whether contracts have ended is looked at later: %s", error)
            looked_at = now
            await trio.sleep(LOOK_S)

    async def note(self, run_s: float = 0.0) -> None:
        """Remember durably which contracts with something stored have ended, and forget it where one has not.

        Args:
            run_s: for how long we have run since this was called last.
        """
        for owner in tuple(self._clerk.agreements):
            known_s = self._endings.get(owner, 0)
            has_ended = self.has_ended(owner) and (known_s > 0 or self._shelf.used(owner)[1] > 0)
            is_odd = known_s > self._now_s() + SKEW_S  # it was noted by a clock that was ahead: it is seen now
            if has_ended == bool(known_s) and not is_odd:
                if has_ended and run_s and self._run_s.get(owner, 0.0) < GRACE_S:
                    self._run_s[owner] = self._run_s.get(owner, 0.0) + run_s
                    await self._crunch.run(self._store.save_ending, owner, known_s, int(self._run_s[owner]))
                continue
            at_s = self._now_s() if has_ended else 0
            await self._crunch.run(self._store.save_ending, owner, at_s, 0)
            self._run_s.pop(owner, None)
            if at_s:
                self._endings[owner] = at_s
                log.info("the contract with owner %s has ended: what is here stays for now", short(owner))
            else:
                del self._endings[owner]
                log.info("the contract with owner %s goes on", short(owner))

    def grace_ends_s(self, owner: OwnerId) -> int:
        """When what an owner stored may yield, as his contract has ended, by our own clock; 0: it has not."""
        if owner not in self._endings:
            return 0
        return max(self._date_s(owner), self._now_s() + self._left_s(owner))

    def _date_s(self, owner: OwnerId) -> int:
        """The end of the grace by dates: of the end, and of when it was seen by a clock that may have been behind."""
        now_s, dates = self._now_s(), [self._endings[owner]]
        if (agreed := self._clerk.allowance(owner)) is not None and agreed.until_s <= now_s:
            dates.append(agreed.until_s)
        for each in (self._clerk.in_force(owner), self._clerk.notice(owner)):
            if each is not None and each.terms.since_s <= now_s:
                dates.append(each.terms.since_s)
        return max(dates) + GRACE_S

    def _left_s(self, owner: OwnerId) -> int:
        """For how long we have still to run."""
        return max(0, math.ceil(GRACE_S - self._run_s.get(owner, 0.0)))

    def has_ended(self, owner: OwnerId) -> bool:
        """Say whether an owner may store nothing any more."""
        agreed = self._clerk.allowance(owner)
        return agreed is None or not agreed.bytes or bool(agreed.until_s and agreed.until_s <= self._now_s())

    def yielding(self) -> Sequence[OwnerId]:
        """Owners whose contract ended long ago, the first first: what they stored goes when space is needed."""
        if not self._endings:
            return ()
        gone = [owner for owner in self._endings if self.has_ended(owner) and self._may_yield(owner)]
        return sorted(gone, key=lambda owner: self._endings[owner])

    def _may_yield(self, owner: OwnerId) -> bool:
        """By every clock that there is."""
        return self._left_s(owner) == 0 and self._date_s(owner) <= min(self._now_s(), self.others_s())

    def _now_s(self) -> int:
        return self._wall.now_ns() // 1_000_000_000
