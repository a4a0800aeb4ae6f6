"""TCP between nodes: dial, listen, and tell apart what comes.

One port serves TLS sessions and the bulk connections beside them: TLS begins with another byte. Unproven connections
of both kinds are bounded in number and time: when there are too many the oldest is dropped, so that idle ones cannot
keep a friend out. Each refusal is one log line.
"""

from __future__ import annotations

import errno
import hmac
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core.bulk import MAGIC
from bitdustfs.core.invitation import FRONT_BYTES
from bitdustfs.edges.bulk_link import BulkLink, read_ticket
from bitdustfs.edges.tls import TlsLink, context_for, shake_hands, why
from bitdustfs.errors import BadRequest, Forbidden, InUse, PeerError, PeerGone, ProtocolViolation, WrongPeer
from bitdustfs.model import BulkPass, NodeId, short

log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 10
MAX_UNPROVEN: Final = 256  # connections in their handshake; each costs about 100 KiB
ACCEPT_PAUSE_S: Final = 0.2  # when accept fails: out of descriptors or memory, which others may give back
BACKLOG: Final = 512
# A probe after 2 minutes of silence, given up after 4 more 30 s apart; 30 s for bytes that nobody acknowledges.
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 120),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class TcpDialer:
    """A ports.Dialer."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._context = context_for(key, server=False)

    async def dial(self, address: str, expected: NodeId) -> TlsLink:
        """Connect to ADDR:PORT and check who answers. The caller sets the deadline.

        Raises:
            PeerGone: nobody is there, or no TLS 1.3 of ours. WrongPeer: somebody else is there.
            BadRequest: the address is none.
        """
        return await self._dial(address, expected)

    async def dial_front(self, address: str, front: bytes) -> TlsLink:
        """Connect to ADDR:PORT and check that the id of who answers begins like this. Else as `dial`."""
        assert len(front) >= FRONT_BYTES
        return await self._dial(address, front)

    async def ask_who(self, address: str) -> NodeId:
        """Say whose key answers at ADDR:PORT, and hang up. The caller sets the deadline.

        Raises:
            PeerGone: nobody is there, or no TLS 1.3 of ours. BadRequest: the address is none.
        """
        link = await self._dial(address, b"")
        await link.aclose()
        return link.peer

    async def _dial(self, address: str, front: bytes) -> TlsLink:
        transport = await _connect(address, front)
        link = await shake_hands(transport, self._context, address, server_side=False)
        if not hmac.compare_digest(link.peer[: len(front)], front):
            await trio.aclose_forcefully(transport)
            named = short if short(link.peer) != short(front) else bytes.hex  # one digit may be mistyped
            raise WrongPeer(peer=f"{named(link.peer)} at {address}", expected=named(front))
        return link

    async def dial_bulk(self, address: str, peer: NodeId, bulk: BulkPass) -> BulkLink:
        """Open the bulk connection that was agreed with `peer`. The caller sets the deadline.

        Raises:
            PeerGone: nobody is there who takes the ticket. ProtocolViolation: somebody else is there.
        """
        link = BulkLink(await _connect(address, peer), peer, address, bulk)
        await link.open()
        return link


class _Awaited:
    """A bulk connection that should come, until it is there, failed, or is given up."""

    def __init__(self, peer: NodeId, bulk: BulkPass) -> None:
        self.peer = peer
        self.bulk = bulk
        self.link: BulkLink | None = None
        self.over = trio.Event()


class TcpListener:
    """A ports.Listener. Made by `listening`."""

    def __init__(self, sockets: list[trio.SocketListener], context: ssl.SSLContext, handshake_s: float) -> None:
        self._sockets = sockets
        self._handshake_s = handshake_s
        self._context = context
        self._unproven: dict[trio.CancelScope, None] = {}  # in order of arrival
        self._awaited: dict[bytes, _Awaited] = {}  # by ticket
        self._proven_in, self._proven_out = trio.open_memory_channel[TlsLink](0)

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def addresses(self) -> Sequence[str]:
        return [join_address(*listener.socket.getsockname()[:2]) for listener in self._sockets]

    async def accept(self) -> TlsLink:
        return await self._proven_out.receive()

    async def accept_bulk(self, peer: NodeId, bulk: BulkPass) -> BulkLink:
        """Wait for the one connection that shows this ticket. The caller sets the deadline: then it is void.

        Raises:
            PeerGone: somebody showed it and does not have the keys.
        """
        awaited = self._awaited[bulk.ticket] = _Awaited(peer, bulk)
        try:
            await awaited.over.wait()
        except BaseException:
            awaited.over.set()
            if awaited.link is not None:
                awaited.link.abort()
            raise
        finally:
            self._awaited.pop(bulk.ticket, None)
        if awaited.link is None:
            raise PeerGone(peer=short(peer), what="its ticket was shown by somebody without the keys")
        return awaited.link

    async def aclose(self) -> None:
        for listener in self._sockets:
            await listener.aclose()

    async def run(self) -> None:
        """Accept and shake hands until cancelled or closed."""
        async with trio.open_nursery() as nursery:
            for listener in self._sockets:
                nursery.start_soon(self._accept_all, nursery, listener)

    async def _accept_all(self, nursery: trio.Nursery, listener: trio.SocketListener) -> None:
        while True:
            try:
                transport = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.warning("cannot accept connections now: %s", error.strerror)
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._unproven) >= MAX_UNPROVEN:
                next(iter(self._unproven)).cancel()
            nursery.start_soon(self._prove, transport)

    async def _prove(self, transport: trio.SocketStream) -> None:
        """Find out who a stranger is, and hand the link to who accepts it."""
        address = "a connection"
        handed_over = False
        scope = trio.CancelScope(deadline=trio.current_time() + self._handshake_s)
        self._unproven[scope] = None
        try:
            with scope:
                address = join_address(*transport.socket.getpeername()[:2])
                keep_alive(transport)
                if await transport.socket.recv(1, socket.MSG_PEEK) == MAGIC[:1]:
                    await self._prove_bulk(transport, address)
                else:
                    link = await shake_hands(transport, self._context, address, server_side=True)
                    await self._proven_in.send(link)
                handed_over = True
            if scope.cancelled_caught:
                log.warning("refused %s: no handshake in time", address)
        except PeerError as refused:
            log.warning("refused %s", refused)
        except OSError as error:
            log.warning("refused %s: %s", address, why(error))
        except Exception:  # whatever a stranger sends, the listener lives
            log.exception("refused %s", address)
        finally:
            del self._unproven[scope]
            if not handed_over:
                await trio.aclose_forcefully(transport)

    async def _prove_bulk(self, transport: trio.SocketStream, address: str) -> None:
        ticket = await read_ticket(transport, address)
        awaited = self._awaited.pop(ticket, None)  # once: whoever shows it, it is used up
        if awaited is None:
            raise ProtocolViolation(peer=address, what="its ticket is not valid, or not any more")
        try:
            link = BulkLink(transport, awaited.peer, address, awaited.bulk)
            await link.answer()
            if awaited.over.is_set():
                raise ProtocolViolation(peer=address, what="it came too late with its ticket")
            awaited.link = link
        finally:
            awaited.over.set()


@asynccontextmanager
async def listening(
    address: str, key: Ed25519PrivateKey, *, handshake_s: float = HANDSHAKE_S
) -> AsyncIterator[TcpListener]:
    """Listen on ADDR:PORT (port 0: any) for as long as the block runs.

    [::] is all addresses of this machine, of both families; 0.0.0.0 is those of IPv4.

    Args:
        handshake_s: how long a connection may take to prove who it is.

    Raises:
        InUse: the port is taken. Forbidden: we may not have it. BadRequest: the address is not ours, or none.
    """
    host, port = split_address(address)
    try:
        sockets = await _open(host, port)
    except PermissionError as error:
        raise Forbidden(what=f"this user may not listen on {address}: choose a port above 1023") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InUse(what=f"another process listens on {address}: choose another port") from error
        raise BadRequest(what=f"cannot listen on {address}: {why(error)}") from error
    listener = TcpListener(sockets, context_for(key, server=True), handshake_s)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield listener
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()


async def _open(host: str, port: int) -> list[trio.SocketListener]:
    """Raises OSError."""
    if host != "::":
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    try:
        sockets = await trio.open_tcp_listeners(port, host="::", backlog=BACKLOG)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        return await trio.open_tcp_listeners(port, host="0.0.0.0", backlog=BACKLOG)
    port = sockets[0].socket.getsockname()[1]
    try:
        return sockets + await trio.open_tcp_listeners(port, host="0.0.0.0", backlog=BACKLOG)
    except BaseException:
        for listener in sockets:
            await listener.aclose()
        raise


def split_address(address: str) -> tuple[str, int]:
    """Split ADDR:PORT or [ADDR]:PORT.

    Raises:
        BadRequest: it is neither.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadRequest(what=f"write an IPv6 address in brackets, as in [::1]:7000, not {address!r}")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise BadRequest(what=f"an address is ADDR:PORT, as in 192.0.2.7:7000, not {address!r}")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Write ADDR:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _connect(address: str, peer: bytes) -> trio.SocketStream:
    """Raises PeerGone, BadRequest."""
    if not address:
        raise PeerGone(peer=short(peer), what="it is not connected, and nobody knows its address")
    host, port = split_address(address)
    try:
        transport = await trio.open_tcp_stream(host, port)
        keep_alive(transport)
    except OSError as error:
        raise PeerGone(peer=f"{short(peer)} at {address}", what=why(error)) from error
    return transport


def keep_alive(transport: trio.SocketStream) -> None:
    """Let the kernel notice a machine that is gone, on links where nobody asks anything."""
    for level, option, value in _KEEP_ALIVE:
        transport.setsockopt(level, option, value)
