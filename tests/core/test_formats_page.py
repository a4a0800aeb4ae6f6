"""The test vectors of bitdustfs-formats(5), each made again by the code: page and code cannot drift apart.

A vector is a line `name = value` of an example on the page; lines that begin with blanks go on with its value. Names
that begin with `in.` are inputs. Values are hex, but for lengths and the recovery phrase.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from bitdustfs.core import (
    block,
    bulk,
    certificate,
    contract,
    datagram,
    dht_state,
    erasure,
    fragment,
    head,
    invitation,
    keys,
    neighbours,
    owner_record,
    phrase,
    receipt,
    record,
    replica,
    wire,
)
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Party, Terms
from bitdustfs.core.framing import Arriving, Frame, Parser
from bitdustfs.core.invitation import Line
from bitdustfs.core.keyfile import NodeKeys, decode_keys, encode_keys
from bitdustfs.core.owner_record import Keeper, OwnerRecord
from bitdustfs.core.receipt import Receipt, Told, View
from bitdustfs.core.replica import DeltaRef, HeadContent, Manifest, ObjectRef, SupplierEntry
from bitdustfs.core.seal import BlockSeal, Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.shelf_disk import DiskShelf
from bitdustfs.edges.shelf_marker import create_shelf
from bitdustfs.edges.tls import ALPN, ANCHOR_NOT_A_SECRET
from bitdustfs.model import (
    IMAGE_CHUNK_BYTES,
    ROOT_INO,
    BlockId,
    BlockNo,
    BlockRow,
    BulkPass,
    Code,
    FragmentName,
    FragmentRow,
    FragmentState,
    Role,
    Suite,
    SupplierNo,
)

PAGE = Path(__file__).resolve().parents[2] / "man" / "bitdustfs-formats.5"
EPOCH = 1
SINCE_S = 1_700_000_000
GIB = 1024**3
SEAT = bytes(range(0xE0, 0xF0))
PADDED = (1, 4096, 4097, 5000, 100_000, 1_000_000, 8_126_960)
FRAGMENT = bytes(j % 251 for j in range(40_000))  # as the page says: byte j is j mod 251


def read_vectors(page: str) -> dict[str, str]:
    """Take the vectors out of the source of the page."""
    found: dict[str, str] = {}
    name = ""
    for line in page.splitlines():
        begun = re.fullmatch(r"([a-z]+\.[a-z0-9_]+) = ?(.*)", line)
        if begun:
            name = begun[1]
            assert name not in found, f"{name} is on the page twice"
            found[name] = begun[2]
        elif name and line.startswith(" "):
            found[name] += " " + line.strip()
        else:
            name = ""
    return {
        name: value.strip() if name == "keys.phrase" else value.replace(" ", "").replace("\\-", "-")
        for name, value in found.items()
    }


class Cast:
    """Who and what the vectors are about, from the inputs on the page."""

    def __init__(self, vectors: Mapping[str, str]) -> None:
        def given(name: str) -> bytes:
            return bytes.fromhex(vectors[f"in.{name}"])

        self.secret = keys.Secret(given("secret"))
        self.owner_key = keys.owner_key(self.secret)
        self.owner_public = keys.public_bytes(self.owner_key)
        self.volume = keys.volume_keys(self.secret)
        self.secrets = VolumeSecrets(self.volume.volume)
        self.block_id = BlockId(given("block_id"))
        self.chunk = given("chunk")
        self.customer_seed = given("customer_seed")
        self.token = given("token")
        self.nonces = {"host_nonce": given("host_nonce"), "guest_nonce": given("guest_nonce")}
        self.bulk = BulkPass(given("bulk_ticket"), given("bulk_key"), given("bulk_other_key"))
        self.packed = {kind: given(f"{kind}_packed") for kind in OBJECTS}
        self.ids = {kind: BlockId(given(f"{kind}_id")) for kind in (*OBJECTS, "head")}
        self.head_packed = given("head_packed")
        self.record_salt = given("record_salt")
        self.customer = self._identity(self.owner_key, self.customer_seed, Role.WRITER)
        friend = keys.owner_key(keys.Secret(given("friend_secret")))
        self.supplier = self._identity(friend, given("supplier_seed"), Role.WRITER)

    @staticmethod
    def _identity(owner: Ed25519PrivateKey, seed: bytes, role: Role) -> Identity:
        key = Ed25519PrivateKey.from_private_bytes(seed)
        return Identity(key, certificate.certify(owner, keys.public_bytes(key), role, epoch=EPOCH))

    def seal(self, suite: Suite) -> BlockSeal:
        return self.secrets.seal_of(self.block_id, 0, suite)

    def aad(self, slot: int) -> bytes:
        """The associated data, put together as the page says and not as the code does."""
        return (
            b"bitdust\0"
            + bytes([1, 1])
            + self.secrets.volume_id
            + struct.pack(">I", 0)
            + self.block_id
            + struct.pack(">I", slot)
        )

    def fragment_name(self) -> FragmentName:
        return self.secrets.fragment_name(self.block_id, 0, self.supplier.node)

    def proposal(self) -> contract.Contract:
        them = self.supplier
        terms = Terms(
            serial=1,
            previous=contract.NO_CONTRACT,
            since_s=SINCE_S,
            until_s=0,
            first=Party(self.customer.owner, self.customer.node),
            second=Party(them.owner, them.node, GIB, contract.fragments_for(GIB), them.node),
        )
        return contract.propose(self.customer, terms)

    def receipt(self) -> tuple[Receipt, View]:
        """For a day of 1 GiB, and what the supplier counted."""
        told = Told(
            serial=1,
            contract=self.proposal().digest,
            customer=self.customer.owner,
            supplier=self.supplier.owner,
            since_s=SINCE_S,
            from_s=SINCE_S,
            to_s=SINCE_S + record.DAY_S,
            byte_hours=24 * GIB,
            new_byte_hours=24 * GIB,
            held_bytes=GIB,
        )
        signed = receipt.sign(self.customer, told)
        return signed, receipt.sign_view(self.supplier, signed, 25 * GIB, told.to_s)

    def heads(self) -> tuple[head.Head, head.Head]:
        """Two versions, one after the other."""
        handle = keys.volume_handle(self.volume.volume)
        sign = partial(head.sign, self.customer, handle=handle, seat=SEAT, lease_s=600)
        first = sign(version=1, previous=head.NO_HEAD, sealed=b"first")
        second = sign(version=2, previous=first.digest, sealed=b"second")
        return first, second

    def object_block(self, kind: str) -> bytes:
        """The block of a delta, a manifest or a chunk of the catalog."""
        seal = self.secrets.seal_of(self.ids[kind], 0, Suite.AES_256_GCM, OBJECTS[kind])
        return bytes(block.build(seal, replica.cut(self.packed[kind]))[0])

    def reference(self, kind: str) -> ObjectRef:
        """To that block, with code 1/5, when suppliers 1 and 2 had fragments 0 and 3."""
        content = self.object_block(kind)
        root = fragment.root(content)
        row = BlockRow(BlockNo(-1), self.ids[kind], 0, Suite.AES_256_GCM, Code(1, 5), len(content), (root,) * 5)
        held = ((0, SupplierNo(1)), (3, SupplierNo(2)))
        rows = [FragmentRow(row.block, index, supplier, FragmentState.HELD) for index, supplier in held]
        return replica.reference(row, len(self.packed[kind]), rows)

    def manifest(self) -> Manifest:
        place = (0, 0, 0, len(self.packed["image"]))
        return Manifest(1, 7, (place, place), (self.reference("image"),))

    def head_content(self) -> HeadContent:
        return HeadContent(
            version=1,
            time_s=SINCE_S,
            change=8,
            manifest=(self.reference("manifest"),),
            deltas=(DeltaRef(8, 8, self.reference("delta")),),
            suppliers=(SupplierEntry(1, self.supplier.node, self.supplier.owner, "friend", "192.0.2.1:4878"),),
        )

    def sealed_head(self) -> bytes:
        """The sealed part of a head, put together as the page says and not as the code does."""
        plain = struct.pack(">I", len(self.head_packed)) + self.head_packed
        seal = self.secrets.seal_of(self.ids["head"], 0, Suite.AES_256_GCM, Kind.HEAD)
        sealed = seal.seal(0, plain.ljust(block.padded_length(len(plain)), b"\0"))
        return self.ids["head"] + bytes([Suite.AES_256_GCM]) + sealed

    def records(self) -> tuple[record.Record, record.Record]:
        """The supplier's addresses, and whom the customer's owner stores with."""
        ends_s = SINCE_S + record.DAY_S
        addresses = record.sign_addresses(self.supplier.key, ADDRESSES, sequence=SINCE_S, expiry_s=ends_s)
        inside = OwnerRecord(2, (Keeper(self.supplier.node, ADDRESSES[0]),))
        sealed = owner_record.seal(
            self.volume.record, inside, salt=self.record_salt, sequence=SINCE_S, expiry_s=ends_s
        )
        return addresses, sealed

    def proofs(self) -> tuple[bytes, bytes]:
        """Of the guest, and of the host."""
        ticket, host, guest = invitation.ticket_of(self.token), self.supplier.node, self.customer.node
        return (
            invitation.guest_proof(ticket, host, guest, **self.nonces),
            invitation.host_proof(ticket, host, guest, **self.nonces),
        )

    def messages(self) -> Mapping[str, wire.Message]:
        """One message of each kind."""
        name, root = bytes(self.fragment_name()), bytes(fragment.root(FRAGMENT))
        proposal = self.proposal()
        signed = contract.countersign(self.supplier, proposal)
        mark, (guest_proof, host_proof) = invitation.ticket_of(self.token).mark, self.proofs()
        return {
            "knock": wire.Knock(mark, self.nonces["guest_nonce"]),
            "challenge": wire.Challenge(self.nonces["host_nonce"]),
            "join": wire.Join(mark, guest_proof, ("198.51.100.2:4878",), b""),
            "joined": wire.Joined(host_proof, GIB, GIB, b"", False, "198.51.100.2:50000", ""),
            "hello": wire.Hello(wire.PROTOCOL_VERSION, self.customer.certificate.raw, (), "bitdustfs 0.1"),
            "put_head": wire.PutHead(len(self.heads()[1].raw), EPOCH),
            "get_head": wire.GetHead(),
            "watch": wire.Watch(EPOCH, 2),
            "newest": wire.Newest(EPOCH, 3),
            "hold": wire.Hold(SEAT, 600, False, True, False),
            "holds": wire.Holds(False, self.customer.node, 540, self.supplier.node),
            "here": wire.Here(self.records()[0].raw, "198.51.100.2:0"),
            "where": wire.Where(self.supplier.node),
            "there": wire.There(self.records()[0].raw),
            "reach": wire.Reach(),
            "reached": wire.Reached(ADDRESSES[0], True),
            "receipt": wire.Receipt(self.receipt()[0].raw),
            "receipted": wire.Receipted(*(each.raw for each in self.receipt())),
            "head_is": wire.HeadIs(HEAD_BYTES),
            "ping": wire.Ping(),
            "put": wire.Put(name, root, len(FRAGMENT), EPOCH, 0),
            "get": wire.Get(name, 1, 2, True),
            "delete": wire.Delete((name,), EPOCH, 0),
            "list": wire.List(b"", 100),
            "stat": wire.Stat(),
            "propose": wire.Propose(proposal.raw),
            "compare": wire.Compare((signed.raw,)),
            "compared": wire.Compared(()),
            "done": wire.Done(),
            "found": wire.Found(len(FRAGMENT), 96),
            "deleted": wire.Deleted(1),
            "listed": wire.Listed(((name, len(FRAGMENT)),)),
            "status": wire.Status(GIB, 131_072, len(FRAGMENT), 1, GIB, 0, signed.raw),
            "agreed": wire.Agreed(signed.raw),
            "refusal": wire.Refusal(wire.Refused.NOT_FOUND, "that fragment"),
            "bulk": wire.Bulk(self.bulk.key_out),
            "ticket": wire.Ticket(self.bulk.ticket, self.bulk.key_in),
        }


OBJECTS = {"delta": Kind.DELTA, "manifest": Kind.MANIFEST, "image": Kind.IMAGE}
ADDRESSES = ("192.0.2.1:4878", "[2001:db8::1]:4878")
HEAD_BYTES = 362
BODY_BYTES = {
    "put": len(FRAGMENT),
    "found": 96 + len(FRAGMENT) - 16_384,
    "put_head": HEAD_BYTES + head.LINK_BYTES,
    "head_is": HEAD_BYTES,
}
HASHED = {
    "here",
    "there",
    "hello",
    "propose",
    "compare",
    "status",
    "agreed",
    "receipt",
    "receipted",
}  # too long for a page: given by their BLAKE3


def made(cast: Cast, directory: Path) -> dict[str, str]:
    """Every vector of the page, by name, as the code makes it."""
    return {
        name: value if isinstance(value, str) else value.hex()
        for part in (
            _keys(cast),
            _blocks(cast),
            _fragments(cast, directory),
            _papers(cast),
            _invitation(cast),
            _heads(cast),
            _records(cast),
            _table(cast),
            _replica(cast),
            _frames(cast),
            _bulk(cast),
        )
        for name, value in part.items()
    }


def _keys(cast: Cast) -> dict[str, str | bytes]:
    volume_key = cast.volume.volume
    return {
        "keys.phrase": phrase.phrase_of(cast.secret),
        "keys.owner_public": cast.owner_public,
        "keys.owner_id": keys.owner_id(cast.owner_public),
        "keys.volume_key": volume_key,
        "keys.record_key": cast.volume.record,
        "keys.volume_id": keys.volume_id(volume_key),
        "keys.volume_handle": keys.volume_handle(volume_key),
        "keys.name_key": keys.name_key(volume_key),
        "keys.fingerprint_key": keys.fingerprint_key(volume_key, 0),
        "keys.block_key": keys.block_key(volume_key, 0, cast.block_id),
        "keys.customer_node_id": cast.customer.node,
        "keys.supplier_node_id": cast.supplier.node,
    }


def _blocks(cast: Cast) -> dict[str, str | bytes]:
    content, places = block.build(cast.seal(Suite.AES_256_GCM), [cast.chunk, cast.chunk])
    return {
        "chunk.aad": cast.aad(1),
        "chunk.sealed_aes": cast.seal(Suite.AES_256_GCM).seal(1, cast.chunk),
        "chunk.sealed_chacha": cast.seal(Suite.CHACHA20_POLY1305).seal(1, cast.chunk),
        "chunk.fingerprint": cast.secrets.fingerprint(cast.chunk),
        "block.length": str(len(content)),
        "block.slot_1_at": str(places[1].offset),
        "block.blake3": blake3(content).digest(),
        **{f"padding.{length}": str(block.padded_length(length)) for length in PADDED},
    }


def _fragments(cast: Cast, directory: Path) -> dict[str, str | bytes]:
    content, _ = block.build(cast.seal(Suite.AES_256_GCM), [cast.chunk, cast.chunk])
    coded = erasure.encode(content, Code(3, 5))
    name, root = cast.fragment_name(), fragment.root(FRAGMENT)
    create_shelf(directory)
    DiskShelf(directory, floor_bytes=0).put(cast.customer.owner, name, root, FRAGMENT)
    stored = (directory / cast.customer.owner.hex() / name.hex()[:2] / name.hex()).read_bytes()
    return {
        "fragment.length": str(len(coded[0])),
        **{f"fragment.blake3_{index}": blake3(each).digest() for index, each in enumerate(coded)},
        "fragment.name": name,
        "fragment.leaf_hashes": fragment.leaf_hashes(FRAGMENT),
        "fragment.root": root,
        "shelf.header": stored[:64],
        "shelf.blake3": blake3(stored).digest(),
    }


def _papers(cast: Cast) -> dict[str, str | bytes]:
    proposal, (day, view) = cast.proposal(), cast.receipt()
    return {
        "tls.anchor_public": keys.public_bytes(ANCHOR_NOT_A_SECRET),
        "tls.alpn": ALPN,
        "certificate.bytes": cast.customer.certificate.raw,
        "keyfile.bytes": encode_keys(_node_keys(cast)),
        "contract.terms": proposal.raw[:281],
        "contract.digest": proposal.digest,
        "contract.proposal_blake3": blake3(proposal.raw).digest(),
        "contract.signed_blake3": blake3(contract.countersign(cast.supplier, proposal).raw).digest(),
        "receipt.content": day.raw[:153],
        "receipt.digest": day.digest,
        "receipt.blake3": blake3(day.raw).digest(),
        "receipt.view_content": view.raw[:49],
        "receipt.view_blake3": blake3(view.raw).digest(),
    }


def _invitation(cast: Cast) -> dict[str, str | bytes]:
    front, ticket = cast.supplier.node[:16], invitation.ticket_of(cast.token)
    guest_proof, host_proof = cast.proofs()
    return {
        "invitation.line": invitation.write_line(Line(front, cast.token, "192.0.2.1", 4878)),
        "invitation.line_ipv6": invitation.write_line(Line(front, cast.token, "2001:db8::1", 4878)),
        "invitation.mark": ticket.mark,
        "invitation.key": ticket.key,
        "invitation.guest_proof": guest_proof,
        "invitation.host_proof": host_proof,
    }


def _heads(cast: Cast) -> dict[str, str | bytes]:
    _first, second = cast.heads()
    return {"head.link": second.link, "head.digest": second.digest, "head.bytes": second.raw}


def _records(cast: Cast) -> dict[str, str | bytes]:
    node, owner = cast.records()
    return {
        "record.node_id": node.id,
        "record.node": node.raw,
        "record.signing_public": owner.public,
        "record.owner_id": owner.id,
        "record.owner": owner.raw,
    }


def _table(cast: Cast) -> dict[str, str | bytes]:
    """The supplier's node key stands for a key of the table: there are no others on the page."""
    node, _owner = cast.records()
    key, number, token = cast.supplier.key, cast.record_salt, cast.record_salt[:8]
    near = datagram.Contact(bytes(range(20)), ADDRESSES[0])
    found = datagram.Found(node.raw, (near,))
    state = dht_state.DhtState(key.private_bytes_raw(), (near,), (node,))
    return {
        "table.id": datagram.dht_id(keys.public_bytes(key)),
        "table.ping": datagram.ask(number, datagram.Ping()),
        "table.pong": datagram.answer(key, number, token, datagram.Pong(), room=1200),
        "table.find_blake3": blake3(datagram.ask(number, datagram.Find(node.id, True))).digest(),
        "table.found_blake3": blake3(datagram.answer(key, number, token, found, room=1200)).digest(),
        "table.store_blake3": blake3(datagram.ask(number, datagram.Store(token, node.raw))).digest(),
        "table.stored_blake3": blake3(datagram.answer(key, number, token, datagram.Stored(True), room=1200)).digest(),
        "table.state_blake3": blake3(dht_state.encode_state(state)).digest(),
        "lan.name": neighbours.name_of(cast.supplier.node, cast.record_salt[:8]),
    }


