"""A line on a terminal that counts what a verb goes through, and goes when it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Step = Mapping[str, Any]


@contextmanager
def counted(doing: str, told: Callable[[Step], str]) -> Iterator[Callable[[Step], None]]:
    """Show each step that comes, on a terminal; nothing elsewhere.

    Args:
        doing: what is done, until a step has a label.
        told: what is shown of a step.
    """
    if not sys.stderr.isatty():
        yield lambda _step: None
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None, told="")
        yield lambda step: bar.update(task, description=str(step.get("label", doing)), told=told(step))
