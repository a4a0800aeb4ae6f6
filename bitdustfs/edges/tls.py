"""TLS 1.3 links between nodes: the only module that knows `ssl`.

Python's `ssl` has no verify callback: it can only check a certificate against a store, and would refuse every unknown
self-signed one. So every leaf certificate is signed with one *anchor* key whose private half is public, below.
OpenSSL's chain check then always succeeds and means nothing; the handshake still proves that the other side has the
private key of its leaf. **Trust comes only from comparing the SHA-256 of that key with a node id**: by the dialer at
once, by the listener's owner when HELLO brings the certificate of an owner.

In TLS 1.3 the dialer is done before the listener has judged it, so nothing counts as accepted before HELLO. A missing
ALPN passes OpenSSL silently, so both sides look at what was selected.

Unproven connections are bounded in number and time: when there are too many the oldest is dropped, so that idle ones
cannot keep a friend out. Each refusal is one log line.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import hmac
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bitdustfs.errors import BadRequest, Forbidden, InUse, PeerError, PeerGone, ProtocolViolation, WrongPeer
from bitdustfs.model import NodeId, short

log = logging.getLogger(__name__)

ALPN: Final = "bitdustfs/1"
HANDSHAKE_S: Final = 10
MAX_UNPROVEN: Final = 256  # connections in their handshake; each costs about 100 KiB
ACCEPT_PAUSE_S: Final = 0.2  # when accept fails: out of descriptors or memory, which others may give back
CLOSE_S: Final = 1
RECORD_BYTES: Final = 16 * 1024  # of plaintext, the most that TLS puts into one record
SOCKET_BYTES: Final = 256 * 1024  # (tune) taken from the kernel at once
BACKLOG: Final = 512
# NOT A SECRET. Everybody signs leaf certificates with this key, and a signature by it proves nothing.
ANCHOR_NOT_A_SECRET: Final = Ed25519PrivateKey.from_private_bytes(
    hashlib.sha256(b"bitdustfs public anchor, not a secret").digest()
)
_ANCHOR_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bitdustfs public anchor, not a secret")])
_LEAF_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n")])  # no names on the wire
# Certificates that never expire, so that a wrong clock locks nobody out.
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
# A probe after 2 minutes of silence, given up after 4 more 30 s apart; 30 s for bytes that nobody acknowledges.
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 120),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class _Draining(ssl.SSLObject):
    """Reads all records that are there, not one of 16 KiB at a time: a turn of the loop for each is too slow."""

    def read(self, len: int = 1024, buffer: object = None) -> bytes:
        assert buffer is None, "trio reads without a buffer"
        parts = [super().read(len)]
        while len > RECORD_BYTES:
            len -= RECORD_BYTES
            try:
                parts.append(super().read(RECORD_BYTES))
            except ssl.SSLError:  # most often: no more now. A real error comes again at the next read
                break
        return b"".join(parts)


class _Wide(trio.abc.Stream):
    """A socket that is read in large pieces, which `trio.SSLStream` cannot be asked for."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self.socket = socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.socket.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.socket.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.socket.receive_some(max_bytes or SOCKET_BYTES)

    async def aclose(self) -> None:
        await self.socket.aclose()


