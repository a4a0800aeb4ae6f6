"""Receipts: what a customer signs once a day for what a supplier kept for him, and what the supplier answers.

A receipt speaks of all byte-hours since the customer began to count, so the newest one stands for all before it, and
whoever lost his own count gets it back from the other side. It is signed by a node of the customer's owner; its
certificate comes with it, so a receipt verifies alone. A `Receipt` exists only if its signature is good.

    offset  bytes
    0       1     format version, 1
    1       8     serial, from 1 on
    9       32    digest of the newest contract of the two owners
    41      32    owner id of the customer, who signs
    73      32    owner id of the supplier
    105     8     since, wall seconds: when the customer began to count
    113     8     from, wall seconds: where the receipt before ended
    121     8     to, wall seconds
    129     8     byte-hours in all, since `since`
    137     8     byte-hours of them that are new, since the receipt before
    145     8     bytes held at `to`
    153     138   certificate of the customer's node
    291     64    its Ed25519 signature over the label and bytes 0 … 152

The supplier answers with a view: what he counted himself, signed, over the digest of that receipt.

    0       1     format version, 1
    1       32    digest of the receipt: keyed BLAKE3 of its bytes 0 … 152
    33      8     byte-hours in all that the supplier counted
    41      8     when, wall seconds
    49      138   certificate of the supplier's node
    187     64    its Ed25519 signature over the label and bytes 0 … 48

Numbers are big-endian and below 2^63.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from bitdustfs.core import certificate
from bitdustfs.core.certificate import CERTIFICATE_BYTES, SIGNATURE_BYTES, Certificate, Identity
from bitdustfs.core.contract import LAST_S
from bitdustfs.errors import BadFormat
from bitdustfs.model import OwnerId, Role

VERSION: Final = 1
MAX_NUMBER: Final = (1 << 63) - 1
_ABSURD: Final = 1 << 61  # no honest serial and no honest count: 260 TB for a thousand years
_CONTENT = struct.Struct(">BQ32s32s32sQQQQQQ")
_VIEW = struct.Struct(">B32sQQ")
_SIGNED_BYTES = CERTIFICATE_BYTES + SIGNATURE_BYTES
RECEIPT_BYTES: Final = _CONTENT.size + _SIGNED_BYTES
VIEW_BYTES: Final = _VIEW.size + _SIGNED_BYTES
_PURPOSE = "receipt"
_VIEW_PURPOSE = "receipt seen"
_DIGEST_KEY = blake3(b"bitdustfs 1 receipt digest").digest()


@dataclass(frozen=True, slots=True)
class Told:
    """What a receipt says."""

    serial: int
    contract: bytes  # digest
    customer: OwnerId
    supplier: OwnerId
    since_s: int
    from_s: int
    to_s: int
    byte_hours: int  # in all
    new_byte_hours: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A verified receipt. Made by `sign` and `parse` only."""

    raw: bytes
    told: Told
    signer: Certificate

    @property
    def digest(self) -> bytes:
        """32 bytes over what it says."""
        return digest_of(self.raw)

    @property
    def serial(self) -> int:
        return self.told.serial

    @property
    def since_s(self) -> int:
        return self.told.since_s

    @property
    def byte_hours(self) -> int:
        """In all."""
        return self.told.byte_hours

    @property
    def is_absurd(self) -> bool:
        """Say whether a stolen machine signed it, so that nobody can go on from there."""
        return max(self.serial, self.byte_hours) >= _ABSURD


@dataclass(frozen=True, slots=True)
class View:
    """A verified view of a supplier. Made by `sign_view` and `parse_view` only."""

    raw: bytes
    receipt: bytes  # digest
    byte_hours: int  # in all, by his own count
    at_s: int
    signer: Certificate


def digest_of(raw: bytes) -> bytes:
    """What a view names of a receipt."""
    return blake3(raw[: _CONTENT.size], key=_DIGEST_KEY).digest()


