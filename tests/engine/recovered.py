"""What an empty machine makes of what suppliers have, in a world."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from bitdustfs.core.certificate import Identity
from bitdustfs.core.recovery import Found
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.recovery import Recovery, Seeker
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.world import SECRETS, World


async def recover(world: World, path: Path, identity: Identity, *, friend: int = 1) -> Found:
    """Make a catalog at `path`, knowing the keys and one supplier."""
    seeker = Seeker(world.swarm.network.dialer(identity.node), lambda _epoch: identity, SECRETS, identity.owner)
    first = world.swarm.suppliers[friend - 1]
    found = await seeker.find([(first.node, first.address)])
    side = world.swarm.customer_side(list(found.suppliers), identity)
    recovery = Recovery(found, side, SECRETS, InlineCrunch(), SqliteCatalog(":memory:", create=True))
    with closing(Restore(path)) as restore:
        await recovery.fetch(restore, _say_nothing)
        restore.finish(last_change=found.content.change)
    with closing(SqliteCatalog(path)) as catalog:
        recovery.note(catalog)
        catalog.commit()
    return found


async def _say_nothing(_done: int, _total: int) -> None:
    return
