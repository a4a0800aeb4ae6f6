"""Discovery: what this node puts into the directory, and what it asks of it.

    every hour or so:  our address record, the owner's record  --> directory
                       the newest known records of partners    --> directory
    when we moved:     our address record                      --> directory
    now and then:      where is node X?                        <-- directory

But for our own addresses, which whoever sees our packets sees too, the schedule is fixed, with jitter: it follows
neither heads nor changes, so when a record comes says nothing of what the owner does. A record of an owner goes to
his suppliers too, wherever it lies: they hand it on when his machine is gone. Nothing that a person waits for waits
for any of this; each question and each publication has its deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from bitdustfs.core import owner_record
from bitdustfs.core import record as records
from bitdustfs.core.owner_record import SALT_BYTES, Keeper, OwnerRecord
from bitdustfs.core.record import DAY_S, MAX_LIFETIME_S, Record, RecordKind, newer
from bitdustfs.errors import BadFormat, NotFound
from bitdustfs.model import NodeId, RecordId, short
from bitdustfs.ports import Directory, Entropy, Wall

log = logging.getLogger(__name__)

FIRST_S: Final = 5.0  # (tune) after the start: the directory has to find others first
EVERY_S: Final = 3600.0  # (tune) and a half to one and a half times that
AGAIN_S: Final = 60.0  # (tune) when there was nothing to publish yet, or nobody took it
MOVED_S: Final = 5.0  # (tune) after our addresses changed, and when nobody took them
PUBLISH_S: Final = 60.0  # for one record
LOOKUP_S: Final = 12.0  # for one question; it is asked while a dial of 15 s is under way
LOOKUPS: Final = 4  # at once
ASK_AGAIN_S: Final = 60.0  # a node that was not found is asked for at most so often
_ASKED: Final = 1024  # nodes of which it is noted
MAX_PARTNERS: Final = 64  # whose records are handed on each time
OWNER_LIFETIME_S: Final = MAX_LIFETIME_S[RecordKind.OWNER] - DAY_S


class Discovery:
    """The policy over a directory.

    Args:
        own: our address record as signed; b"": nobody can dial us yet.
        partners: nodes whose records we hand on, with the newest that we know of each, or b"".
    """

    def __init__(
        self,
        directory: Directory,
        wall: Wall,
        entropy: Entropy,
        *,
        own: Callable[[], bytes] = lambda: b"",
        partners: Callable[[], Iterable[tuple[NodeId, bytes]]] = tuple,
    ) -> None:
        self._directory = directory
        self._wall = wall
        self._entropy = entropy
        self._own = own
        self._partners = partners
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._asked: dict[NodeId, float] = {}
        self._record_key = b""
        self._inside: Callable[[], OwnerRecord | None] = lambda: None
        self._was_taken = False
        self._sequence = 0  # of the owner's record that we made last
        self._moved = trio.Event()

    def speak_for(self, record_key: bytes, inside: Callable[[], OwnerRecord | None]) -> None:
        """Publish the owner's record too.

        Args:
            inside: what it is to say now; None: nothing, nobody keeps anything for him.
        """
        self._record_key, self._inside = record_key, inside

    def moved(self) -> None:
        """Our address record is another one: publish it at once, and until somebody takes it."""
        self._moved.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        await trio.sleep(FIRST_S * self._jitter())
        self._moved = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish_moves)
            while True:
                was_taken = await self._publish_all()
                await trio.sleep((EVERY_S if was_taken else AGAIN_S) * self._jitter())

    async def lookup(self, node: NodeId) -> bytes:
        """The newest valid record of a node that the directory shows; b"": none.

        Waits at most LOOKUP_S, and a moment more when others ask too; asks for a node that was not found not again
        at once.
        """
        now = trio.current_time()
        if now < self._asked.get(node, -ASK_AGAIN_S) + ASK_AGAIN_S:
            return b""
        with trio.move_on_after(LOOKUP_S):
            async with self._lookups:
                found = await self._directory.find(records.id_of(RecordKind.NODE, node))
                if found is not None:
                    log.info("the hash table says where node %s is", short(node))
                    return found
        self._asked.pop(node, None)
        self._asked[node] = now
        while len(self._asked) > _ASKED:
            del self._asked[next(iter(self._asked))]
        return b""

    async def _publish_moves(self) -> None:
        while True:
            await self._moved.wait()
            self._moved = trio.Event()
            pause_s = MOVED_S  # several may change at once
            while not self._moved.is_set():
                await trio.sleep(pause_s)
                own = self._own()
                if not own or await self._publish(own):
                    break
                pause_s = min(2 * pause_s, AGAIN_S)

    # -- publishing -----------------------------------------------------------------------------------------------

    async def _publish_all(self) -> bool:
        """Returns whether there was something of ours, and others took it."""
        inside = self._inside()
        partners = list(self._partners())[:MAX_PARTNERS]
        ids = [records.id_of(RecordKind.NODE, node) for node, _raw in partners]
        own = self._own()
        if own:
            ids.append(records.parse(own).id)
        if inside is not None:
            ids.append(owner_record.id_of(self._record_key))
        self._directory.pin(ids)
        taken = [await self._publish(own)] if own else []
        if inside is not None:
            taken.append(await self._publish_owner(inside))
        for node, raw in partners:
            await self._hand_on(records.id_of(RecordKind.NODE, node), raw)
        return bool(taken) and all(taken)

    async def _publish_owner(self, inside: OwnerRecord) -> bool:
        """Make the owner's record anew. Another machine of his may have made one with a higher number: ask first."""
        now_s = self._now_s()
        there = await self._find(owner_record.id_of(self._record_key))
        self._sequence = max(now_s, self._sequence + 1, there.sequence + 1 if there is not None else 1)
        self._sequence = min(self._sequence, records.MAX_SEQUENCE)  # a thief may have used up all numbers
        made = owner_record.seal(
            self._record_key,
            inside,
            salt=self._entropy.bytes(SALT_BYTES),
            sequence=self._sequence,
            expiry_s=now_s + OWNER_LIFETIME_S,
        )
        was_taken = await self._publish(made.raw, [each.address for each in inside.keepers if each.address])
        if was_taken != self._was_taken:
            log.info("the owner's record %s", "is in the hash table" if was_taken else "is taken by nobody")
        self._was_taken = was_taken
        return was_taken

    async def _hand_on(self, record_id: RecordId, known: bytes) -> None:
        """Bring the newest record of a partner that we or the directory know."""
        there = await self._find(record_id)
        best = newer(there, records.parse(known) if known else None, now_s=self._now_s())
        if best is not None:
            await self._publish(best.raw)

    async def _publish(self, raw: bytes, also: Sequence[str] = ()) -> bool:
        with trio.move_on_after(PUBLISH_S):
            return await self._directory.publish(raw, also) > 0
        return False

    async def _find(self, record_id: RecordId) -> Record | None:
        with trio.move_on_after(PUBLISH_S):
            raw = await self._directory.find(record_id)
            return records.parse(raw) if raw is not None else None
        return None

    def _now_s(self) -> int:
        return self._wall.now_ns() // 1_000_000_000

    def _jitter(self) -> float:
        return 0.5 + int.from_bytes(self._entropy.bytes(2), "big") / (1 << 16)


