"""TLS 1.3 links between nodes: the only module that knows `ssl`.

Python's `ssl` has no verify callback: it can only check a certificate against a store, and would refuse every unknown
self-signed one. So every leaf certificate is signed with one *anchor* key whose private half is public, below.
OpenSSL's chain check then always succeeds and means nothing; the handshake still proves that the other side has the
private key of its leaf. **Trust comes only from comparing the SHA-256 of that key with a node id**: by the dialer at
once, by the listener's owner when HELLO brings the certificate of an owner.

In TLS 1.3 the dialer is done before the listener has judged it, so nothing counts as accepted before HELLO. A missing
ALPN passes OpenSSL silently, so both sides look at what was selected.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bitdustfs.errors import PeerGone, ProtocolViolation
from bitdustfs.model import NodeId, short

ALPN: Final = "bitdustfs/1"
CLOSE_S: Final = 1
RECORD_BYTES: Final = 16 * 1024  # of plaintext, the most that TLS puts into one record
SOCKET_BYTES: Final = 256 * 1024  # (tune) taken from the kernel at once
# NOT A SECRET. Everybody signs leaf certificates with this key, and a signature by it proves nothing.
ANCHOR_NOT_A_SECRET: Final = Ed25519PrivateKey.from_private_bytes(
    hashlib.sha256(b"bitdustfs public anchor, not a secret").digest()
)
_ANCHOR_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bitdustfs public anchor, not a secret")])
_LEAF_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n")])  # no names on the wire
# Certificates that never expire, so that a wrong clock locks nobody out.
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


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
        self._own_address = own_address(stream.transport_stream.socket)

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
        return PeerGone(peer=f"{short(self._peer)} at {self._address}", what=why(error))


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


async def shake_hands(
    transport: trio.SocketStream, context: ssl.SSLContext, address: str, *, server_side: bool
) -> TlsLink:
    """Make a connection a link; on any trouble close it and raise.

    Raises:
        PeerGone: the connection ended. ProtocolViolation: it is not our protocol.
    """
    stream = trio.SSLStream(_Wide(transport), context, server_side=server_side)
    try:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise ProtocolViolation(peer=address, what=why(error)) from error
            raise PeerGone(peer=address, what=why(error)) from error
        return TlsLink(stream, _proven_node(stream, address), address)
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


def own_address(transport: trio.SocketStream) -> str:
    """ADDR:PORT of our end of a connection; "": it has ended."""
    try:
        host, port = transport.socket.getsockname()[:2]
    except OSError:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def why(error: BaseException) -> str:
    """Say in a few printable words what a foreign exception says."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):  # of attempts, one for each address of a name
        cause = cause.exceptions[0]
    text = cause.reason if isinstance(cause, ssl.SSLError) and cause.reason else None
    if text is None:
        text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    text = text.replace("_", " ").lower() if isinstance(cause, ssl.SSLError) else text
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
