"""Logging: to stderr for a process in the foreground, to HOME/log for a daemon. Rotated, so that it is bounded."""

from __future__ import annotations

import logging
import logging.handlers
import sys

from bitdustfs.core.units import MIB
from bitdustfs.edges.home import Home

LOG_BYTES = 10 * MIB  # of one file
LOG_FILES = 5  # the one that is written, and four older
_FORM = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def log_to_stderr(level: str) -> None:
    """Log for the person who started this process in a terminal."""
    _install(logging.StreamHandler(sys.stderr), level)


def log_to_file(home: Home, level: str) -> None:
    """Log into the home. Only the process that holds the home may: two would rotate each other's file away.

    The file is made with the first line, so that what is refused leaves none.
    """
    handler = logging.handlers.RotatingFileHandler(
        home.log, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8", delay=True
    )
    _install(handler, level)


def _install(handler: logging.Handler, level: str) -> None:
    handler.setFormatter(logging.Formatter(_FORM))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
