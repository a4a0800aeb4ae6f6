"""A recovery on trial, with the real parts: the catalog is fetched, put together beside ours, and compared with it.

Nothing is changed. The certificate is a reader's, for a key that is thrown away, in the epoch of this machine: so it
revokes nobody, and no supplier lets it write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core import certificate, keys
from bitdustfs.core.certificate import Identity
from bitdustfs.core.keys import Secret
from bitdustfs.core.recovery import Found
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_compare import Instant
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.recovery import Recovery, Seeker
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import BitdustError, Unavailable
from bitdustfs.model import NodeId, Role

_TRIES = 10  # to meet the volume while everything that it has is at the suppliers

Sync = Callable[[], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What would come back."""

    found: Found
    files: int  # and directories, without the root


async def run_check(
    home: Home, secret: Secret, friends: Sequence[tuple[NodeId, str]], sync: Sync, progress: Progress
) -> Checked:
    """Do everything that a recovery does up to the keys, and compare with the catalog of this home.

    Args:
        friends: node id and ADDR:PORT of the suppliers.
        sync: brings everything to the suppliers, if a process serves the home. Blocking.
    Raises:
        NotFound, Unavailable: the suppliers do not show it now, or not the newest. BadFormat, SealBroken: it is
        damaged. BitdustError: it is not what is here.
    """
    owner, node = keys.owner_key(secret), Ed25519PrivateKey.generate()
    here = identity_of(read_keys(home)).certificate
    signed = certificate.certify(owner, keys.public_bytes(node), Role.READER, epoch=here.epoch)
    reader = Identity(node, signed)
    secrets = VolumeSecrets(keys.volume_keys(secret).volume)
    for _ in range(_TRIES):
        await trio.to_thread.run_sync(sync)
        found = await Seeker(TcpDialer(node), lambda _epoch: reader, secrets, reader.owner).find(friends)
        if not found.is_certain:
            silent = "; ".join(f"{label}: {why}" for label, why in found.silent.items())
            raise Unavailable(
                what=f"{found.needed} suppliers must answer, and {found.answered} do ({silent}): try later"
            )
        with closing(Instant(home.catalog)) as now:
            if now.last_change == found.content.change:
                await _compare(home, reader, secrets, found, now, progress)
                return Checked(found, now.inodes - 1)
    raise Unavailable(
        what="the newest changes are not at the suppliers: run `bitdustfs sync`, then try while nothing is written"
    )


async def _compare(
    home: Home, reader: Identity, secrets: VolumeSecrets, found: Found, now: Instant, progress: Progress
) -> None:
    async def told(done: int, total: int) -> None:
        progress(done, total)

    suppliers = Suppliers(reader, TcpDialer(reader.key), found.suppliers, entropy=SystemEntropy(), wall=SystemWall())
    with _thrown_away(home.trial) as path, closing(SqliteCatalog(":memory:", create=True)) as scratch:
        with closing(Restore(path)) as restore:
            await Recovery(found, suppliers, secrets, ThreadCrunch(), SystemEntropy(), scratch).fetch(restore, told)
            report = await trio.to_thread.run_sync(restore.finish)
        here_only = len(report.removed) + len(report.reverted)
        if here_only:
            raise Unavailable(what=f"the newest state of {here_only} files is only here: run `bitdustfs sync` first")
        with closing(Instant(path)) as restored:
            table = await trio.to_thread.run_sync(now.first_difference, restored)
    if table is not None:
        raise BitdustError(
            what=f"version {found.head.version}, which the suppliers have, is not what is here: table {table} differs"
        )


@contextmanager
def _thrown_away(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        for tail in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + tail).unlink(missing_ok=True)
