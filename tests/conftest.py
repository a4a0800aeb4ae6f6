"""Settings of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# a busy machine is not a failure: no example has a deadline
settings.register_profile("bitdustfs", deadline=None)
settings.load_profile("bitdustfs")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model-seed", type=int, help="the one seed for random steps on a mount; what fails is made shorter"
    )
