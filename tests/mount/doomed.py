"""`bitdustfs mount`, and a death: the process that serves kills itself at a named moment of shipping its catalog.

Run as `python -m tests.mount.doomed ORDER --home HOME mount -f …`, in place of `bitdustfs`. The moments are those of
`tests.engine.doomed`: before and after each commit of the catalog, each fragment, each head, each release. When the
file ORDER names one that is passed, it is removed, and the process gets SIGKILL. The catalog, the suppliers and the
secrets are subclasses that do what those of the program do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bitdustfs.cli import assemble, assemble_supplier, home_catalog
from bitdustfs.cli.main import main
from bitdustfs.core.seal import BlockSeal, Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.model import BlockId, FragmentName, Root, Suite, SupplierNo
from tests.engine.doomed import NotingCatalog

_KINDS = ".kinds"  # beside the order: what is known of the fragments of lives before


class Doom:
    """When to die.

    Args:
        order: the file that will name the moment.
    """

    def __init__(self, order: Path) -> None:
        self.blocks: dict[bytes, str] = {}  # what a block is, by its id
        self._order = order
        self._noted = order.with_name(order.name + _KINDS)
        noted = self._noted.read_text().split() if self._noted.exists() else []
        self._fragments = dict(zip(noted[::2], noted[1::2], strict=True))

    def note(self, block_id: bytes, names: Sequence[bytes]) -> None:
        """Fragments of a block are about to be sent."""
        kind = self.blocks.get(block_id)
        if kind is not None:
            self._fragments |= {name.hex(): kind for name in names}
            with self._noted.open("a") as noted:
                noted.writelines(f"{name.hex()} {kind}\n" for name in names)

    def passes(self, word: str, *verbs: str, name: bytes | None = None) -> None:
        """Die here, if it was ordered."""
        try:
            order = self._order.read_text()
        except FileNotFoundError:
            return
        of = "" if name is None else f" {self._fragments.get(name.hex(), '?')}"
        if order in [f"{word} {verb}{of}" for verb in verbs]:
            self._order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class DoomedSecrets(VolumeSecrets):
    """Know of what kind each block is from before it is sealed."""

    def seal_of(self, block_id: BlockId, scope: int, suite: Suite, kind: Kind = Kind.CHUNK) -> BlockSeal:
        doom.blocks[bytes(block_id)] = "file" if kind is Kind.CHUNK else kind.name.lower()
        return super().seal_of(block_id, scope, suite, kind)


class DoomedCatalog(NotingCatalog):
    def moment(self, word: str, what: str) -> None:
        doom.passes(word, *(f"commit {note}" for note in what.removeprefix("commit ").split(" + ")))

    def is_of(self, name: bytes, kind: str) -> None:
        return

    def put_upload(self, block_id: bytes, fragments: Sequence[tuple[SupplierNo, FragmentName]]) -> None:
        super().put_upload(block_id, fragments)
        doom.note(bytes(block_id), [bytes(name) for _, name in fragments])


class DoomedSuppliers(Suppliers):
    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        doom.passes("before", "put", name=name)
        await super().put(supplier, name, root, body)
        doom.passes("after", "put", name=name)

    async def put_head(self, supplier: SupplierNo, head: bytes, links: bytes) -> None:
        doom.passes("before", "put_head")
        await super().put_head(supplier, head, links)
        doom.passes("after", "put_head")

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        doom.passes("before", "delete", name=names[0])
        await super().delete(supplier, names)
        doom.passes("after", "delete", name=names[0])


if __name__ == "__main__":
    doom = Doom(Path(sys.argv.pop(1)))
    assert "SqliteCatalog" in vars(home_catalog) and "Suppliers" in vars(assemble)
    assert "VolumeSecrets" in vars(assemble_supplier)
    vars(home_catalog).update(SqliteCatalog=DoomedCatalog)
    vars(assemble).update(Suppliers=DoomedSuppliers)
    vars(assemble_supplier).update(VolumeSecrets=DoomedSecrets)
    main()
