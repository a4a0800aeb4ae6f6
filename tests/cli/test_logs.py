"""The log of a daemon is bounded."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitdustfs.cli import logs
from bitdustfs.edges.home import Home


@pytest.fixture(autouse=True)
def _pytests_own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_log_is_rotated_at_10_mib_and_5_files_are_kept(tmp_path: Path) -> None:
    logs.log_to_file(Home(tmp_path), "info")
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.handlers.RotatingFileHandler)
    assert (handler.maxBytes, handler.backupCount) == (10 * 1024**2, 4)


def test_lines_below_the_level_are_not_written(tmp_path: Path) -> None:
    logs.log_to_file(Home(tmp_path), "warning")
    logging.getLogger("bitdustfs").info("quiet")
    logging.getLogger("bitdustfs").warning("loud")
    assert "loud" in (tmp_path / "log").read_text()
    assert "quiet" not in (tmp_path / "log").read_text()