def _replica(cast: Cast) -> dict[str, str | bytes]:
    """What is compressed is given by the page: other builds of zlib make other bytes of the same content."""
    sealed = cast.sealed_head()
    return {
        "replica.delta": _change_set(),
        **{f"replica.{kind}_block_blake3": blake3(cast.object_block(kind)).digest() for kind in OBJECTS},
        "replica.delta_reference": msgspec.msgpack.encode(cast.reference("delta")),
        "replica.manifest": msgspec.msgpack.encode(cast.manifest()),
        "replica.head": msgspec.msgpack.encode(cast.head_content()),
        "replica.head_sealed_bytes": str(len(sealed)),
        "replica.head_sealed_blake3": blake3(sealed).digest(),
    }


def _change_set() -> bytes:
    """The root directory gets the attribute user.a with the value b."""
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        catalog.put_xattr(ROOT_INO, b"user.a", b"b")
        catalog.commit()
        return catalog.outbox(0, 1 << 20)[-1][1]


def _frames(cast: Cast) -> dict[str, str | bytes]:
    made_frames: dict[str, str | bytes] = {}
    for name, message in cast.messages().items():
        head = wire.encode(0 if name == "hello" else 7, message, BODY_BYTES.get(name, 0))
        if name in HASHED:
            made_frames[f"frame.{name}_blake3"] = blake3(head).digest()
        else:
            made_frames[f"frame.{name}"] = head
    return made_frames


