"""TLS links on real sockets: who is let in, and who is not."""

from __future__ import annotations

import datetime
import errno
import logging
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bitdustfs.edges import tcp, tls
from bitdustfs.errors import BadRequest, InUse, PeerError, PeerGone, ProtocolViolation, WrongPeer
from bitdustfs.model import NodeId
from bitdustfs.ports import Link
from bitdustfs.testing.swarm import make_identity

SUPPLIER = make_identity("supplier")
CUSTOMER = make_identity("customer")
STRANGER = make_identity("stranger")
PATIENCE_S = 60  # only so that a test that hangs ends

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey


@asynccontextmanager
async def supplier() -> AsyncIterator[tcp.TcpListener]:
    with trio.fail_after(PATIENCE_S):
        async with tcp.listening("127.0.0.1:0", SUPPLIER.key) as listener:
            yield listener


async def assert_still_serves(listener: tcp.TcpListener) -> None:
    """A friend gets through after whatever happened."""
    link = await tcp.TcpDialer(CUSTOMER.key).dial(listener.address, SUPPLIER.node)
    accepted = await listener.accept()
    await accepted.send_all(b"hello")
    assert await link.receive_some(100) == b"hello"
    assert accepted.peer == CUSTOMER.node
    await link.aclose()
    await accepted.aclose()


async def dial_raw(listener: tcp.TcpListener) -> trio.SocketStream:
    host, port = tcp.split_address(listener.address)
    return await trio.open_tcp_stream(host, port)


async def assert_refused(listener: tcp.TcpListener, context: ssl.SSLContext) -> None:
    """A TLS client with this context never receives a byte."""
    stream = trio.SSLStream(await dial_raw(listener), context)
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()
        # In TLS 1.3 the client may be done before the server has judged it.
        if not await stream.receive_some(1):
            raise trio.BrokenResourceError("closed")
    await trio.aclose_forcefully(stream)
    await assert_still_serves(listener)


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == tcp.log.name and r.levelno == logging.WARNING]


def client_context(key: Ed25519PrivateKey | None = CUSTOMER.key) -> ssl.SSLContext:
    """As the real one, for a test to spoil."""
    if key is not None:
        return tls.context_for(key, server=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([tls.ALPN])
    return context


def load(context: ssl.SSLContext, certificate: x509.Certificate, key: PrivateKey) -> None:
    memory = os.memfd_create("test")
    pem = certificate.public_bytes(Encoding.PEM)
    os.write(memory, pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context.load_cert_chain(f"/proc/self/fd/{memory}")
    os.close(memory)


def signed_by(signer: Ed25519PrivateKey, key: PrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC))
        .sign(signer, None)
    )


