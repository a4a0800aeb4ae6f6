"""What runs inside of the internet of the tests: it makes hosts, and starts programs in them.

Started as a process by `tests.net.internet`. It moves into namespaces of its own for mounts, processes and the
network; the hosts are further network namespaces below. As the first process of its process namespace it takes all
others with it when it ends, and it ends when its standard input does: however the test dies, no process, no mount, no
link and no namespace stays. The names of the hosts lie in a mount that nobody else sees.

It is a process with one thread that has loaded the program, so that a verb in a host costs a fork and no start of
Python. One JSON object on a line each way: orders come in, `started` and `ended` go out.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import bitdustfs.cli.assemble
import bitdustfs.cli.assemble_supplier
import bitdustfs.cli.logs
import bitdustfs.cli.unmounted  # noqa: F401 - loaded once, for all that are forked
from bitdustfs.cli.main import run as run_verb

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_NAMES = "/run/netns"


def main() -> None:
    _call(_LIBC.unshare, _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET)
    first = os.fork()
    if first:
        _say({"inside": first})
        os.close(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)
    _call(_LIBC.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "proc", "proc", "/proc"],
        ["mount", "-t", "tmpfs", "tmpfs", "/run"],
        ["ip", "link", "set", "lo", "up"],
    ):
        subprocess.run(command, check=True)
    os.mkdir(_NAMES)
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/net/{switch}", "w") as file:
            file.write("1")
    _serve()


def _serve() -> None:
    """Follow orders until there come no more; tell of each process that ends."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    orders = b""
    while True:
        for key, _events in selector.select():
            more = os.read(key.fd, 65536) if key.fd == 0 else os.read(woken, 4096)
            if key.fd != 0:
                continue
            if not more:
                return
            *whole, orders = (orders + more).split(b"\n")
            for order in whole:
                _say({"started": _start(json.loads(order))})
        _tell_of_ended()


def _tell_of_ended() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _start(order: Mapping[str, Any]) -> int:
    """Fork a process: a verb of the program, or another program, in a host or on the router."""
    pid = os.fork()
    if pid:
        return pid
    code = 250
    try:
        _be_child(order)
        words: list[str] = order["words"]
        if order["is_verb"]:
            code = run_verb(words)
        else:
            os.execvp(words[0], words)
    except BaseException as error:  # noqa: BLE001 - the exit code of a process
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_child(order: Mapping[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    if order["host"]:
        with open(f"{_NAMES}/{order['host']}", "rb") as namespace:
            _call(_LIBC.setns, namespace.fileno(), _CLONE_NEWNET)
    os.chdir(order["directory"])
    os.environ.update(order["environment"])
    given = os.open(order["given"], os.O_RDONLY) if order["given"] else os.open(os.devnull, os.O_RDONLY)
    os.dup2(given, 0)
    for number, path in ((1, order["out"]), (2, order["err"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _say(word: Mapping[str, int]) -> None:
    os.write(1, json.dumps(word).encode() + b"\n")


if __name__ == "__main__":
    main()
