"""What suppliers keep for a world, and what of it somebody may need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import ROOT_INO, BlockNo, BlockRow, FragmentState
from bitdustfs.testing.world import SECRETS, World


def delete(world: World, name: str) -> None:
    """Take a file of the root directory away."""
    world.node.tree.unlink(ROOT_INO, name.encode())


class Watch:
    """Looks at each commit of a process whether a block has fewer held fragments than before, and than n (I9).

    Fragments of a supplier that was given up for lost go on counting: it is not us who let them go.
    """

    def __init__(self, world: World, catalog: SqliteCatalog | None = None) -> None:
        self._catalog = catalog or world.catalog
        self._held: dict[bytes, int] = {}
        self.lowered: list[str] = []
        world.node.journal.before_commit(self._look)

    def _look(self) -> None:
        rows = {bytes(row.block_id): row for row in blocks(self._catalog)}
        now = {block_id: self._count(row.block) for block_id, row in rows.items()}
        for block_id, count in now.items():
            if count < min(self._held.get(block_id, 0), rows[block_id].code.n):
                self.lowered.append(f"{block_id[:4].hex()}: {self._held[block_id]} -> {count}")
        self._held = now

    def _count(self, block: BlockNo) -> int:
        states = (FragmentState.HELD, FragmentState.ABSENT)
        return len({row.index for row in self._catalog.fragments(block) if row.state in states})


async def until(condition: Callable[[], bool], *, most_s: float = 600.0) -> None:
    """Wait until something has become true."""
    with trio.fail_after(most_s):
        while not condition():
            await trio.sleep(1)


def stored(world: World) -> set[bytes]:
    """The names of all fragments at suppliers, without their trash."""
    owner = world.swarm.identity.owner
    return {bytes(name) for each in world.swarm.suppliers for name, _ in each.shelf.names(owner, b"", 1 << 20)}


def stored_bytes(world: World) -> int:
    """How many bytes of fragments are at suppliers, without their trash."""
    owner = world.swarm.identity.owner
    return sum(length for each in world.swarm.suppliers for _, length in each.shelf.names(owner, b"", 1 << 20))


def blocks(catalog: SqliteCatalog) -> list[BlockRow]:
    """All of them, those of the replica too."""
    return [*catalog.blocks(), *catalog.local_blocks()]


def held(catalog: SqliteCatalog) -> set[bytes]:
    """The names of all fragments that a catalog says to be held."""
    return {name for block in blocks(catalog) for name in names(catalog, block)}


def names(catalog: SqliteCatalog, block: BlockRow) -> Iterator[bytes]:
    """The names of the held fragments of a block."""
    nodes = {row.supplier: row.node for row in catalog.suppliers()}
    for row in catalog.fragments(block.block):
        if row.state is FragmentState.HELD:
            yield bytes(SECRETS.fragment_name(block.block_id, row.index, nodes[row.supplier]))
