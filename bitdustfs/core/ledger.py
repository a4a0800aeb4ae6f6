"""The ledger: how many byte-hours friends have kept for us, and we for them. Pure.

A customer counts what he took, and only what audits have shown:

    a look     bytes that a supplier holds × the time since the last look  -> its window, which is not counted yet
    audit      a right leaf                                                -> the window is counted, and begins anew
    loss       a fragment is proven lost                                   -> its bytes are taken out of the window
    silence    nothing: neither adds nor takes

So only the hours count in which the customer looked, the supplier answered, and a later audit was right; a fragment
that turns out to be lost does not count from the last right answer of its supplier on. Both directions of a
friendship are counted in the same hours: those in which both machines were on.

Lengths are measured by a monotonic clock and dates are read from the wall, and neither is ever computed from the
other: a clock that jumps, a machine that slept and the time between two processes add nothing.

A supplier counts what he gave as well, in the hours in which the customer asked him for his room. He cannot audit
himself: his own number is only there to be compared with the customer's receipt (core/receipt).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from bitdustfs.core.receipt import MAX_NUMBER, RECEIPT_BYTES, VIEW_BYTES, Receipt
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId

VERSION: Final = 1
HOUR_MS: Final = 3_600_000
MAX_WINDOWS: Final = 64  # nodes of one owner that keep something for us: more are not looked at
SHARE: Final = 0.1  # (tune) two honest counts differ by no more than this …
SLACK_HOURS: Final = 72  # (tune) … and what is held for so long: signed once a day, not audited yet, or forgotten
_MOST_BYTE_MS: Final = (1 << 127) - 1  # where counting ends: more than all disks in a million years
_MOST_MS: Final = (1 << 63) - 1
_ACCOUNT = struct.Struct(">BQ16sQHHB")
_WINDOW = struct.Struct(">32s16sQ")
_GIFT = struct.Struct(">BQ16sQH")
MAX_PAGE_BYTES: Final = _ACCOUNT.size + MAX_WINDOWS * _WINDOW.size + RECEIPT_BYTES + VIEW_BYTES


@dataclass(frozen=True, slots=True)
class Window:
    """What a supplier was seen to hold since it last answered an audit well."""

    byte_ms: int = 0
    length_ms: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What an owner keeps for us, as we saw it."""

    since_s: int = 0  # wall time of the first look; 0: there was none
    byte_ms: int = 0  # that audits have shown, in all
    held_bytes: int = 0  # when it was looked last
    windows: Mapping[NodeId, Window] = field(default_factory=dict)  # by node of his that keeps something
    receipt: bytes = b""  # the newest that we signed
    view: bytes = b""  # what he answered to it

    @property
    def byte_hours(self) -> int:
        return hours_of(self.byte_ms)


@dataclass(frozen=True, slots=True)
class Gift:
    """What we keep for an owner, as we saw it, and as he signed it."""

    since_s: int = 0  # wall time of the first look; 0: there was none
    byte_ms: int = 0  # by our own count, in all
    held_bytes: int = 0  # when it was looked last
    receipt: bytes = b""  # the newest that he signed

    @property
    def byte_hours(self) -> int:
        return hours_of(self.byte_ms)


