"""A year of a volume with 30 suppliers, in virtual time; what is checked after each hour is in testing.year.

Run with -s to see what happened.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from bitdustfs.model import Code
from bitdustfs.testing.year import YEAR_DAYS, Told, Year

CODE = Code(4, 12)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def live(seed: int, *, days: int, upsets: float) -> Told:
    told = await Year(seed, days=days, code=CODE, upsets=upsets).live()
    print(told)
    return told


@pytest.mark.slow
async def test_hard_days_lose_nothing_and_nobody_without_a_reason(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    told = await live(1, days=10, upsets=12)
    assert told.departures and told.wiped and told.cheats and told.verdicts and told.fragments_sent


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 4))
async def test_year_loses_nothing_and_nobody_without_a_reason(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    told = await live(seed, days=YEAR_DAYS, upsets=1.2)
    assert told.departures and told.verdicts and told.fragments_sent
