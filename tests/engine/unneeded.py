"""What suppliers keep for a world, and what of it somebody may need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import ROOT_INO, BlockRow, FragmentState
from bitdustfs.testing.world import SECRETS, World


def delete(world: World, name: str) -> None:
    """Take a file of the root directory away."""
    world.node.tree.unlink(ROOT_INO, name.encode())


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
