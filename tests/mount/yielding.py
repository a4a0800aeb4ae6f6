"""`bitdustfs mount`, and a signal: the process sends it to itself at a named moment of a hand-over.

Run as `python -m tests.mount.yielding SIGNAL MOMENT --home HOME mount -f …`, in place of `bitdustfs`. The classes and
functions that the moments are in are those of the program, with a look at the order around them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from bitdustfs.cli import assemble
from bitdustfs.cli.adopting import fetch_newer
from bitdustfs.cli.assemble_supplier import Ready
from bitdustfs.cli.claiming import Claim
from bitdustfs.cli.main import main
from bitdustfs.cli.mounted import Mounted
from bitdustfs.edges import old_states
from bitdustfs.engine import services
from bitdustfs.engine.handover import Handover
from bitdustfs.engine.view import View
from bitdustfs.ports import Catalog

GIVING = ("bringing", "closing", "brought", "letting go", "let go", "shown there")  # of who lets the volume go
TAKING = ("claimed", "fetched", "taken", "mounting")  # of who gets it


def passes(moment: str) -> None:
    """Get the signal here, if it was ordered."""
    if moment == ordered:
        os.kill(os.getpid(), signal.Signals[wanted])


class YieldingHandover(Handover):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.on_step = self._step

    async def _step(self, moment: str) -> None:
        passes(moment)

    def _forbid(self, node: Any) -> None:
        super()._forbid(node)
        passes("brought")


class YieldingView(View):
    async def _show(self, *parts: Any) -> None:
        await super()._show(*parts)
        passes("shown there")


class YieldingClaim(Claim):
    async def make(self, catalog: Catalog, *, takes_over: bool) -> Sequence[str]:
        said = await super().make(catalog, takes_over=takes_over)
        passes("claimed")
        return said


class YieldingMounted(Mounted):
    async def run(self, ready: Ready) -> None:
        passes("mounting")
        await super().run(ready)


async def yielding_fetch(*parts: Any) -> Any:
    found = await fetch_newer(*parts)
    passes("fetched")
    return found


def yielding_take(home: Any) -> None:
    take(home)
    passes("taken")


if __name__ == "__main__":
    wanted, ordered = sys.argv.pop(1), sys.argv.pop(1)
    assert ordered in GIVING + TAKING
    take = old_states.take
    assert {"Claim", "fetch_newer", "Mounted"} < vars(assemble).keys() and {"Handover", "View"} < vars(
        services
    ).keys()
    vars(services).update(Handover=YieldingHandover, View=YieldingView)
    vars(assemble).update(Claim=YieldingClaim, fetch_newer=yielding_fetch, Mounted=YieldingMounted)
    vars(old_states).update(take=yielding_take)
    main()
