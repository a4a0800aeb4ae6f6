"""Health: how safe a file or a volume is, from counts of held fragments."""

from __future__ import annotations

from bitdustfs.model import Code, FileState

ORDER = (FileState.LOST, FileState.LOCAL, FileState.DEGRADED, FileState.PLACED, FileState.SAFE)


def block_state(code: Code, held: int, *, local_copy: bool) -> FileState:
    """The state of one published block with `held` different held fragments."""
    if held < code.k:
        return FileState.LOCAL if local_copy else FileState.LOST
    return FileState.DEGRADED if held < code.quorum else FileState.PLACED


def worst(states: list[FileState]) -> FileState:
    """The worst of several states; nothing at all is as safe as the catalog that says so: placed."""
    return min(states, key=ORDER.index, default=FileState.PLACED)


def margin(code: Code, answering: int) -> int:
    """How many more of the suppliers that answer now may fail before reads fail. Negative: they fail now."""
    return answering - code.k
