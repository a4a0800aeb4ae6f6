"""A network in memory: dialers, listeners and links with latency, bandwidth, cuts and corruption.

Works in virtual time: under a trio MockClock with autojump, hours of timetable pass in milliseconds. What goes wrong
is data: a list of `Fault`s, each at its time, between two nodes or around one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf

import trio

from bitdustfs.errors import PeerGone, ProtocolViolation, WrongPeer
from bitdustfs.model import BulkPass, NodeId, short

WINDOW_BYTES = 1 << 20  # in flight in one direction before the sender waits, as a socket buffer
REFUSED_S = 0.01  # how long it takes to learn that nobody listens

Tamper = Callable[[NodeId, NodeId, bytes], bytes]


class Break(Enum):
    """What can happen to a pair of nodes."""

    CUT = "cut"  # links break at once; new ones are refused
    SILENCE = "silence"  # bytes vanish; links and dials hang
    HEAL = "heal"  # the end of either


@dataclass(frozen=True, slots=True)
class Fault:
    """At a time, something happens between `one` and `other`, or between `one` and everybody."""

    at_s: float
    what: Break
    one: NodeId
    other: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """How a pair of nodes is connected."""

    latency_s: float = 0.001
    bytes_per_s: float = inf


@dataclass(slots=True, eq=False)
class _Direction:
    """Bytes on their way from one end to the other."""

    queue: deque[tuple[float, bytes]] = field(default_factory=deque)  # (time of arrival, bytes)
    in_flight: int = 0
    free_at: float = 0.0  # when the line has taken what was sent
    ended: bool = False
    moved: trio.Event = field(default_factory=trio.Event)

    def note(self) -> None:
        self.moved.set()
        self.moved = trio.Event()


class MemoryLink:
    """A ports.Link. Made by `MemoryNetwork`."""

    def __init__(
        self,
        network: MemoryNetwork,
        own: NodeId,
        peer: NodeId,
        address: str,
        out: _Direction,
        into: _Direction,
        *,
        own_address: str = "",
        is_bulk: bool = False,
    ) -> None:
        self._network = network
        self._own = own
        self._peer = peer
        self._address = address
        self._own_address = own_address
        self._out = out
        self._in = into
        self.is_bulk = is_bulk
        self.sent_bytes = 0
        self.is_stranded = False  # nothing gets through any more, and neither end is told
        self._broken = False
        self._closed = False

    @property
    def peer(self) -> NodeId:
        return self._peer

    @property
    def address(self) -> str:
        return self._address

    @property
    def own_address(self) -> str:
        return self._own_address

    async def send_all(self, content: bytes | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        while self._out.in_flight >= WINDOW_BYTES and not self._broken:
            await self._out.moved.wait()
        self._check()
        if self.is_stranded or self._network.breaks(self._own, self._peer, is_bulk=self.is_bulk) is Break.SILENCE:
            return
        sent = bytes(content)
        self.sent_bytes += len(sent)
        if self._network.tamper is not None:
            sent = self._network.tamper(self._own, self._peer, sent)
        line = self._network.line(self._own, self._peer)
        start = max(trio.current_time(), self._out.free_at)
        self._out.free_at = start + len(sent) / line.bytes_per_s
        self._out.queue.append((self._out.free_at + line.latency_s, sent))
        self._out.in_flight += len(sent)
        self._out.note()

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if self._in.queue:
                arrival, content = self._in.queue[0]
                if arrival <= trio.current_time():
                    return self._take(content, max_bytes)
                await trio.sleep_until(arrival)
            elif self._in.ended:
                return b""
            else:
                await self._in.moved.wait()

    async def receive_into(self, buffer: memoryview) -> int:
        content = await self.receive_some(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    async def aclose(self) -> None:
        self._network.forget(self)
        if not self._closed:
            self._closed = True
            self._out.ended = True
            self._out.note()
            self._in.note()
        await trio.lowlevel.checkpoint()

    def break_(self) -> None:
        """End it as a cut cable does: both sides get PeerGone, and bytes on the way are lost."""
        self._broken = True
        self._in.note()
        self._out.note()

    def joins(self, one: NodeId, other: NodeId | None) -> bool:
        """Say whether it is between these two, or touches `one` if there is no other."""
        ends = {self._own, self._peer}
        return one in ends and (other is None or other in ends)

    def _take(self, content: bytes, max_bytes: int) -> bytes:
        arrival, _ = self._in.queue.popleft()
        if len(content) > max_bytes:
            self._in.queue.appendleft((arrival, content[max_bytes:]))
            content = content[:max_bytes]
        self._in.in_flight -= len(content)
        self._in.note()
        return content

    def _check(self) -> None:
        if self._broken or self._closed:
            why = "the connection broke" if self._broken else "the connection was closed"
            raise PeerGone(peer=f"{short(self._peer)} at {self._address}", what=why)


class MemoryInterfaces:
    """A ports.Interfaces: set `known`, then `note`."""

    def __init__(self) -> None:
        self.known: dict[str, bool] = {}
        self._changed = trio.Event()

    def note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def numbers(self) -> Mapping[str, bool]:
        return dict(self.known)

    async def wait_for_change(self) -> None:
        await self._changed.wait()


class MemoryListener:
    """A ports.Listener. Made by `MemoryNetwork.listen`."""

    def __init__(self, network: MemoryNetwork, node: NodeId, address: str) -> None:
        self._network = network
        self.node = node
        self._address = address
        self.awaited: dict[bytes, tuple[BulkPass, trio.MemorySendChannel[MemoryLink]]] = {}  # by ticket
        self.waiting_in, self._waiting = trio.open_memory_channel[MemoryLink](64)

    @property
    def address(self) -> str:
        return self._address

    @property
    def addresses(self) -> Sequence[str]:
        return [self._address]

    def move(self, address: str) -> None:
        """Be reached there from now on, and not where it was."""
        self._network.stop_listening(self)
        self._address = address
        self._network.listen_again(self)

    async def accept(self) -> MemoryLink:
        return await self._waiting.receive()

    async def accept_bulk(self, peer: NodeId, bulk: BulkPass) -> MemoryLink:
        come, coming = trio.open_memory_channel[MemoryLink](1)
        self.awaited[bulk.ticket] = bulk, come
        try:
            return await coming.receive()
        finally:
            self.awaited.pop(bulk.ticket, None)

    async def aclose(self) -> None:
        self._network.stop_listening(self)
        await self._waiting.aclose()


class MemoryDialer:
    """A ports.Dialer. Made by `MemoryNetwork.dialer`."""

    def __init__(self, network: MemoryNetwork, node: NodeId) -> None:
        self._network = network
        self._node = node

    async def dial(self, address: str, expected: NodeId) -> MemoryLink:
        return await self._network.connect(self._node, address, expected)

    async def dial_front(self, address: str, front: bytes) -> MemoryLink:
        return await self._network.connect(self._node, address, front)

    async def dial_bulk(self, address: str, peer: NodeId, bulk: BulkPass) -> MemoryLink:
        return await self._network.connect_bulk(self._node, address, peer, bulk)


class MemoryNetwork:
    """Everybody in it can reach everybody, until a fault.

    Set `tamper` to change bytes under way: it gets (from, to, bytes) of each send. `bulk` is what is wrong with bulk
    connections only; set it with `apply_to_bulk`, or to HEAL to spare them what happens to their nodes. `dials` says
    how often each node has dialled anybody.
    """

    def __init__(self, line: Line | None = None) -> None:
        self.tamper: Tamper | None = None
        self.bulk: Break | None = None
        self.dials: Counter[NodeId] = Counter()
        self._line = line or Line()
        self._lines: dict[frozenset[NodeId], Line] = {}
        self._listeners: dict[str, MemoryListener] = {}
        self._links: set[MemoryLink] = set()
        self._breaks: dict[tuple[NodeId, NodeId | None], Break] = {}
        self.places: dict[NodeId, str] = {}  # ADDR:PORT that a node's own connections come from, if that matters

    def dialer(self, node: NodeId) -> MemoryDialer:
        return MemoryDialer(self, node)

    def listen(self, node: NodeId, address: str) -> MemoryListener:
        """Let `node` be reached at `address`, any text."""
        assert address not in self._listeners, "the address is taken"
        listener = self._listeners[address] = MemoryListener(self, node, address)
        return listener

    def listen_again(self, listener: MemoryListener) -> None:
        assert listener.address not in self._listeners, "the address is taken"
        self._listeners[listener.address] = listener

    def strand(self, node: NodeId) -> None:
        """Let nothing through on the links that a node has now, as when its address is another one."""
        for link in self._links:
            link.is_stranded |= link.joins(node, None)

    def set_line(self, one: NodeId, other: NodeId, line: Line) -> None:
        self._lines[frozenset({one, other})] = line

    def line(self, one: NodeId, other: NodeId) -> Line:
        return self._lines.get(frozenset({one, other}), self._line)

    def apply(self, what: Break, one: NodeId, other: NodeId | None = None) -> None:
        """Let something happen now, between two nodes or around one."""
        self._breaks.pop((one, other), None)
        if what is not Break.HEAL:
            self._breaks[one, other] = what
        if what is Break.CUT:
            self.break_links(one, other)

    def apply_to_bulk(self, what: Break) -> None:
        """Let something happen now to all bulk connections, and to nothing else."""
        self.bulk = None if what is Break.HEAL else what
        if what is Break.CUT:
            for link in self.bulk_links():
                link.break_()

    def tickets(self, address: str) -> set[bytes]:
        """The tickets that are good there now."""
        return set(self._listeners[address].awaited)

    def bulk_links(self) -> list[MemoryLink]:
        """Both ends of each bulk connection that there is."""
        return [link for link in self._links if link.is_bulk]

    def links(self) -> list[MemoryLink]:
        """Both ends of each connection that there is."""
        return list(self._links)

    def break_links(self, one: NodeId, other: NodeId | None = None, *, but_bulk: bool = False) -> None:
        """End the links between two nodes, or around one, as a process that dies does; or all but the bulk ones."""
        for link in [link for link in self._links if link.joins(one, other) and not (but_bulk and link.is_bulk)]:
            link.break_()

    async def run(self, timetable: Iterable[Fault]) -> None:
        """Let each fault happen at its time, counted from now."""
        start = trio.current_time()
        for fault in sorted(timetable, key=lambda f: f.at_s):
            await trio.sleep_until(start + fault.at_s)
            self.apply(fault.what, fault.one, fault.other)

    def breaks(self, one: NodeId, other: NodeId, *, is_bulk: bool = False) -> Break | None:
        """What is wrong between two nodes now."""
        if is_bulk and self.bulk is not None:
            return self.bulk
        for pair in ((one, other), (other, one), (one, None), (other, None)):
            if pair in self._breaks:
                return self._breaks[pair]
        return None

    async def connect(self, node: NodeId, address: str, expected: bytes) -> MemoryLink:
        """What `MemoryDialer.dial` does, and `dial_front`."""
        self.dials[node] += 1
        listener = await self._reach(node, address, expected)
        if not listener.node.startswith(expected):
            raise WrongPeer(peer=f"{short(listener.node)} at {address}", expected=short(expected))
        return self._pair(node, listener, address, listener.waiting_in)

    async def connect_bulk(self, node: NodeId, address: str, peer: NodeId, bulk: BulkPass) -> MemoryLink:
        """What `MemoryDialer.dial_bulk` does."""
        listener = await self._reach(node, address, peer, is_bulk=True)
        expected, come = listener.awaited.pop(bulk.ticket, (None, None))
        if expected is None or come is None:
            raise PeerGone(peer=f"{short(peer)} at {address}", what="the ticket is not valid")
        if (expected.key_in, expected.key_out) != (bulk.key_out, bulk.key_in):
            raise ProtocolViolation(peer=f"{short(peer)} at {address}", what="it has other keys")
        return self._pair(node, listener, address, come, is_bulk=True)

    async def _reach(self, node: NodeId, address: str, expected: bytes, *, is_bulk: bool = False) -> MemoryListener:
        listener = self._listeners.get(address)
        trouble = self.breaks(node, listener.node, is_bulk=is_bulk) if listener else None
        if trouble is Break.SILENCE:
            await trio.sleep_forever()
        if listener is None or trouble is Break.CUT:
            await trio.sleep(REFUSED_S)
            raise PeerGone(peer=f"{short(expected)} at {address}", what="connection refused")
        await trio.sleep(2 * self.line(node, listener.node).latency_s)
        return listener

    def _pair(
        self,
        node: NodeId,
        listener: MemoryListener,
        address: str,
        come: trio.MemorySendChannel[MemoryLink],
        *,
        is_bulk: bool = False,
    ) -> MemoryLink:
        there, back = _Direction(), _Direction()
        come_from = self._source(node)
        ours = MemoryLink(
            self,
            node,
            listener.node,
            address,
            there,
            back,
            own_address=self.places.get(node, ""),
            is_bulk=is_bulk,
        )
        theirs = MemoryLink(self, listener.node, node, come_from, back, there, own_address=address, is_bulk=is_bulk)
        try:
            come.send_nowait(theirs)
        except (trio.WouldBlock, trio.BrokenResourceError):
            raise PeerGone(peer=f"{short(listener.node)} at {address}", what="connection refused") from None
        self._links |= {ours, theirs}
        return ours

    def _source(self, node: NodeId) -> str:
        """Where a connection of a node comes from: the host at which it listens, if it does."""
        address = next((address for address, each in self._listeners.items() if each.node == node), None)
        if address is not None:
            return f"{address.rpartition(':')[0]}:50000"
        return self.places.get(node, f"dialled-{short(node)}")

    def forget(self, link: MemoryLink) -> None:
        self._links.discard(link)

    def stop_listening(self, listener: MemoryListener) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]
