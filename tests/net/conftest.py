"""One internet for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.internet import Internet


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("net")) as running:
        yield running