def _bulk(cast: Cast) -> dict[str, str | bytes]:
    sealer = bulk.Sealer(cast.bulk.key_out, "a test")
    return {
        "bulk.opening": bulk.opening(cast.bulk),
        "bulk.open": sealer.seal(),
        "bulk.content": sealer.seal(b"hello"),
        "bulk.last": sealer.seal(last=True),
    }


def _node_keys(cast: Cast) -> NodeKeys:
    return NodeKeys(
        seed=cast.customer_seed,
        owner_public=cast.owner_public,
        certificate=cast.customer.certificate.raw,
        volume=cast.volume,
    )


@pytest.fixture
def vectors() -> dict[str, str]:
    return read_vectors(PAGE.read_text())


@pytest.fixture
def cast(vectors: dict[str, str]) -> Cast:
    return Cast(vectors)


def test_each_vector_of_the_page_is_what_the_code_makes(vectors: dict[str, str], cast: Cast, tmp_path: Path) -> None:
    outputs = {name: value for name, value in vectors.items() if not name.startswith("in.")}
    assert outputs == made(cast, tmp_path / "shelf")


def test_associated_data_of_the_page_opens_a_sealed_chunk(vectors: dict[str, str], cast: Cast) -> None:
    key, aad, nonce = (
        bytes.fromhex(vectors["keys.block_key"]),
        bytes.fromhex(vectors["chunk.aad"]),
        (1).to_bytes(12, "big"),
    )
    assert AESGCM(key).decrypt(nonce, bytes.fromhex(vectors["chunk.sealed_aes"]), aad) == cast.chunk
    assert ChaCha20Poly1305(key).decrypt(nonce, bytes.fromhex(vectors["chunk.sealed_chacha"]), aad) == cast.chunk


