"""The bytes of a benchmark: a big file, many small files, a real tree, and whether they came back.

Nothing is made twice: a volume that keeps equal chunks only once would win without working. So each run has bytes of
its own, also in the real tree, whose files get a first line of that run.
"""

from __future__ import annotations

import os
import sysconfig
from array import array
from collections.abc import Iterator
from pathlib import Path

from bench_system import BenchError, WrongBytes, command

MIB = 1 << 20
PAGE = 4096
_DIRECTORIES = 20


class Content:
    """Bytes of a big file that differ in every 4 KiB and every run, cheap to make again.

    A random MiB over and over, with the page's number in the second word of each page; and what was written over it.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._words = memoryview(bytearray(os.urandom(MIB))).cast("Q")
        self._written: dict[int, bytes] = {}

    def pieces(self) -> Iterator[memoryview]:
        """The whole, a MiB at a time. Each piece is valid until the next."""
        step, pages = PAGE // 8, MIB // PAGE
        for start in range(0, self.size_bytes, MIB):
            first = start // PAGE
            self._words[1::step] = memoryview(array("Q", range(first, first + pages)))
            piece = self._words.cast("B")[: self.size_bytes - start]
            over = {page: self._written[page] for page in range(first, first + pages) if page in self._written}
            if over:
                piece = memoryview(bytearray(piece))
                for page, written in over.items():
                    piece[page * PAGE - start : (page + 1) * PAGE - start] = written
            yield piece

    def page(self, number: int) -> bytes:
        """One 4 KiB."""
        if number in self._written:
            return self._written[number]
        at = number % (MIB // PAGE) * PAGE
        page = bytearray(self._words.cast("B")[at : at + PAGE])
        page[8:16] = number.to_bytes(8, "little")
        return bytes(page)

    def write_over(self, number: int) -> bytes:
        """New bytes for one page."""
        self._written[number] = os.urandom(PAGE)
        return self._written[number]


def standard_library() -> Path:
    """A real tree that is on every machine which can run this."""
    return Path(sysconfig.get_path("stdlib"))


def plant_small(place: Path, files: int) -> dict[str, bytes]:
    """Make random files of 4 KiB in 20 directories. Returns their contents by relative path."""
    written = {}
    for number in range(files):
        path = f"d{number % _DIRECTORIES:02}/f{number:05}"
        written[path] = os.urandom(PAGE)
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(written[path])
    return written


def plant_tree(original: Path, place: Path) -> int:
    """Copy a real tree without byte code and installed packages, with bytes of this run. Returns how many names."""
    first_line = f"# {os.urandom(16).hex()}\n".encode()
    names = 0
    for directory, subdirectories, files in walk_tree(original):
        target = place / directory.relative_to(original)
        target.mkdir(parents=True)
        names += 1
        for name in files:
            (target / name).write_bytes(first_line + (directory / name).read_bytes())
            names += 1
        for name in subdirectories:
            if (directory / name).is_symlink():
                (target / name).symlink_to(os.readlink(directory / name))
                names += 1
    return names


def count_tree(original: Path) -> int:
    """How many files `plant_tree` copies."""
    return sum(len(files) for _, _, files in walk_tree(original))


def walk_tree(original: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """The directories of a real tree, with those of their names that are copied. Symlinks to files count as files."""
    for directory, subdirectories, files in os.walk(original):
        subdirectories[:] = [name for name in subdirectories if name not in ("__pycache__", "site-packages")]
        here = Path(directory)
        yield here, subdirectories, [name for name in files if (here / name).is_file()]


def compare_trees(source: Path, target: Path) -> None:
    """Raises WrongBytes if they differ in a name or a byte."""
    try:
        command(["diff", "-r", "--no-dereference", source, target])
    except BenchError as bad:
        raise WrongBytes(f"{target} is not what was copied there: {bad}") from bad
