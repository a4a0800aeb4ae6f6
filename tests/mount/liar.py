"""`bitdustfs serve`, and a lie: a supplier that takes everything, and gives back something else.

Run as `python -m tests.mount.liar old --home HOME serve …`, in place of `bitdustfs`:
`old`: it shows the head that it had when the customer came first, whatever it was given since.
`garbage`: every head and every fragment that it gives has all bits turned.
"""

from __future__ import annotations

import sys
from typing import Any

from bitdustfs.cli import giving
from bitdustfs.cli.main import main
from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.engine.keeper import Keeper
from bitdustfs.model import OwnerId

_TURNED = bytes(255 - value for value in range(256))
Said = tuple[wire.Answer, tuple[bytes | memoryview, ...]]


class Old(Keeper):
    """Shows an old head."""

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self._shown: dict[OwnerId, Said] = {}

    async def answer(self, caller: Certificate, request: wire.Request, body: bytes | memoryview) -> Said:
        if caller.owner not in self._shown:
            self._shown.setdefault(caller.owner, await super().answer(caller, wire.GetHead(), b""))
        if isinstance(request, wire.GetHead):
            return self._shown[caller.owner]
        return await super().answer(caller, request, body)


class Garbage(Keeper):
    """Gives nothing but garbage."""

    async def answer(self, caller: Certificate, request: wire.Request, body: bytes | memoryview) -> Said:
        answer, parts = await super().answer(caller, request, body)
        if isinstance(request, wire.Get | wire.GetHead):
            parts = tuple(bytes(part).translate(_TURNED) for part in parts)
        return answer, parts


if __name__ == "__main__":
    assert vars(giving)["Keeper"] is Keeper  # or nothing would be replaced, and it would be honest
    vars(giving).update(Keeper={"old": Old, "garbage": Garbage}[sys.argv.pop(1)])
    main()
