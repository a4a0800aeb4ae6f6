"""What a customer wrote into the root of his volume, and what must come back of it when his machine burns."""

from __future__ import annotations

import trio

from bitdustfs.engine.node import Node
from bitdustfs.model import ROOT_INO, FileState
from bitdustfs.ports import Catalog
from bitdustfs.testing.world import World

PAUSE_S = 0.1  # five times what a change waits for its commit
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
        self._here: dict[bytes, int] = {}  # … that a killed process leaves
        self._hard: dict[bytes, int] = {}  # … that survives a power loss

    # -- what he does ------------------------------------------------------------------------------------------

    async def write(self, world: World, name: bytes, content: bytes) -> None:
        """Make a file, or write over one of the same length. A crash may leave a new one empty."""
        if self._contents.get(name, [None])[-1] is None:
            self._note(name, b"")
        self._note(name, content)
        await world.write(name.decode(), content)

    async def replace(self, world: World, name: bytes, content: bytes) -> None:
        """As an editor saves. What was not there before, a power loss may leave empty."""
        await self.write(world, b"." + name, content)
        if self._contents.get(name, [None])[-1] is None:
            self._note(name, b"")
        self._note(name, content)
        self._note(b"." + name, None)
        await world.node.tree.rename(ROOT_INO, b"." + name, ROOT_INO, name)

    def unlink(self, world: World, name: bytes) -> None:
        self._note(name, None)
        world.node.tree.unlink(ROOT_INO, name)

    async def fsync(self, world: World, name: bytes) -> None:
        """What a file shows now is to survive a power loss, if there is one."""
        entry = world.node.tree.lookup(ROOT_INO, name)
        if entry is not None:
            number = len(self._contents[name]) - 1
            await world.node.files.fsync(entry.ino)
            self._hard[name] = number

    async def pause(self) -> None:
        """Until everything survives a killed process."""
        numbers = {name: len(contents) - 1 for name, contents in self._contents.items()}
        await trio.sleep(PAUSE_S)
        self._here |= numbers

    def now(self) -> dict[bytes, bytes]:
        """What he sees in his volume."""
        newest = ((name, contents[-1]) for name, contents in self._contents.items())
        return {name: content for name, content in newest if content is not None}

    def burn(self) -> None:
        """Nothing of this machine is left."""
        self._here, self._hard = {}, {}

    def lose_power(self) -> None:
        """Only what was synced is left."""
        self._here = dict(self._hard)

    async def see(self, world: World) -> None:
        """Take over what the volume shows after a crash. It must be something that was there since it was kept."""
        shown = [name for name in self._contents if world.node.tree.lookup(ROOT_INO, name) is not None]
        found = {name: await world.read(name.decode()) for name in shown}
        self.check(found, here=True)
        for name in self._contents:
            if self._contents[name][-1] != found.get(name):
                self._note(name, found.get(name))

    # -- what he is told ---------------------------------------------------------------------------------------

    def look(self, node: Node, catalog: Catalog) -> None:
        """Note what the machine says to be safe now."""
        replica = node.replica
        online = [row.supplier for row in catalog.suppliers()]
        self.margin = min(2, catalog.least_margin(online)[0] or 0)
        all_safe = replica.safe_change >= catalog.last_change and not catalog.pending
        for name, contents in self._contents.items():
            entry = catalog.name(ROOT_INO, name)
            if contents[-1] is None:
                is_safe = entry is None and all_safe
            else:
                is_safe = entry is not None and node.files.state(entry.ino) is FileState.SAFE
            if is_safe:
                self._safe[name] = len(contents) - 1

    def check(self, found: dict[bytes, bytes], *, here: bool = False) -> None:
        """Every name shows what was safe, or something later.

        Args:
            here: it is what the same machine shows after it died: what it had is not lost either.
        """
        for name in found.keys() | self._contents.keys():
            contents, kept = self._contents.get(name, [None]), self._safe.get(name, 0)
            if here:
                kept = max(kept, self._here.get(name, 0), self._hard.get(name, 0))
            if found.get(name) not in contents[kept:]:
                old = contents.index(found.get(name)) if found.get(name) in contents else "unknown"
                raise AssertionError(f"{name!r} shows version {old} of {len(contents) - 1}, and {kept} was kept")

    def _note(self, name: bytes, content: Content) -> None:
        self._contents.setdefault(name, [None]).append(content)


async def say_nothing(_step: object) -> None:
    await trio.lowlevel.checkpoint()
