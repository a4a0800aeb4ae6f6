"""The mother of the tests' processes: see `tests.children`. Run as `python -m tests.mother DESCRIPTOR ROOM`.

DESCRIPTOR is a socket. Each message on it is an order, with four descriptors: where to tell what becomes of the child
(its number, with a handle; later its exit code), and its stdin, stdout and stderr. She ends when the socket does: who
asked is gone then, maybe killed, so she takes down the processes and mounts that are left.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

from bitdustfs.edges.process_name import name_process
from tests.traces import MARK, take_down

_LOADED = (  # what children need, but none that is run itself
    "bitdustfs.cli.assemble",
    "bitdustfs.cli.hire",
    "bitdustfs.cli.logs",
    "bitdustfs.cli.main",
    "bitdustfs.cli.mount",
    "bitdustfs.cli.recovering",
    "bitdustfs.cli.serve",
    "bitdustfs.cli.umount",
    "bitdustfs.testing.swarm",
)
_MOST_BYTES = 1 << 20
_DESCRIPTORS = 4


def serve(orders: socket.socket) -> None:
    """Fork what is asked for until nobody can ask any more."""
    children: dict[int, tuple[int, socket.socket]] = {}  # by handle: number, and where to tell its end
    marks: set[str] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is orders:
                    message, descriptors, _, _ = socket.recv_fds(orders, _MOST_BYTES, _DESCRIPTORS)
                    if not message:
                        for handle in children:
                            signal.pidfd_send_signal(handle, signal.SIGKILL)
                        take_down(marks)
                        return
                    order, (told, *streams) = json.loads(message), descriptors
                    if MARK in order["environment"]:
                        marks.add(order["environment"][MARK])
                    pid = os.fork()
                    if not pid:
                        os.close(told)
                        _be(order, streams)
                    for stream in streams:
                        os.close(stream)
                    handle, telling = os.pidfd_open(pid), socket.socket(fileno=told)
                    with contextlib.suppress(OSError):
                        socket.send_fds(telling, [str(pid).encode()], [handle])
                    children[handle] = pid, telling
                    selector.register(handle, selectors.EVENT_READ)
                else:
                    handle = key.fd
                    pid, telling = children.pop(handle)
                    selector.unregister(handle)
                    os.close(handle)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with telling, contextlib.suppress(OSError):  # nobody waits for it
                        telling.send(str(code).encode())


def _be(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """Be the process that was asked for. Never unwinds into the mother's frames."""
    code = 1
    try:
        code = _run(order, streams)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - the process must get an exit code
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _run(order: dict[str, Any], streams: list[int]) -> int:
    if order["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0, closefd=False)  # those of the mother know what kind of file they were made for
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", errors="backslashreplace", buffering=1, closefd=False)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    words = order["words"]
    mark = [f"{MARK}={os.environ[MARK]}"] if MARK in os.environ else []
    name_process([*words, *mark])
    sys.argv[1:] = words[3:]
    sys.modules.pop(words[2], None)  # or runpy warns
    runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    for module in _LOADED:
        import_module(module)
    gc.collect()
    gc.freeze()  # or each child would copy all pages when it looks for garbage in them
    os.umask(0o022)  # whoever came first may have had another
    with socket.socket(fileno=int(sys.argv[1])) as asking:
        serve(asking)
