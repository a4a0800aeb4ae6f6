"""Epochs: the newest one of each owner that a supplier has seen, and who is out of date.

An owner revokes a node by certifying others in a higher epoch. From the first request, or the first head, of a node
of that epoch on, every request of an older one is refused, also one whose body was still under way. The refusal has
that node's certificate in it: nobody needs to believe us.
"""

from __future__ import annotations

import logging

import trio

from bitdustfs.core.certificate import Certificate
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.model import short
from bitdustfs.ports import ContractStore, Crunch

log = logging.getLogger(__name__)


class Epochs:
    """The epochs of all owners with a contract. Raises DiskFault, BadFormat: they cannot be read."""

    def __init__(self, store: ContractStore, crunch: Crunch) -> None:
        self._store = store
        self._crunch = crunch
        seen = store.epochs()
        self._epochs = {owner: epoch for owner, (epoch, _) in seen.items()}
        self._proofs = {owner: proof for owner, (_, proof) in seen.items()}  # a certificate of that epoch
        self._noting = trio.Lock()  # held while an epoch is saved

    async def note(self, seen: Certificate) -> None:
        """Remember the newest epoch of an owner durably. Raises DiskFull, DiskFault."""
        if not self._tells_more(seen):
            return
        async with self._noting:  # two epochs must not be saved in the wrong order
            if self._tells_more(seen):
                await self._crunch.run(self._store.save_epoch, seen.owner, seen.epoch, seen.raw)
                self._epochs[seen.owner], self._proofs[seen.owner] = seen.epoch, seen.raw
                log.info("owner %s certifies in epoch %d now", short(seen.owner), seen.epoch)

    def refuse_revoked(self, node: Certificate) -> Refusal | None:
        """Refuse a node whose owner has certified others since."""
        newest = self._epochs.get(node.owner, 0)
        if node.epoch >= newest:
            return None
        text = "this owner has certified nodes anew: the certificate is not valid any more"
        return Refusal(Refused.STALE, text, newest, self._proofs.get(node.owner, b""))

    def _tells_more(self, seen: Certificate) -> bool:
        """It is of a newer epoch than we know, or of the newest one, which we could not prove."""
        newest = self._epochs.get(seen.owner, 0)
        return seen.epoch > newest or (seen.epoch == newest and not self._proofs.get(seen.owner))
