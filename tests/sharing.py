"""Which worker of a run on several processors gets which file: some take those that wait, others those that compute.

A file of `tests/mount` waits for most of its time: for a process, a disk, a connection. A file of `tests/engine`
never does. Workers that all wait leave processors idle, and workers that all compute take turns: so both kinds run
at once, each with its longest files first. Whoever finds none left of his own kind takes one of the others.
"""

from __future__ import annotations

from pathlib import PurePath

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from tests.conftest import WAITING_STOREYS

_COMPUTING = 2  # of every five workers: one computes all the time while it has something


class Sharing(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """Files in the order in which they were collected, for each worker those of its own kind first."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        wants_waiting = int(node.gateway.id.removeprefix("gw")) % 5 >= _COMPUTING
        for place in self.workqueue:
            if waits(place) == wants_waiting:
                self.workqueue.move_to_end(place, last=False)
                break
        super()._assign_work_unit(node)


def waits(place: str) -> bool:
    """Whether a file waits more than it computes."""
    return PurePath(place).parent.name in WAITING_STOREYS