def test_bulk_frame_of_the_page_is_opened_as_the_page_says(vectors: dict[str, str], cast: Cast) -> None:
    frame = bytes.fromhex(vectors["bulk.content"])
    assert AESGCM(cast.bulk.key_out).decrypt((1).to_bytes(12, "big"), frame[6:], b"\2\0\0\0\0\5") == b"hello"


def test_papers_of_the_page_are_read_back(vectors: dict[str, str], cast: Cast) -> None:
    read = certificate.parse(bytes.fromhex(vectors["certificate.bytes"]))
    assert (read.role, read.epoch, read.node) == (Role.WRITER, EPOCH, cast.customer.node)
    assert decode_keys(bytes.fromhex(vectors["keyfile.bytes"])) == _node_keys(cast)
    assert contract.parse(cast.proposal().raw).terms.second.gives_bytes == GIB
    assert head.follows(head.parse(bytes.fromhex(vectors["head.bytes"])), b"", cast.heads()[0])


def test_records_of_the_page_are_read_back(vectors: dict[str, str], cast: Cast) -> None:
    node, owner = (record.parse(bytes.fromhex(vectors[f"record.{kind}"])) for kind in ("node", "owner"))
    assert (node.signer, record.addresses_of(node)) == (cast.supplier.node, ADDRESSES)
    keeper = Keeper(cast.supplier.node, ADDRESSES[0])
    assert owner_record.unseal(cast.volume.record, owner) == OwnerRecord(2, (keeper,))


