"""Local networks in memory: machines whose numbers have the same first three parts, or
the same zone, hear each other."""

from __future__ import annotations

from collections.abc import Collection

import trio

from bitdustfs.ports import Heard

_HEARD_BUFFER = 256


class MemoryAir:
    """What carries between machines, as far as they are in one network.

    Attributes:
        said: all that was announced, (name, place), and ("", "") for each question; whoever heard it.
        is_deaf: nothing is heard anywhere, as without multicast.
    """

    def __init__(self) -> None:
        self.members: list[MemoryLan] = []
        self.said: list[tuple[str, str]] = []
        self.is_deaf = False

    def carry(self, number: str, heard: Heard) -> None:
        """Let everybody in the network of a number hear something."""
        for each in self.members:
            if not self.is_deaf and any(_network(own) == _network(number) for own in each.numbers):
                each.hears(heard)


class MemoryLan:
    """A ports.Lan of one machine."""

    def __init__(self, air: MemoryAir) -> None:
        self.numbers: tuple[str, ...] = ()
        self._air = air
        self._in, self._out = trio.open_memory_channel[Heard](_HEARD_BUFFER)
        air.members.append(self)

    def hears(self, heard: Heard) -> None:
        try:
            self._in.send_nowait(heard)
        except trio.WouldBlock:
            pass  # as in the kernel

    def join(self, numbers: Collection[str]) -> None:
        self.numbers = tuple(numbers)

    async def ask(self) -> None:
        await trio.lowlevel.checkpoint()
        self._air.said.append(("", ""))
        for number in self.numbers:
            self._air.carry(number, Heard())

    async def announce(self, name: str, place: str) -> None:
        await trio.lowlevel.checkpoint()
        self._air.said.append((name, place))
        self._air.carry(place.rpartition(":")[0], Heard(name, place))

    async def hear(self) -> Heard:
        return await self._out.receive()


def _network(number: str) -> str:
    if ":" in number:
        return number.strip("[]").partition("%")[2]
    return number.rpartition(".")[0]
