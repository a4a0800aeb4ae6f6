"""A pacer that tells what it is owed."""

from __future__ import annotations

from bitdustfs.engine.pacer import Pacer


class Paying(Pacer):
    """Notes how much datagrams have moved.

    Attributes:
        up_bytes, down_bytes: so much.
    """

    def __init__(self) -> None:
        super().__init__()
        self.up_bytes = self.down_bytes = 0

    def owe(self, *, up: int, down: int) -> None:
        self.up_bytes += up
        self.down_bytes += down
        super().owe(up=up, down=down)
