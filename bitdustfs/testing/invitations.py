"""Invitations in memory."""

from __future__ import annotations

from bitdustfs.core import invited
from bitdustfs.core.invited import Invitation


class MemoryInvitations:
    """A ports.InvitationStore."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    def add(self, invitation: Invitation) -> None:
        """Keep a new one, or another in its place."""
        self._kept[invitation.ticket.mark] = invited.encode(invitation)

    def invitation(self, mark: bytes) -> bytes | None:
        return self._kept.get(mark)

    def replace_invitation(self, mark: bytes, before: bytes, after: bytes) -> bool:
        if self._kept.get(mark) != before:
            return False
        self._kept[mark] = after
        return True
