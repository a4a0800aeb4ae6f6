"""Bulk frames: a byte stream for fragments beside a TLS session, as pure values. No I/O here.

    opening = magic ‖ ticket                                        in clear, from the side that dials
    frame   = kind (u8) ‖ last (u8) ‖ length (u32) ‖ ciphertext ‖ tag (16)

Each direction has a fresh random key, chosen by the side that seals with it and handed over inside the TLS session;
the ticket only says which session. Frame i of a direction is sealed with AES-256-GCM under nonce i, and its first
six bytes are authenticated with it: so a frame that was changed, moved, repeated or left out does not open, and a
stream without a last frame was cut. The first frame of each side is an empty OPEN, which proves that it has the keys.

TLS in Python costs four times as much: it takes records of 16 KiB one by one and copies each some times more. Here a
frame is sealed into one buffer for all of them, and unsealed into the place of the body that it belongs to.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bitdustfs.errors import PeerGone, ProtocolViolation
from bitdustfs.model import BulkPass

MAGIC: Final = b"bdbulk\n\x01"  # with the version of the format; a TLS session begins with 0x16
OPENING_BYTES: Final = len(MAGIC) + 16
MAX_FRAME_BYTES: Final = 1024 * 1024  # of content
FRAME_BYTES: Final = 256 * 1024  # (tune) what we put into one: it stays in the processor's cache, 1 MiB does not
MAX_FRAMES: Final = 1 << 32  # under one key: 1 PiB of ours, and far below what AES-GCM with counters allows
_HEADER = struct.Struct(">BBI")
_TAG_BYTES = 16
_NONCE_BYTES = 12
OVERHEAD_BYTES: Final = _HEADER.size + _TAG_BYTES


class Kind(IntEnum):
    OPEN = 1  # empty; the first frame of each side, and no other
    CONTENT = 2  # 1 byte … 1 MiB; the last one may be empty


@dataclass(frozen=True, slots=True)
class _Head:
    """The header of a frame, as it came."""

    kind: int
    last: int
    length: int
    raw: bytes


def opening(bulk: BulkPass) -> bytes:
    """What the side that dials says first, in clear."""
    return MAGIC + bulk.ticket


def ticket_of(said: bytes) -> bytes | None:
    """The ticket in an opening of OPENING_BYTES, or None: it is none of ours."""
    return said[len(MAGIC) :] if said.startswith(MAGIC) and len(said) == OPENING_BYTES else None


class Sealer:
    """Makes the frames of one direction.

    Args:
        peer: how errors name the other side.
        most: frames under this key.
    """

    def __init__(self, key: bytes, peer: str, *, most: int = MAX_FRAMES) -> None:
        self._cipher = AESGCM(key)
        self._peer = peer
        self._most = most
        self._count = 0

    def __repr__(self) -> str:
        return f"Sealer({self._count} frames)"

    def seal_into(self, buffer: memoryview, content: bytes | memoryview, *, last: bool = False) -> int:
        """Write the next frame to the front of `buffer`; returns its length, OVERHEAD_BYTES more than the content.

        The first frame is the OPEN one, and empty.

        Raises:
            PeerGone: the key is worn out; a new connection has a new one.
        """
        assert len(content) <= MAX_FRAME_BYTES
        if self._count >= self._most:
            raise PeerGone(peer=self._peer, what="this connection has carried all that it may")
        kind = Kind.CONTENT if self._count else Kind.OPEN
        head = _HEADER.pack(kind, last, len(content))
        end = OVERHEAD_BYTES + len(content)
        buffer[: len(head)] = head
        self._cipher.encrypt_into(_nonce(self._count), content, head, buffer[len(head) : end])
        self._count += 1
        return end

    def seal(self, content: bytes = b"", *, last: bool = False) -> bytes:
        """The next frame, for short ones."""
        frame = bytearray(OVERHEAD_BYTES + len(content))
        self.seal_into(memoryview(frame), content, last=last)
        return bytes(frame)


class Unsealer:
    """Opens the frames of one direction: bytes in, content out.

    Put what comes from the network into `room` and say how much it was with `filled`; `ready` tells when a frame is
    whole. Holds no more than the longest frame that came, and makes room for a frame only when its header makes
    sense. Frames are mostly of one length, so mostly one comes in one piece.

    Args:
        peer: how errors name the other side.
    """

    def __init__(self, key: bytes, peer: str) -> None:
        self._cipher = AESGCM(key)
        self._peer = peer
        self._count = 0
        self._buffer = memoryview(bytearray(OVERHEAD_BYTES))  # of OPEN
        self._have = 0
        self._head: _Head | None = None
        self.has_ended = False

    def __repr__(self) -> str:
        return f"Unsealer({self._count} frames)"

    def room(self) -> memoryview:
        """Where the next bytes go.

        Raises:
            ProtocolViolation: the header that came makes no sense. Nothing was kept for it.
        """
        head = self._header()
        if head is not None and len(self._buffer) < OVERHEAD_BYTES + head.length:
            grown = memoryview(bytearray(OVERHEAD_BYTES + head.length))
            grown[: self._have] = self._buffer[: self._have]
            self._buffer = grown
        return self._buffer[self._have :]

    @property
    def missing(self) -> int:
        """How many bytes of the frame that is coming must come before anything can be done; 1: nobody knows."""
        return OVERHEAD_BYTES + self._head.length - self._have if self._head is not None else 1

    def missing_for(self, content_bytes: int) -> int:
        """How many bytes must come at least before so much content is there that was not taken yet."""
        if self._head is None:
            return max(1, content_bytes - self._have)
        return self.missing + max(0, content_bytes - self._head.length)

    def filled(self, count: int) -> None:
        """Say that the first `count` bytes of `room` are there."""
        self._have += count

    def ready(self) -> int | None:
        """How much content the frame that came has; None: it is not whole yet. Raises like `room`."""
        head = self._header()
        return head.length if head is not None and self._have >= OVERHEAD_BYTES + head.length else None

    def unseal_into(self, place: memoryview) -> int:
        """Write the content of a `ready` frame to the front of `place`; returns its length.

        What was written is of no use if this raises.

        Raises:
            ProtocolViolation: it is not the frame that the other side sealed next.
        """
        head = self._head
        assert head is not None and not self.has_ended
        end = OVERHEAD_BYTES + head.length
        try:
            sealed = self._buffer[_HEADER.size : end]
            self._cipher.decrypt_into(_nonce(self._count), sealed, head.raw, place[: head.length])
        except InvalidTag as bad:
            raise self._violation("a frame that was changed on its way") from bad
        self._count += 1
        self.has_ended = bool(head.last)
        left = self._have - end
        self._buffer[:left] = self._buffer[end : self._have]
        self._have, self._head = left, None
        return head.length

    def unseal(self) -> bytes:
        """The content of a `ready` frame, for those that have no place yet. Raises like `unseal_into`."""
        length = self.ready()
        assert length is not None
        content = bytearray(length)
        self.unseal_into(memoryview(content))
        return bytes(content)

    def _header(self) -> _Head | None:
        if self._head is None and self._have >= _HEADER.size:
            raw = bytes(self._buffer[: _HEADER.size])
            kind, last, length = _HEADER.unpack(raw)
            self._head = self._checked(_Head(kind, last, length, raw))
        return self._head

    def _checked(self, head: _Head) -> _Head:
        """Nothing of it is authenticated yet: it only must not make us hold much, or work for nothing."""
        if head.kind != (Kind.CONTENT if self._count else Kind.OPEN) or head.last > 1:
            raise self._violation(f"a frame of kind {head.kind} that makes no sense")
        if head.length > (MAX_FRAME_BYTES if self._count else 0):
            raise self._violation(f"a frame of {head.length} bytes")
        if self._count and not head.length and not head.last:
            raise self._violation("an empty frame")
        return head

    def _violation(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(peer=self._peer, what=what)


def _nonce(count: int) -> bytes:
    return count.to_bytes(_NONCE_BYTES, "big")
