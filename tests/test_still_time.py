"""A thread that works costs no virtual time, and then it passes again."""

from __future__ import annotations

import time

import trio
from trio.testing import MockClock


async def test_no_virtual_time_passes_while_threads_work(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 1000)
        began = trio.current_time()
        async with trio.open_nursery() as working:
            for pause_s in (0.02, 0.05):
                working.start_soon(trio.to_thread.run_sync, time.sleep, pause_s)
        assert trio.current_time() == began
        await trio.sleep(10)
        assert trio.current_time() == began + 10
        nursery.cancel_scope.cancel()
