"""A filter of names never forgets one, and rarely claims one that it was not told."""

from __future__ import annotations

import random

from bitdustfs.core.namefilter import NameFilter

DICE = random.Random(3)
NAMES = [DICE.randbytes(32) for _ in range(4000)]


def test_filter_finds_every_name_that_it_was_told_and_few_others() -> None:
    names = NameFilter(2000)
    names.add(NAMES[:2000])
    assert all(name in names for name in NAMES[:2000])
    assert sum(name in names for name in NAMES[2000:]) <= 4


def test_filter_with_more_names_than_expected_forgets_none() -> None:
    names = NameFilter(0)
    assert NAMES[0] not in names
    names.add(NAMES[:100])
    assert all(name in names for name in NAMES[:100])
