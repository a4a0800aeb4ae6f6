"""Waiting: for which suppliers it waits that anything is let go.

A head beside ours may be all that names what somebody wrote, so nothing is let go before what it names is kept here
(engine/forks), and neither orphans (engine/orphans) nor what came of another line in part before each supplier has
shown which head it holds. One that goes away before holds that up until it is given up. So a person is told who it
is, and what may be done.
"""

from __future__ import annotations

from bitdustfs.core.report import WaitReport
from bitdustfs.engine.forks import Forks
from bitdustfs.engine.orphans import Orphans
from bitdustfs.engine.publisher import Foreign, Publisher
from bitdustfs.model import Supplier
from bitdustfs.ports import Catalog


class Waiting:
    """Tells who is waited for."""

    def __init__(self, catalog: Catalog, publisher: Publisher, forks: Forks, orphans: Orphans) -> None:
        self._catalog = catalog
        self._publisher = publisher
        self._forks = forks
        self._orphans = orphans

    def reports(self) -> list[WaitReport]:
        """Each supplier for which something waits, once."""
        if not self._forks.is_writer():
            return []
        missing = self._forks.missing
        found = [
            self._report("releases", row, missing[row.supplier])
            for row in self._catalog.suppliers()
            if row.supplier in missing
        ]
        others, told = self._publisher.others, set(missing)
        for what, rows in (("orphans", self._unshown()), ("parts", self._forks.halves_wait_for())):
            new = [row for row in rows if row.supplier not in told]
            found += [self._report(what, row, others.get(row.supplier)) for row in new]
            told |= {row.supplier for row in new}
        return found

    def lines(self) -> list[str]:
        """What to say to a person of those that orphans and parts wait for; `Forks.lines` tells of the others."""
        return [*self._of_orphans(), *self._of_parts()] if self._forks.is_writer() else []

    # -- private ---------------------------------------------------------------------------------------------

    def _of_parts(self) -> list[str]:
        silent = [row.label for row in self._forks.halves_wait_for() if not self._forks.is_answering([row])]
        return [
            f"a part of another state of this volume keeps its space until {label}, which does not answer, has shown "
            f"what it holds: if it never comes back, `bitdustfs suppliers leave {label}` gives it up"
            for label in silent
        ]

    def _of_orphans(self) -> list[str]:
        silent = [row.label for row in self._unshown() if not self._forks.is_answering([row])]
        if not silent:
            return []
        return [
            f"{', '.join(silent)} has not shown which state of this volume it holds, and does not answer: what "
            "suppliers keep from before the recovery, and nothing needs, is let go after that, or once it is given up"
        ]

    def _unshown(self) -> list[Supplier]:
        """Those that orphans wait for."""
        if not self._orphans.are_due:
            return []
        listed = [row for row in self._catalog.suppliers() if row.is_listed]
        return [row for row in listed if not self._publisher.have_shown({row.supplier})]

    def _report(self, what: str, row: Supplier, found: Foreign | None) -> WaitReport:
        return WaitReport(
            what=what,
            supplier=row.label,
            answers=self._forks.is_answering([row]),
            version=found.head.version if found is not None else 0,
            node=found.head.signer.node.hex() if found is not None else "",
            name=self._forks.name_of(found.head) if found is not None else "",
        )