async def exchange(one: Link, other: Link, content: bytes) -> bytes:
    """Send content one way and return what came out."""
    received = bytearray()

    async def receive() -> None:
        while len(received) < len(content):
            received.extend(await other.receive_some(100_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await one.send_all(content)
    return bytes(received)


@pytest.mark.slow
async def test_links_carry_bytes_both_ways() -> None:
    content = os.urandom(3_000_001)
    async with supplier() as listener:
        link = await tcp.TcpDialer(CUSTOMER.key).dial(listener.address, SUPPLIER.node)
        accepted = await listener.accept()
        assert (link.peer, accepted.peer) == (SUPPLIER.node, CUSTOMER.node)
        assert await exchange(link, accepted, content) == content
        assert await exchange(accepted, link, content) == content
        await link.aclose()
        assert await accepted.receive_some(10) == b""
        await accepted.aclose()


async def test_connection_that_breaks_is_peer_gone() -> None:
    async with supplier() as listener:
        stream = trio.SSLStream(await dial_raw(listener), client_context())
        await stream.do_handshake()
        accepted = await listener.accept()
        await trio.aclose_forcefully(stream)
        with pytest.raises(PeerGone):
            await accepted.receive_some(10)
        await accepted.aclose()


async def test_dialer_refuses_another_node() -> None:
    """F47: the wrong node, with a certificate that is good."""
    async with supplier() as listener:
        with pytest.raises(WrongPeer):
            await tcp.TcpDialer(CUSTOMER.key).dial(listener.address, STRANGER.node)
        await assert_dropped(await listener.accept())
        await assert_still_serves(listener)


async def test_one_digit_of_a_node_id_that_is_wrong_can_be_found() -> None:
    mistyped = NodeId(SUPPLIER.node[:-1] + bytes([SUPPLIER.node[-1] ^ 1]))
    async with supplier() as listener:
        with pytest.raises(WrongPeer, match=f"{SUPPLIER.node.hex()} at .*, but {mistyped.hex()} was expected"):
            await tcp.TcpDialer(CUSTOMER.key).dial(listener.address, mistyped)
        await assert_dropped(await listener.accept())


async def assert_dropped(link: Link) -> None:
    try:
        assert await link.receive_some(10) == b""
    except PeerGone:
        pass
    await link.aclose()


async def test_dialer_says_that_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with trio.fail_after(PATIENCE_S), pytest.raises(PeerGone, match="Connection refused"):
            await tcp.TcpDialer(CUSTOMER.key).dial(address, SUPPLIER.node)


async def test_no_certificate_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """F46: refused before anything of ours is read."""
    async with supplier() as listener:
        await assert_refused(listener, client_context(None))
    assert len(refusals(caplog)) == 1


async def test_self_signed_certificate_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """F46: refused before anything of ours is read."""
    context = client_context(None)
    load(context, signed_by(STRANGER.key, STRANGER.key), STRANGER.key)
    async with supplier() as listener:
        await assert_refused(listener, context)
    assert len(refusals(caplog)) == 1


async def test_another_nodes_certificate_is_refused() -> None:
    """F46. The certificate of the customer cannot be shown without his key, by either side."""
    with pytest.raises(ssl.SSLError):
        load(client_context(None), tls.leaf_certificate(CUSTOMER.key), STRANGER.key)


async def test_key_that_is_not_ed25519_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    context = client_context(None)
    leaf = tls.leaf_certificate(STRANGER.key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    load(context, builder.sign(tls.ANCHOR_NOT_A_SECRET, None), key)
    async with supplier() as listener:
        await assert_refused(listener, context)
    assert "Ed25519" in refusals(caplog)[0]


async def test_tls_1_2_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """F46: refused before anything of ours is read."""
    context = client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with supplier() as listener:
        await assert_refused(listener, context)
    assert len(refusals(caplog)) == 1


@pytest.mark.parametrize("protocols", [["h2"], []], ids=["wrong", "missing"])
async def test_alpn_must_be_ours(protocols: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """F46: refused before anything of ours is read."""
    context = client_context()
    context.set_alpn_protocols(protocols)
    async with supplier() as listener:
        await assert_refused(listener, context)
    assert len(refusals(caplog)) == 1


@pytest.mark.parametrize("spoil", ["old", "missing alpn", "self-signed", "plain"])
async def test_dialer_refuses_a_listener_that_is_not_ours(spoil: str) -> None:
    context = tls.context_for(SUPPLIER.key, server=True)
    match spoil:
        case "old":
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        case "missing alpn":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            load(context, tls.leaf_certificate(SUPPLIER.key), SUPPLIER.key)
        case "self-signed":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_alpn_protocols([tls.ALPN])
            load(context, signed_by(SUPPLIER.key, SUPPLIER.key), SUPPLIER.key)

    async def serve(transport: trio.SocketStream) -> None:
        stream = trio.SSLStream(transport, context, server_side=True)
        try:
            await (transport.send_all(b"220 hello\r\n") if spoil == "plain" else stream.do_handshake())
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(transport)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            with pytest.raises((ProtocolViolation, PeerGone)):
                await tcp.TcpDialer(CUSTOMER.key).dial(address, SUPPLIER.node)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "content",
    [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\xff" * 70_000, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x00"],
    ids=["http", "garbage", "short hello", "one byte"],
)
async def test_what_is_no_tls_is_refused_in_one_log_line(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """F50: garbage on the port."""
    async with supplier() as listener:
        transport = await dial_raw(listener)
        try:
            await transport.send_all(content)
            await transport.send_eof()
            while await transport.receive_some():
                pass
        except (trio.BrokenResourceError, OSError):
            pass  # it hung up on us first
        await transport.aclose()
        await assert_still_serves(listener)
    assert len(refusals(caplog)) == 1
    assert refusals(caplog)[0].isprintable()


async def test_connection_that_closes_at_once_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as listener:
        await trio.aclose_forcefully(await dial_raw(listener))
        await assert_still_serves(listener)
    assert len(refusals(caplog)) == 1


@pytest.mark.slow
async def test_idle_connections_do_not_keep_a_friend_out(caplog: pytest.LogCaptureFixture) -> None:
    """F50: half-open, over real sockets."""
    async with supplier() as listener:
        idle = [await dial_raw(listener) for _ in range(tcp.MAX_UNPROVEN + 20)]
        await assert_still_serves(listener)
        for transport in idle:
            await transport.aclose()
    assert len(refusals(caplog)) >= 20


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Take every file descriptor, up to a limit lowered for that, but the ones in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    taken: list[int] = []
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
async def test_listener_outlives_a_lack_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as listener:
        waiting = socket.socket()
        waiting.setblocking(False)
        with no_more_descriptors():
            waiting.connect_ex(tcp.split_address(listener.address))
            while not any("accept" in line for line in refusals(caplog)):
                await trio.sleep(0.01)
        waiting.close()
        await assert_still_serves(listener)


async def test_port_in_use_is_said() -> None:
    async with supplier() as listener:
        with pytest.raises(InUse):
            async with tcp.listening(listener.address, STRANGER.key):
                pass


@pytest.mark.parametrize("address", ["7000", ":7000", "host:", "host:70000", "host:-1", "::1:7000", "host:७"])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BadRequest):
        tcp.split_address(address)


@pytest.mark.parametrize("address", ["192.0.2.7:7000", "[2001:db8::1]:7000", "friend.example:1"])
def test_addresses_are_split_and_joined(address: str) -> None:
    assert tcp.join_address(*tcp.split_address(address)) == address


def test_refusals_are_peer_errors() -> None:
    assert issubclass(ProtocolViolation, PeerError)
