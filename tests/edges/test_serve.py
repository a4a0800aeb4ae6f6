"""A supplier as it is served, over TLS and a real disk, and a customer who uses it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from bitdustfs.core import fragment, head, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.edges.bulk_link import BulkLink
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.shelf_disk import DiskShelf
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch
from bitdustfs.edges.tcp import TcpDialer, TcpListener, listening
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import NodeRevoked, PeerError, PeerGone, PeerRefused
from bitdustfs.model import BulkPass, FragmentName, NodeId, SupplierNo
from bitdustfs.testing.swarm import make_identity

SUPPLIER = make_identity("supplier")
CUSTOMER = make_identity("customer")
STRANGER = make_identity("stranger")
RECOVERED = make_identity("new laptop", owner="customer", epoch=2)
NAME = FragmentName(b"n" * 32)
CONTENT = (bytes(range(255)) * 6000)[:1_500_000]
ROOT = fragment.root(CONTENT)
S1 = SupplierNo(1)


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[TcpListener]:
    keeper = Keeper(
        SUPPLIER,
        DiskShelf.open_or_create(tmp_path / "shelf", tmp_path / "shelf-id", floor_bytes=0),
        DiskContracts(tmp_path / "contracts"),
        allowed={CUSTOMER.owner: 1 << 24},
        crunch=ThreadCrunch(),
        wall=SystemWall(),
    )
    reception = Reception(SUPPLIER, keeper, knows=keeper.has_contract, entropy=SystemEntropy())
    with trio.fail_after(60):
        async with listening("127.0.0.1:0", SUPPLIER.key) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(reception.run, listener)
            yield listener
            nursery.cancel_scope.cancel()


class CountingDialer(TcpDialer):
    """Knows the bulk connections that it opened."""

    def __init__(self) -> None:
        super().__init__(CUSTOMER.key)
        self.bulk: list[BulkLink] = []

    async def dial_bulk(self, address: str, peer: NodeId, bulk: BulkPass) -> BulkLink:
        self.bulk.append(await super().dial_bulk(address, peer, bulk))
        return self.bulk[-1]


def customer_side(dialer: TcpDialer | None = None) -> Suppliers:
    dialer = dialer or TcpDialer(CUSTOMER.key)
    return Suppliers(CUSTOMER, dialer, (), entropy=SystemEntropy(), wall=SystemWall())


async def connected(nursery: trio.Nursery, address: str, identity: Identity) -> Peer:
    peer = Peer(await TcpDialer(identity.key).dial(address, SUPPLIER.node), identity)
    await peer.greet()
    nursery.start_soon(peer.run)
    return peer


@pytest.mark.slow
async def test_fragments_take_bulk_connections_and_tls_when_those_break(tmp_path: Path) -> None:
    async with served(tmp_path) as listener:
        dialer = CountingDialer()
        side = customer_side(dialer)
        row = replace(await side.hire(listener.address, SUPPLIER.node, 1 << 23), supplier=S1)
        async with trio.open_nursery() as nursery:
            side.add(row)
            nursery.start_soon(side.run)
            while not side.online():
                await side.wait_for_change()
            while len(dialer.bulk) < 2:  # each is opened when it is first wanted
                await side.put(S1, NAME, ROOT, CONTENT)
                await side.get(S1, NAME, 0, 92, hashes=False)
            for breaks in (False, True):
                if breaks:
                    for link in dialer.bulk:
                        link.abort()
                await side.put(S1, NAME, ROOT, CONTENT)
                assert (await side.get(S1, NAME, 0, 92, hashes=False)).content == CONTENT
            assert side.online()
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_fragment_survives_a_restart_of_its_supplier(tmp_path: Path) -> None:
    async with served(tmp_path) as listener:
        side = customer_side()
        row = replace(await side.hire(listener.address, SUPPLIER.node, 1 << 23), supplier=S1)
        async with trio.open_nursery() as nursery:
            side.add(row)
            nursery.start_soon(side.run)
            while not side.online():
                await side.wait_for_change()
            await side.put(S1, NAME, ROOT, CONTENT)
            nursery.cancel_scope.cancel()
    async with served(tmp_path) as listener:
        side = customer_side()
        async with trio.open_nursery() as nursery:
            side.add(replace(row, address=listener.address))
            nursery.start_soon(side.run)
            while not side.online():
                await side.wait_for_change()
            leaves = await side.get(S1, NAME, 0, 92, hashes=True)
            nursery.cancel_scope.cancel()
    assert leaves.content == CONTENT
    assert fragment.root_of(leaves.hashes, leaves.length) == ROOT


@pytest.mark.slow
async def test_supplier_restarted_without_its_disk_says_not_now_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put = wire.Put(NAME, ROOT, len(CONTENT), 1, 0)
    requests: list[tuple[wire.Request, bytes | memoryview]] = [
        (put, CONTENT),
        (wire.Get(NAME, 0, 92, True), b""),
        (wire.Stat(), b""),
    ]
    async with served(tmp_path) as listener:
        await customer_side().hire(listener.address, SUPPLIER.node, 1 << 23)
    (tmp_path / "shelf").rename(tmp_path / "unplugged")
    (tmp_path / "shelf").mkdir()
    async with served(tmp_path) as listener, trio.open_nursery() as nursery:
        peer = await connected(nursery, listener.address, CUSTOMER)
        for request, body in requests:
            with pytest.raises(PeerError) as caught:
                await peer.request(request, wire.ANSWERS[type(request)], body)
            assert caught.value.facts["code"] is wire.Refused.UNAVAILABLE
        (tmp_path / "unplugged").rename(tmp_path / "shelf")
        await peer.request(put, wire.Done, CONTENT)
        nursery.cancel_scope.cancel()
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


@pytest.mark.slow
async def test_revoked_machine_reads_writes_and_deletes_nothing_over_tls(tmp_path: Path) -> None:
    """F48: over real sockets."""
    first = head.sign(CUSTOMER, handle=bytes(16), version=1, previous=head.NO_HEAD, sealed=b"sealed")
    second = head.sign(CUSTOMER, handle=bytes(16), version=2, previous=first.digest, sealed=b"sealed")
    requests: list[tuple[wire.Request, bytes]] = [
        (wire.Get(NAME, 0, 92, True), b""),
        (wire.Put(b"m" * 32, ROOT, len(CONTENT), 1, 2), CONTENT),
        (wire.Delete((NAME,), 1, 2), b""),
        (wire.List(b"", 10), b""),
        (wire.GetHead(), b""),
        (wire.PutHead(len(second.raw), 1), second.raw),
        (wire.Stat(), b""),
    ]
    async with served(tmp_path) as listener, trio.open_nursery() as nursery:
        await customer_side().hire(listener.address, SUPPLIER.node, 1 << 23)
        old = await connected(nursery, listener.address, CUSTOMER)
        await old.request(wire.Put(NAME, ROOT, len(CONTENT), 1, 0), wire.Done, CONTENT)
        await old.request(wire.PutHead(len(first.raw), 1), wire.Done, first.raw)
        new = await connected(nursery, listener.address, RECOVERED)
        assert await new.request(wire.GetHead(), wire.HeadIs) == (wire.HeadIs(len(first.raw)), first.raw)
        again = await connected(nursery, listener.address, CUSTOMER)
        for request, body in requests:
            for peer in (old, again):
                with pytest.raises(NodeRevoked) as caught:
                    await peer.request(request, wire.ANSWERS[type(request)], body)
                assert caught.value.detail == 2
        assert (await new.request(wire.Get(NAME, 0, 92, False), wire.Found))[1] == CONTENT
        assert await new.request(wire.List(b"", 10), wire.Listed) == (wire.Listed(((NAME, len(CONTENT)),)), b"")
        assert await new.request(wire.GetHead(), wire.HeadIs) == (wire.HeadIs(len(first.raw)), first.raw)
        nursery.cancel_scope.cancel()
    async with served(tmp_path) as listener, trio.open_nursery() as nursery:  # the supplier remembers
        with pytest.raises(NodeRevoked):
            await (await connected(nursery, listener.address, CUSTOMER)).request(wire.GetHead(), wire.HeadIs)
        nursery.cancel_scope.cancel()


async def test_stranger_is_refused_over_tls(tmp_path: Path) -> None:
    async with served(tmp_path) as listener, trio.open_nursery() as nursery:
        peer = await connected(nursery, listener.address, STRANGER)
        with pytest.raises(PeerRefused):
            await peer.request(wire.Put(NAME, ROOT, len(CONTENT), 1, 0), wire.Done, CONTENT)
        with pytest.raises(PeerRefused):
            await peer.request(wire.Get(NAME, 0, 1, False), wire.Found)
        with pytest.raises(PeerRefused):
            await peer.request(wire.Delete((NAME,), 1, 0), wire.Deleted)
        nursery.cancel_scope.cancel()


async def test_certificate_of_another_node_is_refused_over_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The customer's certificate in the mouth of a stranger: the key that TLS proved is not the one it names."""
    async with served(tmp_path) as listener:
        link = await TcpDialer(STRANGER.key).dial(listener.address, SUPPLIER.node)
        await link.send_all(wire.encode(0, wire.Hello(wire.PROTOCOL_VERSION, CUSTOMER.certificate.raw, (), "")))
        try:
            while await link.receive_some(1000):
                pass
        except PeerGone:
            pass
        await link.aclose()
        while not caplog.records:
            await trio.sleep(0.01)
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "another node's" in lines[0]


async def test_plaintext_of_an_http_client_is_refused_and_service_goes_on(tmp_path: Path) -> None:
    """F50: HTTP on the port."""
    async with served(tmp_path) as listener:
        host, _, port = listener.address.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        await stream.aclose()
        await customer_side().hire(listener.address, SUPPLIER.node, 1 << 20)
