"""What a daemon waits for before it serves, told to the person whose verb started it.

daemon: lines on stderr, which is a file until it serves
verb:   waits for the daemon to serve, and meanwhile shows those lines of the file that begin with WAITING
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

WAITING: Final = "Waiting for "
_LOOK_S = 0.2


@contextmanager
def shown_waiting(complaints: Path, show: Callable[[str], None]) -> Iterator[None]:
    """Show, as long as this context lives, what a daemon waits for.

    Args:
        complaints: where its stderr goes; the file is there.
        show: is called in another thread, with each line once.
    """
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(complaints, show, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(complaints: Path, show: Callable[[str], None], ended: threading.Event) -> None:
    left = ""
    with complaints.open(errors="replace") as file:
        while True:
            is_last = ended.is_set()
            *lines, left = (left + file.read()).split("\n")
            for line in lines:
                if line.startswith(WAITING):
                    show(line)
            if is_last:
                return
            ended.wait(_LOOK_S)
