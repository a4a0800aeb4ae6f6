"""What heads need: the blocks that the newest head names, and the next one will, and how well they are held.

**Letting go.** A block of the replica is released when the newest head is safe, and neither it nor what the next head
will name needs that block. A quorum alone is not enough: the suppliers that have the newest head may be fewer than a
file survives the loss of, and then the one before is what comes back.

**What is lost.** Another machine, which did not know of our newest head, may have let go what it names. All of it is
in our catalog: a new base takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from bitdustfs.engine.journal import Journal
from bitdustfs.engine.objects import Objects
from bitdustfs.engine.publisher import Publisher
from bitdustfs.engine.snapshots import Snapshots
from bitdustfs.model import BlockNo, SupplierNo
from bitdustfs.ports import Catalog


class Needed:
    """Say what heads need, and let go what none does."""

    def __init__(
        self, catalog: Catalog, journal: Journal, publisher: Publisher, snapshots: Snapshots, objects: Objects
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._publisher = publisher
        self._snapshots = snapshots
        self._objects = objects
        self._swept_version = 0
        publisher.withheld_from = self.withheld_from

    def is_base_new(self) -> bool:
        """The newest base is not in the newest head yet."""
        content, newest = self._publisher.content, self._snapshots.newest
        if content is None or newest is None:
            return newest is not None
        named = {bytes(ref.block_id) for ref in content.manifest}
        rows = [self._catalog.block(number) for number, _ in newest.blocks]
        return any(row is None or bytes(row.block_id) not in named for row in rows)

    def is_head_safe(self) -> bool:
        """Enough suppliers have the newest head, and what it names is as well held as any file."""
        if self._publisher.foreign is not None or not self._publisher.holders().is_safe(self._objects.losses()):
            return False
        named = self.named()
        return named is not None and self._objects.are_well_held(named)

    def is_head_readable(self) -> bool:
        """The suppliers that answer now can give back all that the newest head names."""
        named = self.named()
        return named is not None and all(self._objects.can_be_read(number) for number in named)

    def named(self) -> set[BlockNo] | None:
        """The blocks that the newest head names; None: not all of them are known here any more."""
        content, newest = self._publisher.content, self._snapshots.newest
        if content is None or newest is None or self.is_base_new():
            return None
        refs = [*content.manifest, *(ref.object for ref in content.deltas)]
        known = {bytes(row.block_id): row.block for row in self._catalog.local_blocks()}
        if not all(bytes(ref.block_id) in known for ref in refs):
            return None
        return {known[bytes(ref.block_id)] for ref in refs} | set(newest.image_blocks)

    def by_next(self) -> set[BlockNo]:
        """The blocks that the next head would name."""
        newest = self._snapshots.newest
        needed = {row.block for row in self._catalog.deltas()}
        if newest is not None:
            needed |= {number for number, _ in newest.blocks} | set(newest.image_blocks)
        return needed

    def thin(self) -> list[BlockNo]:
        """The blocks that the next head would name that are thin, and that the newest one does not name."""
        if self._publisher.content is None:
            return []  # anything is more than nothing
        return self._objects.thin(self.by_next() - (self.named() or set()))

    def is_any_lost(self) -> bool:
        """Suppliers cannot give back some block that the next head would name, perhaps let go on another line."""
        worst = self._catalog.wanting_blocks(1)
        if not worst or worst[0].spare >= 0:
            return False  # of all blocks, so that mostly none is looked at
        return any(self._objects.is_lost(number) for number in self.by_next())

    def withheld_from(self, suppliers: Iterable[SupplierNo]) -> set[SupplierNo]:
        """Those to which the newest head is not brought in place of an older one."""
        return self._objects.lacking_copies(self.named() or (), suppliers)

    # -- letting go ----------------------------------------------------------------------------------------------

    @property
    def has_leftovers(self) -> bool:
        """Whether blocks of the replica may still be at suppliers that no head needs."""
        return self._swept_version != self._publisher.version

    async def sweep(self) -> None:
        """Release blocks that neither the newest head, which is safe, nor the next one needs. Once for each head.

        What is on its way yet is left, and then it is not the last time for this head.
        """
        content = self._publisher.content
        if content is None or self._snapshots.cut is not None or self._journal.refusal is not None:
            return
        version = self._publisher.version
        needed = self.by_next() | set(self._catalog.image_blocks())
        named = {bytes(ref.object.block_id) for ref in content.deltas} | {
            bytes(ref.block_id) for ref in content.manifest
        }
        is_all_released = True
        for row in self._catalog.local_blocks():
            if row.block not in needed and bytes(row.block_id) not in named:
                is_all_released &= self._objects.release(row.block)
            await trio.lowlevel.checkpoint()
        if is_all_released:
            self._swept_version = version
