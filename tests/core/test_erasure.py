"""Any k of n fragments restore a block, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.erasure import decode, encode, fragment_length, reencode, remake
from bitdustfs.model import Code

codes = st.tuples(st.integers(1, 8), st.integers(0, 16)).map(lambda pair: Code(pair[0], pair[0] + pair[1]))
blocks = st.binary(min_size=1, max_size=300)


def test_code_3_5_makes_the_fragments_of_the_manual() -> None:
    made = encode(b"hello, erasure!", Code(3, 5))
    assert [bytes(f).hex() for f in made] == ["68656c6c6f", "2c20657261", "7375726521", "281760aaa6", "2dd4b48aa9"]


@pytest.mark.slow
@given(blocks, codes, st.data())
def test_any_k_fragments_restore_the_block(block: bytes, code: Code, data: st.DataObject) -> None:
    made = encode(block, code)
    kept = data.draw(st.permutations(range(code.n)))[: code.k]
    restored = b"".join(decode({i: made[i] for i in kept}, code.k))
    assert restored[: len(block)] == block
    assert not any(restored[len(block) :])


@given(blocks, codes)
def test_primary_fragments_are_the_block_itself(block: bytes, code: Code) -> None:
    made = encode(block, code)
    assert [len(f) for f in made] == [fragment_length(len(block), code.k)] * code.n
    assert b"".join(made[: code.k])[: len(block)] == block


@given(blocks, codes, st.integers(0, 100), st.integers(1, 100))
def test_a_range_is_restored_from_the_same_range_of_fragments(
    block: bytes, code: Code, start: int, length: int
) -> None:
    made = encode(block, code)
    last = {i: bytes(made[i])[start : start + length] for i in range(code.n - code.k, code.n)}
    expected = tuple(bytes(made[i])[start : start + length] for i in range(code.k))
    assert tuple(map(bytes, decode(last, code.k))) == expected


@given(blocks, codes, st.integers(0, 20))
def test_a_fragment_is_the_same_for_every_n(block: bytes, code: Code, more: int) -> None:
    longer = encode(block, Code(code.k, code.n + more))
    assert list(map(bytes, longer[: code.n])) == list(map(bytes, encode(block, code)))


@given(blocks, codes)
def test_a_lost_fragment_is_made_again(block: bytes, code: Code) -> None:
    made = encode(block, code)
    wanted = [0, code.n - 1]
    assert list(map(bytes, remake(block, code.k, wanted))) == [bytes(made[i]) for i in wanted]
    assert list(map(bytes, reencode(made[: code.k], code.k, wanted))) == [bytes(made[i]) for i in wanted]


def test_empty_block_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        encode(b"", Code(3, 5))


def test_too_few_fragments_or_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot restore"):
        decode({0: b"a", 4: b"b"}, 3)
    with pytest.raises(ValueError, match="length"):
        decode({0: b"a", 1: b"b", 2: b"cc"}, 3)
