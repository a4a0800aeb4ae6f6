"""Dice that make steps: mostly such that succeed, at the edges where chunks, inline contents and pages end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping

from bitdustfs.model import CHUNK_BYTES, INLINE_BYTES
from tests.mount.tree_model import EXCHANGE, MAX_FILE_BYTES, NOREPLACE, Fill, Kind, TreeModel
from tests.mount.tree_steps import PAGE_BYTES, Step, step

SLOTS = 6  # files open at a time
NAMES = ("a", "b", "c", "d", "e", "f")
DEPTH = 3
MOST_BYTES = 4 * CHUNK_BYTES + 70_000  # of a file
_ACCESS = (os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY)
_EXTRAS = (0, 0, 0, os.O_APPEND, os.O_TRUNC, os.O_EXCL)
_MODES = (0o644, 0o600, 0o755, 0o400, 0o777)
_EDGES = (0, PAGE_BYTES, INLINE_BYTES, *(n * CHUNK_BYTES for n in range(1, 5)))

_EVENTS: Mapping[str, float] = {  # how many of all steps
    "drop": 0.01,
    "push": 0.015,
    "sync": 0.002,
    "lose": 0.002,
    "revive": 0.001,
    "kill": 0.003,
    "remount": 0.0015,
}
_WEIGHTS: Mapping[str, float] = {
    "open": 12,
    "close": 3,
    "pread": 9,
    "pwrite": 22,
    "ftruncate": 5,
    "truncate": 4,
    "map_read": 3,
    "map_write": 5,
    "fsync": 1,
    "mkdir": 5,
    "rmdir": 2,
    "unlink": 3,
    "rename": 8,
    "link": 5,
    "symlink": 1,
    "readlink": 1,
    "listdir": 2,
    "stat": 3,
    "chmod": 2,
    "utime": 2,
    "setxattr": 3,
    "removexattr": 1,
}
_NEED_FILE = frozenset({"pread", "pwrite", "ftruncate", "map_read", "map_write", "fsync"})
_OPEN_FILES = 3  # so many at least most of the time


class Dice:
    """Steps for a tree that is now as a model says, always the same for one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._choose = self._random.choice
        total = sum(_WEIGHTS.values())
        self._weights = {**_WEIGHTS, **{name: share * total for name, share in _EVENTS.items()}}
        self._fills = 0

    def next(self, model: TreeModel) -> Step:
        """The next step."""
        name = self._random.choices(list(self._weights), list(self._weights.values()))[0]
        if name in _NEED_FILE and len(model.handles) < _OPEN_FILES and self._random.random() < 0.9:
            return self._open(model)
        make: Callable[[TreeModel], Step] | None = getattr(self, f"_{name}", None)
        return make(model) if make is not None else step(name)

    # -- open files ----------------------------------------------------------------------------------------

    def _open(self, model: TreeModel) -> Step:
        access, extra = self._choose(_ACCESS), self._choose(_EXTRAS)
        create = os.O_CREAT if extra & os.O_EXCL or self._random.random() < 0.7 else 0
        if access == os.O_RDONLY:
            extra &= ~os.O_TRUNC
        kind = Kind.FILE if self._random.random() < 0.9 else None
        path = self._path(model, kind) if self._random.random() < 0.6 else self._new_path(model)
        return step("open", self._slot(), path, access | extra | create, self._choose(_MODES))

    def _close(self, model: TreeModel) -> Step:
        return step("close", self._used(model))

    def _pread(self, model: TreeModel) -> Step:
        slot = self._used(model)
        return step("pread", slot, self._offset(model, slot), self._length())

    def _pwrite(self, model: TreeModel) -> Step:
        slot = self._used(model)
        offset = self._offset(model, slot) if self._random.random() < 0.99 else MAX_FILE_BYTES
        length = min(self._length(), max(1, MOST_BYTES - self._size(model, slot)))
        return step("pwrite", slot, offset, self._fill(length))

    def _ftruncate(self, model: TreeModel) -> Step:
        slot = self._used(model)
        return step("ftruncate", slot, self._offset(model, slot))

    def _map_read(self, model: TreeModel) -> Step:
        slot = self._used(model)
        return step("map_read", slot, self._offset(model, slot), self._length())

    def _map_write(self, model: TreeModel) -> Step:
        slot = self._used(model)
        length = min(self._length(), 60_000)  # within one request of the kernel: a crash leaves all or nothing of it
        return step("map_write", slot, self._offset(model, slot), self._fill(length), self._random.random() < 0.5)

    def _fsync(self, model: TreeModel) -> Step:
        return step("fsync", self._used(model))

    # -- by path -------------------------------------------------------------------------------------------

    def _truncate(self, model: TreeModel) -> Step:
        size = self._edge() if self._random.random() < 0.97 else MAX_FILE_BYTES + 1
        return step("truncate", self._path(model, Kind.FILE), size)

    def _mkdir(self, model: TreeModel) -> Step:
        return step("mkdir", self._target(model), self._choose(_MODES))

    def _rmdir(self, model: TreeModel) -> Step:
        return step("rmdir", self._path(model, Kind.DIRECTORY))

    def _unlink(self, model: TreeModel) -> Step:
        return step("unlink", self._path(model, Kind.FILE))

    def _rename(self, model: TreeModel) -> Step:
        flags = self._choose((0, 0, 0, NOREPLACE, EXCHANGE))
        return step("rename", self._path(model), self._target(model), flags)

    def _link(self, model: TreeModel) -> Step:
        return step("link", self._path(model, Kind.FILE), self._target(model))

    def _symlink(self, model: TreeModel) -> Step:
        return step("symlink", self._any_path(2), self._target(model))

    def _readlink(self, model: TreeModel) -> Step:
        return step("readlink", self._path(model, Kind.SYMLINK))

    def _listdir(self, model: TreeModel) -> Step:
        return step("listdir", self._path(model, Kind.DIRECTORY))

    def _stat(self, model: TreeModel) -> Step:
        return step("stat", self._path(model))

    def _chmod(self, model: TreeModel) -> Step:
        return step("chmod", self._path(model), self._choose(_MODES))

    def _utime(self, model: TreeModel) -> Step:
        return step("utime", self._path(model), self._random.randrange(1 << 60))

    def _setxattr(self, model: TreeModel) -> Step:
        value = self._fill(self._choose((0, 1, 30, 3000)))
        flags = self._choose((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
        return step("setxattr", self._path(model), f"user.{self._choose(NAMES)}", value, flags)

    def _removexattr(self, model: TreeModel) -> Step:
        return step("removexattr", self._path(model), f"user.{self._choose(NAMES)}")

    def _lose(self, model: TreeModel) -> Step:
        return step("lose", self._random.randint(1, 5))

    # -- parts ---------------------------------------------------------------------------------------------

    def _slot(self) -> int:
        return self._random.randrange(SLOTS)

    def _used(self, model: TreeModel) -> int:
        """A slot, most often one with an open file."""
        if model.handles and self._random.random() < 0.97:
            return self._choose(sorted(model.handles))
        return self._slot()

    def _size(self, model: TreeModel, slot: int) -> int:
        return len(model.handles[slot].node.content) if slot in model.handles else 0

    def _edge(self) -> int:
        return max(0, self._choose(_EDGES) + self._choose((-1, 0, 0, 1, -100, 100, -5000, 5000)))

    def _offset(self, model: TreeModel, slot: int) -> int:
        size = self._size(model, slot)
        what = self._random.random()
        if what < 0.35:
            return self._random.randrange(size + 1)
        if what < 0.55:
            return size
        if what < 0.65:
            return self._random.randrange(min(MOST_BYTES, 2 * size + 100))
        return min(self._edge(), MOST_BYTES)

    def _length(self) -> int:
        what = self._random.random()
        if what < 0.5:
            return self._random.randint(1, 300)
        if what < 0.8:
            return self._choose((PAGE_BYTES, INLINE_BYTES)) + self._random.randint(-2, 2)
        return self._random.randint(1, 300_000)

    def _fill(self, length: int) -> Fill:
        self._fills += 1
        return Fill(0 if self._random.random() < 0.1 else self._fills, length)

    def _path(self, model: TreeModel, kind: Kind | None = None) -> str:
        """A path, most often of something that is there, or in a directory that is."""
        what = self._random.random()
        there = [(path, node.kind) for path, node in model.walk() if path]
        wanted = [path for path, found in there if kind in (None, found)]
        if wanted and what < 0.65:
            return self._choose(wanted)
        return self._new_path(model) if what < 0.85 else self._any_path(DEPTH)

    def _new_path(self, model: TreeModel) -> str:
        """A path, most often of a name that is free."""
        directories = [
            path for path, node in model.walk() if node.kind is Kind.DIRECTORY and path.count("/") < DEPTH - 1
        ]
        return f"{self._choose(directories)}/{self._choose(NAMES)}".lstrip("/")

    def _target(self, model: TreeModel) -> str:
        return self._new_path(model) if self._random.random() < 0.7 else self._path(model)

    def _any_path(self, depth: int) -> str:
        return "/".join(self._choose(NAMES) for _ in range(self._random.randint(1, depth)))
