"""Heads: the small signed record that names the newest of all, and how one follows another.

A head is a link, who signed it, and a sealed part that only the owner can read. The link is what is signed and what
makes the chain: it has the digest of the link before and the hash of the sealed part. So a supplier, who can read
nothing, still tells a later head from an older one and from a fork (invariant I11): from the head that it holds, link
by link, each named by the hash in the next, up to a head that a writer of the owner signed. The links between need no
signatures of their own: who signs the last one vouches for all.

    link: offset  bytes
          0       1     format version, 2
          1       16    volume handle: tells the owner's volumes apart, and says nothing else of them
          17      8     version of the head, from 1 on; each is one more than the one before
          25      8     epoch of the signer's certificate
          33      32    digest of the link before, zeros in version 1
          65      32    BLAKE3 of the sealed part
          97      4     bytes of the sealed part
          101     16    seat: tells the homes of one node apart, if somebody copied one (core/lease)
          117     4     lease: for so many seconds nobody else writes (core/lease); 0: anybody may follow
          121     1     1: the signer took the volume over before the lease of the writer before had ended; else 0
          122     32    digest of a link on another line that this head goes over as well, zeros: none

    head: offset  bytes
          0       154   link
          154     138   certificate of the node that signed
          292     64    Ed25519 signature by that node over the link, for the purpose "head"
          356           sealed part

A head that goes over another line as well ends a fork: it follows the heads of both. Its version is higher than
theirs, so it may skip some, but not so many that versions could come to their end.

Numbers are big-endian. A `Head` exists only if all of this fits together: parsing is verifying. Whether the signer
acts for the right owner, and whether the version is the newest, is for those who know the owner.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from blake3 import blake3

from bitdustfs.core import certificate
from bitdustfs.core.certificate import CERTIFICATE_BYTES, SIGNATURE_BYTES, Certificate, Identity
from bitdustfs.errors import BadFormat
from bitdustfs.model import Role

VERSION: Final = 2
SEAT_BYTES: Final = 16
NO_SEAT: Final = bytes(SEAT_BYTES)  # of a home that nobody gave one
MAX_LEASE_S: Final = 3600
NO_HEAD: Final = bytes(32)  # the digest that version 1 names as the one before
MAX_HEAD_BYTES: Final = 64 * 1024  # (tune) some hundred references and addresses; a supplier keeps one for each owner
_LINK = struct.Struct(">B16sQQ32s32sI16sIB32s")
LINK_BYTES: Final = 154
_SEALED_AT: Final = LINK_BYTES + CERTIFICATE_BYTES + SIGNATURE_BYTES
MAX_SEALED_BYTES: Final = MAX_HEAD_BYTES - _SEALED_AT
KEPT_LINKS: Final = 256  # (tune) that a supplier keeps behind a head: who recovers can bring laggards on with them
RUN_LINKS: Final = 1 << 16  # (tune) that a writer keeps: 10 MB, for three weeks with a head each half minute
MAX_KEPT_BYTES: Final = MAX_HEAD_BYTES + KEPT_LINKS * LINK_BYTES
SKIPPED_MOST: Final = (
    1 << 20
)  # (tune) versions, by a head that goes over another line: a year with one each half minute
_LATE: Final = 1 << 62  # versions are below: they and the next must fit the catalog's integers
_PURPOSE = "head"
_DIGEST_KEY = blake3(b"bitdustfs 1 head digest").digest()


@dataclass(frozen=True, slots=True)
class Head:
    """A verified head. Made by `sign` and `parse` only."""

    raw: bytes  # as signed and as it came
    link: bytes
    handle: bytes
    version: int
    epoch: int  # of the signer's certificate
    previous: bytes  # digest of the link before
    signer: Certificate
    sealed: bytes
    seat: bytes
    lease_s: int
    takes_over: bool
    also: bytes  # digest of a link on another line that it goes over too; NO_HEAD: none

    @property
    def digest(self) -> bytes:
        """32 bytes over the link: what the next head names as its previous."""
        return _digest(self.link)


def sign(
    identity: Identity,
    *,
    handle: bytes,
    version: int,
    previous: bytes,
    sealed: bytes,
    seat: bytes = NO_SEAT,
    lease_s: int = 0,
    takes_over: bool = False,
    also: bytes = NO_HEAD,
) -> Head:
    """Make a head.

    Args:
        handle: of the volume, 16 bytes (`keys.volume_handle`).
        version: one more than that of the head before; 1 if there is none.
        previous: digest of the head before, NO_HEAD if there is none.
        sealed: at most MAX_SEALED_BYTES bytes; not inspected.
        seat, lease_s, takes_over, also: see above.
    Raises:
        BadFormat: it makes no sense, or `identity` is no writer.
    """
    if not 0 < version < _LATE:
        raise BadFormat(what=f"a head cannot have version {version}")
    if len(handle) != 16 or len(previous) != len(NO_HEAD) or len(also) != len(NO_HEAD) or len(seat) != SEAT_BYTES:
        raise BadFormat(what="a head has a handle and a seat of 16 bytes, and digests of 32")
    if not 0 <= lease_s <= MAX_LEASE_S:
        raise BadFormat(what=f"a lease lasts 0 to {MAX_LEASE_S} seconds, not {lease_s}")
    about = blake3(sealed).digest(), len(sealed)
    epoch = identity.certificate.epoch
    link = _LINK.pack(VERSION, handle, version, epoch, previous, *about, seat, lease_s, takes_over, also)
    return parse(link + identity.certificate.raw + identity.sign(_PURPOSE, link) + sealed)


def parse(raw: bytes | memoryview) -> Head:
    """Read and verify a head.

    Raises:
        BadFormat: an unknown format version, a wrong length, a version out of bounds, not signed by a certified
            writer, or another sealed part than was signed.
    """
    if len(raw) and raw[0] != VERSION:
        raise BadFormat(what=f"a head has format version {raw[0]}; this bitdustfs reads version {VERSION}")
    if not _SEALED_AT <= len(raw) <= MAX_HEAD_BYTES:
        raise BadFormat(what=f"a head has {_SEALED_AT} to {MAX_HEAD_BYTES} bytes, this has {len(raw)}")
    raw = bytes(raw)
    sealed = raw[_SEALED_AT:]
    sealed_hash, sealed_bytes = _LINK.unpack_from(raw)[5:7]
    if len(sealed) != sealed_bytes:
        raise BadFormat(what=f"a head has {len(sealed)} sealed bytes, and says {sealed_bytes}")
    if blake3(sealed).digest() != sealed_hash:
        raise BadFormat(what="a head has other sealed bytes than were signed")
    return _signed(raw, sealed)


def salvage(raw: bytes) -> Head | None:
    """What is left of a head whose sealed part is damaged: all that `judge` needs, with `raw` and `sealed` empty.

    None: what is signed is damaged too.
    """
    if len(raw) < _SEALED_AT or raw[0] != VERSION:
        return None
    try:
        return replace(_signed(raw[:_SEALED_AT], b""), raw=b"")
    except BadFormat:
        return None


def _signed(raw: bytes, sealed: bytes) -> Head:
    """Verify what is in front of the sealed part."""
    link = raw[:LINK_BYTES]
    _format, handle, version, epoch, previous, _hash, _length, seat, lease_s, taking, also = _LINK.unpack(link)
    if not 0 < version < _LATE:
        raise BadFormat(what=f"a head cannot have version {version}")
    if (version == 1) != (previous == NO_HEAD) or (also != NO_HEAD and also == previous):
        raise BadFormat(what="a head does not say which head it follows")
    if lease_s > MAX_LEASE_S or taking > 1:
        raise BadFormat(what="a head has a lease that cannot be one")
    signer = certificate.parse(raw[LINK_BYTES : LINK_BYTES + CERTIFICATE_BYTES])
    if signer.role is not Role.WRITER:
        raise BadFormat(what=f"a head is signed by a {signer.role.name.lower()}, who may not change anything")
    if signer.epoch != epoch:
        raise BadFormat(what="a head is of another epoch than the certificate of its signer")
    if not signer.vouches(_PURPOSE, link, raw[_SEALED_AT - SIGNATURE_BYTES : _SEALED_AT]):
        raise BadFormat(what="the signature under a head is not genuine")
    return Head(raw, link, handle, version, epoch, previous, signer, sealed, seat, lease_s, bool(taking), also)


def descends(head: Head, links: bytes | memoryview, ancestor: bytes) -> bool:
    """Say whether a chain of links leads from an older head to this one.

    Args:
        links: those of all versions between the two, oldest first, one after another; none if there are none between.
        ancestor: digest of the older head.
    """
    if len(links) % LINK_BYTES:
        return False
    expected, version = ancestor, 0
    for link in (*split_links(links), head.link):
        form, handle, of_version, _epoch, previous, _hash, _length, _seat, _lease_s, _taking, also = _LINK.unpack(
            link
        )
        if (form, handle) != (VERSION, head.handle) or expected not in (previous, also) or expected == NO_HEAD:
            return False
        if version and not _is_after(of_version, version, also):
            return False
        expected, version = _digest(link), of_version
    return True


def split_links(links: bytes | memoryview) -> list[bytes]:
    """Cut links that lie one after another."""
    return [bytes(links[at : at + LINK_BYTES]) for at in range(0, len(links) - LINK_BYTES + 1, LINK_BYTES)]


def is_handed_on(links: bytes | memoryview) -> bool:
    """Say whether one of these links was let go, so that anybody might follow, or took over from the one before."""
    return any(_LINK.unpack(link)[8] == 0 or _LINK.unpack(link)[9] for link in split_links(links))


def follows(head: Head, links: bytes | memoryview, older: Head) -> bool:
    """Say whether a head comes after another one of the same volume, by a chain without gaps (see `descends`)."""
    first = bytes(links[:LINK_BYTES]) if len(links) >= LINK_BYTES else head.link
    version, also = _LINK.unpack(first)[2], _LINK.unpack(first)[10]
    is_next = _is_after(version, older.version, also)
    return head.handle == older.handle and is_next and descends(head, links, older.digest)


def _is_after(version: int, before: int, also: bytes) -> bool:
    """Whether a version may come next; `also` as the link has it."""
    return before < version <= before + (1 if also == NO_HEAD else SKIPPED_MOST)


class Verdict(Enum):
    """What a supplier thinks of a head that a writer of the owner signed."""

    NEWER = "newer"  # keep it
    SAME = "same"  # it is the one that is held
    BEHIND = "behind"  # what is held is as new or newer
    FORKED = "forked"  # it does not come from what is held, or nothing shows that it does
    LEASED = "leased"  # it does, and another writer holds the volume


def judge(head: Head, links: bytes | memoryview, held: Head | None) -> Verdict:
    """Compare a head with the one that is held: never back, never to a fork (invariant I11).

    A head of a higher epoch needs no chain: the owner himself, with the recovery phrase, has put its signer in the
    place of everybody before, who may have written what the new one never saw.

    Args:
        links: as for `descends`, from the held one on.
        held: None: there is none yet, so any is newer.
    """
    if held is None:
        return Verdict.NEWER
    if head.raw == held.raw:
        return Verdict.SAME
    if head.handle == held.handle and head.epoch != held.epoch:
        return Verdict.NEWER if head.epoch > held.epoch else Verdict.BEHIND
    if head.handle == held.handle and head.version <= held.version:
        return Verdict.BEHIND
    return Verdict.NEWER if follows(head, links, held) else Verdict.FORKED


def split(content: bytes | memoryview) -> tuple[bytes, bytes]:
    """Cut what a supplier keeps, a head and links behind it, into these two. Nothing is verified.

    Raises:
        BadFormat: it is too short for a head.
    """
    if len(content) < _SEALED_AT:
        raise BadFormat(what=f"a head has at least {_SEALED_AT} bytes, this has {len(content)}")
    sealed_bytes: int = _LINK.unpack_from(content)[6]
    end = _SEALED_AT + sealed_bytes
    return bytes(content[:end]), bytes(content[end:])


def kept_links(head: Head, links: bytes | memoryview, held: Head | None, held_links: bytes) -> bytes:
    """The links to keep behind a head that takes the place of `held`: the newest of those that it goes back to."""
    before = held_links + held.link if held is not None else b""
    return genuine_links(head, (before + bytes(links))[-KEPT_LINKS * LINK_BYTES :])


def genuine_links(head: Head, links: bytes | memoryview) -> bytes:
    """Of links that are said to lead up to a head, oldest first, those that do: the head vouches for them."""
    parents, version = {head.previous, head.also} - {NO_HEAD}, head.version
    end = start = len(links) - len(links) % LINK_BYTES
    while start >= LINK_BYTES:
        link = bytes(links[start - LINK_BYTES : start])
        form, handle, of_version, _epoch, previous, *_about, also = _LINK.unpack(link)
        is_before = of_version == version - 1 or (len(parents) > 1 and of_version < version)
        if (form, handle) != (VERSION, head.handle) or not is_before or _digest(link) not in parents:
            break
        start, parents, version = start - LINK_BYTES, {previous, also} - {NO_HEAD}, of_version
    return bytes(links[start:end])


def count_own(head: Head, links: bytes) -> int:
    """How many of the links that lead up to a head are of its own line, and of none that was gone over."""
    expected, count = head.previous, 0
    for link in reversed(split_links(links)):
        if _digest(link) != expected:
            break
        expected, count = _LINK.unpack(link)[4], count + 1
    return count


def version_of(link: bytes) -> int:
    """The version that a link is of."""
    version: int = _LINK.unpack(link)[2]
    return version


def also_of(link: bytes) -> bytes:
    """The digest of a link on another line that a link goes over as well; NO_HEAD: none."""
    also: bytes = _LINK.unpack(link)[10]
    return also


def digest_of(link: bytes) -> bytes:
    """The digest of a link: what the next head names as its previous."""
    return _digest(link)


def _digest(link: bytes) -> bytes:
    return blake3(link, key=_DIGEST_KEY).digest()
