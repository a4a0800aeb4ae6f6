"""What a watched mount was asked and what it answered, in order, as remarks in a file of its state directory.

The file lies on the simulated disk among all that the mount stores, so one log tells what was on the disk when
something was promised. A remark is one write: a line, and the bytes that it announces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Remark:
    """`begin` or `end` of something, told apart by `number` from other things of that kind."""

    word: str
    what: str
    number: int
    facts: Mapping[str, object]
    content: bytes


class Trace:
    """Writes remarks."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._last = 0

    def begin(self, what: str, facts: Mapping[str, object], content: bytes = b"") -> int:
        """Say that something begins. Returns its number."""
        self._last += 1
        self._write("begin", what, self._last, facts, content)
        return self._last

    def end(self, what: str, number: int, facts: Mapping[str, object]) -> None:
        """Say that it ended."""
        self._write("end", what, number, facts, b"")

    def _write(self, word: str, what: str, number: int, facts: Mapping[str, object], content: bytes) -> None:
        line = f"{word} {what} {number} {len(content)} {json.dumps(facts)}\n".encode()
        os.write(self._descriptor, line + content)


def read(trace: bytes) -> Iterator[Remark]:
    """The remarks of a trace file, without a last one that is not whole."""
    at = 0
    while (end := trace.find(b"\n", at)) >= 0:
        word, what, number, length, facts = trace[at:end].decode().split(" ", 4)
        at = end + 1 + int(length)
        if at > len(trace):
            return
        yield Remark(word, what, int(number), json.loads(facts), trace[end + 1 : at])
