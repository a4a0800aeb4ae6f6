"""One connection to one node: HELLO, then requests in both directions, whoever dialled.

    link -> reader -> request? admit -> body -> handler task -> send lock -> link
                   -> answer? wake who waits for it

What keeps memory bounded and both sides moving:
* A side has at most MAX_IN_FLIGHT requests unanswered; it waits before it sends more. So an honest peer never makes
  the other's reader wait for the network, and two peers that are busy with each other cannot lock each other up. A
  peer that does not keep to it is not read from until we answered: only he waits.
* The body of a request is taken in only after `Handler.admit` agreed to it and the process-wide `Budget` has room
  for its owner. That room is given back when the request is worked off, which needs no network. Answers with a body
  have a budget of their own, taken by the task that answers, never by the reader; once the answer is made, it holds
  no more than the answer's length.
* A body that comes, or an answer that is read, too slowly (engine/frames) ends the connection.

Half a frame cannot be taken back: a request that is cancelled while it is being sent ends the connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from math import inf
from typing import Final, TypeVar

import trio

from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.framing import Arriving, Frame
from bitdustfs.core.hello import check_hello, make_hello
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.frames import Frames
from bitdustfs.engine.handler import Handler, RefuseAll, error_of
from bitdustfs.engine.held import Held
from bitdustfs.engine.pacer import Pacer
from bitdustfs.errors import BitdustError, PeerError, PeerGone, ProtocolViolation
from bitdustfs.model import NodeId, OwnerId
from bitdustfs.ports import Link

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 32  # requests of one side without an answer. Part of the protocol
CLOSE_S: Final = 1  # for saying goodbye
_SLOW = wire.Put | wire.PutHead | wire.Delete | wire.Watch | wire.Hold  # a write to a disk comes first, or news

A = TypeVar("A", bound=wire.Answer)


class _Waiting:
    """One of our requests that is not answered yet."""

    __slots__ = ("abandoned", "answer", "asked_at", "body", "event", "is_quick", "most_body", "sent_bytes")

    def __init__(self, request: wire.Request) -> None:
        self.event = trio.Event()
        self.most_body = wire.most_body(request)
        self.is_quick = not isinstance(request, _SLOW)
        self.asked_at = trio.current_time()
        self.answer: wire.Answer | None = None
        self.body: bytes | memoryview = b""
        self.abandoned = False
        self.sent_bytes = 0  # of the connection, when this request was sent: its answer shows that they arrived


class _Work:
    """An admitted request of the peer, and what is held for it until `release`."""

    __slots__ = ("_held", "_peer", "body", "number", "request")

    def __init__(self, peer: Peer, number: int, request: wire.Request) -> None:
        self._peer: Peer | None = peer
        self._held = 0
        self.number = number
        self.request = request
        self.body: bytes | memoryview = b""

    async def take(self, body_bytes: int) -> None:
        assert self._peer is not None
        self._held = await self._peer.memory.inbound.take(body_bytes, self._peer.owner)

    def release(self) -> None:
        """Give back memory and admission; a second time does nothing."""
        peer, self._peer = self._peer, None
        if peer is not None:
            self.body = b""
            peer.memory.inbound.give(self._held, peer.owner)
            peer.handler.forget(peer.certificate, self.request)


class Peer:
    """A connection to one node.

    Use: `await peer.greet()` under a deadline, then `run` in a nursery for as long as the connection lives.
    `run` ends when the link does, and never raises for what the peer did: `ended` says why.

    Args:
        is_stranger: says whether nothing binds us to an owner: then he gets little memory. Whom we dial is none.
        check: refuses a node that is known as another owner's, by raising (engine/acquaintances).
    """

    def __init__(
        self,
        link: Link,
        identity: Identity,
        handler: Handler | None = None,
        memory: Memory | None = None,
        *,
        pacer: Pacer | None = None,
        features: Collection[str] = (),
        is_stranger: Callable[[OwnerId], bool] = lambda _owner: False,
        check: Callable[[Certificate, str], None] = lambda _shown, _peer: None,
    ) -> None:
        self.pacer = pacer or Pacer()
        self._frames = Frames(link, self.pacer)
        self._identity = identity
        self._features = features
        self._is_stranger = is_stranger
        self._check = check
        self.offers: frozenset[str] = frozenset()  # features of the other side
        self.handler: Handler = handler or RefuseAll()
        self.memory = memory or Memory()
        self._send_lock = trio.Lock()
        self._slots = trio.Semaphore(MAX_IN_FLIGHT)  # our requests
        self._inbound = trio.Semaphore(MAX_IN_FLIGHT)  # the peer's
        self._waiting: dict[int, _Waiting] = {}
        self._last_id = 0
        self._certificate: Certificate | None = None
        self._scope = trio.CancelScope()
        self.closed = trio.Event()
        self.ended: PeerError | None = None
        self.round_trip_s = inf  # the shortest so far

    def __repr__(self) -> str:
        return f"Peer({self.label})"

    @property
    def node(self) -> NodeId:
        return self._frames.link.peer

    @property
    def address(self) -> str:
        return self._frames.link.address

    @property
    def own_address(self) -> str:
        """ADDR:PORT of our end; "": nobody knows."""
        return self._frames.link.own_address

    @property
    def label(self) -> str:
        """How logs and errors name the other side."""
        return self._frames.label

    @property
    def certificate(self) -> Certificate:
        """The peer's verified certificate; only after `greet`."""
        assert self._certificate is not None, "HELLO first"
        return self._certificate

    @property
    def owner(self) -> OwnerId:
        """The verified owner of the node at the other end: the only authority it has."""
        return self.certificate.owner

    @property
    def is_asking(self) -> bool:
        """Say whether an answer is due."""
        return bool(self._waiting)

    @property
    def is_answering(self) -> bool:
        """Say whether a request of the other side is being worked on."""
        return self._inbound.value < MAX_IN_FLIGHT

    @property
    def last_heard(self) -> float:
        """When bytes last came."""
        return self._frames.last_heard

    @property
    def last_activity(self) -> float:
        """When bytes last moved, in either direction."""
        return self._frames.last_activity

    @property
    def backlog_s(self) -> float:
        """How long what we sent may still be under way on the slowest line that we put up with."""
        return self._frames.backlog_s

    @property
    def pushed_at(self) -> float:
        """When a part of a body last left for the peer, or had to wait for our own limit."""
        return self._frames.pushed_at

    def quiet_s(self, heard: float) -> float | None:
        """How long nothing has come while a quick answer is due, beyond what the line takes anyway. None: none is.

        An answer that nobody waits for any more is not due once something else has come: it may never come.

        Args:
            heard: when bytes last came from this peer on any connection.
        """
        if self._frames.is_held_back:
            return None  # something has come, and we do not take it yet
        alive = max(heard, self._frames.last_progress)
        due = (w.asked_at for w in self._waiting.values() if w.is_quick and not (w.abandoned and w.asked_at <= alive))
        oldest = next(due, None)
        if oldest is None:
            return None
        line_s = 2 * self.round_trip_s if self.round_trip_s < inf else 0.0
        return max(0.0, trio.current_time() - max(oldest, self._frames.last_progress) - line_s)

    async def greet(self) -> None:
        """Exchange HELLO. The caller sets the deadline; on any error or cancellation the link is closed.

        Raises:
            PeerGone, ProtocolViolation: this is no peer of ours. OwnerChanged: not any more.
        """
        try:
            await self._frames.link.send_all(make_hello(self._identity, self._features))
            first = await self._frames.receive()
            assert isinstance(first, Frame)  # before `open_up` no body is allowed
            shown, self.offers = check_hello(first, self._frames.link.peer, self.label)
            self._check(shown, self.label)
            self._certificate = shown
            self._frames.open_up(lambda: self._is_stranger(self.owner))
        except BaseException as error:
            self._end(error if isinstance(error, PeerError) else self._gone("no HELLO came in time"))
            await self._close()
            raise

    def trust(self, certificate: Certificate) -> None:
        """Instead of `greet`: the link was agreed on inside a connection that showed this certificate."""
        assert certificate.node == self.node
        self._certificate = certificate
        self._frames.open_up()

    async def run(self) -> None:
        """Serve the connection until it ends."""
        assert self._certificate is not None, "HELLO first"
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await self._read(nursery)
        finally:
            self._end(self._gone("the connection was closed"))
            await self._close()

    def end(self, why: PeerError) -> None:
        """End the connection; `run` returns soon. Everybody who waits for an answer gets PeerGone."""
        self._end(why)

    async def aclose(self) -> None:
        """End a connection that is not run."""
        self._end(self._gone("the connection was closed"))
        await self._close()

    async def request(
        self, request: wire.Request, answer: type[A], body: bytes | memoryview = b""
    ) -> tuple[A, bytes | memoryview]:
        """Ask the peer. The caller sets the deadline.

        Returns:
            The answer, always an `answer`, and its body.
        Raises:
            PeerGone: no connection, or it ended before the answer.
            PeerRefused, PeerFull, PeerLacks, PeerError: the peer refused.
            ProtocolViolation: the answer makes no sense; the connection is ended.
        """
        if self._slots.value and self.ended is None:
            self._slots.acquire_nowait()  # without a pass of the loop; `_send` looks whether we are cancelled
        else:
            await self._slots.acquire()
        if self.ended is not None:
            self._slots.release()
            raise self._gone_again()
        self._last_id = number = (self._last_id + 1) % (1 << 32)
        waiting = self._waiting[number] = _Waiting(request)
        sent = False
        try:
            await self._send(wire.encode(number, request, len(body)), (body,))
            sent, waiting.sent_bytes = True, self._frames.sent_bytes
            await waiting.event.wait()
        finally:
            if waiting.answer is None:
                # The peer will still answer: until then the request counts, so that we stay within MAX_IN_FLIGHT.
                waiting.abandoned = True
                if not sent:
                    self._forget(number)
        if waiting.answer is None:
            raise self._gone_again()
        return self._expect(waiting.answer, answer), waiting.body

    # -- sending ----------------------------------------------------------------------------------------------

    async def _send(self, head: bytes, body: tuple[bytes | memoryview, ...]) -> None:
        """Send one whole frame, or end the connection."""
        async with self._frames.turn(body), Held(self._send_lock):
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.ended is not None:
                raise self._gone_again()
            whole = False
            try:
                await self._frames.send(head, body)
                whole = True
            except PeerError as error:
                self._end(error)
                raise
            finally:
                if not whole:
                    self._end(self._gone("a message was given up half-way"))

    # -- receiving --------------------------------------------------------------------------------------------

    async def _read(self, nursery: trio.Nursery) -> None:
        try:
            while True:
                event = await self._frames.receive()
                if isinstance(event.message, wire.Request):
                    await self._serve(nursery, event, event.message)
                elif isinstance(event.message, wire.Answer):
                    await self._deliver(event, event.message)
                else:
                    raise self._violation("a second HELLO")
        except PeerError as error:
            if isinstance(error, ProtocolViolation):
                log.warning("connection ended: %s", wire.printable(str(error)))
            self._end(error)

    async def _serve(self, nursery: trio.Nursery, event: Arriving | Frame, request: wire.Request) -> None:
        # released by `_answer` and `_refuse`; honest peers never make us wait here
        if self._inbound.value:
            self._inbound.acquire_nowait()
        else:
            await self._inbound.acquire()
        body_bytes = event.body_bytes if isinstance(event, Arriving) else 0
        refusal = self._admit(request)
        if refusal is not None:
            if body_bytes:
                await self._frames.skip()
            nursery.start_soon(self._refuse, event.id, refusal)
            return
        work = _Work(self, event.id, request)
        try:
            if body_bytes:
                await work.take(body_bytes)
                work.body = await self._frames.body()
        except BaseException:
            work.release()
            raise
        nursery.start_soon(self._answer, work)

    def _admit(self, request: wire.Request) -> wire.Refusal | None:
        try:
            return self.handler.admit(self.certificate, request)
        except Exception:  # a bug in a handler costs one request, not the connection
            log.exception("request of %s failed", self.label)
            return wire.Refusal(wire.Refused.FAULT, "")

    async def _refuse(self, number: int, refusal: wire.Refusal) -> None:
        try:
            await self._send_answer(number, refusal, ())
        finally:
            self._inbound.release()

    async def _answer(self, work: _Work) -> None:
        """Work on one request. A task of its own: what goes wrong here costs this request only."""
        outbound, held_bytes = self.memory.outbound, 0
        try:
            held_bytes = await outbound.take(wire.most_body(work.request), self.owner)
            answer, parts = await self._ask_handler(work)
            work.release()  # before sending, which may take as long as the peer likes
            spare_bytes = max(0, held_bytes - sum(map(len, parts)))
            outbound.give(spare_bytes, self.owner)
            held_bytes -= spare_bytes
            await self._send_answer(work.number, answer, parts)
        finally:
            outbound.give(held_bytes, self.owner)
            work.release()
            self._inbound.release()

    async def _ask_handler(self, work: _Work) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        try:
            return await self.handler.answer(self.certificate, work.request, work.body)
        except BitdustError as error:
            log.error("a request of %s failed: %s", self.label, error)
        except Exception:  # a bug in a handler costs one request, not the connection
            log.exception("a request of %s failed", self.label)
        return wire.Refusal(wire.Refused.FAULT, ""), ()

    async def _send_answer(self, number: int, answer: wire.Answer, parts: tuple[bytes | memoryview, ...]) -> None:
        try:
            await self._send(wire.encode(number, answer, sum(map(len, parts))), parts)
        except PeerError:
            pass  # `_send` has ended the connection

    async def _deliver(self, event: Arriving | Frame, answer: wire.Answer) -> None:
        waiting = self._waiting.get(event.id)
        if waiting is None:
            raise self._violation("an answer to nothing")
        body: bytes | memoryview = b""
        if isinstance(event, Arriving):
            if event.body_bytes > waiting.most_body:
                raise self._violation(f"an answer of {event.body_bytes} bytes where {waiting.most_body} were asked")
            if waiting.abandoned:
                await self._frames.skip()
            else:
                body = await self._frames.body()
        self._frames.arrived_bytes = max(self._frames.arrived_bytes, waiting.sent_bytes)
        self._forget(event.id)
        if waiting.is_quick:
            self.round_trip_s = min(self.round_trip_s, trio.current_time() - waiting.asked_at)
        if not waiting.abandoned:
            waiting.answer, waiting.body = answer, body
            waiting.event.set()

    def _forget(self, number: int) -> None:
        if self._waiting.pop(number, None) is not None:
            self._slots.release()

    def _expect(self, answer: wire.Answer, expected: type[A]) -> A:
        if isinstance(answer, wire.Refusal):
            raise error_of(answer, self.label, self._identity.certificate)
        if not isinstance(answer, expected):
            violation = self._violation(f"a {type(answer).__name__} where a {expected.__name__} was due")
            self._end(violation)
            raise violation
        return answer

    # -- the end ----------------------------------------------------------------------------------------------

    def _end(self, why: PeerError) -> None:
        if self.ended is None:
            self.ended = why
        self._scope.cancel()
        for number, waiting in tuple(self._waiting.items()):
            waiting.event.set()
            self._forget(number)

    async def _close(self) -> None:
        with trio.move_on_after(CLOSE_S, shield=True):
            await self._frames.link.aclose()
        self.closed.set()

    def _gone(self, what: str) -> PeerGone:
        return PeerGone(peer=self.label, what=what)

    def _gone_again(self) -> PeerGone:
        assert self.ended is not None
        return self._gone(str(self.ended.facts.get("what", self.ended)))

    def _violation(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(peer=self.label, what=what)
