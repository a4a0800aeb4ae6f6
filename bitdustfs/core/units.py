"""Units: sizes and durations as people write them, and as we write them for people.

A bare unit letter and the `iB` form are powers of 1024 (`10G` = `10 GiB`); the `B` form is a power of 1000 (`10 GB`),
as disk makers count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from bitdustfs.errors import BadRequest

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_LETTERS = "kmgtp"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(i?b)?|(b|bytes?))?", re.ASCII)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])", re.ASCII)
_SPAN_S: Mapping[str, float] = MappingProxyType(
    {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
)
_LARGEST_BYTES = 2**62  # leaves room to add two sizes in a signed 64-bit column
_LONGEST_S = 100 * 365 * 86400.0


def count(number: int, thing: str) -> str:
    """Write a number and its thing: `1 file`, `3 files`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def parse_size(text: str) -> int:
    """Read a size such as `10G`, `512 MiB`, `1.5 TB` or `4096` into bytes.

    Raises:
        BadRequest: says what a size looks like.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise BadRequest(what=f"{text!r} is not a size: write bytes, or a number with a unit, like 10G or 512 MiB")
    number, letter, suffix, _ = match.groups()
    unit = 1
    if letter:
        unit = (1000 if suffix == "b" else 1024) ** (_LETTERS.index(letter) + 1)
    size = int(number) * unit if number.isdigit() else int(float(number) * unit)
    if size > _LARGEST_BYTES:
        raise BadRequest(what=f"{text!r} is more than any disk holds")
    return size


def format_size(size: int) -> str:
    """Write bytes with three significant digits and the unit that fits: `999 B`, `1.50 MiB`, `12.3 GiB`."""
    if size < 0:
        return "-" + format_size(-size)
    if size < KIB:
        return f"{size} B"
    amount = float(size)
    for letter in _LETTERS.upper():
        amount /= 1024
        if amount < 999.5 or letter == "P":
            break
    digits = 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{amount:.{digits}f} {letter}iB"


def format_gb_hours(byte_hours: int) -> str:
    """Write byte-hours with three significant digits, a GB being 10^9 bytes: `0.012 GB-hours`, `12.3 GB-hours`."""
    amount = byte_hours / 1e9
    if byte_hours and amount < 0.0005:
        return "<0.001 GB-hours"
    digits = 3 if amount < 0.9995 else 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{amount:.{digits if byte_hours else 0}f} GB-hours"


def exact_size(size: int) -> str:
    """Write bytes so that `parse_size` gives the same number back: `10 GiB`, `1536 MiB`, `4097`."""
    for power in range(len(_LETTERS), 0, -1):
        unit = 1024**power
        if size and size % unit == 0:
            return f"{size // unit} {_LETTERS[power - 1].upper()}iB"
    return str(size)


def parse_duration(text: str) -> float:
    """Read a duration such as `30`, `30s`, `500ms`, `5m` or `1h 30m` into seconds.

    Raises:
        BadRequest: says what a duration looks like.
    """
    stripped = text.strip().lower()
    if re.fullmatch(r"\d+(?:\.\d+)?", stripped, re.ASCII):
        seconds = float(stripped)
    else:
        parts = _SPAN.findall(stripped)
        rest = _SPAN.sub("", stripped).strip()
        if not parts or rest:
            raise BadRequest(what=f"{text!r} is not a duration: write seconds, or 500ms, 30s, 5m, 1h30m, 2d")
        seconds = sum(float(number) * _SPAN_S[unit] for number, unit in parts)
    if seconds > _LONGEST_S:
        raise BadRequest(what=f"{text!r} is longer than a hundred years")
    return seconds


def format_duration(seconds: float) -> str:
    """Write seconds so that `parse_duration` reads them: `0.25s`, `90s` as `1m30s`, `86400` as `1d`."""
    if seconds < 60 or seconds != int(seconds):
        return f"{seconds:g}s"
    left = int(seconds)
    words = []
    for unit in ("d", "h", "m", "s"):
        amount, left = divmod(left, int(_SPAN_S[unit]))
        if amount:
            words.append(f"{amount}{unit}")
    return "".join(words)


def format_eta(seconds: float) -> str:
    """Write a remaining time for a person, to the two units that matter: `40s`, `3m 20s`, `2h 5m`."""
    left = round(seconds)
    if left < 60:
        return f"{left}s"
    minutes, rest = divmod(left, 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m"


def format_day(time_s: int) -> str:
    """Write the day of a wall time, in UTC: `2026-12-31`."""
    days = time_s // 86400 + 719_468  # since the first of March of the year 0, so that a leap day ends a year
    era, day = divmod(days, 146_097)  # 400 years
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153  # from March on
    day += 1 - (153 * month + 2) // 5
    month = month + 3 if month < 10 else month - 9
    return f"{era * 400 + year + (month <= 2):04d}-{month:02d}-{day:02d}"
