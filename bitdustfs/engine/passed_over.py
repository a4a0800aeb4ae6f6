"""Who is passed over: a supplier that did not take a fragment is not asked again for a while. Others may take it.

One that refused because it knows a newer head than we said is asked again as soon as we say one that is as new: until
a person has chosen about that head it takes nothing, and from then on everything, which nobody should wait for.
"""

from __future__ import annotations

from math import inf

import trio

from bitdustfs.engine.sending import FragmentSink
from bitdustfs.errors import HeadBehind
from bitdustfs.model import SupplierNo

PASS_OVER_S = 30.0  # (tune) at least


class PassedOver:
    """Know who is passed over, for one service that sends."""

    def __init__(self, sink: FragmentSink) -> None:
        self._sink = sink
        self._until: dict[SupplierNo, float] = {}  # trio time
        self._knows: dict[SupplierNo, int] = {}  # what is to be said before, by those that said so

    def __contains__(self, supplier: SupplierNo) -> bool:
        is_early = trio.current_time() < self._until.get(supplier, -inf)
        return is_early and self._sink.says(supplier) < self._knows.get(supplier, inf)

    def note(self, supplier: SupplierNo, error: Exception, *, said: int, took_s: float) -> None:
        """Pass over a supplier.

        Args:
            error: why it took nothing.
            said: the version of the head that went with what it was sent.
            took_s: who keeps us waiting is passed over for longer, or would be asked again first.
        """
        self._until[supplier] = trio.current_time() + max(PASS_OVER_S, 2 * took_s)
        self._knows.pop(supplier, None)
        if isinstance(error, HeadBehind) and error.detail > said:  # else it refuses whatever is said
            self._knows[supplier] = error.detail

    def ends_in_s(self) -> float:
        """Until the next one is asked again; inf: nobody is passed over."""
        now = trio.current_time()
        return min((until - now for until in self._until.values() if until > now), default=inf)