def sign(identity: Identity, told: Told) -> Receipt:
    """Sign as a node of the customer.

    Raises:
        BadFormat: it makes no sense, or `identity` is of another owner.
    """
    owners = told.contract, told.customer, told.supplier
    times = told.since_s, told.from_s, told.to_s
    amounts = told.byte_hours, told.new_byte_hours, told.held_bytes
    if not all(0 <= number <= MAX_NUMBER for number in (told.serial, *times, *amounts)):
        raise BadFormat(what="a number in a receipt is out of bounds")
    content = _CONTENT.pack(VERSION, told.serial, *owners, *times, *amounts)
    return parse(content + identity.certificate.raw + identity.sign(_PURPOSE, content))


def parse(raw: bytes) -> Receipt:
    """Read and verify a receipt.

    Raises:
        BadFormat: an unknown version, a wrong length, numbers that make no sense, or not signed by a certified node
            of the customer that may store.
    """
    content, signer = _open(raw, RECEIPT_BYTES, _CONTENT.size, "a receipt", _PURPOSE)
    _version, serial, contract, customer, supplier, *numbers = _CONTENT.unpack(content)
    told = Told(serial, contract, OwnerId(customer), OwnerId(supplier), *numbers)
    if max(serial, *numbers) > MAX_NUMBER or serial < 1:
        raise BadFormat(what="a number in a receipt is out of bounds")
    if not told.since_s <= told.from_s <= told.to_s < LAST_S:
        raise BadFormat(what="a receipt ends before it begins, or in a year that has no date")
    if told.new_byte_hours > told.byte_hours:
        raise BadFormat(what="a receipt has more that is new than there is in all")
    if told.customer == told.supplier:
        raise BadFormat(what="a receipt is from an owner to himself")
    if signer.owner != told.customer:
        raise BadFormat(what="a receipt is signed by a node of another owner")
    if signer.role is not Role.WRITER:
        raise BadFormat(what=f"a receipt is signed by a {signer.role.name.lower()}, who stores nothing")
    return Receipt(raw, told, signer)


def sign_view(identity: Identity, receipt: Receipt, byte_hours: int, at_s: int) -> View:
    """Sign, as a node of the supplier, what was counted there when this receipt came. Raises BadFormat."""
    if not (0 <= byte_hours <= MAX_NUMBER and 0 <= at_s < LAST_S):
        raise BadFormat(what="a number in the answer to a receipt is out of bounds")
    content = _VIEW.pack(VERSION, receipt.digest, byte_hours, at_s)
    return parse_view(content + identity.certificate.raw + identity.sign(_VIEW_PURPOSE, content))


def parse_view(raw: bytes) -> View:
    """Read and verify a view. Whose receipt it is about, and who may say so, is for the caller. Raises BadFormat."""
    content, signer = _open(raw, VIEW_BYTES, _VIEW.size, "the answer to a receipt", _VIEW_PURPOSE)
    _version, digest, byte_hours, at_s = _VIEW.unpack(content)
    if byte_hours > MAX_NUMBER or at_s >= LAST_S:
        raise BadFormat(what="a number in the answer to a receipt is out of bounds")
    return View(raw, digest, byte_hours, at_s, signer)


def _open(raw: bytes, length: int, content_bytes: int, what: str, purpose: str) -> tuple[bytes, Certificate]:
    """What was signed, and by whom."""
    if raw[:1] and raw[0] != VERSION:
        raise BadFormat(what=f"{what} has version {raw[0]}; this bitdustfs reads version {VERSION}")
    if len(raw) != length:
        raise BadFormat(what=f"{what} has {length} bytes, this has {len(raw)}")
    content, signed = raw[:content_bytes], raw[content_bytes:]
    signer = certificate.parse(signed[:CERTIFICATE_BYTES])
    if not signer.vouches(purpose, content, signed[CERTIFICATE_BYTES:]):
        raise BadFormat(what=f"the signature under {what} is not genuine")
    return content, signer
