"""Sizes and durations, as people write them and as we write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.units import (
    GIB,
    KIB,
    MIB,
    exact_size,
    format_day,
    format_duration,
    format_eta,
    format_gb_hours,
    format_size,
    parse_duration,
    parse_size,
)
from bitdustfs.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096 B", 4096),
        ("1k", KIB),
        ("10G", 10 * GIB),
        ("10 GiB", 10 * GIB),
        ("10gib", 10 * GIB),
        ("512 MiB", 512 * MIB),
        ("10 GB", 10 * 1000**3),
        ("1.5G", 3 * GIB // 2),
        ("  2T ", 2 * 1024 * GIB),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "ten", "10X", "-1", "1e9", "10 G G", "0x10", "9999999P", "١"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_size(text)


@pytest.mark.slow
@given(st.integers(0, 2**62))
def test_an_exact_size_is_read_back_as_it_was(size: int) -> None:
    assert parse_size(exact_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 * GIB, "10.0 GiB"),
        (1023 * KIB + 900, "1.00 MiB"),
        (150 * MIB, "150 MiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_a_size_is_shown_with_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30", 30),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d 1h", 176400),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5 minutes", "5m later", "-3", "1y", "10000000000d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_duration(text)


@given(st.integers(0, 10**8))
def test_a_duration_is_read_back_as_it_was(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (40, "40s"), (200, "3m 20s"), (7500, "2h 5m")])
def test_a_remaining_time_is_shown_in_two_units(seconds: float, text: str) -> None:
    assert format_eta(seconds) == text


@pytest.mark.parametrize(
    ("byte_hours", "text"),
    [
        (0, "0 GB-hours"),
        (1, "<0.001 GB-hours"),
        (500_000, "0.001 GB-hours"),
        (12_345_678, "0.012 GB-hours"),
        (999_600_000, "1.00 GB-hours"),
        (9_990_000_000, "9.99 GB-hours"),
        (12_345_000_000, "12.3 GB-hours"),
        (123_456_000_000_000, "123456 GB-hours"),
    ],
)
def test_byte_hours_are_shown_in_units_of_a_thousand(byte_hours: int, text: str) -> None:
    assert format_gb_hours(byte_hours) == text


@pytest.mark.parametrize(
    ("time_s", "day"),
    [(0, "1970-01-01"), (951_782_399, "2000-02-28"), (951_782_400, "2000-02-29"), (4_107_542_400, "2100-03-01")],
)
def test_day_of_a_time(time_s: int, day: str) -> None:
    assert format_day(time_s) == day
