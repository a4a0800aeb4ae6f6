"""Handlers: who answers the requests of peers, and what a refusal means to the one who asked.

The keeper is one; a node that keeps nothing has `RefuseAll`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from bitdustfs.core import certificate, wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.errors import (
    HeadBehind,
    HeadForked,
    HeadLeased,
    NodeRevoked,
    PeerError,
    PeerFault,
    PeerFull,
    PeerLacks,
    PeerRefused,
)

# A refusal that is not named here is a plain PeerRefused.
_ERRORS: Mapping[wire.Refused, type[PeerError]] = MappingProxyType(
    {
        wire.Refused.QUOTA: PeerFull,
        wire.Refused.DISK_FULL: PeerFull,
        wire.Refused.NOT_FOUND: PeerLacks,
        wire.Refused.UNAVAILABLE: PeerError,
        wire.Refused.FAULT: PeerFault,
        wire.Refused.BEHIND: HeadBehind,
        wire.Refused.FORKED: HeadForked,
        wire.Refused.LEASED: HeadLeased,
    }
)


class Handler(Protocol):
    """Who answers a peer's requests."""

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        """Decide on a request before its body is taken in. None: go on; `answer` or `forget` will follow."""
        ...

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        """Undo `admit`: the body never came, or the answer is made. Called once for each admitted request."""
        ...

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        """Answer an admitted request; the parts of the answer's body are sent one after another."""
        ...


class RefuseAll:
    """The handler of a node that keeps nothing for anybody. It answers pings."""

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        if isinstance(request, wire.Ping):
            return None
        return wire.Refusal(wire.Refused.NO_CONTRACT, "this node keeps nothing for others")

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        pass

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        return wire.Done(), ()


class Standby:
    """A handler that leaves it all to another one, which may be put in its place later."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        return self.handler.admit(caller, request)

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        self.handler.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        return await self.handler.answer(caller, request, body)


def error_of(refusal: wire.Refusal, peer: str, asker: Certificate) -> PeerError:
    """The error that a refusal is on the side that asked; its facts have `code` and `detail`.

    That the asker was revoked is believed to nobody but its owner: what the peer says without a certificate of a
    higher epoch is a plain refusal, with detail 0.
    """
    what = wire.printable(refusal.text) or refusal.code.name.lower()
    if refusal.code is wire.Refused.STALE:
        newer = certificate.proves_newer(refusal.proof, asker)
        if newer is not None:
            return NodeRevoked(peer=peer, what=what, code=refusal.code, detail=newer.epoch)
        return PeerRefused(peer=peer, what=f"{what}; it shows no proof of that", code=refusal.code)
    return _ERRORS.get(refusal.code, PeerRefused)(peer=peer, what=what, code=refusal.code, detail=refusal.detail)
