"""Speed: how soon a supplier will probably have answered, from how it answered lately. Pure.

A supplier is a queue: what it owes comes in turn, after the way there and back. So an answer of which much else is
owed before it is not late, and neither is one that everybody would take as long for. From one request to the next,
three numbers are kept: bytes owed, seconds that a byte took lately (of answers long enough to show it), and seconds
that a short answer took.

What is owed and does not come is evidence too: a byte takes at least as long as the one that is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final

LONG_BYTES: Final = 64 * 1024  # (tune) shorter answers say more of the way than of the line, and overtake long ones
TELLING_BYTES: Final = 256 * 1024  # (tune) of shorter ones the way is too large a part to tell how fast the line is
FADE: Final = 0.75  # (tune) what older answers still count when one more has come: about four of them matter
UNSEEN_TIMES: Final = 2.0  # (tune) what was given up would have taken so many times as long as was waited for it
TRUST_S: Final = 60.0  # (tune) then a supplier of which nothing has come is tried again as if it were like others
AGAIN_TIMES: Final = 8.0  # (tune) of what it took to learn how slow one is: then it is looked at again
HEDGE_S: Final = 0.1  # (tune) shorter waits are not worth asking others for: they must send more than is missing
HEDGE_TIMES: Final = 1.0  # (tune) of what others would take: at worst one waits twice as long as they need
SWAP_S: Final = 0.05  # (tune) a shorter gain is not worth decoding: a busy processor makes as much difference
SWAP_SHARE: Final = 0.8  # (tune) of a supplier's time, or others are not asked in its place
EXTRA_SHARE: Final = 0.3  # (tune) the same where they must send more bytes than was asked for


class Speed:
    """One supplier's. Times are those of one clock."""

    __slots__ = ("_answered_at", "_busy_s", "_bytes", "_short_s", "_tried_at", "owed_bytes")

    def __init__(self) -> None:
        self._busy_s = self._bytes = 0.0  # of the last long answers, fading
        self._short_s: float | None = None
        self._answered_at = -inf  # a long one came, or one that showed it to be slower was given up
        self._tried_at = -inf  # one came, or one was given up
        self.owed_bytes = 0  # of long answers

    def ask(self, size_bytes: int) -> None:
        """An answer of this size is owed from now on."""
        if size_bytes >= LONG_BYTES:
            self.owed_bytes += size_bytes

    def forgo(self, size_bytes: int) -> None:
        """It is not owed any more, whether it came or not."""
        if size_bytes >= LONG_BYTES:
            self.owed_bytes -= size_bytes

    def forget(self) -> None:
        """Nothing is known of how fast it answers any more."""
        self._busy_s = self._bytes = 0.0
        self._short_s = None

    def note(
        self, asked_at: float, size_bytes: int, *, now: float, way_s: float, came: bool = True, is_again: bool = False
    ) -> None:
        """An answer came, or was given up because it took too long.

        Args:
            way_s: there and back, at least.
            is_again: it was asked for to find out whether it is still so slow: what comes now is what counts.
        """
        if size_bytes < LONG_BYTES:
            took_s = now - asked_at
            known_s = self._short_s
            self._short_s = took_s if known_s is None else known_s + (took_s - known_s) * (1 - FADE)
            return
        busy_s = self.waited_s(asked_at, now=now, way_s=way_s)
        self._tried_at = now
        if not came:
            if busy_s > size_bytes * (self.s_per_byte(now) or 0.0):
                self._busy_s, self._bytes = UNSEEN_TIMES * busy_s, float(size_bytes)
                self._answered_at = now
            return
        if is_again or now - self._answered_at > TRUST_S:
            self._busy_s = self._bytes = 0.0
        if size_bytes < TELLING_BYTES:
            self._answered_at = now
            return
        self._busy_s = self._busy_s * FADE + busy_s
        self._bytes = self._bytes * FADE + size_bytes
        self._answered_at = now

    def is_due(self, now: float) -> bool:
        """Say whether a long answer may show that it is not so slow any more: the slower it is, the more seldom."""
        return bool(self._bytes) and now - self._tried_at > AGAIN_TIMES * self._busy_s

    def waited_s(self, asked_at: float, *, now: float, way_s: float) -> float:
        """How long an answer has been the next that is owed, without the way."""
        return max(0.0, now - max(asked_at + way_s, self._answered_at))

    def s_per_byte(self, now: float) -> float | None:
        """What a byte took lately; None: nobody knows."""
        if not self._bytes or now - self._answered_at > TRUST_S:
            return None
        return self._busy_s / self._bytes

    def short_s(self) -> float | None:
        """What a short answer took lately, with its way; None: nobody knows."""
        return self._short_s


def typical(known: Iterable[float | None]) -> float | None:
    """What is taken for those of which nothing is known: the middle of the others."""
    values = sorted(each for each in known if each is not None)
    return values[len(values) // 2] if values else None


def is_overdue(waited_s: float, expected_s: float, others_s: float) -> bool:
    """Say whether others shall be asked for what has not come.

    Args:
        expected_s: how long it would have taken by what was known of its supplier when it was asked.
        others_s: how long others would take for it from now on.
    """
    return waited_s - expected_s > max(HEDGE_S, HEDGE_TIMES * others_s)


def quickest(primaries: Sequence[int], expected_s: Mapping[int, float], k: int) -> list[int]:
    """Choose the fragments to ask for the same columns of some primary ones.

    Args:
        primaries: those that are needed, one or more of the first k.
        expected_s: how long each fragment that can be had would take; inf: only if there is nothing else.
    Returns:
        The primaries; or, if that is much quicker, any k fragments, of which they can be decoded.
    """
    chosen = [index for index in primaries if expected_s.get(index, inf) < inf]
    others = sorted((s, index) for index, s in expected_s.items() if index not in primaries and s < inf)
    spare = k - len(primaries)  # so many more must be asked for if one is left out
    if len(chosen) < len(primaries):
        if len(chosen) + len(others) < k:
            return list(primaries)
        while len(chosen) < k:
            chosen.append(others.pop(0)[1])
        spare = 0
    while len(others) > spare:
        slowest = max(chosen, key=lambda index: expected_s[index])
        own_s, other_s = expected_s[slowest], others[spare][0]
        share, gain_s = (EXTRA_SHARE, HEDGE_S) if spare else (SWAP_SHARE, SWAP_S)
        if other_s > own_s * share or own_s - other_s < gain_s:
            break
        chosen.remove(slowest)
        chosen += [index for _, index in others[: spare + 1]]
        others, spare = others[spare + 1 :], 0
    return chosen
