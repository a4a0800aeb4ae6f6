"""What heads, manifests and objects of the replica look like, and when deltas are merged."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import replica
from bitdustfs.core.block import build
from bitdustfs.core.fragment import root
from bitdustfs.core.head import MAX_SEALED_BYTES
from bitdustfs.core.replica import HeadContent, Holders, Manifest, ObjectRef, SupplierEntry
from bitdustfs.core.seal import Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.errors import BadFormat, SealBroken
from bitdustfs.model import BlockId, BlockNo, BlockRow, Code, FragmentRow, FragmentState, Suite, SupplierNo

SECRETS = VolumeSecrets(b"v" * 32)
ID = BlockId(b"i" * 32)


def head_content(deltas: int = 0) -> HeadContent:
    ref = ObjectRef(bytes(ID), 1, 1, 5, 4096, 10, b"r" * 32, (1, 2, 3, 4, 5))
    return HeadContent(
        1,
        1_790_000_000,
        9,
        (ref,),
        tuple(replica.DeltaRef(n, n, ref) for n in range(deltas)),
        (SupplierEntry(1, b"n" * 32, b"o" * 32, "s1", "127.0.0.1:7000"),),
    )


def test_head_content_comes_back_from_its_seal() -> None:
    sealed = replica.seal_head(SECRETS, head_content(3), ID, Suite.AES_256_GCM)
    assert replica.unseal_head(SECRETS, sealed) == head_content(3)


def test_sealed_heads_of_few_deltas_have_one_length() -> None:
    lengths = {len(replica.seal_head(SECRETS, head_content(n), ID, Suite.AES_256_GCM)) for n in range(20)}
    assert len(lengths) == 1


def test_head_of_another_volume_is_not_opened() -> None:
    sealed = replica.seal_head(VolumeSecrets(b"w" * 32), head_content(), ID, Suite.AES_256_GCM)
    with pytest.raises(SealBroken):
        replica.unseal_head(SECRETS, sealed)


@given(st.binary(max_size=200))
def test_garbage_is_no_head(garbage: bytes) -> None:
    with pytest.raises((BadFormat, SealBroken)):
        replica.unseal_head(SECRETS, garbage)


@given(st.integers(1, 3 * 256 * 1024))
def test_object_is_joined_from_its_block_as_it_was_cut(length: int) -> None:
    content = (b"0123456789abcdef" * (length // 16 + 1))[:length]
    seal = SECRETS.seal_of(ID, 0, Suite.AES_256_GCM, Kind.DELTA)
    block, places = build(seal, replica.cut(content))
    row = BlockRow(BlockNo(-1), ID, 0, Suite.AES_256_GCM, Code(1, 2), len(block), (root(bytes(block)),) * 2)
    assert [p.length for p in places] == replica.pieces(length)
    assert replica.join(SECRETS, row, Kind.DELTA, length, bytes(block)) == content
    with pytest.raises(SealBroken):
        replica.join(SECRETS, row, Kind.MANIFEST, length, bytes(block))


def test_reference_tells_the_block_and_who_holds_it() -> None:
    for roots in ((root(b"a"),) * 3, tuple(map(root, (b"a", b"b", b"c")))):
        row = BlockRow(BlockNo(-4), ID, 0, Suite.AES_256_GCM, Code(2, 3), 4096, roots)
        held = [
            FragmentRow(BlockNo(-4), 0, SupplierNo(7), FragmentState.HELD),
            FragmentRow(BlockNo(-4), 1, SupplierNo(8), FragmentState.LOST),
        ]
        ref = replica.reference(row, 100, held)
        assert ref.row(BlockNo(-4)) == row
        assert ref.at == (7, 0, 0)


def test_manifest_that_names_a_chunk_of_no_block_is_refused() -> None:
    ref = head_content().manifest[0]
    good = Manifest(1, 5, ((0, 0, 0, 5), (0, 1, 21, 5), (0, 0, 0, 5)), (ref,))
    assert replica.decode_manifest(replica.encode_manifest(good)) == good
    for order in (((1, 0, 0, 5),), ((0, 2, 4090, 5),)):
        with pytest.raises(BadFormat):
            replica.decode_manifest(replica.encode_manifest(Manifest(1, 5, order, good.blocks)))


def test_object_that_expands_beyond_its_limit_is_refused() -> None:
    bomb = replica.compress(bytes(10_000_000))
    with pytest.raises(BadFormat):
        replica.expand(bomb, 1_000_000)
    assert replica.expand(bomb, 10_000_000) == bytes(10_000_000)
    with pytest.raises(BadFormat):
        replica.expand(bomb[:-1], 10_000_000)


def test_manifest_of_a_few_kilobytes_that_names_millions_of_chunks_is_refused_unread() -> None:
    count = 4_000_000
    raw = b"\x94\x01\x05\xdd" + count.to_bytes(4, "big") + b"\x94\0\0\0\0" * count + b"\x90"
    bomb = replica.compress(raw)
    assert len(bomb) < 30_000
    tracemalloc.start()
    try:
        with pytest.raises(BadFormat, match="longer or shorter than it says"):
            replica.decode_manifest(bomb)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_manifest_of_a_large_catalog_is_read() -> None:
    ref = head_content().manifest[0]
    order = tuple((0, slot % 1024, slot * 13 % 4000, 5) for slot in range(1_000_000))
    good = Manifest(1, 5, order, (ref,))
    packed = replica.encode_manifest(good)
    assert len(packed) * replica.MANIFEST_SHRINKS > replica.MANIFEST_MOST_BYTES
    assert replica.decode_manifest(packed) == good


def test_head_that_expands_or_names_more_than_any_can_is_not_opened() -> None:
    content = head_content()
    labels = tuple(SupplierEntry(number, bytes(32), bytes(32), "l" * 1024, "a" * 1024) for number in range(1000))
    large = msgspec.structs.replace(content.manifest[0], content_bytes=(1 << 32) - 1)
    for bomb in (
        msgspec.structs.replace(content, suppliers=labels),
        msgspec.structs.replace(content, manifest=(large,)),
    ):
        sealed = replica.seal_head(SECRETS, bomb, ID, Suite.AES_256_GCM)
        assert len(sealed) < MAX_SEALED_BYTES
        with pytest.raises(BadFormat):
            replica.unseal_head(SECRETS, sealed)


def test_small_objects_are_copied_and_large_ones_survive_as_many_losses_as_any_file() -> None:
    assert replica.code_for(1000, 5, fragments=5, losses=2) == Code(1, 5)
    assert replica.code_for(1000, 9, fragments=5, losses=2) == Code(1, 5)
    assert replica.code_for(1000, 12, fragments=5, losses=2) == Code(1, 7)
    assert replica.code_for(1_000_000, 5, fragments=5, losses=2) == Code(3, 5)
    assert replica.code_for(1_000_000, 3, fragments=5, losses=2) == Code(1, 3)
    assert replica.code_for(1_000_000, 2, fragments=4, losses=3) == Code(1, 2)


def test_head_is_safe_when_a_quorum_and_enough_for_the_losses_have_it() -> None:
    five = frozenset({1, 2, 3, 4, 5})
    assert not Holders(five, (five,), frozenset({1, 2})).is_quorate
    assert Holders(five, (five,), frozenset({1, 2, 3})).is_safe(2)
    assert not Holders(five, (five,), frozenset({1, 2, 3})).is_safe(3)
    assert Holders(five, (), five).is_safe(9)


def test_head_that_changes_the_list_needs_its_suppliers_in_each_list() -> None:
    five, old, older = frozenset({1, 2, 3, 4, 5}), frozenset({4, 5, 6}), frozenset({6, 7})
    assert not Holders(five, (old,), frozenset({1, 2, 3})).is_quorate
    assert Holders(five, (old,), frozenset({1, 4, 5})).is_quorate
    assert not Holders(five, (old, older), frozenset({1, 4, 5, 6})).is_quorate  # of all together they are
    assert not Holders(five, (old,), frozenset({1, 2, 4, 5})).is_safe(2)  # 6 would be the last one that is asked
    assert Holders(five, (old,), frozenset({1, 4, 5, 6})).is_safe(2)


def test_all_that_are_left_of_a_list_are_enough_when_most_of_it_was_given_up() -> None:
    new, old = frozenset({1, 4, 5}), frozenset({1, 2, 3})
    assert not Holders(new, (old,), frozenset({1, 4, 5}), frozenset({3})).is_quorate
    assert Holders(new, (old,), frozenset({1, 4, 5}), frozenset({2, 3})).is_safe(2)
    assert not Holders(new, (old,), frozenset({4, 5}), frozenset({2, 3})).is_quorate
    assert not Holders(new, (), frozenset({4}), frozenset({1, 5})).is_quorate  # its own list has no such exception


def test_lists_before_count_until_a_head_had_its_quorum_in_all_of_them() -> None:
    five, old, older = frozenset({1, 2, 3, 4, 5}), frozenset({1, 2, 3}), frozenset({1, 2})
    assert Holders(five, (old,), frozenset({3, 4, 5})).listed_before == (old, five)
    assert Holders(five, (old, older), frozenset({2, 3, 4})).listed_before == (old, older, five)
    assert Holders(five, (old,), frozenset({1, 2, 5})).listed_before == (five,)
    assert Holders(frozenset(), (), frozenset()).listed_before == ()


@given(st.lists(st.integers(100, 200_000), max_size=300))
def test_merging_keeps_few_deltas_and_sends_each_change_few_times(sizes: list[int]) -> None:
    held: list[int] = []
    sent = 0
    for size in sizes:
        held.append(size)
        sent += size
        start = replica.merge_from(held)
        if start is not None:
            assert len(held) - start >= replica.MERGE_RUN
            held[start:] = [sum(held[start:])]
            sent += held[-1]
            assert held[-1] <= replica.DELTA_BYTES
    assert len(held) <= 7 * 5 + sum(sizes) // (replica.DELTA_BYTES // 8) + 8
    assert sent <= 8 * sum(sizes)
