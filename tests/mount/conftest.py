"""One mount for all tests of POSIX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.support import Mount


@pytest.fixture(scope="package")
def mount() -> Iterator[Mount]:
    """A mount that every user may look into."""
    with Mount("allow_other") as running:
        yield running


@pytest.fixture
def place(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """An empty directory in the mount."""
    name: str = request.node.name
    directory = mount.path / name[:200].replace("/", "_")
    directory.mkdir()
    return directory
