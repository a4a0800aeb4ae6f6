"""Recovery with the real parts: keys, connections, disk. Called by `recover` under the lock of the new home."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core import certificate, keys
from bitdustfs.core.certificate import Identity
from bitdustfs.core.keyfile import NodeKeys
from bitdustfs.core.keys import Secret
from bitdustfs.core.phrase import fingerprint
from bitdustfs.core.recovery import Found
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.durable import move_durably
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import write_keys
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.recovery import Recovery, Seeker
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import BadFormat, NotFound, Unavailable
from bitdustfs.model import NodeId, RestoreReport, Role

Say = Callable[[int, int, int, int, int], None]
Progress = Callable[[int, int], None]


async def run_recover(
    home: Home,
    secret: Secret,
    friends: Sequence[tuple[NodeId, str]],
    accept: bool,
    say: Say,
    progress: Progress,
) -> RestoreReport:
    """Make catalog and keys in an empty home. The keys come last: until then it can be run again.

    Raises:
        NotFound: no supplier shows a state of this volume. Unavailable: too few answer, and `accept` is not set.
        DiskFull, DiskFault, BadFormat
    """
    owner, node = keys.owner_key(secret), Ed25519PrivateKey.generate()
    volume = keys.volume_keys(secret)
    secrets = VolumeSecrets(volume.volume)
    owner_id = keys.owner_id(keys.public_bytes(owner))

    def certify(epoch: int) -> Identity:
        return Identity(node, certificate.certify(owner, keys.public_bytes(node), Role.WRITER, epoch=epoch))

    seeker = Seeker(TcpDialer(node), certify, secrets, owner_id)
    try:
        found = await seeker.find(friends)
    except NotFound as error:
        raise NotFound(what=f"{error}. The words lead to owner {fingerprint(owner_id)}") from error
    say(found.head.version, found.content.time_s, found.answered, len(found.suppliers), found.confirming)
    if not found.is_certain and not accept:
        silent = "; ".join(f"{label}: {why}" for label, why in found.silent.items())
        raise Unavailable(
            what=f"{found.needed} suppliers must answer to be sure that nothing newer exists ({silent}): "
            "try again later, or take this state with --accept"
        )
    identity = certify(seeker.epoch + 1)
    home.recovering.touch(mode=0o600)
    report = await _restore(home, identity, secrets, found, progress)
    made = NodeKeys(
        seed=node.private_bytes_raw(),
        owner_public=keys.public_bytes(owner),
        certificate=identity.certificate.raw,
        volume=volume,
    )
    write_keys(home, made)
    home.recovering.unlink()
    return report


async def _restore(
    home: Home, identity: Identity, secrets: VolumeSecrets, found: Found, progress: Progress
) -> RestoreReport:
    async def told(done: int, total: int) -> None:
        progress(done, total)

    new = home.catalog.with_name(home.catalog.name + ".new")
    with closing(SqliteCatalog(":memory:", create=True)) as scratch:
        suppliers = Suppliers(
            identity, TcpDialer(identity.key), found.suppliers, entropy=SystemEntropy(), wall=SystemWall()
        )
        recovery = Recovery(found, suppliers, secrets, ThreadCrunch(), scratch)
        with closing(Restore(new)) as restore:
            await recovery.fetch(restore, told)
            report = await trio.to_thread.run_sync(lambda: restore.finish(last_change=found.content.change))
        with closing(SqliteCatalog(new)) as catalog:
            if catalog.value("volume_id") != secrets.volume_id:
                raise BadFormat(what="the suppliers hold the catalog of another volume under this one's keys")
            recovery.note(catalog)
            catalog.commit()
    move_durably(new, home.catalog)
    return report
