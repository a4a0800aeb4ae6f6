"""Heads that we keep for others: the newest of each owner, which never goes back and never forks (invariant I11).

    PUT_HEAD -> parse, in a worker -> is its signer a node of the caller's owner? (keeper)
             -> the owner's lock: was the signer revoked? (keeper) -> judge it by the held one, save durably -> answer

A head on our disk that is damaged costs its owner only. It is not the same as none: an owner who recovers counts the
suppliers that have nothing newer, so while it is damaged we say that we cannot tell. Nor do we delete anything for
him, for we do not know whether the one who asks is behind. The next head that he puts heals it. If what is signed of
the damaged one can still be read, that head must be the same or follow it, as ever. If not, any head will do that a
node of the newest epoch signed: then this supplier does not protect him from being set back, and the quorum of the
others does, which his machine asks before it puts one.

Who may put the next one, core/lease decides. Leases are in memory; who holds a volume is on the disk too, in a note
behind the head where that does not say it, so that after a start nobody is taken for the holder who has let go. That
there are never two writers whose heads count does not rest on them, but on this: a held head of an epoch gives way
only to one that goes back to it, so that any two heads of an epoch that a quorum ever held lie on one line, for some
supplier held both.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial
from typing import Final

import trio

from bitdustfs.core import head as heads
from bitdustfs.core import lease as leases
from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.head import Head, Verdict
from bitdustfs.core.lease import Holder, Lease
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.errors import BadFormat, DiskFault, DiskFull
from bitdustfs.model import NodeId, OwnerId, short
from bitdustfs.ports import ContractStore, Crunch, Wall

log = logging.getLogger(__name__)

WATCH_S: Final = 60.0  # (tune) that nothing is said to who watches: then he asks again, which shows that he is there
WAIT_S: Final = 60.0  # (tune) that nothing is said to who holds a volume, and waits: then he says that he is there
_DAMAGED: Final = Refusal(Refused.FAULT, "the head that is kept here is damaged, until a new one comes")


class Heads:
    """The heads of all owners.

    Raises:
        DiskFault, BadFormat: what is stored cannot be read at all.
    """

    def __init__(self, store: ContractStore, crunch: Crunch, wall: Wall) -> None:
        self._store = store
        self._crunch = crunch
        self._wall = wall
        self._leases: dict[OwnerId, Lease | None] = {}  # None: it was let go
        self._wishes: dict[OwnerId, tuple[Holder, float]] = {}  # and until when it is told
        self._told: dict[OwnerId, trio.Event] = {}  # who holds a volume waits for it
        self._held: dict[OwnerId, Head] = {}
        self._links: dict[OwnerId, bytes] = {}  # of heads before it
        self._notes: dict[OwnerId, bytes] = {}  # of who holds a volume when we started, if it is not the signer
        self._found: dict[OwnerId, Holder | None] = {}  # whom the next start finds; without: that is not known
        self._damaged: dict[OwnerId, Head | None] = {}  # what can still be read of it
        self._changed: dict[OwnerId, trio.Event] = {}  # somebody waits for another head
        self._locks: defaultdict[OwnerId, trio.Lock] = defaultdict(trio.Lock)
        for owner, raw in store.heads().items():
            try:
                head, behind = heads.split(raw)
                self._held[owner] = heads.parse(head)
                links, noted = leases.split_note(behind)
                self._links[owner] = heads.genuine_links(self._held[owner], links)
                self._notes[owner] = noted
                self._found[owner] = _holder(self._at_start(owner))
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

    async def hold(self, caller: Certificate, request: wire.Hold) -> wire.Holds:
        """Let a writer of the owner hold his volume, or tell who does."""
        owner, now_s = caller.owner, self._wall.awake_s()
        asker, lease = Holder(caller.node, request.seat), self._lease(owner)
        held = self._held.get(owner)
        if held is not None and held.epoch < caller.epoch:
            lease = None  # the owner has put this node in the place of everybody before
        said, noted = leases.ask(lease, asker, lease_s=request.lease_s, takes_over=request.takes_over, now_s=now_s)
        is_his = said is leases.Answer.YOURS
        if lease is None or noted is None or lease.holder != noted.holder:
            self._tell(owner)  # to who held it until now
        self._leases[owner] = noted
        if owner in self._wishes and self._wishes[owner][0] == asker and (is_his or not request.wishes):
            del self._wishes[owner]  # it is granted, or given up
        elif request.wishes and not is_his:
            self._wishes[owner] = asker, now_s + leases.WISH_S
            self._tell(owner)
        await self._note_holder(owner)
        if request.waits and self._holds(owner, asker).is_yours and not self._wish(owner):
            with trio.move_on_after(WAIT_S):
                await self._told.setdefault(owner, trio.Event()).wait()
        return self._holds(owner, asker)

    def _holds(self, owner: OwnerId, asker: Holder) -> wire.Holds:
        lease, now_s = self._lease(owner), self._wall.awake_s()
        runs = lease is not None and now_s < lease.until_s
        return wire.Holds(
            is_yours=lease is None or not lease.binds(asker, now_s=now_s),
            node=bytes(lease.holder.node) if lease is not None and runs else b"",
            left_s=round(lease.until_s - now_s) if lease is not None and runs else 0,
            wished_by=self._wish(owner),
        )

    def _wish(self, owner: OwnerId) -> bytes:
        """The node that wishes to write, if it said so not long ago."""
        wish = self._wishes.get(owner)
        if wish is not None and self._wall.awake_s() >= wish[1]:
            del self._wishes[owner]
            return b""
        return bytes(wish[0].node) if wish is not None else b""

    def _tell(self, owner: OwnerId) -> None:
        """Answer who waits."""
        if (told := self._told.pop(owner, None)) is not None:
            told.set()

    def _lease(self, owner: OwnerId) -> Lease | None:
        """Who holds the volume of an owner; one that nothing is remembered of is counted from now."""
        if owner not in self._leases:
            self._leases[owner] = self._at_start(owner)
        return self._leases[owner]

    def _at_start(self, owner: OwnerId) -> Lease | None:
        """The lease by what was on the disk when we started."""
        held, now_s = self._held.get(owner) or self._damaged.get(owner), self._wall.awake_s()
        if noted := self._notes.get(owner):
            return leases.of_note(noted, now_s=now_s)
        return leases.of_head(held, now_s=now_s) if held is not None else None

    async def _note_holder(self, owner: OwnerId) -> None:
        """Store who holds a volume, if a start would find somebody else. Nothing fails if that cannot be stored."""
        async with self._locks[owner]:
            await self._store_holder(owner)

    async def _store_holder(self, owner: OwnerId) -> None:
        """The same; the caller has the lock."""
        held, lease = self._held.get(owner), self._lease(owner)
        if held is None or (owner in self._found and self._found[owner] == _holder(lease)):
            return
        self._found.pop(owner, None)
        raw = held.raw + self._links[owner] + leases.note(lease, now_s=self._wall.awake_s())
        try:
            await self._crunch.run(self._store.save_head, owner, raw)
            self._found[owner] = _holder(lease)
        except (DiskFull, DiskFault) as error:
            log.warning("who holds the volume of owner %s could not be stored: %s", short(owner), error)

    async def read(self, request: wire.PutHead, body: bytes | memoryview) -> Head:
        """Verify the head in the body of a PUT_HEAD. Raises BadFormat."""
        return await self._crunch.run(heads.parse, memoryview(body)[: request.head_bytes])

    async def put(self, head: Head, links: bytes | memoryview, bringer: NodeId) -> wire.Answer:
        """Keep a head of its signer's owner if it is newer than the one that is held. The caller has the lock.

        Args:
            bringer: the node that brings it. Who holds the volume brings the head of another one after he took that
                state on: he goes on holding it.
        """
        owner = head.signer.owner
        held = self._held.get(owner) or self._damaged.get(owner)
        lease, now_s = self._lease(owner), self._wall.awake_s()
        holder = lease.holder.node if lease is not None and now_s < lease.until_s else None
        is_passed_on = bringer == holder != head.signer.node
        save = partial(self._judge_and_save, head, links, held, lease, now_s, is_passed_on=is_passed_on)
        verdict, kept = await self._crunch.run(save)
        if verdict is Verdict.NEWER:
            self._held[owner], self._links[owner] = head, kept
            self._damaged.pop(owner, None)
            self._found[owner] = _holder(lease if is_passed_on else leases.of_head(head, now_s=now_s))
            if (changed := self._changed.pop(owner, None)) is not None:
                changed.set()
            if self._leases.get(owner) == lease and not is_passed_on:  # else somebody was told that he holds it
                self._leases[owner] = leases.of_head(head, now_s=self._wall.awake_s())
                if head.signer.node != (lease.holder.node if lease is not None else b""):
                    self._tell(owner)
            await self._store_holder(owner)  # if it is another one since
        if verdict in (Verdict.NEWER, Verdict.SAME):
            return wire.Done()
        assert held is not None, "nothing is behind nothing"
        if verdict is Verdict.LEASED and lease is not None:
            refusal = _leased(lease, now_s)
        else:
            refusal = _behind(held) if verdict is Verdict.BEHIND else _forked(held)
        log.warning("refused head %d of owner %s: %s", head.version, short(owner), refusal.text)
        return refusal

    def _newest(self, owner: OwnerId) -> tuple[int, int]:
        held = self._held.get(owner)
        return (held.epoch, held.version) if held is not None else (0, 0)

    def _judge_and_save(
        self,
        head: Head,
        links: bytes | memoryview,
        held: Head | None,
        lease: Lease | None,
        now_s: float,
        *,
        is_passed_on: bool,
    ) -> tuple[Verdict, bytes]:
        """In a worker. Returns the links to keep, too. The head and who holds the volume are stored in one."""
        owner, verdict = head.signer.owner, heads.judge(head, links, held)
        if verdict is Verdict.NEWER and held is not None:
            is_free = is_passed_on or leases.may_follow(head, links, held, lease, now_s=now_s)
            verdict = Verdict.NEWER if is_free else Verdict.LEASED
        if owner in self._damaged and held is not None and head.link == held.link:
            verdict = Verdict.NEWER  # the very one, whole
        if verdict is not Verdict.NEWER:
            return verdict, b""
        kept = heads.kept_links(head, links, held, self._links.get(owner, b""))
        noted = leases.note(lease, now_s=now_s) if is_passed_on else b""  # else it is the signer
        self._store.save_head(owner, head.raw + kept + noted)
        return verdict, kept


def _behind(held: Head) -> Refusal:
    return Refusal(Refused.BEHIND, f"version {held.version} of the head is known here", held.version)


def _holder(lease: Lease | None) -> Holder | None:
    return lease.holder if lease is not None else None


def _leased(lease: Lease, now_s: float) -> Refusal:
    node, left_s = short(NodeId(lease.holder.node)), max(0, round(lease.until_s - now_s))
    return Refusal(Refused.LEASED, f"node {node} holds the volume for {left_s} seconds more", left_s)


def _forked(held: Head) -> Refusal:
    return Refusal(Refused.FORKED, f"it does not come from version {held.version}, which is known here", held.version)
