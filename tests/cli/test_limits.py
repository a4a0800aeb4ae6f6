"""Limits follow the file of the configuration while a process serves."""

from __future__ import annotations

from math import inf
from pathlib import Path

import trio
from trio.testing import MockClock

from bitdustfs.cli.limits import LOOK_S, follow_limits, pacer_of
from bitdustfs.edges.config import load, store
from bitdustfs.edges.home import Home


async def test_limits_are_those_of_the_file_within_seconds(tmp_path: Path, autojump_clock: MockClock) -> None:
    home = Home(tmp_path)
    store(home.config, "limits.up", "1M")
    settings = load(home.config)
    pacer = pacer_of(settings)
    assert (pacer.up.bytes_per_s, pacer.down.bytes_per_s) == (1 << 20, inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_limits, home, settings, pacer)
        await trio.sleep(LOOK_S / 2)
        store(home.config, "limits.up", "0")
        store(home.config, "limits.down", "2M")
        await trio.sleep(2 * LOOK_S)
        assert (pacer.up.bytes_per_s, pacer.down.bytes_per_s) == (inf, 2 << 20)
        home.config.unlink()
        await trio.sleep(2 * LOOK_S)
        assert pacer.down.is_open
        nursery.cancel_scope.cancel()