async def find_keepers(directory: Directory, record_key: bytes) -> Sequence[Keeper]:
    """Find who keeps an owner's volume, with only the key that comes from the words. The caller sets a deadline.

    Returns:
        Suppliers with an address each: the newest that they published, else what the owner's record says.
    Raises:
        NotFound: nobody shows the owner's record, or it names nobody who can be dialled.
    """
    raw = await directory.find(owner_record.id_of(record_key))
    if raw is None:
        raise NotFound(what="nobody who was asked knows of this owner's suppliers")
    try:
        inside = owner_record.unseal(record_key, records.parse(raw))
    except BadFormat as bad:
        raise NotFound(what=f"the owner's record cannot be read: {bad}") from bad
    found: list[Keeper] = []

    async def ask(keeper: Keeper) -> None:
        with trio.move_on_after(LOOKUP_S):
            newest = await directory.find(records.id_of(RecordKind.NODE, keeper.node))
            for address in records.addresses_of(records.parse(newest)) if newest is not None else ():
                found.append(Keeper(keeper.node, address))
        if keeper.address:
            found.append(keeper)

    async with trio.open_nursery() as nursery:
        for keeper in inside.keepers:
            nursery.start_soon(ask, keeper)
    if not found:
        raise NotFound(what=f"of the {len(inside.keepers)} suppliers of this owner nobody knows where they are now")
    return found
