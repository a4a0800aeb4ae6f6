"""What the command lines of all benchmarks share."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench_bytes import PAGE
from bench_system import remove_tree

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def positive(text: str) -> int:
    """A number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def size(text: str) -> int:
    """A size such as 512M, in whole pages of 4 KiB."""
    plain = text.upper().removesuffix("IB")
    unit = plain.lstrip("0123456789")
    if unit not in _UNITS or plain == unit:
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 512M")
    pages = int(plain.removesuffix(unit)) * _UNITS[unit] // PAGE
    if pages < 1:
        raise argparse.ArgumentTypeError("at least 4K")
    return pages * PAGE


def make_temporary(place: Path, stack: ExitStack) -> Path:
    """A directory of our own that goes away at the end."""
    made = Path(tempfile.mkdtemp(prefix="bitdustfs-bench-", dir=place)).resolve()
    stack.callback(remove_tree, made)
    return made