def hours_of(byte_ms: int) -> int:
    """Whole byte-hours, as a receipt can say them."""
    return min(byte_ms // HOUR_MS, MAX_NUMBER)


# -- what we take ------------------------------------------------------------------------------------------


def seen(account: Account, node: NodeId, held_bytes: int, elapsed_ms: int, *, now_s: int) -> Account:
    """Count that a supplier held so much for so long, both at the least. It is not proven yet."""
    before = account.windows.get(node)
    if before is None and len(account.windows) >= MAX_WINDOWS:
        return account
    before = before or Window()
    after = Window(
        min(before.byte_ms + held_bytes * elapsed_ms, _MOST_BYTE_MS), min(before.length_ms + elapsed_ms, _MOST_MS)
    )
    return replace(account, since_s=account.since_s or now_s, windows={**account.windows, node: after})


def proven(account: Account, node: NodeId) -> Account:
    """Count what a supplier was seen to hold: it has answered an audit well."""
    window = account.windows.get(node)
    if window is None:
        return account
    windows = {each: other for each, other in account.windows.items() if each != node}
    return replace(account, byte_ms=min(account.byte_ms + window.byte_ms, _MOST_BYTE_MS), windows=windows)


def lost(account: Account, node: NodeId, lost_bytes: int) -> Account:
    """Take a fragment that is proven lost out of what was seen: nobody knows since when it is.

    One that came after the last right answer is taken out for longer than it was there: never for less.
    """
    window = account.windows.get(node)
    if window is None:
        return account
    less = replace(window, byte_ms=max(0, window.byte_ms - lost_bytes * window.length_ms))
    return replace(account, windows={**account.windows, node: less})


def given_up(account: Account, node: NodeId) -> Account:
    """Forget what was seen and not proven of a supplier whose fragments count no more."""
    return replace(account, windows={each: window for each, window in account.windows.items() if each != node})


def adopted(account: Account, shown: Receipt) -> Account:
    """Take up a receipt of ours that is newer than what we know: this machine is new, or its disk an old one.

    What this disk has counted since its own last receipt may be in it already, so it is not added.
    """
    total_ms = max(account.byte_ms, shown.byte_hours * HOUR_MS)
    since_s = min(account.since_s or shown.since_s, shown.since_s)
    return replace(account, since_s=since_s, byte_ms=total_ms, receipt=shown.raw, view=b"")


# -- what we give ------------------------------------------------------------------------------------------


def kept(gift: Gift, held_bytes: int, elapsed_ms: int, *, now_s: int) -> Gift:
    """Count that we kept so much for so long, both at the least."""
    total_ms = min(gift.byte_ms + held_bytes * elapsed_ms, _MOST_BYTE_MS)
    return replace(gift, since_s=gift.since_s or now_s, byte_ms=total_ms)


def differs(*, signed: int, counted: int, held_bytes: int) -> bool:
    """Say whether a supplier counted more than his customer signed, by more than two honest counts can differ.

    Less is no dispute: a supplier may have lost what he counted.

    Args:
        signed, counted: byte-hours in all.
        held_bytes: what is kept now.
    """
    return counted > signed * (1 + SHARE) + held_bytes * SLACK_HOURS


# -- how it is kept ----------------------------------------------------------------------------------------


def encode_account(account: Account) -> bytes:
    """Write an account as it is kept."""
    parts = (len(account.receipt), len(account.view), len(account.windows))
    head = _ACCOUNT.pack(VERSION, account.since_s, _wide(account.byte_ms), account.held_bytes, *parts)
    windows = (
        _WINDOW.pack(node, _wide(window.byte_ms), window.length_ms) for node, window in account.windows.items()
    )
    return head + b"".join(windows) + account.receipt + account.view


def decode_account(raw: bytes) -> Account:
    """Read what `encode_account` wrote. Raises BadFormat."""
    _check(raw, _ACCOUNT.size)
    _version, since_s, byte_ms, held_bytes, receipt_bytes, view_bytes, count = _ACCOUNT.unpack_from(raw)
    at = _ACCOUNT.size + count * _WINDOW.size
    is_whole = receipt_bytes in (0, RECEIPT_BYTES) and view_bytes in (0, VIEW_BYTES) and count <= MAX_WINDOWS
    if not is_whole or len(raw) != at + receipt_bytes + view_bytes:
        raise BadFormat(what="a page of the ledger has another length than it says")
    windows = {
        NodeId(node): Window(int.from_bytes(wide, "big"), length_ms)
        for node, wide, length_ms in _WINDOW.iter_unpack(raw[_ACCOUNT.size : at])
    }
    receipt, view = raw[at : at + receipt_bytes], raw[at + receipt_bytes :]
    return Account(since_s, int.from_bytes(byte_ms, "big"), held_bytes, windows, receipt, view)


def encode_gift(gift: Gift) -> bytes:
    """Write a gift as it is kept."""
    head = _GIFT.pack(VERSION, gift.since_s, _wide(gift.byte_ms), gift.held_bytes, len(gift.receipt))
    return head + gift.receipt


def decode_gift(raw: bytes) -> Gift:
    """Read what `encode_gift` wrote. Raises BadFormat."""
    _check(raw, _GIFT.size)
    _version, since_s, byte_ms, held_bytes, receipt_bytes = _GIFT.unpack_from(raw)
    if receipt_bytes not in (0, RECEIPT_BYTES) or len(raw) != _GIFT.size + receipt_bytes:
        raise BadFormat(what="a page of the ledger has another length than it says")
    return Gift(since_s, int.from_bytes(byte_ms, "big"), held_bytes, raw[_GIFT.size :])


def _check(raw: bytes, least: int) -> None:
    if len(raw) < least:
        raise BadFormat(what="a page of the ledger is cut off")
    if raw[0] != VERSION:
        raise BadFormat(what=f"a page of the ledger has version {raw[0]}; this bitdustfs reads version {VERSION}")


def _wide(number: int) -> bytes:
    return number.to_bytes(16, "big")
