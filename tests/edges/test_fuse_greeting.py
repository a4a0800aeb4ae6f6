"""The exchange of INIT, with a socket in the place of the kernel, and with one in that of libfuse."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from bitdustfs.edges.fuse_greeting import HANDLE_KILLPRIV_V2, Greeting, changed, offered

FLAGS = 1 << 19 | 1
REQUEST = struct.pack("<II32x", 104, 26) + struct.pack("<IIII48x", 7, 45, 131072, FLAGS | HANDLE_KILLPRIV_V2)
ANSWER = struct.pack("<IiQ", 80, 0, 2) + struct.pack(
    "<IIIIHHIIHHI28x", 7, 38, 131072, FLAGS, 12, 9, 1 << 20, 1, 256, 0, 0
)


def flags_of(answer: bytes) -> int:
    flags: int = struct.unpack_from("<I", answer, 28)[0]
    return flags


def limits_of(answer: bytes) -> tuple[int, ...]:
    return struct.unpack_from("<HH", answer, 32)


def test_only_what_the_kernel_offers_is_added() -> None:
    assert offered(REQUEST) == FLAGS | HANDLE_KILLPRIV_V2
    assert flags_of(changed(ANSWER, offered=offered(REQUEST), max_background=200)) == FLAGS | HANDLE_KILLPRIV_V2
    assert flags_of(changed(ANSWER, offered=FLAGS, max_background=200)) == FLAGS


def test_nothing_else_is_changed_but_the_limits() -> None:
    answer = changed(ANSWER, offered=FLAGS, max_background=200)
    assert limits_of(answer) == (200, 150)
    assert answer[:32] + answer[36:] == ANSWER[:32] + ANSWER[36:]


@pytest.mark.parametrize("answer", [b"", ANSWER[:24], struct.pack("<IiQ", 16, -71, 2).ljust(80, b"\0")])
def test_answer_that_refuses_or_is_short_stays_as_it_is(answer: bytes) -> None:
    assert changed(answer, offered=FLAGS | HANDLE_KILLPRIV_V2, max_background=200) == answer


@pytest.mark.parametrize("request_bytes", [b"", REQUEST[:50], struct.pack("<II", 104, 27) + REQUEST[8:]])
def test_request_that_is_no_greeting_offers_nothing(request_bytes: bytes) -> None:
    assert offered(request_bytes) == 0


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, int]]:
    """The kernel's end, and the descriptor that libfuse would have."""
    end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = device.detach()
    with end:
        yield end, descriptor
    os.close(descriptor)


def test_libfuse_sees_the_request_and_the_kernel_its_answer_with_changes(kernel: tuple[socket.socket, int]) -> None:
    end, descriptor = kernel
    end.send(REQUEST)
    greeting = Greeting(descriptor, max_background=200)
    greeting.begin()
    assert os.read(descriptor, 1 << 16) == REQUEST
    os.write(descriptor, ANSWER)
    greeting.finish()
    assert end.recv(1 << 16) == changed(ANSWER, offered=offered(REQUEST), max_background=200)


def test_afterwards_libfuse_and_the_kernel_speak_without_us(kernel: tuple[socket.socket, int]) -> None:
    end, descriptor = kernel
    before = set(os.listdir("/proc/self/fd"))
    end.send(REQUEST)
    greeting = Greeting(descriptor, max_background=200)
    greeting.begin()
    os.write(descriptor, ANSWER)
    greeting.finish()
    end.recv(1 << 16)
    end.send(b"second")
    assert os.read(descriptor, 1 << 16) == b"second"
    os.write(descriptor, b"answered")
    assert end.recv(1 << 16) == b"answered"
    assert set(os.listdir("/proc/self/fd")) == before
    assert not os.get_inheritable(descriptor)


def test_greeting_that_is_given_up_leaves_no_descriptor(kernel: tuple[socket.socket, int]) -> None:
    end, descriptor = kernel
    before = set(os.listdir("/proc/self/fd"))
    end.send(REQUEST)
    greeting = Greeting(descriptor, max_background=200)
    greeting.begin()
    greeting.close()
    greeting.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_without_a_socket_libfuse_greets_the_kernel_itself(
    kernel: tuple[socket.socket, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, descriptor = kernel
    before = set(os.listdir("/proc/self/fd"))
    end.send(REQUEST)
    greeting = Greeting(descriptor, max_background=200)

    def refuse(*_args: object) -> None:
        raise OSError(errno.EMFILE, "too many")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", refuse)
        assert not greeting.begin()
    assert os.read(descriptor, 1 << 16) == REQUEST
    assert set(os.listdir("/proc/self/fd")) == before


def test_request_that_cannot_be_read_is_left_to_libfuse() -> None:
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY)  # as with a mount that is gone, each read fails
    try:
        before = set(os.listdir("/proc/self/fd"))
        assert not Greeting(descriptor, max_background=200).begin()
        assert os.path.samestat(os.fstat(descriptor), os.stat("/"))
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("is_answered", [True, False])
def test_kernel_that_is_gone_before_the_answer_is_left_to_libfuse(
    kernel: tuple[socket.socket, int], is_answered: bool
) -> None:
    end, descriptor = kernel
    end.send(REQUEST)
    greeting = Greeting(descriptor, max_background=200)
    assert greeting.begin()
    if is_answered:
        os.write(descriptor, ANSWER)
        end.close()
    greeting.finish()  # does not wait for an answer that libfuse does not give
    if not is_answered:
        end.send(b"second")
    assert os.read(descriptor, 1 << 16) == (b"" if is_answered else b"second")


def test_answer_that_the_kernel_refuses_with_our_changes_is_given_without(
    kernel: tuple[socket.socket, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, descriptor = kernel
    end.send(REQUEST)
    greeting = Greeting(descriptor, max_background=200)
    assert greeting.begin()
    os.write(descriptor, ANSWER)
    write = os.write

    def choosy(where: int, what: bytes) -> int:
        if flags_of(what) != FLAGS:
            raise OSError(errno.EINVAL, "unknown")
        return write(where, what)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", choosy)
        greeting.finish()
    assert end.recv(1 << 16) == ANSWER
