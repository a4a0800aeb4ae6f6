"""What a simulated disk shows after its machine lost power, or only the process that wrote to it.

Pure: the same entries, manner and seed give the same image.
"""

from __future__ import annotations

import enum
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bitdustfs.edges.durable import sync_directory
from tests.crash.oplog import NAMES, Did, Entry

SECTOR = 512  # what a disk writes whole or not at all


class Manner(enum.Enum):
    """How much of what nobody synced is lost."""

    KILL = "kill"  # nothing: only the process died
    ORDERED = "ordered"  # the youngest, as on ext4: any sync commits all names, and data arrives before its size
    STRICT = "strict"  # all that POSIX lets go: see `power_loss`


@dataclass(frozen=True, slots=True)
class Image:
    """A directory tree: path -> content; directories without content."""

    files: dict[str, bytes]
    directories: tuple[str, ...]  # each after the one it is in

    def lay_out(self, place: Path) -> None:
        """Write it below `place`, which is made or empty, durably."""
        place.mkdir(mode=0o700, exist_ok=True)
        for path in self.directories:
            (place / path).mkdir(mode=0o700)
        for path, content in self.files.items():
            descriptor = os.open(place / path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(content)
                os.fsync(descriptor)
        for path in ("", *self.directories):
            sync_directory(place / path)

    def lay_out_instead(self, place: Path) -> None:
        """Write it below `place` instead of everything there. Directories that it has too stay: that is quicker."""
        place.mkdir(mode=0o700, exist_ok=True)
        wanted, there = {os.path.join(place, path) for path in self.directories}, {os.fspath(place)}
        for directory, names, files in os.walk(place, topdown=False):
            for name in files:
                os.unlink(os.path.join(directory, name))
            for below in (os.path.join(directory, name) for name in names):
                if below in wanted:
                    there.add(below)
                else:
                    os.rmdir(below)
        for path in (os.path.join(place, path) for path in self.directories):
            if path not in there:
                os.mkdir(path, mode=0o700)
        for path, content in self.files.items():
            (place / path).write_bytes(content)


def power_loss(entries: Sequence[Entry], manner: Manner, seed: int) -> Image:
    """The disk after it lost power when `entries` were done.

    Args:
        entries: the first makes the root.
        manner: in STRICT, each sector of a file has any content that it had since the last successful sync, or
            before it; where nothing was, anything at all. The file has any of its sizes since then. A name is safe
            only when its directory was synced; of the other changes of names some of the first are there.
            In ORDERED, some of the first writes of each file are there, and some of the first changes of names.
    """
    dice = random.Random(seed)
    contents: dict[int, _Content] = {}
    for entry in entries:
        if entry.did is Did.MAKE:
            contents[entry.node] = _Content()
        elif entry.node in contents:
            contents[entry.node].take(entry)
    names = [entry for entry in entries[1:] if entry.did in NAMES]
    if manner is not Manner.KILL:
        names = list(_surviving_names(entries, manner, dice))
    tree = _Tree(entries[0].node, names)
    return Image(
        files={path: contents[node].image(manner, dice) for path, node in sorted(tree.files.items())},
        directories=tree.directories,
    )


# --- contents ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Content:
    """A file: what programs see of it, and what the disk may have instead."""

    seen: bytearray = field(default_factory=bytearray)
    unsynced: list[Entry] = field(default_factory=list)
    durable: bytearray = field(default_factory=bytearray)
    lost: dict[int, bytes] = field(default_factory=dict)  # sectors that a failed sync did not store, as they are

    def take(self, entry: Entry) -> None:
        match entry.did:
            case Did.WRITE | Did.RESIZE:
                _apply(self.seen, entry)
                self.unsynced.append(entry)
                for sector in _sectors(entry):
                    self.lost.pop(sector, None)  # the page is dirty again, with all that is in it
            case Did.SYNC:
                self.durable = bytearray(self._with_lost(self.seen))
                self.unsynced.clear()
            case Did.BAD_SYNC:
                for entry in self.unsynced:
                    for sector in _sectors(entry):
                        self.lost[sector] = bytes(self.durable[sector * SECTOR : (sector + 1) * SECTOR])
                self.unsynced.clear()

    def image(self, manner: Manner, dice: random.Random) -> bytes:
        if manner is Manner.KILL:
            return bytes(self.seen)
        if manner is Manner.ORDERED:
            content = bytearray(self.durable)
            for entry in self.unsynced[: dice.randint(0, len(self.unsynced))]:
                _apply(content, entry)
            return bytes(content)
        return self._torn(dice)

    def _torn(self, dice: random.Random) -> bytes:
        content = bytearray(self.durable)
        sizes = [len(content)]
        versions: dict[int, list[bytes]] = {}
        for entry in self.unsynced:
            for sector in _sectors(entry):
                if sector not in versions:
                    versions[sector] = [_sector(content, sector) or dice.randbytes(SECTOR)]
            _apply(content, entry)
            sizes.append(len(content))
            for sector in _sectors(entry):
                versions[sector].append(_sector(content, sector))
        size = dice.choice(sizes)
        torn = bytearray(content.ljust(size, b"\0"))
        for sector, choices in versions.items():
            there = dice.choice(choices).ljust(SECTOR, b"\0")
            torn[sector * SECTOR : (sector + 1) * SECTOR] = there
        return bytes(torn[:size].ljust(size, b"\0"))

    def _with_lost(self, content: bytearray) -> bytes:
        stored = bytearray(content)
        for sector, there in self.lost.items():
            end = min(len(stored), (sector + 1) * SECTOR)
            stored[sector * SECTOR : end] = there.ljust(SECTOR, b"\0")[: max(0, end - sector * SECTOR)]
        return bytes(stored)


def _apply(content: bytearray, entry: Entry) -> None:
    if entry.did is Did.RESIZE:
        del content[entry.at :]
        content.extend(bytes(entry.at - len(content)))
        return
    content.extend(bytes(max(0, entry.at - len(content))))
    content[entry.at : entry.at + len(entry.content)] = entry.content


def _sectors(entry: Entry) -> range:
    """The sectors that a write touches; a new size is no write."""
    if not entry.content:
        return range(0)
    return range(entry.at // SECTOR, (entry.at + len(entry.content) - 1) // SECTOR + 1)


def _sector(content: bytearray, sector: int) -> bytes:
    return bytes(content[sector * SECTOR : (sector + 1) * SECTOR])


# --- names ------------------------------------------------------------------------------------------------


def _surviving_names(entries: Sequence[Entry], manner: Manner, dice: random.Random) -> Iterator[Entry]:
    names = [(turn, entry) for turn, entry in enumerate(entries) if turn and entry.did in NAMES]
    safe = _safe_in_order(entries) if manner is Manner.ORDERED else _safe_in_posix(entries)
    loose = [turn for turn, _ in names if turn not in safe]
    kept = safe | set(loose[: dice.randint(0, len(loose))])
    return (entry for turn, entry in names if turn in kept)


def _safe_in_order(entries: Sequence[Entry]) -> set[int]:
    syncs = [turn for turn, entry in enumerate(entries) if entry.did in (Did.SYNC, Did.SYNC_DIRECTORY)]
    last = max(syncs, default=0)
    return set(range(last))


def _safe_in_posix(entries: Sequence[Entry]) -> set[int]:
    """Turns of the changes of names that a sync of their directory made safe, and of those that they rest on."""
    safe: set[int] = set()
    waiting: dict[int, list[int]] = {}  # directory -> changes in it
    of_node: dict[int, list[int]] = {}  # node -> changes of its own names
    for turn, entry in enumerate(entries):
        if entry.did in NAMES:
            for directory in {entry.parent, entry.new_parent} - {0}:
                waiting.setdefault(directory, []).append(turn)
            of_node.setdefault(entry.node, []).append(turn)
        elif entry.did is Did.SYNC_DIRECTORY:
            rest = waiting.pop(entry.node, [])
            while rest:
                change = rest.pop()
                if change in safe:
                    continue
                safe.add(change)
                rest += [earlier for earlier in of_node[entries[change].node] if earlier < change]
                for directory in {entries[change].parent, entries[change].new_parent}:
                    rest += [made for made in of_node.get(directory, []) if entries[made].did is Did.MKDIR]
    return safe


class _Tree:
    """The names after a list of changes. A change of something that is not there does nothing."""

    def __init__(self, root: int, changes: Iterable[Entry]) -> None:
        self._root = root
        self._children: dict[int, dict[bytes, int]] = {root: {}}
        for change in changes:
            self._apply(change)
        self.files: dict[str, int] = {}
        found: list[str] = []
        self._walk(root, "", found)
        self.directories = tuple(found)

    def _apply(self, change: Entry) -> None:
        place = self._children.get(change.parent, {})
        match change.did:
            case Did.MKDIR:
                self._children.setdefault(change.node, {})
                place[change.name] = change.node
            case Did.MAKE:
                place[change.name] = change.node
            case Did.RENAME:
                if place.get(change.name) == change.node:
                    del place[change.name]
                    self._children.get(change.new_parent, {})[change.new_name] = change.node
            case Did.UNLINK | Did.RMDIR:
                if place.get(change.name) == change.node:
                    del place[change.name]

    def _walk(self, directory: int, path: str, found: list[str]) -> None:
        for name, node in sorted(self._children[directory].items()):
            below = f"{path}{os.fsdecode(name)}"
            if node in self._children:
                found.append(below)
                self._walk(node, below + "/", found)
            else:
                self.files[below] = node
