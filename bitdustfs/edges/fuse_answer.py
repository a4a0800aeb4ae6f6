"""How a kernel request ends that does not end well: its deadline, and the errno for whatever was raised."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass

import trio

from bitdustfs.errors import BitdustError, Kind

_AT_RISK = frozenset({Kind.LOST, Kind.FORMAT, Kind.HOSTILE, Kind.BUG})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a request may wait; then it ends with ETIMEDOUT. What is not named here never waits."""

    read_s: float = 30.0
    write_s: float = 300.0  # a full spool makes writes wait while uploads progress
    sync_s: float = 300.0


def errno_of(error: BaseException, handler: str) -> int | None:
    """The errno for a failed request; what should not have happened is logged. None: this process is ending."""
    if isinstance(error, BitdustError):  # first: before its first write each file is asked for what it does not have
        if error.kind in _AT_RISK:
            _log.warning("%s: %s", handler, error)
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s: %s", handler, error)
        return error.errno
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        return None
    if isinstance(error, trio.Cancelled):
        # The mount is ending. Without an answer the caller could not even be killed. The task is cancelled all the
        # same: it ends when it wants to wait for the next request.
        return errno.ENOTCONN
    if isinstance(error, BaseExceptionGroup):
        worst = error.subgroup(lambda each: not isinstance(each, Exception)) or error
        return errno_of(worst.exceptions[0], handler)
    if isinstance(error, trio.TooSlowError):
        _log.warning("%s did not end within its deadline", handler)
        return errno.ETIMEDOUT
    _log.error("a request failed by a bug: %s", handler, exc_info=error)
    return errno.EIO
