"""One simulated disk for all crash tests of a session, and a place for what they lay out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.disk import Disk
from tests.crash.harness import Yard

_IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="package")
def yard() -> Iterator[Yard]:
    """In memory if possible: what is laid out there is looked at once, and need not survive anything."""
    base = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="bitdustfs-crash-", dir=base) as directory, Disk() as disk:
        yield Yard(disk, Path(directory))
