"""Which chunks of an image are sent, and where all of them lie."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import snapshot
from bitdustfs.model import BlockNo, ImageChunk

PRINTS = st.lists(st.sampled_from([bytes([number]) * 32 for number in range(6)]))


def lies(print_: bytes, block: int, slot: int = 0) -> ImageChunk:
    return ImageChunk(print_, BlockNo(block), slot, offset=slot * 100, length=50 + slot)


def test_chunks_that_are_known_or_equal_to_earlier_ones_are_not_sent() -> None:
    a, b, c = (letter * 32 for letter in (b"a", b"b", b"c"))
    assert snapshot.to_send([b, a, c, a, b], {c}) == [(b, 0), (a, 1)]


def test_only_chunks_in_the_chosen_blocks_are_kept() -> None:
    found = {b"a": lies(b"a", -1), b"b": lies(b"b", -2)}
    assert snapshot.lying_in(found, {BlockNo(-2), BlockNo(-3)}) == {b"b": lies(b"b", -2)}


def test_layout_names_the_newest_block_first_and_counts_each_chunk_once() -> None:
    a, b, c = (letter * 32 for letter in (b"a", b"b", b"c"))
    known = {a: lies(a, -1, 0), b: lies(b, -3, 2), c: lies(c, -1, 1)}
    found = snapshot.layout([a, b, a, c], known)
    assert found.blocks == ((BlockNo(-1), 50 + 51), (BlockNo(-3), 52))
    assert found.order == ((0, 0, 0, 50), (1, 2, 200, 52), (0, 0, 0, 50), (0, 1, 100, 51))


@given(PRINTS, st.sets(st.integers(0, 5)))
def test_every_chunk_is_known_or_sent_exactly_once(prints: list[bytes], known: set[int]) -> None:
    there = {bytes([number]) * 32 for number in known}
    sent = snapshot.to_send(prints, there)
    assert {each for each, _ in sent} == set(prints) - there
    assert [prints[index] for _, index in sent] == [each for each, _ in sent]
    assert len({each for each, _ in sent}) == len(sent)
