"""The scrubber: reads through what others stored with us, slowly, and owns up to what rotted.

    each owner -> each fragment -> read, compared with its own hash list and root -> damaged? removed, and counted
                                                                         his next STAT tells him: he looks for it

A disk loses a sector now and then, and says so only when it is read. An owner's audits find that sooner or later, at
the cost of his traffic; we find it for nothing. One pass takes PASS_S, or as long as it takes at BYTES_S, which a
disk does not notice. It begins somewhere, so that a machine that is on for an hour a day comes round, too.

A fragment that the disk cannot read is passed over: its owner is told as well, and it stays, for a disk may read it
another time. Only when the disk fails at many in a row is the pass broken off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from bitdustfs.core.grace import DAY_S
from bitdustfs.errors import BadFormat, DiskFault, NotFound, Unavailable
from bitdustfs.model import FragmentName, OwnerId, short
from bitdustfs.ports import Crunch, Entropy, Shelf

PASS_S: Final = 30 * DAY_S  # (tune) from the beginning of one pass to that of the next
BYTES_S: Final = 1 << 20  # (tune) 100 GiB in 28 hours
BEGIN_S: Final = 60.0  # after a start there is other work to do
AGAIN_S: Final = 600.0  # until a disk that is away, or fails, is tried again
PAGE: Final = 256  # names at once
MOST_UNREAD: Final = 16  # (tune) fragments in a row that the disk could not read: it fails as a whole
_log = logging.getLogger(__name__)


class Scrubber:
    """Goes through a shelf.

    Args:
        note_lost: called for each fragment that was found damaged, with its owner.
        pass_s, bytes_s: see PASS_S, BYTES_S.
    """

    def __init__(
        self,
        shelf: Shelf,
        crunch: Crunch,
        entropy: Entropy,
        note_lost: Callable[[OwnerId], None],
        *,
        pass_s: float = PASS_S,
        bytes_s: float = BYTES_S,
    ) -> None:
        self._shelf = shelf
        self._crunch = crunch
        self._entropy = entropy
        self._note_lost = note_lost
        self._pass_s = pass_s
        self._bytes_s = bytes_s
        self._unread_in_a_row = 0
        self.unread = 0  # fragments that the disk could not read in the pass that goes on, or in the last one

    async def run(self) -> None:
        """Go through everything again and again, until cancelled."""
        await trio.sleep(min(BEGIN_S, self._pass_s))
        while True:
            began = trio.current_time()
            try:
                lost = await self.once()
                if lost:
                    _log.warning("%d fragments on the shelf were damaged; their owners are told", lost)
                if self.unread:
                    _log.error(
                        "the disk of the shelf could not read %d fragments; their owners are told", self.unread
                    )
            except (Unavailable, DiskFault, BadFormat) as error:
                _log.info("the shelf is gone through later: %s", error)
                await trio.sleep(AGAIN_S)
                continue
            await trio.sleep(max(0.0, began + self._pass_s - trio.current_time()) + 1)

    async def once(self) -> int:
        """Go through everything once. Returns how many fragments were damaged.

        Raises:
            Unavailable, DiskFault: it broke off.
        """
        self.unread = self._unread_in_a_row = 0
        owners = await self._crunch.run(self._shelf.owners)
        first = int.from_bytes(self._entropy.bytes(4), "big") % max(1, len(owners))
        start = self._entropy.bytes(32)
        lost = 0
        for owner in (*owners[first:], *owners[:first]):
            lost += await self._owner(owner, start, None) + await self._owner(owner, b"", start)
        return lost

    async def _owner(self, owner: OwnerId, after: bytes, until: bytes | None) -> int:
        """Go through the fragments of an owner with names above `after`, up to `until`."""
        lost = 0
        while page := await self._crunch.run(self._shelf.names, owner, after, PAGE):
            for name, length in page:
                if until is not None and name > until:
                    return lost
                lost += await self._is_lost(owner, name)
                await trio.sleep(length / self._bytes_s)
            after = page[-1][0]
        return lost

    async def _is_lost(self, owner: OwnerId, name: FragmentName) -> bool:
        try:
            is_sound = await self._crunch.run(self._shelf.scrub, owner, name)
        except NotFound:
            return False  # its owner let it go meanwhile
        except DiskFault as error:
            self._unread_in_a_row += 1
            self.unread += 1
            if self._unread_in_a_row >= MOST_UNREAD:
                raise
            _log.warning("fragment %s of owner %s cannot be read: %s", short(name), short(owner), error)
            self._note_lost(owner)
            return False
        self._unread_in_a_row = 0
        if is_sound:
            return False
        _log.info("fragment %s of owner %s was damaged", short(name), short(owner))
        self._note_lost(owner)
        return True
