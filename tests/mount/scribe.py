"""A process that writes to a mount until it fails, and says on stdout what is safe: it was fsynced before.

    python -m tests.mount.scribe DIRECTORY NUMBER FROM

Round after round one of a few files is replaced, as editors do, by a whole new version; then a line goes to the end
of a log. A line of stdout is the number of a round of which both are durable.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

FILES = 5
_SIZES = (0, 100, 16_000, 17_000, 90_000, 300_000)


def version(scribe: int, number: int) -> bytes:
    """What a scribe writes to a file in one round."""
    dice = random.Random(scribe * 1_000_003 + number)
    return b"%d\n" % number + dice.randbytes(dice.choice(_SIZES))


def line(number: int) -> bytes:
    return b"%08d\n" % number


def name(number: int) -> str:
    """Of the file that a round replaces."""
    return f"file-{number % FILES}"


def write(directory: Path, scribe: int, first: int) -> None:
    """Write for ever."""
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.ftruncate(log, len(line(0)) * first)
    number = first
    while True:
        with (directory / "new").open("wb") as file:
            file.write(version(scribe, number))
            file.flush()
            os.fsync(file.fileno())
        os.replace(directory / "new", directory / name(number))
        os.write(log, line(number))
        os.fsync(log)
        print(number, flush=True)
        number += 1


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except OSError as error:
        sys.exit(str(error))
