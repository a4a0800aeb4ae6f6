"""The probe of the loop: which step kept its thread busy for longest."""

from __future__ import annotations

import pytest
import trio

from bitdustfs.edges.loop_steps import LoopSteps


async def test_longest_step_is_told_with_its_task_and_long_ones_are_counted() -> None:
    now = [100.0]  # the step in which it begins is not its own
    steps = LoopSteps(clock=lambda: now[0])

    async def work(*seconds: float) -> None:
        for each in seconds:
            now[0] += each
            await trio.lowlevel.checkpoint()

    with steps.watching():
        now[0] += 50.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, 0.001, 0.25, 0.002, name="slow")
            nursery.start_soon(work, 0.125, 0.015625, name="less slow")
    assert steps.longest_s == pytest.approx(0.25)
    assert (steps.longest_task, steps.long) == ("slow", 2)
    now[0] += 7.0
    await trio.lowlevel.checkpoint()
    assert steps.longest_s == pytest.approx(0.25)
