"""What happens comes again: a seed orders the tasks of trio, nothing works in a thread, and the network is heard.

Nothing else may steer a story that is told so: no dice but seeded ones, no clock but trio's, and no order of a set
whose hashes are other ones in another process.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from blake3 import blake3
from trio.testing import MockClock

from bitdustfs.model import NodeId
from bitdustfs.testing.network import MemoryNetwork

_Told = TypeVar("_Told")


def run(schedule: int, story: Callable[[], Awaitable[_Told]]) -> _Told:
    """What `trio.run` does under a clock that jumps, in the order that a seed says; what works does so at once.

    trio has no public way to this: hypothesis, too, is let at these two names.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr("trio._core._run._r", random.Random(schedule))
        patch.setattr("trio.to_thread.run_sync", _inline)
        return trio.run(story, clock=MockClock(autojump_threshold=0))


class Listening:
    """What a network carries: who sends what to whom, and when."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._heard = blake3()
        assert network.tamper is None
        network.tamper = self._hear

    def digest(self) -> str:
        """Of all so far."""
        return self._heard.hexdigest()

    def _hear(self, own: NodeId, peer: NodeId, sent: bytes) -> bytes:
        self._heard.update(b"%r %s %s %d " % (trio.current_time(), own, peer, len(sent)) + sent)
        return sent


async def _inline(work: Callable[..., object], *args: object, **_options: object) -> object:
    await trio.lowlevel.checkpoint()
    return work(*args)
