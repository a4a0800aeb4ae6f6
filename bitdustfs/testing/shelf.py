"""Shelves in memory, and shelves that misbehave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

import trio

from bitdustfs.core import fragment, wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.fragment import leaf_count
from bitdustfs.core.grace import DAY_S
from bitdustfs.engine.handler import Handler
from bitdustfs.errors import AlreadyThere, BadFormat, BadLeaf, DiskFull, NotFound, Unavailable
from bitdustfs.model import LEAF_BYTES, FragmentName, NodeId, OwnerId, Root, short
from bitdustfs.ports import Leaves, Shelf

Bend = Callable[[Leaves], Leaves]


class MemoryShelf:
    """A ports.Shelf in memory. `is_there = False` is an unplugged disk, `donated_bytes = 0` a full one."""

    def __init__(self, *, donated_bytes: int = 1 << 40) -> None:
        self.is_there = True
        self.is_damaged = False  # what is read from it does not make sense
        self.donated_bytes = donated_bytes
        self._fragments: dict[OwnerId, dict[FragmentName, tuple[Root, bytes]]] = {}
        self._trash: dict[OwnerId, dict[FragmentName, tuple[int, bytes]]] = {}  # when it came there, and what
        self._used: dict[OwnerId, tuple[int, int]] = {}  # as last counted, until something changes

    def copy(self) -> MemoryShelf:
        """Another shelf with what is on this one now."""
        made = MemoryShelf(donated_bytes=self.donated_bytes)
        made._fragments = {owner: dict(held) for owner, held in self._fragments.items()}
        made._trash = {owner: dict(gone) for owner, gone in self._trash.items()}
        return made

    def content(self, owner: OwnerId, name: FragmentName) -> bytes | None:
        """A fragment, for those who want to know what is true."""
        kept = self._fragments.get(owner, {}).get(name)
        return kept[1] if kept is not None else None

    def put(self, owner: OwnerId, name: FragmentName, root: Root, content: bytes | memoryview) -> None:
        self._check()
        if fragment.root(content) != root:
            raise BadLeaf(peer="what arrived", fragment=short(name))
        known = self._fragments.setdefault(owner, {}).get(name)
        if known is not None:
            if known[0] != root:
                raise AlreadyThere(what=f"another fragment is called {short(name)}")
            return
        if self.free_bytes() < len(content):
            raise DiskFull(path="memory")
        self._fragments[owner][name] = root, bytes(content)
        self._used.pop(owner, None)

    def get(self, owner: OwnerId, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        self._check()
        if self.is_damaged:
            raise BadFormat(what="a fragment on the shelf is shorter than it says")
        try:
            _root, content = self._fragments.get(owner, {})[name]
        except KeyError:
            raise NotFound(what=f"fragment {short(name)} is not on the shelf") from None
        some = content[first * LEAF_BYTES : (first + count) * LEAF_BYTES]
        return Leaves(len(content), fragment.leaf_hashes(content) if hashes else b"", some)

    def delete(self, owner: OwnerId, name: FragmentName, *, now_s: int) -> bool:
        self._check()
        gone = self._fragments.get(owner, {}).pop(name, None)
        self._used.pop(owner, None)
        if gone is not None:
            self._trash.setdefault(owner, {})[name] = now_s, gone[1]
        return gone is not None

    def names(self, owner: OwnerId, after: bytes, limit: int) -> Sequence[tuple[FragmentName, int]]:
        self._check()
        held = self._fragments.get(owner, {})
        return [(name, len(held[name][1])) for name in sorted(held) if name > after][:limit]

    def trash(self, owner: OwnerId, before_s: int) -> tuple[int, int]:
        old = self._old_trash(owner, before_s)
        return sum(len(content) for _at, content in old.values()), len(old)

    def empty_trash(self, owner: OwnerId, bytes_wanted: int, fragments_wanted: int, before_s: int) -> None:
        self._check()
        for name, (_at, content) in sorted(self._old_trash(owner, before_s).items(), key=lambda each: each[1][0]):
            if bytes_wanted > 0 or fragments_wanted > 0:
                del self._trash[owner][name]
                self._used.pop(owner, None)
                bytes_wanted, fragments_wanted = bytes_wanted - len(content), fragments_wanted - 1

    def drop(self, owner: OwnerId, bytes_wanted: int) -> int:
        self._check()
        self._used.pop(owner, None)
        gone = 0
        trash, held = self._trash.get(owner, {}), self._fragments.get(owner, {})
        for name in sorted(trash):
            gone += len(trash.pop(name)[1]) if gone < bytes_wanted else 0
        for name in sorted(held):
            gone += len(held.pop(name)[1]) if gone < bytes_wanted else 0
        self._used.pop(owner, None)
        return gone

    def _old_trash(self, owner: OwnerId, before_s: int) -> dict[FragmentName, tuple[int, bytes]]:
        held = self._trash.get(owner, {})
        return {name: each for name, each in held.items() if each[0] // DAY_S < before_s // DAY_S}

    def owners(self) -> Sequence[OwnerId]:
        self._check()
        return sorted(self._fragments)

    def damage(self, owner: OwnerId, name: FragmentName) -> None:
        """Let one byte of a fragment rot."""
        root, content = self._fragments[owner][name]
        self._fragments[owner][name] = root, bytes([content[0] ^ 1]) + content[1:]

    def scrub(self, owner: OwnerId, name: FragmentName) -> bool:
        self._check()
        held = self._fragments.get(owner, {})
        if name not in held:
            raise NotFound(what=f"fragment {short(name)} is not on the shelf")
        if fragment.root(held[name][1]) == held[name][0]:
            return True
        del held[name]
        self._used.pop(owner, None)
        return False

    def used(self, owner: OwnerId) -> tuple[int, int]:
        self._check()
        held, gone = self._fragments.get(owner, {}), self._trash.get(owner, {})
        if owner not in self._used:
            size = sum(len(kept[1]) for kept in held.values()) + sum(len(kept[1]) for kept in gone.values())
            self._used[owner] = size, len(held) + len(gone)
        return self._used[owner]

    def free_bytes(self) -> int:
        self._check()
        return self.donated_bytes - sum(self.used(owner)[0] for owner in self._fragments.keys() | self._trash.keys())

    def _check(self) -> None:
        if not self.is_there:
            raise Unavailable(what="the shelf is not there")


class BentShelf:
    """A shelf that gives back something else than was put: `bend` changes each answer to `get`."""

    def __init__(self, inner: Shelf, bend: Bend | None = None) -> None:
        self.bend = bend
        self._inner = inner

    def get(self, owner: OwnerId, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        leaves = self._inner.get(owner, name, first, count, hashes=hashes)
        return self.bend(leaves) if self.bend is not None else leaves

    def put(self, owner: OwnerId, name: FragmentName, root: Root, content: bytes | memoryview) -> None:
        self._inner.put(owner, name, root, content)

    def delete(self, owner: OwnerId, name: FragmentName, *, now_s: int) -> bool:
        return self._inner.delete(owner, name, now_s=now_s)

    def names(self, owner: OwnerId, after: bytes, limit: int) -> Sequence[tuple[FragmentName, int]]:
        return self._inner.names(owner, after, limit)

    def trash(self, owner: OwnerId, before_s: int) -> tuple[int, int]:
        return self._inner.trash(owner, before_s)

    def empty_trash(self, owner: OwnerId, bytes_wanted: int, fragments_wanted: int, before_s: int) -> None:
        self._inner.empty_trash(owner, bytes_wanted, fragments_wanted, before_s)

    def drop(self, owner: OwnerId, bytes_wanted: int) -> int:
        return self._inner.drop(owner, bytes_wanted)

    def owners(self) -> Sequence[OwnerId]:
        return self._inner.owners()

    def scrub(self, owner: OwnerId, name: FragmentName) -> bool:
        return self._inner.scrub(owner, name)

    def used(self, owner: OwnerId) -> tuple[int, int]:
        return self._inner.used(owner)

    def free_bytes(self) -> int:
        return self._inner.free_bytes()


def flipped(leaves: Leaves) -> Leaves:
    """One bit of the content is wrong."""
    return replace(leaves, content=bytes([leaves.content[0] ^ 1]) + leaves.content[1:])


def flipped_hash(leaves: Leaves) -> Leaves:
    """One bit of the hash list is wrong, or of the content where no list was asked for."""
    if not leaves.hashes:
        return flipped(leaves)
    return replace(leaves, hashes=bytes([leaves.hashes[0] ^ 1]) + leaves.hashes[1:])


def other_fragment(leaves: Leaves) -> Leaves:
    """A whole other fragment of the same length, true in itself."""
    content = bytes(leaves.length)
    hashes = fragment.leaf_hashes(content) if leaves.hashes else b""
    return Leaves(leaves.length, hashes, content[: len(leaves.content)])


def half(leaves: Leaves) -> Leaves:
    """The second half is missing, and the length does not say so."""
    return replace(leaves, content=leaves.content[: len(leaves.content) // 2])


def shorter(leaves: Leaves) -> Leaves:
    """Half a fragment that says it is a whole one, true in itself."""
    length = max(1, leaves.length // 2)
    content = leaves.content[:length]
    hashes = fragment.leaf_hashes(bytes(length)) if leaves.hashes else b""
    return Leaves(length, hashes[: 32 * leaf_count(length)], content)


def garbage(leaves: Leaves) -> Leaves:
    """Other bytes altogether."""
    return Leaves(leaves.length, b"\xa5" * len(leaves.hashes), b"\x5a" * len(leaves.content))


class MuteHandler:
    """A handler that answers STAT and PING at once, everything else after `delay_s`, and not while `is_mute`."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner
        self.is_mute = False
        self.delay_s = 0.0
        self.refuses_heads = False
        self.refusal: wire.Refusal | None = None  # the answer to everything

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        if self.refusal is not None:
            return self.refusal
        if self.refuses_heads and isinstance(request, wire.PutHead | wire.GetHead):
            return wire.Refusal(wire.Refused.UNAVAILABLE, "no heads now")
        return self._inner.admit(caller, request)

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        self._inner.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        if not isinstance(request, wire.Stat | wire.Ping):
            await trio.sleep(inf if self.is_mute else self.delay_s)
        return await self._inner.answer(caller, request, body)


