"""Large buffers have pages of their own: used again when nobody can see them, and only so many are kept."""

from __future__ import annotations

from typing import Any

import pytest

from bitdustfs.core.uncleared import PAGES_FROM_BYTES, Pages, uncleared

MIB = 1024 * 1024


def taken(pages: Pages, count: int) -> Any:
    return pages.new("unsigned char[]", count)


@pytest.mark.parametrize("count", [1, 4096, PAGES_FROM_BYTES - 1, PAGES_FROM_BYTES, 8 * MIB + 1, 15 * MIB])
def test_room_is_as_long_as_asked_for_and_can_be_written_to_its_end(count: int) -> None:
    room = uncleared(count)
    assert len(room) == count
    room[-1:] = b"z"
    assert bytes(room[-1:]) == b"z"


def test_pages_are_used_again_only_when_no_part_of_them_can_be_seen() -> None:
    before = uncleared(3 * MIB)
    before[:4] = b"mine"
    part = before[:4]
    del before
    meanwhile = uncleared(3 * MIB)
    meanwhile[:4] = b"else"
    assert bytes(part) == b"mine"


def test_pages_that_nobody_uses_are_the_next_ones_of_about_that_size() -> None:
    pages = Pages(8 * MIB)
    first = taken(pages, 3 * MIB)
    first[0:4] = b"mine"
    del first
    assert pages.kept_bytes == 3 * MIB
    again = taken(pages, 3 * MIB - 4096)
    assert bytes(again[0:4]) == b"mine" and not pages.kept_bytes


def test_no_more_is_kept_than_the_bound_and_what_was_wanted_last_goes_last() -> None:
    pages = Pages(8 * MIB)
    some = [taken(pages, size * MIB) for size in (1, 1, 2, 2, 4, 4, 40)]
    assert not pages.kept_bytes
    while some:
        some.pop(0)
        assert pages.kept_bytes <= 8 * MIB
    again = [taken(pages, 4 * MIB) for _ in range(2)]
    assert not pages.kept_bytes and len(again) == 2
