"""Acquaintances: whose each node is that was ever met here. A node that comes with another owner is a hard stop.

A node's key belongs to one owner for good: `init` and `recover` make a new one. So a key that was known and now comes
with the certificate of another owner is stolen, or its disk was given away, and whatever the new owner may be, he is
not the friend. The connection ends before anything is asked or answered, on both sides, whoever dialled; nothing that
is known of the node changes. The other way round, a known owner who comes with another node, is no change of a key:
his certificate says so, and a higher epoch puts the older node out of force (engine/epochs).

What is known was proven: by a connection with that key, or a signature under it. A certificate alone proves nothing
of its node, for an owner can certify any public key that he has seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from bitdustfs.core.certificate import Certificate
from bitdustfs.core.phrase import fingerprint
from bitdustfs.core.sources import Budget
from bitdustfs.errors import OwnerChanged
from bitdustfs.model import NodeId, OwnerId

OwnerOf = Callable[[NodeId], OwnerId | None]

log = logging.getLogger(__name__)
_LINES: Final = 10  # in the log at once: who has such a key may come again and again
_LINES_PER_S: Final = 1 / 600  # and later on


class Acquaintances:
    """Whose which node is, by all that this process knows.

    Args:
        sources: each says whose a node is, or None if it does not know.
    """

    def __init__(self, *sources: OwnerOf) -> None:
        self._sources = list(sources)
        self._lines = Budget(_LINES_PER_S, _LINES)

    def add(self, source: OwnerOf) -> None:
        """Ask this one too."""
        self._sources.append(source)

    def owner_of(self, node: NodeId) -> OwnerId | None:
        """Whose a node is; None: nobody here knows."""
        return next((owner for source in self._sources if (owner := source(node)) is not None), None)

    def check(self, shown: Certificate, peer: str) -> None:
        """Refuse a node that is known as another owner's.

        Args:
            peer: how errors name it.
        Raises:
            OwnerChanged
        """
        known = self.owner_of(shown.node)
        if known is None or known == shown.owner:
            return
        changed = OwnerChanged(peer=peer, known=fingerprint(known), shown=fingerprint(shown.owner))
        if self._lines.take(trio.current_time()):
            log.error("%s", changed)
        raise changed
