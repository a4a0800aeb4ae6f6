"""What a customer wrote into the root of his volume, and what must come back of it when his machine burns."""

from __future__ import annotations

import trio

from bitdustfs.engine.node import Node
from bitdustfs.model import ROOT_INO, FileState
from bitdustfs.ports import Catalog
from bitdustfs.testing.world import World

Content = bytes | None  # None: there is no such name


class Customer:
    """Every content that each name had, in order, and which of them was said to be safe.

    Attributes:
        margin: how many suppliers may go as well, as the machine knew when `look` was called last.
    """

    def __init__(self) -> None:
        self.margin = 0
        self._contents: dict[bytes, list[Content]] = {}
        self._safe: dict[bytes, int] = {}  # which of them was the newest that was safe

    # -- what he does ------------------------------------------------------------------------------------------

    async def write(self, world: World, name: bytes, content: bytes) -> None:
        """Make a file, or write over one of the same length. A crash may leave a new one empty."""
        if self._contents.get(name, [None])[-1] is None:
            self._note(name, b"")
        self._note(name, content)
        await world.write(name.decode(), content)

    async def replace(self, world: World, name: bytes, content: bytes) -> None:
        """As an editor saves."""
        await self.write(world, b"." + name, content)
        self._note(name, content)
        self._note(b"." + name, None)
        await world.node.tree.rename(ROOT_INO, b"." + name, ROOT_INO, name)

    def unlink(self, world: World, name: bytes) -> None:
        self._note(name, None)
        world.node.tree.unlink(ROOT_INO, name)

    def now(self) -> dict[bytes, bytes]:
        """What he sees in his volume."""
        newest = ((name, contents[-1]) for name, contents in self._contents.items())
        return {name: content for name, content in newest if content is not None}

    async def see(self, world: World) -> None:
        """Take over what the volume shows after a crash. It must be something that was there since it was safe."""
        found = {name: await world.read(name.decode()) for name in self._names_in(world)}
        self.check(found)
        for name in self._contents:
            if self._contents[name][-1] != found.get(name):
                self._note(name, found.get(name))

    # -- what he is told ---------------------------------------------------------------------------------------

    def look(self, node: Node, catalog: Catalog) -> None:
        """Note what the machine says to be safe now."""
        replica = node.replica
        online = [row.supplier for row in catalog.suppliers()]
        self.margin = min(2, catalog.least_margin(online) or 0)
        all_safe = replica.safe_change >= catalog.last_change and not catalog.pending
        for name, contents in self._contents.items():
            entry = catalog.name(ROOT_INO, name)
            if contents[-1] is None:
                is_safe = entry is None and all_safe
            else:
                is_safe = entry is not None and node.files.state(entry.ino) is FileState.SAFE
            if is_safe:
                self._safe[name] = len(contents) - 1

    def check(self, found: dict[bytes, bytes]) -> None:
        """Every name shows what was safe, or something later."""
        for name in found.keys() | self._contents.keys():
            contents, safe = self._contents.get(name, [None]), self._safe.get(name, 0)
            if found.get(name) not in contents[safe:]:
                old = contents.index(found.get(name)) if found.get(name) in contents else "unknown"
                raise AssertionError(
                    f"{name!r} shows version {old} of {len(contents) - 1}, and version {safe} was safe"
                )

    def _note(self, name: bytes, content: Content) -> None:
        self._contents.setdefault(name, [None]).append(content)

    def _names_in(self, world: World) -> list[bytes]:
        return [name for name in self._contents if world.node.tree.lookup(ROOT_INO, name) is not None]


async def say_nothing(_step: object) -> None:
    await trio.lowlevel.checkpoint()
