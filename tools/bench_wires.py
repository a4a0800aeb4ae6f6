"""Links between machines that are none: network namespaces, `tc tbf` for the rate, a relay for the latency.

    run in Sealed:   process, mount and network namespaces of their own, with a child as their first process
      Wires          one network namespace for each far end; here and there a tun device, with a tbf on it
        relay        a process that carries each packet over, `delay_s` later; netem is not in every kernel

Nothing is left behind, however it ends: a namespace lives as long as its processes, and they end with the first one.
A packet is 9000 bytes, so that the relay in Python takes little of the processors that are measured. TCP is the
kernel's, so it has to learn rate and latency as over a real line.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from bench_system import CLOSE_S, PAUSE_S, BenchError, command

MTU = 9000
_BURST = "64kb"  # of the tbf: 5 ms at 100 Mbit/s, and more than one packet
_QUEUE = "100ms"  # as much waits before packets are dropped, as in a router at home
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MOST_AT_ONCE = 64  # packets read before others have their turn


@dataclass(frozen=True, slots=True)
class Wire:
    """What a link can. The rate holds for each direction, the delay is that of one way."""

    mbit: float
    delay_s: float

    @property
    def bytes_per_s(self) -> float:
        return self.mbit * 1e6 / 8


def sealed(work: Callable[[], int]) -> int:
    """Do the work in a child in namespaces of its own, and pass Ctrl-C on to it. Returns its exit code.

    When it does not end then, or we die, all that it started dies with it: processes, mounts and networks.

    Raises:
        BenchError: we may not make namespaces.
    """
    own = os.getpid()
    try:
        _call(_LIBC.unshare, _CLONE_NEWPID)  # of our children; mounts and network stay ours
    except OSError as bad:
        raise BenchError(f"namespaces cannot be made: {bad.strerror}; run it as root") from bad
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            _call(_LIBC.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.path.exists(f"/proc/{own}"):  # else we were too late for the signal; this is still the outer /proc
                code = _inside(work)
        except BenchError as bad:
            print(f"bench: FAILED: {bad}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return _follow(child)


def _inside(work: Callable[[], int]) -> int:
    try:
        _call(_LIBC.unshare, _CLONE_NEWNS | _CLONE_NEWNET)
    except OSError as bad:
        raise BenchError(f"namespaces cannot be made: {bad.strerror}") from bad
    for words in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "proc", "proc", "/proc"],
        ["ip", "link", "set", "lo", "up"],
    ):
        command(words)
    return work()


def _follow(child: int) -> int:
    """Wait for the child. A signal is passed on; if the child is still there a minute later, it is killed."""
    asked_at: list[float] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked_at.append(time.monotonic())
        os.kill(child, signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) & 0xFF
        if asked_at and time.monotonic() - asked_at[0] > CLOSE_S:
            os.kill(child, signal.SIGKILL)
        time.sleep(PAUSE_S)


class Wires:
    """Far ends in network namespaces of their own. They are numbered from 1, see `far_address`."""

    def __init__(self, wires: Sequence[Wire]) -> None:
        self._wires = list(wires)
        self._delays = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")  # the relay sees changes at once
        self._here = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._there: list[int] = []
        pipes = []
        for number, wire in enumerate(self._wires, start=1):
            near = self._end(f"link{number}", near_address(number), far_address(number), wire)
            with self._moved_to_new() as there:
                command(["ip", "link", "set", "lo", "up"])
                far = self._end("uplink", far_address(number), near_address(number), wire)
            self._there.append(there)
            self._delays[number] = wire.delay_s
            pipes += [(near, far, number), (far, near, number)]
        self.relay = os.fork()
        if not self.relay:
            try:
                _call(_LIBC.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who cleans up, and that needs us
                _carry(pipes, self._delays)
            finally:
                os._exit(1)

    def __len__(self) -> int:
        return len(self._wires)

    def check(self) -> None:
        """Raises BenchError if the relay has ended."""
        if os.waitpid(self.relay, os.WNOHANG)[0]:
            raise BenchError("the relay that delays packets has ended")

    def change(self, number: int, wire: Wire) -> None:
        """Let one link be another one from now on."""
        self._wires[number - 1] = wire
        self._delays[number] = wire.delay_s
        _shape(f"link{number}", wire)
        with self.at(number):
            _shape("uplink", wire)

    @contextmanager
    def at(self, number: int) -> Iterator[None]:
        """Be at a far end: what is started meanwhile lives there. Only while this process has one thread."""
        _call(_LIBC.setns, self._there[number - 1], _CLONE_NEWNET)
        try:
            yield
        finally:
            _call(_LIBC.setns, self._here, _CLONE_NEWNET)

    def plain_bytes_per_s(self, numbers: Sequence[int], *, up: bool, seconds: float = 3.0) -> float:
        """What plain TCP brings over these links at once, each with one connection, after it has found its pace."""
        taken = dict.fromkeys(numbers, 0)
        ends = {number: self._connected(number) for number in numbers}
        stop = threading.Event()

        def give(end: socket.socket) -> None:
            content = bytes(1 << 18)
            try:
                while not stop.is_set():
                    end.sendall(content)
            except OSError:
                pass

        def take(number: int, end: socket.socket) -> None:
            buffer = bytearray(1 << 18)
            try:
                while not stop.is_set() and (count := end.recv_into(buffer)):
                    taken[number] += count
            except OSError:
                pass

        threads = []
        for number, (near, far) in ends.items():
            sender, receiver = (near, far) if up else (far, near)
            threads += [
                threading.Thread(target=give, args=(sender,)),
                threading.Thread(target=take, args=(number, receiver)),
            ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        before, began = sum(taken.values()), time.monotonic()
        time.sleep(seconds)
        found = (sum(taken.values()) - before) / (time.monotonic() - began)
        stop.set()
        for pair in ends.values():
            for end in pair:
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for pair in ends.values():
            for end in pair:
                end.close()
        return found

    def _connected(self, number: int) -> tuple[socket.socket, socket.socket]:
        with self.at(number):
            listener = socket.create_server((far_address(number), 0))
        with listener:
            near = socket.create_connection(listener.getsockname(), timeout=CLOSE_S)
            far, _ = listener.accept()
        near.settimeout(None)
        return near, far

    @contextmanager
    def _moved_to_new(self) -> Iterator[int]:
        _call(_LIBC.unshare, _CLONE_NEWNET)
        try:
            yield os.open("/proc/self/ns/net", os.O_RDONLY)
        finally:
            _call(_LIBC.setns, self._here, _CLONE_NEWNET)

    def _end(self, name: str, own: str, other: str, wire: Wire) -> int:
        """Make one end of a link where we are now. Returns what its packets are read from and written to."""
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as bad:
            raise BenchError(f"/dev/net/tun: {bad.strerror}") from bad
        command(["ip", "addr", "add", own, "peer", other, "dev", name])
        command(["ip", "link", "set", name, "mtu", str(MTU), "up"])
        _shape(name, wire)
        return descriptor


def near_address(number: int) -> str:
    return f"10.99.{number}.1"


def far_address(number: int) -> str:
    return f"10.99.{number}.2"


def _shape(name: str, wire: Wire) -> None:
    rate = f"{round(wire.mbit * 1e6)}bit"
    command(["tc", "qdisc", "replace", "dev", name, "root", "tbf", "rate", rate, "burst", _BURST, "latency", _QUEUE])


def _carry(pipes: Sequence[tuple[int, int, int]], delays: memoryview) -> None:
    """Carry packets until somebody kills us: (from, to, number of the link)."""
    poller = select.epoll()
    ways = {}
    for source, target, number in pipes:
        ways[source] = (target, number, deque[tuple[float, bytes]]())
        poller.register(source, select.EPOLLIN)
    wait_s = -1.0
    while True:
        ready = poller.poll(wait_s)
        now = time.monotonic()
        for source, _ in ready:
            _, number, queue = ways[source]
            due = now + delays[number]
            try:
                for _ in range(_MOST_AT_ONCE):
                    queue.append((due, os.read(source, MTU)))
            except BlockingIOError:
                pass
        soonest = now + 3600
        for target, _, queue in ways.values():
            while queue and queue[0][0] <= now:
                try:
                    os.write(target, queue.popleft()[1])
                except OSError:
                    pass  # lost on its way, as packets may be
            if queue:
                soonest = min(soonest, queue[0][0])
        wait_s = max(0.0, soonest - time.monotonic())


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
