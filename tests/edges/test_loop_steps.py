"""The probe of the loop: which step kept its thread busy for longest."""

from __future__ import annotations

import pytest
import trio

from bitdustfs.edges.loop_steps import MARK_EVERY_S, LoopSteps


async def test_longest_step_is_told_with_its_task_and_long_ones_are_counted() -> None:
    now = [100.0]  # the step in which it begins is not its own
    steps = LoopSteps(clock=lambda: now[0], cpu=lambda: now[0])

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


async def test_time_that_other_programs_took_is_not_counted_and_little_of_earlier_steps() -> None:
    now, cpu, asked = [100.0], [1.0], []

    def processor() -> float:
        asked.append(now[0])
        return cpu[0]

    steps = LoopSteps(clock=lambda: now[0], cpu=processor)

    async def work(*pairs: tuple[float, float]) -> None:
        for took_s, of_these_s in pairs:
            now[0] += took_s
            cpu[0] += of_these_s
            await trio.lowlevel.checkpoint()

    with steps.watching():
        await trio.lowlevel.checkpoint()
        await work((0.001, 0.001), (3.0, 0.0625))
        assert 0.0625 <= steps.longest_s <= 0.0625 + MARK_EVERY_S
        asked.clear()
        await work(*[(0.0001, 0.0001)] * 200)
        assert len(asked) <= 0.02 / MARK_EVERY_S + 2
        await work((2.0, 0.25))
    assert 0.25 <= steps.longest_s <= 0.25 + MARK_EVERY_S
    assert steps.long == 2
