"""Certificates: only what an owner signed is one."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import certificate
from bitdustfs.core.certificate import (
    CERTIFICATE_BYTES,
    MAX_EPOCH,
    Identity,
    certify,
    node_id,
    parse,
    proves_newer,
)
from bitdustfs.core.keys import owner_id, public_bytes
from bitdustfs.errors import BadFormat
from bitdustfs.model import Role

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NODE = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))

# A vector that must never change: owner key 00 01 … 1f, node key 20 21 … 3f, writer, epoch 1.
VECTOR = bytes.fromhex(
    "0101000000000000000103a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b829acbae141bccaf0"
    "b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd74bc5003d86d732c9d3f5ff539c94389f97d0e2c16a3341a21544"
    "1e0be03c0389ab8e8ac28c714368ce9ce47ff97c035ebbb886b1842e0c409ae3f5727acd5104"
)
VECTOR_OWNER_ID = "63588ae5c6c8fd920e6194d91dbee0c7e49728b16044b610fab4e9ab6a6c6e30"
VECTOR_NODE_ID = "824c89aa8efb95ef93629b4519599129cace4adac9a6180daba31ceed41ecee6"


def test_certificate_has_the_bytes_it_always_had() -> None:
    made = certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=1)
    assert made.raw.hex() == VECTOR.hex()
    assert (made.owner.hex(), made.node.hex()) == (VECTOR_OWNER_ID, VECTOR_NODE_ID)


def test_parsing_gives_back_what_was_certified() -> None:
    made = certify(OWNER, public_bytes(NODE), Role.SUPPLIER, epoch=MAX_EPOCH)
    read = parse(made.raw)
    assert read == made
    assert (read.role, read.epoch) == (Role.SUPPLIER, MAX_EPOCH)
    assert (read.owner_public, read.node_public) == (public_bytes(OWNER), public_bytes(NODE))
    assert (read.owner, read.node) == (owner_id(public_bytes(OWNER)), node_id(public_bytes(NODE)))


@pytest.mark.parametrize("epoch", [0, MAX_EPOCH + 1, 2**63 - 1, 2**64 - 1])
def test_epoch_after_which_none_could_come_is_refused(epoch: int) -> None:
    with pytest.raises(BadFormat, match=f"epoch {epoch}"):
        certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=epoch)


def test_only_a_higher_epoch_of_the_same_owner_proves_that_a_certificate_is_old() -> None:
    mine = certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=2)
    newer = certify(OWNER, public_bytes(OTHER), Role.SUPPLIER, epoch=3)
    assert proves_newer(newer.raw, mine) == newer
    assert proves_newer(certify(OTHER, public_bytes(OTHER), Role.WRITER, epoch=3).raw, mine) is None
    assert proves_newer(certify(OWNER, public_bytes(OTHER), Role.WRITER, epoch=2).raw, mine) is None
    assert proves_newer(newer.raw[:-1] + b"x", mine) is None
    assert proves_newer(b"", mine) is None


def test_node_id_is_the_hash_of_the_spki() -> None:
    spki = NODE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert node_id(public_bytes(NODE)) == hashlib.sha256(spki).digest()


@pytest.mark.parametrize("at", range(CERTIFICATE_BYTES))
def test_any_changed_byte_spoils_a_certificate(at: int) -> None:
    raw = bytearray(certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=1).raw)
    raw[at] ^= 0x10
    with pytest.raises(BadFormat):
        parse(bytes(raw))


def test_same_bytes_are_verified_once_and_bad_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = certify(OWNER, public_bytes(NODE), Role.READER, epoch=9).raw  # which is parsed there
    verified: list[bytes] = []

    class Counted:
        @staticmethod
        def from_public_bytes(data: bytes) -> Ed25519PublicKey:
            verified.append(data)
            return Ed25519PublicKey.from_public_bytes(data)

    monkeypatch.setattr(certificate, "Ed25519PublicKey", Counted)
    assert parse(raw) is parse(bytes(bytearray(raw))) and not verified
    for _ in range(2):
        with pytest.raises(BadFormat, match="not signed"):
            parse(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert len(verified) == 2


def test_unknown_version_is_refused_by_name() -> None:
    raw = certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=1).raw
    with pytest.raises(BadFormat, match="version 2"):
        parse(b"\x02" + raw[1:])


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    with pytest.raises(BadFormat):
        parse(raw)


@given(st.binary(min_size=CERTIFICATE_BYTES - 1, max_size=CERTIFICATE_BYTES - 1))
def test_no_bytes_of_the_right_length_pass(rest: bytes) -> None:
    with pytest.raises(BadFormat):
        parse(bytes([certificate.VERSION]) + rest)


def test_node_signature_is_good_for_its_purpose_only() -> None:
    identity = Identity(NODE, certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=1))
    signature = identity.sign("head", b"content")
    assert identity.certificate.vouches("head", b"content", signature)
    assert not identity.certificate.vouches("contract", b"content", signature)
    assert not identity.certificate.vouches("head", b"content!", signature)
    assert not identity.certificate.vouches("head", b"content", signature[:-1])


def test_identity_needs_the_certified_key() -> None:
    with pytest.raises(BadFormat):
        Identity(OTHER, certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=1))


def test_identity_does_not_show_its_key() -> None:
    identity = Identity(NODE, certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=1))
    assert NODE.private_bytes_raw().hex() not in repr(identity)
    assert repr(identity).startswith("Identity(node ")
