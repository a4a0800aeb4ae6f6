"""The greeting: the first request of the kernel, INIT, and what we answer beyond what libfuse would.

In INIT both sides say what they can. libfuse answers from what pyfuse3 asks of it, and neither knows all that the
kernel offers. So for this one exchange we stand between them: libfuse finds a socket in the place of `/dev/fuse`,
reads the kernel's request from it and writes its answer into it; the answer goes on to the kernel with our changes,
and `/dev/fuse` gets its place back. Nothing of it is left when the second request is read.

What we add, where the kernel offers it:
* **HANDLE_KILLPRIV_V2**: the kernel remembers of a file that it has no set-id bits and no capabilities to take away
  at a write. Without it, it asks for an xattr (`security.capability`) before each write: every other request.
  Whenever it is told of the file's attributes anew it looks again, and it still asks us to take set-id bits away
  (see `engine/attributes`).
* **max_background**: how many requests that nobody waits for (reads ahead) it hands over at a time. Everybody may ask
  for more here, while the file in sysfs is root's.

Source: fuse(4), `struct fuse_init_in`, `struct fuse_init_out` in linux/fuse.h; process_init_reply() in the kernel's
fs/fuse/inode.c; fuse_session_receive_buf() in libfuse's lib/fuse_lowlevel.c.
"""

from __future__ import annotations

import logging
import os
import socket
import struct

HANDLE_KILLPRIV_V2 = 1 << 28
_INIT = 26
_REQUEST_BYTES = 256 * 1024  # the kernel refuses a read that could not hold its largest request
_FLAGS_AT = 16 + 12  # after the header: major, minor, max_readahead
_LIMITS_AT = _FLAGS_AT + 4
_log = logging.getLogger(__name__)


class Greeting:
    """The exchange, on the descriptor of one mount.

    `begin` before libfuse reads its first request, `finish` when it has answered it.
    """

    def __init__(self, descriptor: int, *, max_background: int) -> None:
        self._descriptor = descriptor
        self._max_background = max_background
        self._offered = 0
        self._kernel = -1
        self._libfuse: socket.socket | None = None

    def begin(self) -> bool:
        """Read the kernel's request, and lay it where libfuse will find it.

        Returns:
            False: it cannot be done, nothing was read, and libfuse has the descriptor as it was.
        Raises:
            OSError: the request was read, and cannot be handed on.
        """
        try:
            self._kernel = os.dup(self._descriptor)
            self._libfuse, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            return self._leave(error)
        with theirs:
            try:
                os.dup2(theirs.fileno(), self._descriptor, inheritable=False)
                request = os.read(self._kernel, _REQUEST_BYTES)
            except OSError as error:  # it was unmounted meanwhile: libfuse finds the same, and knows what to do
                os.dup2(self._kernel, self._descriptor, inheritable=False)
                return self._leave(error)
            self._offered = offered(request)
            self._libfuse.sendall(request)
        return True

    def finish(self) -> None:
        """Hand libfuse's answer on, with our changes, and put the kernel in its place. Raises OSError: it cannot be.

        Where the kernel does not take the answer any more, or libfuse gave none, whoever waits for the mount is told
        of that: as it would be without us.
        """
        assert self._libfuse is not None, "it was not begun"
        try:
            self._hand_on(self._libfuse.recv(_REQUEST_BYTES, socket.MSG_DONTWAIT))
        except OSError as error:
            _log.warning("the greeting of the kernel was not answered: %s", error)
        os.dup2(self._kernel, self._descriptor, inheritable=False)
        self.close()

    def close(self) -> None:
        """Let go of what only the exchange needed."""
        if self._kernel >= 0:
            os.close(self._kernel)
            self._kernel = -1
        if self._libfuse is not None:
            self._libfuse.close()
            self._libfuse = None

    def _leave(self, error: OSError) -> bool:
        _log.info("the kernel is greeted by libfuse alone: %s", error)
        self.close()
        return False

    def _hand_on(self, answer: bytes) -> None:
        ours = changed(answer, offered=self._offered, max_background=self._max_background)
        try:
            os.write(self._kernel, ours)
        except OSError:
            if ours == answer:
                raise
            os.write(self._kernel, answer)


def offered(request: bytes) -> int:
    """The flags that the kernel offers. Nothing, if it speaks in a way that we do not know."""
    if len(request) < 56 or struct.unpack_from("<I", request, 4)[0] != _INIT:
        return 0
    flags: int = struct.unpack_from("<I", request, 40 + 12)[0]
    return flags


def changed(answer: bytes, *, offered: int, max_background: int) -> bytes:
    """libfuse's answer to INIT, with what we add; as it is, if it refuses, or is too old to have these fields."""
    if len(answer) < _LIMITS_AT + 4 or struct.unpack_from("<i", answer, 4)[0] != 0:
        return answer
    ours = bytearray(answer)
    (flags,) = struct.unpack_from("<I", ours, _FLAGS_AT)
    struct.pack_into("<I", ours, _FLAGS_AT, flags | offered & HANDLE_KILLPRIV_V2)
    struct.pack_into("<HH", ours, _LIMITS_AT, max_background, max_background * 3 // 4)
    return bytes(ours)
