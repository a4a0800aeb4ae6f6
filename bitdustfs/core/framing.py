"""Framing: cuts a stream of bytes into frames. No I/O here: bytes in, events out.

Lengths are checked before anything is kept, the header before the body is taken in, so a peer can make us hold no
more than one small header until we know what its body is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitdustfs.core import wire
from bitdustfs.core.uncleared import uncleared
from bitdustfs.core.wire import Message
from bitdustfs.errors import ProtocolViolation


@dataclass(frozen=True, slots=True)
class Arriving:
    """A header whose body is still to come: the moment to decide whether to take it in, or to `skip` it."""

    id: int
    message: Message
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame."""

    id: int
    message: Message
    body: bytes | memoryview  # b"" too if it was skipped


class Parser:
    """Cut a stream of bytes into frames.

    Holds at most one header, one body and what was fed last. A body gets its place when `next` is called again after
    its `Arriving`; what comes then may be put there directly, through `room`. The first frame must be small and
    without a body; `open_up` raises the limits after HELLO, those of a stranger less than those of others.

    Args:
        peer: how errors name the other side.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._most_header = wire.HELLO_HEADER_BYTES
        self._most_body = 0
        self._is_stranger: Callable[[], bool] = lambda: True
        self._held = bytearray()  # that came and is not looked at yet
        self._prefix: tuple[int, int] | None = None
        self._head: tuple[int, Message] | None = None  # id and message
        self._body: memoryview | None = None  # the place of the body that is coming
        self._skipping = False
        self._missing = 0  # bytes of the body that are still to come, when it has a place or is skipped

    @property
    def is_between_frames(self) -> bool:
        """Say whether nothing of a next frame has come yet."""
        return self._prefix is None and not self._held

    def open_up(self, is_stranger: Callable[[], bool]) -> None:
        """Allow longer headers, and bodies: HELLO has come.

        Args:
            is_stranger: asked now, and whenever a header comes that is too long for a stranger, until it says no.
        """
        self._most_header = wire.STRANGER_HEADER_BYTES if is_stranger() else wire.MAX_HEADER_BYTES
        self._most_body = wire.MAX_BODY_BYTES
        self._is_stranger = is_stranger

    @property
    def most_at_once(self) -> int:
        """How many bytes at most to feed at once, so that little is held that was not looked at."""
        return self._most_header

    def feed(self, content: bytes | memoryview) -> None:
        """Take in what came from the network."""
        if self._missing:
            here = min(self._missing, len(content))
            if self._body is not None:
                at = len(self._body) - self._missing
                self._body[at : at + here] = content[:here]
            self._missing -= here
            content = memoryview(content)[here:]
        self._held += content

    def room(self) -> memoryview | None:
        """The place of what is missing of a body, to be filled from the front; None: use `feed`."""
        return self._body[-self._missing :] if self._body is not None and self._missing else None

    def filled(self, count: int) -> None:
        """Say that the first `count` bytes of `room` are there."""
        assert count <= self._missing
        self._missing -= count

    def skip(self) -> None:
        """Throw away the body announced by the last `Arriving`, as it comes."""
        assert self._prefix is not None and self._head is not None and self._body is None
        here = min(len(self._held), self._prefix[1])
        del self._held[:here]
        self._skipping, self._missing = True, self._prefix[1] - here

    def next(self) -> Arriving | Frame | None:
        """The next event, or None: feed more.

        Raises:
            ProtocolViolation: the stream is of no use any more.
        """
        if self._prefix is None:
            if len(self._held) < wire.PREFIX.size:
                return None
            self._prefix = self._check_prefix(*wire.PREFIX.unpack(self._take(wire.PREFIX.size)))
        header_bytes, body_bytes = self._prefix
        if self._head is None:
            if len(self._held) < header_bytes:
                return None
            self._head = self._decode(self._take(header_bytes), body_bytes)
            if body_bytes:
                return Arriving(*self._head, body_bytes)
        if body_bytes and self._body is None and not self._skipping:
            self._place(body_bytes)
        if self._missing:
            return None
        body = self._body.toreadonly() if self._body is not None else b""
        frame = Frame(*self._head, body)
        self._prefix, self._head, self._body, self._skipping = None, None, None, False
        return frame

    def _place(self, body_bytes: int) -> None:
        """Make the place of a body, with what is there of it."""
        self._body = uncleared(body_bytes)  # nobody gets it before it is whole
        here = min(len(self._held), body_bytes)
        self._body[:here] = self._take(here)
        self._missing = body_bytes - here

    def _check_prefix(self, header_bytes: int, body_bytes: int) -> tuple[int, int]:
        if header_bytes > self._most_header and not self._is_stranger():
            self._most_header = wire.MAX_HEADER_BYTES
        if not 0 < header_bytes <= self._most_header:
            raise self._violation(f"a header of {header_bytes} bytes")
        if body_bytes > self._most_body:
            raise self._violation(f"a body of {body_bytes} bytes")
        return header_bytes, body_bytes

    def _decode(self, header: bytes, body_bytes: int) -> tuple[int, Message]:
        try:
            number, message = wire.decode(header)
        except ValueError as bad:
            raise self._violation(f"a header that cannot be read: {bad}") from bad
        if not wire.body_fits(message, body_bytes):
            raise self._violation(f"a {type(message).__name__} with a body of {body_bytes} bytes")
        return number, message

    def _take(self, count: int) -> bytes:
        """Remove and return the first `count` held bytes."""
        taken = bytes(memoryview(self._held)[:count])
        del self._held[:count]
        return taken

    def _violation(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(peer=self._peer, what=what)