def test_inside_of_an_owners_record_is_put_together_as_the_page_says(vectors: dict[str, str], cast: Cast) -> None:
    raw = bytes.fromhex(vectors["record.owner"])
    key = keys.derive(cast.volume.record, "owner record", raw[52:68])
    plain = AESGCM(key).decrypt(bytes(12), raw[68:936], raw[:42])
    start = struct.pack(">BQB", 1, 2, 1) + cast.supplier.node + b"\4\xc0\0\2\1" + (4878).to_bytes(2, "big")
    assert plain == start.ljust(852, b"\0")


def test_objects_of_the_page_are_read_back(cast: Cast) -> None:
    for kind, packed in cast.packed.items():
        ref = cast.reference(kind)
        row = ref.row(BlockNo(-1))
        assert replica.join(cast.secrets, row, OBJECTS[kind], len(packed), cast.object_block(kind)) == packed
    assert replica.expand(cast.packed["delta"], 1000) == _change_set()
    assert replica.decode_manifest(cast.packed["manifest"]) == cast.manifest()
    assert replica.expand(cast.packed["image"], IMAGE_CHUNK_BYTES) == bytes(IMAGE_CHUNK_BYTES)
    assert replica.unseal_head(cast.secrets, cast.sealed_head()) == cast.head_content()


