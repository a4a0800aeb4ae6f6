"""What is true in a world, whatever the customer believes: which fragments would come back right."""

from __future__ import annotations

from bitdustfs.core import fragment
from bitdustfs.model import BlockNo, BlockRow, FragmentRow, FragmentState
from bitdustfs.testing.world import SECRETS, World


def is_good(world: World, block: BlockRow, row: FragmentRow) -> bool:
    """Its supplier is there, has it, and gives it back as it was."""
    supplier = world.swarm.suppliers[row.supplier - 1]
    owner = world.swarm.identity.owner
    name = SECRETS.fragment_name(block.block_id, row.index, supplier.node)
    if not supplier.is_up or not supplier.conduct.gives(owner, name):
        return False
    content = supplier.memory_shelf.content(owner, name)
    return content is not None and fragment.root(content) == block.roots[row.index]


def good_rows(world: World, block: BlockRow) -> list[FragmentRow]:
    """The fragments of a block that count as held, and rightly so."""
    rows = [row for row in world.catalog.fragments(block.block) if row.state is FragmentState.HELD]
    return [row for row in rows if is_good(world, block, row)]


def spare(world: World, block: BlockRow) -> int:
    """Good fragments minus k."""
    return len({row.index for row in good_rows(world, block)}) - block.code.k


def all_blocks(world: World) -> list[BlockRow]:
    """Of files, and of the catalog's replica."""
    return [*world.catalog.blocks(), *world.catalog.local_blocks()]


def assert_complete(world: World, *, but: frozenset[BlockNo] = frozenset()) -> None:
    """Every block has all its fragments, good ones, each with another supplier."""
    for block in all_blocks(world):
        if block.block not in but:
            good = good_rows(world, block)
            assert {row.index for row in good} == set(range(block.code.n)), f"block {block.block}"
            assert len({row.supplier for row in good}) >= block.code.n, f"block {block.block}"
