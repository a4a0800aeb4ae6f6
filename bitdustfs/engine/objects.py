"""Objects: deltas, manifests and image chunks on their way to suppliers, as blocks of the replica.

They are placed, counted and completed like any block. Their rows are local, so that storing the replica never
changes what the replica is of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bitdustfs.core import block as blocks
from bitdustfs.core import erasure, fragment, replica
from bitdustfs.core.block import Placed
from bitdustfs.core.replica import ObjectRef
from bitdustfs.core.seal import Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.uploads import Shipment, Uploads
from bitdustfs.errors import NotFound, Unavailable
from bitdustfs.model import BlockId, BlockNo, BlockRow, Code, FragmentState, Suite, SupplierNo
from bitdustfs.ports import Catalog, Crunch, Entropy

Record = Callable[[BlockNo, tuple[Placed, ...]], None]


class Objects:
    """Place the blocks of the replica, refer to them, and let them go.

    Args:
        code: of new blocks of files; None: no supplier is hired.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        uploads: Uploads,
        releases: Releases,
        crunch: Crunch,
        entropy: Entropy,
        secrets: VolumeSecrets,
        suite: Suite,
        code: Callable[[], Code | None],
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._uploads = uploads
        self._releases = releases
        self._crunch = crunch
        self._entropy = entropy
        self._secrets = secrets
        self._suite = suite
        self._code = code

    def losses(self) -> int:
        """How many suppliers any file survives: the largest n − k of any code in use."""
        return max((each.n - each.k for each in self._codes()), default=0)

    def _codes(self) -> list[Code]:
        code = self._code()
        return [*self._catalog.codes(), *([code] if code else [])]

    async def place(self, kind: Kind, pieces: Sequence[bytes], record: Record, *, copied: bool = False) -> BlockNo:
        """Seal, code and send one block; return when it is placed.

        Args:
            pieces: what goes into its slots, as much as fits a block.
            record: called with its number and places in the operation that records it.
            copied: each supplier gets all of it, whatever its size.
        Raises:
            Unavailable: too few suppliers took it; nothing is recorded.
        """
        hired = self._uploads.hired()
        if not hired:
            raise Unavailable(what="no supplier is hired")
        fragments_each = max((each.n for each in self._codes()), default=1)
        code = replica.code_for(sum(map(len, pieces)), hired, fragments_each, self.losses())
        if copied or self._uploads.answering() < code.quorum:
            code = Code(1, code.n)  # too few to hold it well in pieces: each of them gets all of it
        block_id = BlockId(self._entropy.bytes(32))
        seal = self._secrets.seal_of(block_id, self._secrets.scope, self._suite, kind)

        def build() -> tuple[tuple[Placed, ...], Shipment]:
            content, places = blocks.build(seal, pieces, k=code.k)
            length = blocks.layout([len(piece) for piece in pieces])[1]
            fragments = erasure.encode(content, code)
            roots = tuple(fragment.root(each) for each in fragments)
            return places, Shipment(
                block_id, self._secrets.scope, self._suite, code, length, roots, fragments, local=True
            )

        places, shipment = await self._crunch.run(build)
        await self._uploads.place(shipment, lambda: record(shipment.block, places))
        return shipment.block

    def reference(self, number: BlockNo, content_bytes: int) -> ObjectRef:
        """Refer to a block, with who holds it now. Raises NotFound."""
        return replica.reference(self._row(number), content_bytes, self._catalog.fragments(number))

    def are_well_held(self, numbers: Iterable[BlockNo]) -> bool:
        """Whether all of these blocks survive what any file survives. Raises NotFound."""
        enough = self._enough()
        return all(self._catalog.held(each) >= enough(self._row(each).code) for each in numbers)

    def can_be_read(self, number: BlockNo) -> bool:
        """Whether the suppliers that answer now can give a block back. Raises NotFound."""
        online = set(self._uploads.online())
        rows = (each for each in self._catalog.fragments(number) if each.state is FragmentState.HELD)
        return len({each.index for each in rows if each.supplier in online}) >= self._row(number).code.k

    def is_lost(self, number: BlockNo) -> bool:
        """Whether suppliers cannot give a block back. Raises NotFound."""
        return self._catalog.held(number) < self._row(number).code.k

    def thin(self, numbers: Iterable[BlockNo]) -> list[BlockNo]:
        """Those that are cut into pieces, and of which too few are held to survive what any file survives."""
        rows = [self._row(each) for each in numbers]
        return [row.block for row in rows if row.code.k > 1 and self._catalog.held(row.block) < row.code.quorum]

    def stuck(self, thin: Iterable[BlockNo]) -> list[BlockNo]:
        """Those of thin blocks that stay so: too few suppliers answer to complete them."""
        answering = self._uploads.answering()
        return [each for each in thin if answering < self._row(each).code.quorum]

    def lacking_copies(self, numbers: Iterable[BlockNo], suppliers: Iterable[SupplierNo]) -> set[SupplierNo]:
        """Those suppliers that have no copy of a block of which others have copies, but too few of them."""
        enough, lacking, asked = self._enough(), set[SupplierNo](), frozenset(suppliers)
        for row in map(self._row, numbers):
            if row.code.k == 1 and self._catalog.held(row.block) < enough(row.code):
                rows = self._catalog.fragments(row.block)
                lacking |= asked - {each.supplier for each in rows if each.state is FragmentState.HELD}
        return lacking

    def _enough(self) -> Callable[[Code], int]:
        """How many fragments of a block must be held for it to survive what any file survives, as things are now."""
        copies = replica.copies_needed(self._uploads.hired(), self.losses())
        return lambda code: min(code.n, copies) if code.k == 1 else code.quorum

    def release(self, number: BlockNo) -> bool:
        """Forget a block; what suppliers hold of it is let go later. Only after no head needs it any more.

        Returns:
            False: not yet, fragments of it are on their way.
        """
        if number in self._uploads.on_their_way:
            return False
        self._releases.forget_block(number)
        return True

    def _row(self, number: BlockNo) -> BlockRow:
        row = self._catalog.block(number)
        if row is None:
            raise NotFound(what=f"block {number} of the replica")
        return row
