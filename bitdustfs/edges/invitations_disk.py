"""Invitations on disk: HOME/invitations/<mark>.json, one file each, as core/invited writes them.

The process that serves reads them when somebody joins, and `bitdustfs invite` makes and cancels them meanwhile. Who
changes one holds a lock on the directory for that moment.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bitdustfs.core import invited
from bitdustfs.core.invited import Invitation
from bitdustfs.edges.durable import translated
from bitdustfs.edges.folder import make_folder, put_file
from bitdustfs.errors import BadFormat

log = logging.getLogger(__name__)

KEPT_S: Final = 90 * 86400  # after its time: until then who joins too late is told why
_SUFFIX = ".json"


class DiskInvitations:
    """A ports.InvitationStore in a directory, which is made with the first invitation."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def invitation(self, mark: bytes) -> bytes | None:
        path = self._path(mark)
        try:
            with path.open("rb") as file:
                return file.read(invited.KEPT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translated(error, path) from error

    def replace_invitation(self, mark: bytes, before: bytes, after: bytes) -> bool:
        with self._alone():
            if self.invitation(mark) != before:
                return False
            self._write(mark, after)
            return True

    def add(self, invitation: Invitation) -> None:
        """Keep a new one, durably. Raises DiskFull, DiskFault."""
        make_folder(self._directory)
        with self._alone():
            self._write(invitation.ticket.mark, invited.encode(invitation))

    def all(self) -> list[Invitation]:
        """Those that can be read, oldest first. One that cannot is logged. Raises DiskFault."""
        found = []
        try:
            paths = sorted(self._directory.glob("*" + _SUFFIX))
        except OSError as error:
            raise translated(error, self._directory) from error
        for path in paths:
            try:
                found.append(invited.parse(path.read_bytes()))
            except FileNotFoundError:
                continue
            except BadFormat as bad:
                log.warning("%s: %s", path, bad)
            except OSError as error:
                raise translated(error, path) from error
        return sorted(found, key=lambda each: (each.made_s, each.ticket.mark))

    def tidy(self, now_s: int) -> None:
        """Forget what nobody will ask for any more."""
        for each in self.all():
            if each.expires_s + KEPT_S < now_s:
                self._path(each.ticket.mark).unlink(missing_ok=True)

    def _write(self, mark: bytes, content: bytes) -> None:
        put_file(self._path(mark), content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise translated(error, self._directory) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held by others for one small write only
            yield
        finally:
            os.close(descriptor)

    def _path(self, mark: bytes) -> Path:
        return self._directory / (mark.hex() + _SUFFIX)
