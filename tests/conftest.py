"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# a busy machine is not a failure: no example has a deadline
settings.register_profile("bitdustfs", deadline=None)
settings.load_profile("bitdustfs")
