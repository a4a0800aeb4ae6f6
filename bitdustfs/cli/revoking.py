"""Revocation with the real parts: keys, connections, disk. Called by `revoke` under the lock of the home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.cli.home_catalog import hired_suppliers
from bitdustfs.core import certificate, keys, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys, replace_keys
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.revocation import announce, highest_epoch
from bitdustfs.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Revoked:
    """How it went, by the labels of suppliers."""

    epoch: int
    told: tuple[str, ...]
    untold: Mapping[str, str]  # -> why


async def run_revoke(home: Home, owner: Ed25519PrivateKey) -> Revoked:
    """Certify this node above everything that is known, keep that durably, and tell all suppliers.

    Raises:
        DiskFull, DiskFault, Forbidden: nothing was changed. BadRequest: there is no higher epoch left.
    """
    made = read_keys(home)
    before = identity_of(made)
    suppliers = hired_suppliers(home)
    dialer = TcpDialer(before.key)
    epoch = await highest_epoch(dialer, before, suppliers) + 1
    if epoch > wire.MAX_NUMBER:
        raise BadRequest(what="there is no higher epoch left for this owner: go on with the words of a new volume")
    public = keys.public_bytes(before.key)
    signed = certificate.certify(owner, public, before.certificate.role, epoch=epoch)
    # Durable before anybody sees it: a supplier that knows it refuses the one that we had.
    replace_keys(home, replace(made, certificate=signed.raw))
    untold = await announce(dialer, Identity(before.key, signed), suppliers)
    return Revoked(
        epoch,
        told=tuple(row.label for row in suppliers if row.supplier not in untold),
        untold={row.label: untold[row.supplier] for row in suppliers if row.supplier in untold},
    )
