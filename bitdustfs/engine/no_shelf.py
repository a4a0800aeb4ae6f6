"""The shelf of a home that keeps nothing for others: empty, and without room."""

from __future__ import annotations

from collections.abc import Sequence

from bitdustfs.errors import DiskFull, NotFound
from bitdustfs.model import FragmentName, OwnerId, Root
from bitdustfs.ports import Leaves


class NoShelf:
    """A ports.Shelf."""

    def put(self, owner: OwnerId, name: FragmentName, root: Root, content: bytes | memoryview) -> None:
        raise DiskFull(path="a shelf that this home does not have")

    def get(self, owner: OwnerId, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        raise NotFound(what="this home keeps nothing for others")

    def delete(self, owner: OwnerId, name: FragmentName, *, now_s: int) -> bool:
        return False

    def names(self, owner: OwnerId, after: bytes, limit: int) -> Sequence[tuple[FragmentName, int]]:
        return ()

    def trash(self, owner: OwnerId, before_s: int) -> tuple[int, int]:
        return 0, 0

    def empty_trash(self, owner: OwnerId, bytes_wanted: int, fragments_wanted: int, before_s: int) -> None:
        pass

    def drop(self, owner: OwnerId, bytes_wanted: int) -> int:
        return 0

    def owners(self) -> Sequence[OwnerId]:
        return ()

    def scrub(self, owner: OwnerId, name: FragmentName) -> bool:
        raise NotFound(what="this home keeps nothing for others")

    def used(self, owner: OwnerId) -> tuple[int, int]:
        return 0, 0

    def free_bytes(self) -> int:
        return 0
