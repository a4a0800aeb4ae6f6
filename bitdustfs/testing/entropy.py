"""Dice that fall the same way each time."""

from __future__ import annotations

from blake3 import blake3


class SeededEntropy:
    """A ports.Entropy: the output stream of a keyed hash."""

    def __init__(self, seed: int = 0) -> None:
        self._stream = blake3(seed.to_bytes(16, "big", signed=True))
        self._at = 0

    def bytes(self, count: int) -> bytes:
        content = self._stream.digest(length=count, seek=self._at)
        self._at += count
        return content
