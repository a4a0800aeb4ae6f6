"""Contracts: what two owners signed, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import contract
from bitdustfs.core.certificate import Identity, certify
from bitdustfs.core.contract import CONTRACT_BYTES, NO_CONTRACT, PROPOSAL_BYTES, Allowance, Contract, Party, Terms
from bitdustfs.core.keys import public_bytes
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId, OwnerId, Role


def make(owner: int, node: int, role: Role = Role.WRITER) -> Identity:
    """Identity of an owner key and a node key made of one byte each."""
    node_key = Ed25519PrivateKey.from_private_bytes(bytes([node]) * 32)
    owner_key = Ed25519PrivateKey.from_private_bytes(bytes([owner]) * 32)
    return Identity(node_key, certify(owner_key, public_bytes(node_key), role, epoch=1))


CUSTOMER = make(1, 2)
SUPPLIER = make(3, 4)
STRANGER = make(5, 6)
GIB = 1 << 30
# A vector that must never change: keys of bytes 01 … 04, see `make`; 1 GiB in 131072 fragments, from 2026 on.
VECTOR = bytes.fromhex(
    "0100000000000000010000000000000000000000000000000000000000000000000000000000000000000000006955b90000"
    "0000000000000013624cd4998b8a2452900ac18690393417564384e6b66e6377a620988eae88da47dea58ea00fae9417ee19"
    "d76755bfef690899021132effb04fe1f9e4f0c80590000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000000006c3d749b15dead51c1e815694ad3c8f2a5acf849dadb0714ed765e426d784a"
    "4cd016df3d83373617c06b5e1d6359caa06eeba8b3af2c7077234f109f2194516c00000000400000000000000000020000d0"
    "16df3d83373617c06b5e1d6359caa06eeba8b3af2c7077234f109f2194516c010100000000000000018a88e3dd7409f195fd"
    "52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f"
    "5b8fc9b3945875312f1b99fcbaddaa19da075ab46d6b721cdedcb06113f2eae6be21071819741eb23a62415bd5bea5afe118"
    "4ea81b0b90a7564a700bed911006ddc54cb80bef0be9cdc854528fa7cb96a8ab38afde2f1b940276b9e50c985daab65359aa"
    "318baebe54e57229fb11359019f447457634472279f7c0f58e1bfc0a0b5902460201010000000000000001ed4928c628d1c2"
    "c6eae90338905995612959273a5c63f93636c14614ac8737d1ca93ac1705187071d67b83c7ff0efe8108e8ec4530575d7726"
    "879333dbdabe7c8e525eccbecb9a5bfe6bd885c327b7e40b693c6496271c482d3a3079db17b32003e3daad7a905704ee947b"
    "351c582a06254d4c8ba9a0557712e212b3b93e4109b81d516637fb3dca64e48404e9f6d673b1d21a640f702aad8399433814"
    "0d7d77fdc1e5ea4ebc986a3faee22407bcf2a4f71f98193710cb0c6c8cef89bd042f06"
)
VECTOR_DIGEST = "b443b8ecb25b59440b3f8497b95784ee95846cff86c90cbf85bfe0e6ab282acf"


def terms_for(customer: Identity = CUSTOMER, supplier: Identity = SUPPLIER, gives_bytes: int = GIB) -> Terms:
    second = Party(supplier.owner, supplier.node, gives_bytes, contract.fragments_for(gives_bytes), supplier.node)
    return Terms(1, NO_CONTRACT, 1_767_225_600, 0, Party(customer.owner, customer.node), second)


def signed(terms: Terms) -> Contract:
    return contract.countersign(SUPPLIER, contract.propose(CUSTOMER, terms))


def test_contract_has_the_bytes_it_always_had() -> None:
    made = signed(terms_for())
    assert made.raw.hex() == VECTOR.hex()
    assert made.digest.hex() == VECTOR_DIGEST


def test_parsing_gives_back_what_was_signed() -> None:
    made = signed(terms_for())
    read = contract.parse(made.raw)
    assert read == made
    assert read.terms == terms_for()
    assert [s.node for s in read.signers] == [CUSTOMER.node, SUPPLIER.node]
    assert len(read.raw) == CONTRACT_BYTES


def test_contract_says_what_an_owner_may_store_and_where() -> None:
    made = signed(terms_for())
    assert made.allowance(CUSTOMER.owner, SUPPLIER.node) == Allowance(GIB, 131_072, 0)
    assert made.allowance(SUPPLIER.owner, CUSTOMER.node) is None
    assert made.allowance(STRANGER.owner, SUPPLIER.node) is None
    assert made.allowance(CUSTOMER.owner, STRANGER.node) is None


def test_contract_can_give_in_both_directions() -> None:
    terms = terms_for()
    both = replace(terms, first=replace(terms.first, gives_bytes=5, gives_fragments=2, shelf=CUSTOMER.node))
    made = signed(both)
    assert made.allowance(SUPPLIER.owner, CUSTOMER.node) == Allowance(5, 2, 0)
    assert made.allowance(CUSTOMER.owner, SUPPLIER.node) == Allowance(GIB, 131_072, 0)


def test_proposal_grants_nothing() -> None:
    proposal = contract.propose(CUSTOMER, terms_for())
    assert len(proposal.raw) == PROPOSAL_BYTES
    assert not proposal.is_signed_by_both
    assert proposal.allowance(CUSTOMER.owner, SUPPLIER.node) is None


def test_digest_is_of_the_terms_and_not_of_signatures() -> None:
    proposal = contract.propose(CUSTOMER, terms_for())
    assert proposal.digest == contract.countersign(SUPPLIER, proposal).digest


def test_change_follows_the_contract_before() -> None:
    first = signed(terms_for())
    second = signed(replace(terms_for(gives_bytes=2 * GIB), serial=2, previous=first.digest))
    assert second.terms.previous == first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 0},
        {"previous": b"p" * 32},
        {"until_s": 5},
        {"until_s": contract.LAST_S},
        {"until_s": (1 << 64) - 1},
        {"since_s": contract.LAST_S},
        {"first": Party(CUSTOMER.owner, SUPPLIER.node)},
        {"second": Party(SUPPLIER.owner, SUPPLIER.node, 5, 0, SUPPLIER.node)},
        {"second": Party(SUPPLIER.owner, SUPPLIER.node, 5, 5)},
        {"second": Party(SUPPLIER.owner, SUPPLIER.node, 1 << 63, 5, SUPPLIER.node)},
        {"second": Party(SUPPLIER.owner, CUSTOMER.node, 5, 5, CUSTOMER.node)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_terms_that_make_no_sense_are_not_signed(change: dict[str, object]) -> None:
    with pytest.raises(BadFormat):
        contract.propose(CUSTOMER, replace(terms_for(), **change))  # type: ignore[arg-type]


def test_nobody_signs_for_another_party() -> None:
    with pytest.raises(BadFormat):
        contract.propose(STRANGER, terms_for())
    with pytest.raises(BadFormat):
        contract.countersign(STRANGER, contract.propose(CUSTOMER, terms_for()))
    with pytest.raises(BadFormat):
        contract.countersign(CUSTOMER, contract.propose(CUSTOMER, terms_for()))


def test_reader_may_not_sign() -> None:
    reader = make(1, 2, Role.READER)
    with pytest.raises(BadFormat):
        contract.propose(reader, terms_for(reader))


def test_contract_is_not_signed_a_third_time() -> None:
    with pytest.raises(BadFormat):
        contract.countersign(SUPPLIER, signed(terms_for()))


@pytest.mark.parametrize("at", [*range(0, CONTRACT_BYTES, 7), CONTRACT_BYTES - 1])
def test_any_changed_byte_spoils_a_contract(at: int) -> None:
    raw = bytearray(signed(terms_for()).raw)
    raw[at] ^= 0x04
    with pytest.raises(BadFormat):
        contract.parse(bytes(raw))


def test_unknown_version_is_refused_by_name() -> None:
    with pytest.raises(BadFormat, match="version 9"):
        contract.parse(b"\x09" + signed(terms_for()).raw[1:])


@given(st.binary(max_size=CONTRACT_BYTES + 10))
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    with pytest.raises(BadFormat):
        contract.parse(raw)


@given(st.data(), st.sampled_from([PROPOSAL_BYTES, CONTRACT_BYTES]))
def test_no_bytes_of_the_right_length_pass(data: st.DataObject, length: int) -> None:
    raw = data.draw(st.binary(min_size=length - 1, max_size=length - 1))
    with pytest.raises(BadFormat):
        contract.parse(b"\x01" + raw)


def test_contract_allows_at_least_some_fragments() -> None:
    assert contract.fragments_for(1) == contract.MIN_FRAGMENTS
    assert contract.fragments_for(GIB) == GIB // contract.FRAGMENT_SHARE_BYTES


def test_ids_in_a_contract_are_ids() -> None:
    read = contract.parse(signed(terms_for()).raw).terms
    assert read.first == Party(OwnerId(CUSTOMER.owner), NodeId(CUSTOMER.node))
