"""The limits of the configuration, and their changes, for a process that serves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Final

import trio

from bitdustfs.core.units import format_size
from bitdustfs.edges.config import Settings, Watched
from bitdustfs.edges.home import Home
from bitdustfs.engine.pacer import Pacer

LOOK_S: Final = 1.0  # between two looks at the file, each of which costs some microseconds
log = logging.getLogger(__name__)


def pacer_of(settings: Settings) -> Pacer:
    """A pacer that holds the limits."""
    pacer = Pacer()
    _hold(pacer, settings)
    return pacer


async def follow_limits(home: Home, settings: Settings, pacer: Pacer) -> None:
    """Hold what the file says, also when it changes, until cancelled."""
    await follow_settings(home, settings, partial(_hold, pacer))


async def follow_settings(home: Home, settings: Settings, heed: Callable[[Settings], None]) -> None:
    """Hand on what the file says whenever that changes, until cancelled."""
    watched = Watched(home.config, settings)
    while True:
        await trio.sleep(LOOK_S)
        if watched.has_changed():
            heed(watched.settings)


def _hold(pacer: Pacer, settings: Settings) -> None:
    up, down = settings.limits_up or inf, settings.limits_down or inf
    if (up, down) != (pacer.up.bytes_per_s, pacer.down.bytes_per_s):
        log.info("limits: %s up, %s down", _said(settings.limits_up), _said(settings.limits_down))
        pacer.limit(up=up, down=down)


def _said(bytes_per_s: int) -> str:
    return f"{format_size(bytes_per_s)}/s" if bytes_per_s else "none"
