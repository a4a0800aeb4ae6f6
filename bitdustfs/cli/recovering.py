"""Recovery with the real parts: keys, connections, disk. Called by `recover` under the lock of the new home."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core import certificate, keys
from bitdustfs.core import head as heads
from bitdustfs.core.certificate import Identity
from bitdustfs.core.keyfile import NodeKeys
from bitdustfs.core.keys import Secret
from bitdustfs.core.phrase import fingerprint
from bitdustfs.core.recovery import Found, newest
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.durable import move_durably
from bitdustfs.edges.home import Home, translated, write_atomically
from bitdustfs.edges.keys_disk import write_keys
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.kept import VERBATIM
from bitdustfs.engine.orphans import expect_orphans
from bitdustfs.engine.publisher import kept_head
from bitdustfs.engine.recovery import Recovery, Seeker, fetch_newest
from bitdustfs.engine.reporter import note_checked
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import BadFormat, BitdustError, NotFound, Unavailable
from bitdustfs.model import NodeId, RestoreReport, Role

WAIT_S = 30.0  # (tune) between two times that all suppliers are asked
Say = Callable[[Found], None]
Progress = Callable[[int, int], None]


class Seeks(Protocol):
    """Who finds the newest state: a Seeker."""

    async def find(self, friends: Iterable[tuple[NodeId, str]]) -> Found: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What to do when too few suppliers answer. Neither: take what there is, to read it."""

    accept: bool  # go on from what there is
    wait: bool  # ask again
    read_only: bool = False  # only to read, whoever writes
    beside: bool = False  # to write by turns with whoever writes now: nobody is revoked


@dataclass(frozen=True, slots=True)
class Recovered:
    """What came back."""

    found: Found
    report: RestoreReport
    may_write: bool


async def run_recover(
    home: Home, secret: Secret, friends: Sequence[tuple[NodeId, str]], wish: Wish, say: Say, progress: Progress
) -> Recovered:
    """Make catalog and keys in a home without, or with those of a reader. Can be run again until this is a writer.

    Whoever is to write beside others gets a certificate of the epoch that the suppliers know, which revokes nobody.
    What nobody can be sure of is recovered for a reader: its certificate is of that epoch too, and no supplier lets
    it write. So is a state that is not the newest, if that one cannot be
    fetched.

    Raises:
        NotFound: no supplier shows a state of this volume. Unavailable: they show an older one than is here.
        DiskFull, DiskFault, BadFormat
    """
    owner, node = keys.owner_key(secret), Ed25519PrivateKey.generate()
    volume = keys.volume_keys(secret)
    secrets = VolumeSecrets(volume.volume)
    owner_id = keys.owner_id(keys.public_bytes(owner))

    def certify(epoch: int, role: Role = Role.WRITER) -> Identity:
        return Identity(node, certificate.certify(owner, keys.public_bytes(node), role, epoch=epoch))

    seeker = Seeker(TcpDialer(node), certify, secrets, owner_id)
    try:
        found = await find_state(seeker, friends, wish, say)
    except NotFound as error:
        raise NotFound(
            what=f"{error}. The words lead to owner {fingerprint(owner_id)}: "
            "if your sheet shows another one, some of them are wrong"
        ) from error
    if not wish.accept:
        refuse_older(home, found)
    may_write = (found.is_certain or wish.accept) and not wish.read_only
    if may_write and wish.beside:
        identity = certify(seeker.epoch)
    elif may_write:
        first = found
        found, identity = await seeker.take_over()
        if (found.head, found.answered) != (first.head, first.answered):
            say(found)
        may_write = found.is_certain or wish.accept  # some may have gone meanwhile
    if not may_write:
        identity = certify(seeker.epoch, Role.READER)
    write_atomically(home.recovering, b"")

    async def fetch(state: Found) -> RestoreReport:
        if state.head != newest_found.head:
            say(state)
            if not wish.accept:
                refuse_older(home, state)
        return await _restore(home, identity, secrets, state, progress, beside=wish.beside)

    newest_found = found
    found, report = await fetch_newest(newest_found, fetch)
    if found.head != newest_found.head and not wish.accept:
        may_write, identity = False, certify(seeker.epoch, Role.READER)
    made = NodeKeys(
        seed=node.private_bytes_raw(),
        owner_public=keys.public_bytes(owner),
        certificate=identity.certificate.raw,
        volume=volume,
    )
    write_keys(home, made)
    home.recovering.unlink()
    return Recovered(found, report, may_write)