class TlsLink:
    """A ports.Link over TLS."""

    def __init__(self, stream: trio.SSLStream[_Wide], peer: NodeId, address: str) -> None:
        self._stream = stream
        self._peer = peer
        self._address = address

    @property
    def peer(self) -> NodeId:
        return self._peer

    @property
    def address(self) -> str:
        return self._address

    async def send_all(self, content: bytes | memoryview) -> None:
        try:
            await self._stream.send_all(content)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone(error) from error

    async def receive_some(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone(error) from error

    async def receive_into(self, buffer: memoryview) -> int:
        content = await self.receive_some(min(len(buffer), SOCKET_BYTES))
        buffer[: len(content)] = content
        return len(content)

    async def aclose(self) -> None:
        with trio.move_on_after(CLOSE_S):
            try:
                await self._stream.aclose()
            except trio.BrokenResourceError:
                pass  # it is closed all the same

    def _gone(self, error: Exception) -> PeerGone:
        return PeerGone(peer=f"{short(self._peer)} at {self._address}", what=_why(error))


class TlsDialer:
    """A ports.Dialer over TCP and TLS."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._context = context_for(key, server=False)

    async def dial(self, address: str, expected: NodeId) -> TlsLink:
        """Connect to ADDR:PORT and check who answers. The caller sets the deadline.

        Raises:
            PeerGone: nobody is there, or no TLS 1.3 of ours. WrongPeer: somebody else is there.
            BadRequest: the address is none.
        """
        host, port = split_address(address)
        try:
            transport = await trio.open_tcp_stream(host, port)
            _keep_alive(transport)
        except OSError as error:
            raise PeerGone(peer=f"{short(expected)} at {address}", what=_why(error)) from error
        stream = trio.SSLStream(_Wide(transport), self._context, server_side=False)
        peer = await _shake_hands(stream, address)
        if not hmac.compare_digest(peer, expected):
            await trio.aclose_forcefully(stream)
            raise WrongPeer(peer=f"{short(peer)} at {address}", expected=short(expected))
        return TlsLink(stream, peer, address)


class TlsListener:
    """A ports.Listener over TCP and TLS. Made by `listening`."""

    def __init__(self, sockets: list[trio.SocketListener], context: ssl.SSLContext) -> None:
        self._sockets = sockets
        self._context = context
        self._unproven: dict[trio.CancelScope, None] = {}  # in order of arrival
        self._proven_in, self._proven_out = trio.open_memory_channel[TlsLink](0)

    @property
    def address(self) -> str:
        host, port = self._sockets[0].socket.getsockname()[:2]
        return join_address(host, port)

    async def accept(self) -> TlsLink:
        return await self._proven_out.receive()

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
        """Shake hands with one stranger and hand the link to `accept`."""
        address = "a connection"
        handed_over = False
        scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_S)
        self._unproven[scope] = None
        try:
            with scope:
                address = join_address(*transport.socket.getpeername()[:2])
                _keep_alive(transport)
                stream = trio.SSLStream(_Wide(transport), self._context, server_side=True)
                link = TlsLink(stream, await _shake_hands(stream, address), address)
                await self._proven_in.send(link)
                handed_over = True
            if scope.cancelled_caught:
                log.warning("refused %s: no handshake in time", address)
        except PeerError as refused:
            log.warning("refused %s", refused)
        except OSError as error:
            log.warning("refused %s: %s", address, _why(error))
        except Exception:  # whatever a stranger sends, the listener lives
            log.exception("refused %s", address)
        finally:
            del self._unproven[scope]
            if not handed_over:
                await trio.aclose_forcefully(transport)


@asynccontextmanager
async def listening(address: str, key: Ed25519PrivateKey) -> AsyncIterator[TlsListener]:
    """Listen on ADDR:PORT (port 0: any) for as long as the block runs.

    Raises:
        InUse: the port is taken. Forbidden: we may not have it. BadRequest: the address is not ours, or none.
    """
    host, port = split_address(address)
    try:
        sockets = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except PermissionError as error:
        raise Forbidden(what=f"this user may not listen on {address}: choose a port above 1023") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InUse(what=f"another process listens on {address}: choose another port") from error
        raise BadRequest(what=f"cannot listen on {address}: {_why(error)}") from error
    listener = TlsListener(sockets, context_for(key, server=True))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield listener
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()


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


def context_for(key: Ed25519PrivateKey, *, server: bool) -> ssl.SSLContext:
    """Make the TLS context of a node: TLS 1.3 only, a certificate from both sides, no resumption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # there are no names: the key is the name
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if server:
        context.num_tickets = 0
    pem = leaf_certificate(key).public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    memory = os.memfd_create("bitdustfs", os.MFD_CLOEXEC)  # `ssl` reads keys from files only: this one has no disk
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    context.load_verify_locations(cadata=_anchor_certificate().public_bytes(Encoding.PEM).decode())
    context.set_alpn_protocols([ALPN])
    context.sslobject_class = _Draining
    return context


def leaf_certificate(key: Ed25519PrivateKey) -> x509.Certificate:
    """The X.509 certificate that a node shows: its key, and otherwise the same for everybody."""
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_LEAF_NAME)
        .issuer_name(_ANCHOR_NAME)
        .public_key(public)
        .serial_number(int.from_bytes(hashlib.sha256(public.public_bytes_raw()).digest()[:8], "big") | 1)
        .not_valid_before(_EPOCH)
        .not_valid_after(_NEVER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node.bitdustfs.invalid")]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ANCHOR_NOT_A_SECRET.public_key()), critical=False
        )
        .sign(ANCHOR_NOT_A_SECRET, None)
    )


def _anchor_certificate() -> x509.Certificate:
    public = ANCHOR_NOT_A_SECRET.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_ANCHOR_NAME)
        .issuer_name(_ANCHOR_NAME)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(_EPOCH)
        .not_valid_after(_NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(ANCHOR_NOT_A_SECRET, None)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _keep_alive(transport: trio.SocketStream) -> None:
    """Let the kernel notice a machine that is gone, on links where nobody asks anything."""
    for level, option, value in _KEEP_ALIVE:
        transport.setsockopt(level, option, value)


async def _shake_hands(stream: trio.SSLStream[_Wide], address: str) -> NodeId:
    """Finish the handshake and return who is there; on any trouble close and raise.

    Raises:
        PeerGone: the connection ended. ProtocolViolation: it is not our protocol.
    """
    try:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise ProtocolViolation(peer=address, what=_why(error)) from error
            raise PeerGone(peer=address, what=_why(error)) from error
        return _proven_node(stream, address)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


def _proven_node(stream: trio.SSLStream[_Wide], address: str) -> NodeId:
    if stream.version() != "TLSv1.3":
        raise ProtocolViolation(peer=address, what="it does not speak TLS 1.3")
    if stream.selected_alpn_protocol() != ALPN:
        raise ProtocolViolation(peer=address, what=f"it does not speak {ALPN}")
    der = stream.getpeercert(binary_form=True)
    if not der:
        raise ProtocolViolation(peer=address, what="it has no certificate")
    try:
        public = x509.load_der_x509_certificate(der).public_key()
    except ValueError as bad:
        raise ProtocolViolation(peer=address, what="its certificate cannot be read") from bad
    if not isinstance(public, Ed25519PublicKey):
        raise ProtocolViolation(peer=address, what="its key is not an Ed25519 key")
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return NodeId(hashlib.sha256(spki).digest())


def _why(error: BaseException) -> str:
    """Say in a few printable words what a foreign exception says."""
    cause = error.__cause__ or error
    text = cause.reason if isinstance(cause, ssl.SSLError) and cause.reason else None
    if text is None:
        text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    text = text.replace("_", " ").lower() if isinstance(cause, ssl.SSLError) else text
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
