"""One mount for all tests of POSIX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.practice import Practice
from tests.mount.support import Mount


@pytest.fixture(scope="package")
def mount() -> Iterator[Mount]:
    """A mount that every user may look into."""
    with Mount("allow_other") as running:
        yield running


@pytest.fixture(scope="package")
def rough_swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Practice]:
    """A practice swarm for tests that kill what they like, and have everybody back at their end."""
    with Practice(tmp_path_factory.mktemp("rough")) as practice:
        yield practice


@pytest.fixture
def place(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """An empty directory in the mount."""
    name: str = request.node.name
    directory = mount.path / name[:200].replace("/", "_")
    directory.mkdir()
    return directory
