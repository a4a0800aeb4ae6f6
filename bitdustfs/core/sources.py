"""Who may ask how much: a budget for each source prefix, and one for all together.

An address costs nothing where there are many: what counts is the network that it lies in, a /24 of IPv4 and a /48 of
IPv6. Addresses of a private network, or of this machine, are each for itself.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field

_PREFIX = {4: 24, 6: 48}


def prefix_of(host: str, *, keeps_private_apart: bool = True) -> str:
    """The network that an address counts for.

    Args:
        host: a numeric address.
        keeps_private_apart: those of private networks and of this machine count for themselves; else by /24 too.
    """
    ip = ipaddress.ip_address(host)
    if ip.is_private and keeps_private_apart:
        return str(ip)
    return str(ipaddress.ip_network((ip, _PREFIX[ip.version]), strict=False).network_address)


@dataclass(slots=True)
class Budget:
    """So many a second, and so many at once. A token bucket."""

    per_s: float
    burst: float
    _left: float = field(init=False)
    _at_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now_s: float) -> bool:
        """Take one, if there is one."""
        self._left = min(self.burst, self._left + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def is_full(self, now_s: float) -> bool:
        """Nothing was taken for so long that it is as if nothing ever was."""
        return self._left + (now_s - self._at_s) * self.per_s >= self.burst


class SourceBudgets:
    """A budget for each prefix, for a bounded number of prefixes: those that were quiet longest are forgotten."""

    def __init__(self, per_s: float, burst: float, *, most: int = 4096) -> None:
        self._per_s = per_s
        self._burst = burst
        self._most = most
        self._budgets: OrderedDict[str, Budget] = OrderedDict()

    def __len__(self) -> int:
        return len(self._budgets)

    def take(self, prefix: str, now_s: float) -> bool:
        """Take one of this prefix, if it has one. A prefix that is new when all are in use gets nothing."""
        budget = self._budgets.get(prefix)
        if budget is None:
            if len(self._budgets) >= self._most and not self._forget_one(now_s):
                return False
            budget = self._budgets[prefix] = Budget(self._per_s, self._burst)
        self._budgets.move_to_end(prefix)
        return budget.take(now_s)

    def _forget_one(self, now_s: float) -> bool:
        oldest = next(iter(self._budgets))
        if not self._budgets[oldest].is_full(now_s):
            return False
        del self._budgets[oldest]
        return True
