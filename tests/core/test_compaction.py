"""Which blocks are worth to be written anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.block import layout
from bitdustfs.core.compaction import MERGE_RUN, fill, is_worth_it, mergeable
from bitdustfs.model import BLOCK_BYTES, SEAL_BYTES, BlockNo, Code, Sparse

CODE = Code(3, 5)


def small(number: int, live_bytes: int, code: Code = CODE) -> Sparse:
    return Sparse(BlockNo(number), code, live_bytes, 2 * live_bytes)


def test_blocks_are_merged_when_there_are_enough_of_one_code_and_about_one_size() -> None:
    few = [small(number, 5000) for number in range(1, MERGE_RUN)]
    assert mergeable(few) == []
    assert mergeable([*few, small(99, 500_000), small(100, 5000, Code(2, 4))]) == []
    assert mergeable([*few, small(99, 6000)]) == [[*few, small(99, 6000)]]


def test_block_that_was_merged_is_not_merged_with_the_next_small_ones() -> None:
    blocks = [small(number, 5000) for number in range(1, MERGE_RUN)]
    assert mergeable([*blocks, small(99, MERGE_RUN * 5000)]) == []


@given(st.lists(st.lists(st.integers(1, 300_000), min_size=1, max_size=10), min_size=1, max_size=20))
def test_as_many_blocks_as_fit_are_taken(lengths: list[list[int]]) -> None:
    count = fill([(BlockNo(number), each) for number, each in enumerate(lengths)])
    taken = [length for each in lengths[:count] for length in each]
    assert sum(taken) + SEAL_BYTES * len(taken) <= BLOCK_BYTES
    if count < len(lengths):
        more = taken + lengths[count]
        assert sum(more) + SEAL_BYTES * len(more) > BLOCK_BYTES


def test_rewriting_must_free_a_quarter_or_make_one_of_many() -> None:
    new_bytes = layout([100_000])[1]
    assert is_worth_it([-(-new_bytes * 4 // 3)], [100_000])
    assert not is_worth_it([new_bytes * 4 // 3 - 4], [100_000])
    assert not is_worth_it([4096], [1])  # a block is never shorter
    assert is_worth_it([20_000] * MERGE_RUN, [17_000] * MERGE_RUN)
    assert not is_worth_it([20_000] * (MERGE_RUN - 1), [19_900] * (MERGE_RUN - 1))
