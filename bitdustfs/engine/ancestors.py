"""Ancestors: the heads that our line came by, further back than links are kept.

A link proves to a supplier that one head follows another. To tell for ourselves whether a head is one that ours goes
back to, a mark of 8 bytes is enough: the first of its digest. The marks are in the replicated catalog, so whoever
recovers has them too, and 256 links behind the newest head at suppliers lead up to where they end.

They are noted by the page, once all heads of a page are made, just before the next head is, which names the note with
whatever else has changed: a head costs 8 bytes so. No more pages are kept than fill 8 MB: after a million heads the
oldest give way. What has no mark is not known to be ours, and is kept like another line (engine/forks).
"""

from __future__ import annotations

from typing import Final

from bitdustfs.core import head as heads
from bitdustfs.core.head import Head
from bitdustfs.ports import Catalog

PAGE: Final = 128  # versions: half of the links that a supplier keeps, so that no head falls between the two
MARK_BYTES: Final = 8  # a stray head is taken for ours once in 2^64
PAGES_KEPT: Final = 8192  # (tune) 8 MB, for a year with a head each half minute
_AT_ONCE: Final = 16  # pages, of a catalog that has none: 2048 links in one step
_NUMBER_BYTES: Final = 8


def is_ancestor(catalog: Catalog, head: Head) -> bool:
    """Whether a head is marked as one that our line came by."""
    marks = _marks(catalog, head.version // PAGE)
    at = head.version % PAGE * MARK_BYTES
    return marks[at : at + MARK_BYTES] == head.digest[:MARK_BYTES]


def note(catalog: Catalog, start: int, version: int) -> int:
    """Note the pages that end before a version, as far as links are kept. The caller commits.

    Args:
        start: the page from which on some may not be noted yet.
        version: of our next head.
    Returns:
        The page to start with next time; a few are noted at once.
    """
    noted = 0
    for number in range(start, version // PAGE):
        if noted == _AT_ONCE:
            return number
        if not _marks(catalog, number):
            links = heads.split_links(catalog.links(number * PAGE - 1, (number + 1) * PAGE))
            if links:
                catalog.put_value(_key(number), number.to_bytes(_NUMBER_BYTES) + _page(links))
                noted += 1
    return max(start, version // PAGE)


def _page(links: list[bytes]) -> bytes:
    marks = bytearray(PAGE * MARK_BYTES)  # zeros: a version that was skipped, or is not known
    for link in links:
        at = heads.version_of(link) % PAGE * MARK_BYTES
        marks[at : at + MARK_BYTES] = heads.digest_of(link)[:MARK_BYTES]
    return bytes(marks)


def _marks(catalog: Catalog, number: int) -> bytes:
    """Those of a page; b"": it is not noted, has given way, or is damaged."""
    raw = catalog.value(_key(number)) or b""
    is_whole = len(raw) == _NUMBER_BYTES + PAGE * MARK_BYTES
    return raw[_NUMBER_BYTES:] if is_whole and int.from_bytes(raw[:_NUMBER_BYTES]) == number else b""


def _key(number: int) -> str:
    return f"heads {number % PAGES_KEPT}"