async def find_state(seeker: Seeks, friends: Sequence[tuple[NodeId, str]], wish: Wish, say: Say) -> Found:
    """Ask for the newest state, as often as it is wished.

    Returns:
        The newest that was ever shown meanwhile; perhaps not certain, unless it was waited for that.
    Raises:
        NotFound: nobody shows one.
    """
    known, best = dict(friends), None
    while True:
        try:
            found = await seeker.find(known.items())
        except NotFound:  # while it is waited, whoever knew something may be gone for a moment
            if best is None:
                raise
        else:
            say(found)
            if best is None or newest((best.head, found.head)) == found.head:
                best = found
                if found.is_certain or wish.accept or not wish.wait:
                    return found
            known |= {row.node: row.address for row in found.suppliers}
        await trio.sleep(WAIT_S)


def refuse_older(home: Home, found: Found) -> None:
    """Refuse a state that is older than the one that was recovered here before, to be read. Raises Unavailable."""
    if not home.keys.exists():
        return
    try:
        with closing(SqliteCatalog(home.catalog)) as catalog:
            raw = kept_head(catalog)
    except BitdustError:
        return  # it is damaged, and is made anew
    here = heads.parse(raw) if raw is not None else found.head
    if newest((here, found.head)) != found.head:
        raise Unavailable(
            what=f"those who answer show version {found.head.version}, and version {here.version} is here: "
            "nothing was changed. Try again later, or --accept the older one"
        )


@asynccontextmanager
async def fetched_catalog(
    identity: Identity,
    secrets: VolumeSecrets,
    found: Found,
    new: Path,
    progress: Progress,
    *,
    verbatim: bool = False,
) -> AsyncIterator[tuple[SqliteCatalog, RestoreReport]]:
    """Bring the catalog that a head names into a new file, open, with what is to be noted in it not committed yet.

    Args:
        verbatim: leave the rows as they are, for a reader.
    Raises:
        BadFormat: it is that of another volume. What `Recovery.fetch` raises.
    """

    async def told(done: int, total: int) -> None:
        progress(done, total)

    with closing(SqliteCatalog(":memory:", create=True)) as scratch:
        suppliers = Suppliers(
            identity, TcpDialer(identity.key), found.suppliers, entropy=SystemEntropy(), wall=SystemWall()
        )
        recovery = Recovery(found, suppliers, secrets, ThreadCrunch(), SystemEntropy(), scratch)
        with closing(Restore(new)) as restore:
            await recovery.fetch(restore, told)
            report = await trio.to_thread.run_sync(
                lambda: restore.finish(last_change=found.content.change, verbatim=verbatim)
            )
        with closing(SqliteCatalog(new)) as catalog:
            if catalog.value("volume_id") != secrets.volume_id:
                raise BadFormat(what="the suppliers hold the catalog of another volume under this one's keys")
            recovery.note(catalog)
            yield catalog, report


async def _restore(
    home: Home, identity: Identity, secrets: VolumeSecrets, found: Found, progress: Progress, *, beside: bool
) -> RestoreReport:
    new = home.catalog.with_name(home.catalog.name + ".new")
    verbatim = beside or identity.certificate.role is Role.READER
    async with fetched_catalog(identity, secrets, found, new, progress, verbatim=verbatim) as (catalog, report):
        if beside:
            catalog.put_local_value(VERBATIM, b"1")
        elif not verbatim:
            expect_orphans(catalog)
        note_checked(catalog, SystemWall().now_ns() // 1_000_000_000)
        catalog.commit()
    _forget(home)
    move_durably(new, home.catalog)
    return report


def _forget(home: Home) -> None:
    """Take away what a reader had here: keys first, so that they are never beside another catalog."""
    try:
        home.keys.unlink(missing_ok=True)
        for tail in ("", "-wal", "-shm", "-journal"):  # a journal beside a catalog of its name changes it
            home.catalog.with_name(home.catalog.name + tail).unlink(missing_ok=True)
    except OSError as error:
        raise translated(error, home.path) from error