class MemoryAddresses:
    """A ports.AddressStore in memory."""

    def __init__(self) -> None:
        self.kept: dict[NodeId, tuple[OwnerId, bytes]] = {}

    def load(self, limit: int) -> Sequence[tuple[OwnerId, bytes]]:
        return list(self.kept.values())[:limit]

    def save(self, node: NodeId, owner: OwnerId, record: bytes) -> None:
        self.kept[node] = owner, record

    def drop(self, node: NodeId) -> None:
        self.kept.pop(node, None)


class MemoryContracts:
    """A ports.ContractStore and a ports.LedgerStore in memory."""

    def __init__(self) -> None:
        self._contracts: dict[OwnerId, bytes] = {}
        self._proposals: dict[OwnerId, bytes] = {}
        self._floors: dict[OwnerId, int] = {}
        self._endings: dict[OwnerId, tuple[int, int]] = {}
        self._epochs: dict[OwnerId, tuple[int, bytes]] = {}
        self._heads: dict[OwnerId, bytes] = {}
        self._accounts: dict[OwnerId, bytes] = {}
        self._gifts: dict[OwnerId, bytes] = {}

    def contracts(self) -> Mapping[OwnerId, bytes]:
        return dict(self._contracts)

    def save_contract(self, owner: OwnerId, contract: bytes) -> None:
        self._contracts[owner] = contract

    def proposals(self) -> Mapping[OwnerId, bytes]:
        return dict(self._proposals)

    def save_proposal(self, owner: OwnerId, proposal: bytes) -> None:
        self._proposals[owner] = proposal
        if not proposal:
            del self._proposals[owner]

    def floors(self) -> Mapping[OwnerId, int]:
        return dict(self._floors)

    def save_floor(self, owner: OwnerId, serial: int) -> None:
        self._floors[owner] = serial
        if not serial:
            del self._floors[owner]

    def endings(self) -> Mapping[OwnerId, tuple[int, int]]:
        return dict(self._endings)

    def save_ending(self, owner: OwnerId, at_s: int, run_s: int) -> None:
        self._endings[owner] = at_s, run_s
        if not at_s:
            del self._endings[owner]

    def epochs(self) -> Mapping[OwnerId, tuple[int, bytes]]:
        return dict(self._epochs)

    def save_epoch(self, owner: OwnerId, epoch: int, proof: bytes) -> None:
        self._epochs[owner] = epoch, proof

    def heads(self) -> Mapping[OwnerId, bytes]:
        return dict(self._heads)

    def save_head(self, owner: OwnerId, head: bytes) -> None:
        self._heads[owner] = head

    def accounts(self) -> Mapping[OwnerId, bytes]:
        return dict(self._accounts)

    def save_account(self, owner: OwnerId, account: bytes) -> None:
        self._accounts[owner] = account

    def gifts(self) -> Mapping[OwnerId, bytes]:
        return dict(self._gifts)

    def save_gift(self, owner: OwnerId, gift: bytes) -> None:
        self._gifts[owner] = gift
