"""Recovery with the real parts: keys, connections, disk. Called by `recover` under the lock of the new home."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

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
from bitdustfs.edges.home import Home, write_atomically
from bitdustfs.edges.keys_disk import write_keys
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.recovery import Recovery, Seeker
from bitdustfs.engine.reporter import note_checked
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import BadFormat, NotFound, Unavailable
from bitdustfs.model import NodeId, RestoreReport, Role

WAIT_S = 30.0  # (tune) between two times that all suppliers are asked
Say = Callable[[Found], None]
Progress = Callable[[int, int], None]


class Seeks(Protocol):
    """Who finds the newest state: a Seeker."""

    async def find(self, friends: Iterable[tuple[NodeId, str]]) -> Found: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What to do when too few suppliers answer."""

    accept: bool  # take what there is
    wait: bool  # ask again


@dataclass(frozen=True, slots=True)
class Recovered:
    """What came back."""

    found: Found
    report: RestoreReport


async def run_recover(
    home: Home, secret: Secret, friends: Sequence[tuple[NodeId, str]], wish: Wish, say: Say, progress: Progress
) -> Recovered:
    """Make catalog and keys in an empty home. The keys come last: until then it can be run again.

    Raises:
        NotFound: no supplier shows a state of this volume. Unavailable: too few answer, and nothing else is wished.
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
        found = await find_state(seeker, friends, wish, say)
    except NotFound as error:
        raise NotFound(what=f"{error}. The words lead to owner {fingerprint(owner_id)}") from error
    write_atomically(home.recovering, b"")
    identity = certify(seeker.epoch + 1)
    report = await _restore(home, identity, secrets, found, progress)
    made = NodeKeys(
        seed=node.private_bytes_raw(),
        owner_public=keys.public_bytes(owner),
        certificate=identity.certificate.raw,
        volume=volume,
    )
    write_keys(home, made)
    home.recovering.unlink()
    return Recovered(found, report)


async def find_state(seeker: Seeks, friends: Sequence[tuple[NodeId, str]], wish: Wish, say: Say) -> Found:
    """Ask for the newest state, as often as it is wished.

    Raises:
        NotFound: nobody shows one. Unavailable: too few answer, and that is neither accepted nor waited out.
    """
    while True:
        found = await seeker.find(friends)
        say(found)
        if found.is_certain or wish.accept:
            return found
        if not wish.wait:
            silent = "; ".join(f"{label}: {why}" for label, why in found.silent.items())
            raise Unavailable(
                what=f"{found.needed} suppliers must answer to be sure that nothing newer exists ({silent}): "
                "try again later, --wait for them, or --accept this state"
            )
        await trio.sleep(WAIT_S)


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
            note_checked(catalog, SystemWall().now_ns() // 1_000_000_000)
            catalog.commit()
    move_durably(new, home.catalog)
    return report