def test_each_message_there_is_has_a_frame_on_the_page(cast: Cast) -> None:
    kinds = {wire.Hello, *wire.Request.__args__, *wire.Answer.__args__}
    assert {type(message) for message in cast.messages().values()} == kinds


def test_frames_of_the_page_are_read_back(cast: Cast) -> None:
    for name, message in cast.messages().items():
        body = bytes(BODY_BYTES.get(name, 0))
        parser = Parser("a test")
        parser.open_up(lambda: False)
        parser.feed(wire.encode(7, message, len(body)) + body)
        event = parser.next()
        if isinstance(event, Arriving):
            event = parser.next()
        assert event == Frame(7, message, body)


def test_lengths_that_the_page_names_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    for length in (certificate.CERTIFICATE_BYTES, contract.PROPOSAL_BYTES, contract.CONTRACT_BYTES):
        assert f"{length} bytes" in page
    for limit in (
        wire.MAX_HEADER_BYTES,
        wire.MAX_BODY_BYTES,
        wire.HELLO_HEADER_BYTES,
        wire.STRANGER_HEADER_BYTES,
        bulk.MAX_FRAME_BYTES,
        head.MAX_HEAD_BYTES,
        record.MAX_RECORD_BYTES,
        datagram.MAX_DATAGRAM_BYTES,
        record.MAX_CONTENT_BYTES,
    ):
        assert str(limit) in page
    assert all(f"{each.value:>2}  {each.name}" in page for each in wire.Refused)
