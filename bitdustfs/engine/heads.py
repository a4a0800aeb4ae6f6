"""Heads that we keep for others: the newest of each owner, which never goes back and never forks (invariant I11).

    PUT_HEAD -> parse, in a worker -> is its signer a node of the caller's owner? (keeper)
             -> the owner's lock: was the signer revoked? (keeper) -> judge it by the held one, save durably -> answer

A head on our disk that is damaged costs its owner only. It is not the same as none: an owner who recovers counts the
suppliers that have nothing newer, so while it is damaged we say that we cannot tell. Nor do we delete anything for
him, for we do not know whether the one who asks is behind. The next head that he puts heals it. If what is signed of
the damaged one can still be read, that head must be the same or follow it, as ever. If not, any head will do that a
node of the newest epoch signed: then this supplier does not protect him from being set back, and the quorum of the
others does, which his machine asks before it puts one.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Final

import trio

from bitdustfs.core import head as heads
from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.head import Head, Verdict
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.errors import BadFormat
from bitdustfs.model import OwnerId, short
from bitdustfs.ports import ContractStore, Crunch

log = logging.getLogger(__name__)

WATCH_S: Final = 60.0  # (tune) that nothing is said to who watches: then he asks again, which shows that he is there
_DAMAGED: Final = Refusal(Refused.FAULT, "the head that is kept here is damaged, until a new one comes")


class Heads:
    """The heads of all owners.

    Raises:
        DiskFault, BadFormat: what is stored cannot be read at all.
    """

    def __init__(self, store: ContractStore, crunch: Crunch) -> None:
        self._store = store
        self._crunch = crunch
        self._held: dict[OwnerId, Head] = {}
        self._links: dict[OwnerId, bytes] = {}  # of heads before it
        self._damaged: dict[OwnerId, Head | None] = {}  # what can still be read of it
        self._changed: dict[OwnerId, trio.Event] = {}  # somebody waits for another head
        self._locks: defaultdict[OwnerId, trio.Lock] = defaultdict(trio.Lock)
        for owner, raw in store.heads().items():
            try:
                head, links = heads.split(raw)
                self._held[owner] = heads.parse(head)
                self._links[owner] = heads.genuine_links(self._held[owner], links)
            except BadFormat as bad:
                left = heads.salvage(raw)
                self._damaged[owner] = left if left is not None and left.signer.owner == owner else None
                log.error("the head of owner %s is damaged, and waits for a new one: %s", short(owner), bad)

    def version(self, owner: OwnerId) -> int:
        """Of the head that is held; 0: none."""
        held = self._held.get(owner)
        return held.version if held is not None else 0

    def lock(self, owner: OwnerId) -> trio.Lock:
        """The lock of an owner's head: held while one is judged and saved."""
        return self._locks[owner]

    def get(self, owner: OwnerId) -> tuple[wire.Answer, tuple[bytes, ...]]:
        """The answer to GET_HEAD, with its body."""
        if owner in self._damaged:
            return _DAMAGED, ()
        held = self._held.get(owner)
        return wire.HeadIs(len(held.raw) if held else 0), (held.raw, self._links[owner]) if held else ()

    async def watch(self, owner: OwnerId, request: wire.Watch) -> wire.Newest:
        """Answer when a newer head than the one that the caller knows is held, or after WATCH_S."""
        with trio.move_on_after(WATCH_S):
            while self._newest(owner) <= (request.epoch, request.version):
                await self._changed.setdefault(owner, trio.Event()).wait()
        return wire.Newest(*self._newest(owner))

    def holds(self, head: Head) -> bool:
        """Say whether exactly this head is held."""
        held = self._held.get(head.signer.owner)
        return held is not None and held.raw == head.raw

    def outdates(self, caller: Certificate, request: wire.Request) -> Refusal | None:
        """Refuse what a node asks that does not know the newest head.

        A PUT of the node that wrote the newest head is only under way for longer, and takes nothing from anybody.
        One of a node of a higher epoch than the head was put by somebody who takes the volume over, perhaps from an
        older state: he needs its place before he can bring a head.
        """
        held = self._held.get(caller.owner) or self._damaged.get(caller.owner)
        match request:
            case wire.Delete() if caller.owner in self._damaged:
                return _DAMAGED
            case wire.Delete(head_version=version) if held is not None and version < held.version:
                return _behind(held)
            case wire.Put(head_version=version) if held is not None and version < held.version:
                is_rival = held.signer.node != caller.node and held.epoch >= caller.epoch
                return _behind(held) if is_rival else None
        return None

    async def read(self, request: wire.PutHead, body: bytes | memoryview) -> Head:
        """Verify the head in the body of a PUT_HEAD. Raises BadFormat."""
        return await self._crunch.run(heads.parse, memoryview(body)[: request.head_bytes])

    async def put(self, head: Head, links: bytes | memoryview) -> wire.Answer:
        """Keep a head of its signer's owner if it is newer than the one that is held. The caller has the lock."""
        owner = head.signer.owner
        held = self._held.get(owner) or self._damaged.get(owner)
        verdict, kept = await self._crunch.run(self._judge_and_save, owner, head, links, held)
        if verdict is Verdict.NEWER:
            self._held[owner], self._links[owner] = head, kept
            self._damaged.pop(owner, None)
            if (changed := self._changed.pop(owner, None)) is not None:
                changed.set()
        if verdict in (Verdict.NEWER, Verdict.SAME):
            return wire.Done()
        assert held is not None, "nothing is behind nothing"
        refusal = _behind(held) if verdict is Verdict.BEHIND else _forked(held)
        log.warning("refused head %d of owner %s: %s", head.version, short(owner), refusal.text)
        return refusal

    def _newest(self, owner: OwnerId) -> tuple[int, int]:
        held = self._held.get(owner)
        return (held.epoch, held.version) if held is not None else (0, 0)

    def _judge_and_save(
        self, owner: OwnerId, head: Head, links: bytes | memoryview, held: Head | None
    ) -> tuple[Verdict, bytes]:
        """In a worker. Returns the links to keep, too."""
        verdict = heads.judge(head, links, held)
        if owner in self._damaged and held is not None and head.link == held.link:
            verdict = Verdict.NEWER  # the very one, whole
        if verdict is not Verdict.NEWER:
            return verdict, b""
        kept = heads.kept_links(head, links, held, self._links.get(owner, b""))
        self._store.save_head(owner, head.raw + kept)
        return verdict, kept


def _behind(held: Head) -> Refusal:
    return Refusal(Refused.BEHIND, f"version {held.version} of the head is known here", held.version)


def _forked(held: Head) -> Refusal:
    return Refusal(Refused.FORKED, f"it does not come from version {held.version}, which is known here", held.version)
