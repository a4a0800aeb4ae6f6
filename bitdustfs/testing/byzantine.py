"""Byzantine suppliers: everything that one may do with what it was given, short of breaking cryptography.

A `Byzantine` stands between a connection and an honest keeper, and bends what comes out. What it does is data: a set
of tricks, and the fragments that it does them to. What it dropped stays dropped when it is honest again, as a disk
that was wiped stays empty.

    conduct = swarm.suppliers[0].conduct
    conduct.tricks = {Trick.FLIP}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

import trio

from bitdustfs.core import fragment, wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.fragment import HASH_BYTES, leaf_count
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.engine.handler import Handler
from bitdustfs.model import LEAF_BYTES

SMALL_LEAVES: Final = 4  # what SMALL_ONLY answers: as long as an audit may be
BOAST_BYTES: Final = 1 << 50
Parts = tuple[bytes | memoryview, ...]
Told = tuple[wire.Answer, Parts]


class Trick(Enum):
    """One way to cheat. The first five are proven by one answer, the others by none."""

    DROP = "drop"  # acknowledges, keeps nothing, and says so when asked
    FLIP = "flip"  # one bit is wrong
    SWAP = "swap"  # the bytes of another fragment, whole and true in themselves
    TRUNCATE = "truncate"  # the first half, which it says is all
    FORGE_HASHES = "forge hashes"  # a hash list that fits the bytes, and both are wrong
    CUT = "cut"  # fewer bytes than its answer says
    OVERLONG = "overlong"  # more bytes than were asked for
    STALL = "stall"  # never answers a GET
    SMALL_ONLY = "small only"  # answers what is as short as an audit, and refuses the rest
    FAULT = "fault"  # says that its disk failed
    BOAST = "boast"  # says that it has much room, and takes nothing


PROVABLE: Final = frozenset({Trick.DROP, Trick.FLIP, Trick.SWAP, Trick.TRUNCATE, Trick.FORGE_HASHES})


def _all(_name: bytes) -> bool:
    return True


@dataclass(slots=True)
class Conduct:
    """How a supplier behaves, over restarts.

    Attributes:
        touches: which fragments, by name, its tricks are done to.
        dropped: (owner, name) that it acknowledged and does not have.
    """

    tricks: set[Trick] = field(default_factory=set)
    touches: Callable[[bytes], bool] = _all
    dropped: set[tuple[bytes, bytes]] = field(default_factory=set)

    def reform(self) -> None:
        """Be honest from now on."""
        self.tricks = set()
        self.touches = _all

    def gives(self, owner: bytes, name: bytes) -> bool:
        """Say whether a fragment that it was given comes back right when asked for now, whole."""
        return (owner, name) not in self.dropped and not (self._bends() and self.touches(name))

    def _bends(self) -> bool:
        return bool(self.tricks - {Trick.DROP, Trick.BOAST})


class Byzantine:
    """A Handler that does what a conduct says, and is `inner` otherwise."""

    def __init__(self, inner: Handler, conduct: Conduct) -> None:
        self._inner = inner
        self._conduct = conduct

    def admit(self, caller: Certificate, request: wire.Request) -> Refusal | None:
        if Trick.BOAST in self._conduct.tricks and isinstance(request, wire.Put):
            return Refusal(Refused.DISK_FULL, "its disk is full")
        return self._inner.admit(caller, request)

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        self._inner.forget(caller, request)

    async def answer(self, caller: Certificate, request: wire.Request, body: bytes | memoryview) -> Told:
        match request:
            case wire.Put():
                return await self._put(caller, request, body)
            case wire.Get():
                return await self._get(caller, request)
            case wire.Stat():
                return await self._stat(caller, request)
            case _:
                return await self._inner.answer(caller, request, body)

    async def _put(self, caller: Certificate, request: wire.Put, body: bytes | memoryview) -> Told:
        conduct, key = self._conduct, (bytes(caller.owner), request.name)
        if Trick.DROP in conduct.tricks and conduct.touches(request.name):
            conduct.dropped.add(key)
            return wire.Done(), ()
        conduct.dropped.discard(key)
        return await self._inner.answer(caller, request, body)

    async def _stat(self, caller: Certificate, request: wire.Stat) -> Told:
        told, parts = await self._inner.answer(caller, request, b"")
        if Trick.BOAST in self._conduct.tricks and isinstance(told, wire.Status):
            told = wire.Status(BOAST_BYTES, BOAST_BYTES, 0, 0, BOAST_BYTES, 0, told.contract)
        return told, parts

    async def _get(self, caller: Certificate, request: wire.Get) -> Told:
        conduct = self._conduct
        if (bytes(caller.owner), request.name) in conduct.dropped:
            return Refusal(Refused.NOT_FOUND, "that fragment"), ()
        told, parts = await self._inner.answer(caller, request, b"")
        if not isinstance(told, wire.Found) or not conduct.touches(request.name):
            return told, parts
        for trick in Trick:
            if trick in conduct.tricks:
                told, parts = await self._bent(trick, caller, request, told, parts)
                if not isinstance(told, wire.Found):
                    break
        return told, parts

    async def _bent(
        self, trick: Trick, caller: Certificate, request: wire.Get, told: wire.Found, parts: Parts
    ) -> Told:
        hashes, content = b"".join(parts[:-1]), bytes(parts[-1])
        match trick:
            case Trick.FLIP:
                return told, (hashes, _flipped(content))
            case Trick.SWAP:
                return await self._swapped(caller, request, told, parts)
            case Trick.TRUNCATE:
                length = max(1, told.length // 2)
                short = hashes[: HASH_BYTES * leaf_count(length)]
                start, end = request.first * LEAF_BYTES, (request.first + request.count) * LEAF_BYTES
                left = content[: max(0, min(end, length) - min(start, length))]
                return wire.Found(length, len(short)), (short, left)
            case Trick.FORGE_HASHES:
                made = bytes(told.length)
                start = request.first * LEAF_BYTES
                forged = fragment.leaf_hashes(made) if hashes else b""
                return told, (forged, made[start : start + len(content)])
            case Trick.CUT:
                return told, (hashes, content[: len(content) // 2])
            case Trick.OVERLONG:
                return told, (hashes, content + bytes(8 * LEAF_BYTES))
            case Trick.STALL:
                await trio.sleep(inf)
            case Trick.SMALL_ONLY if request.count > SMALL_LEAVES:
                return Refusal(Refused.FAULT, "not so much at once"), ()
            case Trick.FAULT:
                return Refusal(Refused.FAULT, "its disk failed"), ()
        return told, (hashes, content)

    async def _swapped(self, caller: Certificate, request: wire.Get, told: wire.Found, parts: Parts) -> Told:
        """The same leaves of another fragment of this owner; of one that it makes up if it has no other."""
        listed, _ = await self._inner.answer(caller, wire.List(b"", wire.MAX_NAMES), b"")
        assert isinstance(listed, wire.Listed)
        others = [name for name, length in listed.entries if name != request.name and length == told.length]
        others += [name for name, _length in listed.entries if name != request.name]
        for name in others[:1]:
            return await self._inner.answer(caller, wire.Get(name, request.first, request.count, request.hashes), b"")
        return await self._bent(Trick.FORGE_HASHES, caller, request, told, parts)


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else content
