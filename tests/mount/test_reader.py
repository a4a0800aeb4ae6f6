"""A second machine that only reads, with real processes: it follows what the first one writes."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitdustfs.edges.home import Home, holder
from tests import traces
from tests.mount.practice import Practice
from tests.mount.support import code_of

pytestmark = pytest.mark.slow
LETTER = bytes(i * i % 251 for i in range(300_000))
PATIENCE_S = 120.0
README = Path(__file__).resolve().parents[2] / "README.md"


@contextmanager
def reader(swarm: Practice, home: Path, place: Path) -> Iterator[None]:
    """A second machine, recovered only to read, mounted."""
    words = ("--words-file", str(swarm.words))
    place.mkdir(exist_ok=True)
    said = swarm.run("recover", swarm.places()[0], "--read-only", *words, "--mount", str(place), home=home).stdout
    assert "and only to be read" in said
    try:
        yield
    finally:
        swarm.run("umount", str(place), home=home)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def has(path: Path, content: bytes) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_bytes() == content


def test_what_one_machine_writes_is_seen_on_the_other_and_open_files_keep_their_version(tmp_path: Path) -> None:
    home, place = tmp_path / "second", tmp_path / "there"
    with Practice(tmp_path, suppliers=3, code="1/3") as swarm:
        (swarm.path / "letter").write_bytes(LETTER)
        (swarm.path / "folder").mkdir()
        swarm.sync()
        with reader(swarm, home, place):
            assert (place / "letter").read_bytes() == LETTER
            assert not (place / "new").exists()  # and the kernel keeps that
            assert sorted(os.listdir(place)) == ["folder", "letter"]
            with (place / "letter").open("rb") as held:
                (swarm.path / "letter").write_bytes(b"another letter")
                (swarm.path / "new").write_bytes(b"new")
                (swarm.path / "folder" / "inside").write_bytes(b"inside")
                swarm.sync()
                until(has(place / "new", b"new"))
                until(has(place / "letter", b"another letter"))  # the kernel is told right after the step
                until(has(place / "folder" / "inside", b"inside"))
                assert held.read() == LETTER
                assert os.fstat(held.fileno()).st_size == len(LETTER)
            (swarm.path / "new").unlink()
            (swarm.path / "folder" / "inside").rename(swarm.path / "moved")
            swarm.sync()
            until(lambda: sorted(os.listdir(place)) == ["folder", "letter", "moved"])
            until(lambda: not (place / "new").exists())
            until(lambda: os.listdir(place / "folder") == [])
            assert code_of((place / "mine").touch) == errno.EROFS
            assert code_of((place / "moved").unlink) == errno.EROFS
            report = json.loads(swarm.run("status", "--json", home=home, ok=(0, 30, 31)).stdout)
            version = report["view"]["version"]
            assert "written by node" in swarm.run("status", home=home, ok=(0, 30, 31)).stdout

            os.kill(mount_pid(tmp_path, place), signal.SIGKILL)
            until(lambda: holder(Home(home)) is None)
            (swarm.path / "after").write_bytes(b"after")
            swarm.sync()
            swarm.run("mount", str(place), home=home)
            until(has(place / "after", b"after"))
            assert (place / "moved").read_bytes() == b"inside"

            for pid in swarm.supplier_pids():
                os.kill(pid, signal.SIGSTOP)
            try:
                assert (place / "after").read_bytes() == b"after"
                assert sorted(os.listdir(place)) == ["after", "folder", "letter", "moved"]
            finally:
                for pid in swarm.supplier_pids():
                    os.kill(pid, signal.SIGCONT)
            (swarm.path / "last").write_bytes(b"last")  # the first machine was never disturbed
            swarm.sync()
            until(has(place / "last", b"last"))
            report = json.loads(swarm.run("status", "--json", home=home, ok=(0, 30, 31)).stdout)
            assert report["view"]["version"] > version


def test_listing_on_the_other_machine_goes_on_with_the_names_that_it_began_with(tmp_path: Path) -> None:
    home, place = tmp_path / "second", tmp_path / "there"
    before, after = ({f"{number} {word}" for number in range(200)} for word in ("before", "after"))
    with Practice(tmp_path, suppliers=1, code="1/1") as swarm:
        (swarm.path / "folder").mkdir()
        for name in before:
            (swarm.path / "folder" / name).write_bytes(b"content")
        swarm.sync()
        with reader(swarm, home, place):
            with os.scandir(place / "folder") as held:
                names = [next(held).name]  # the kernel asks for a part of it
                for name in before:
                    (swarm.path / "folder" / name).rename(swarm.path / "folder" / name.replace("before", "after"))
                swarm.sync()
                until(lambda: set(os.listdir(place / "folder")) == after)
                names += [each.name for each in held]
            assert sorted(names) == sorted(before)
            for name in after:
                assert (place / "folder" / name).read_bytes() == b"content"
            until(lambda: not any((place / "folder" / name).exists() for name in before))


def test_who_takes_few_names_at_a_time_sees_those_of_one_head_too(tmp_path: Path) -> None:
    home, place = tmp_path / "second", tmp_path / "there"
    before, after = ({f"{number} {word}" for number in range(20)} for word in ("before", "after"))
    with Practice(tmp_path, suppliers=1, code="1/1") as swarm:
        (swarm.path / "folder").mkdir()
        for name in before:
            (swarm.path / "folder" / name).write_bytes(b"content")
        swarm.sync()
        with reader(swarm, home, place):
            held = os.open(place / "folder", os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = some_names(held)
                assert 0 < len(names) < len(before)
                for name in before:
                    (swarm.path / "folder" / name).rename(swarm.path / "folder" / name.replace("before", "after"))
                swarm.sync()
                until(lambda: set(os.listdir(place / "folder")) == after)
                while more := some_names(held):
                    names += more
            finally:
                os.close(held)
            assert sorted(names) == sorted([".", "..", *before])


def some_names(directory: int) -> list[str]:
    """As many names as fit into a small buffer; none at the end."""
    room = ctypes.create_string_buffer(280)
    libc = ctypes.CDLL(None, use_errno=True)
    length = libc.getdents64(directory, room, len(room))
    assert length >= 0, os.strerror(ctypes.get_errno())
    names, at = [], 0
    while at < length:
        (record,) = struct.unpack_from("=H", room, at + 16)
        names.append(room.raw[at + 19 : at + record].partition(b"\0")[0].decode())
        at += record
    return names


def mount_pid(directory: Path, place: Path) -> int:
    """The process that serves a mount."""
    return next(pid for pid, words in traces.processes([directory]) if "mount" in words and str(place) in words)


def test_session_with_my_other_computer_is_as_readme_prints_it(tmp_path: Path) -> None:
    home, place = tmp_path / "laptop", tmp_path / "there"
    place.mkdir()
    with Practice(tmp_path, suppliers=3, code="1/3") as swarm:
        (swarm.path / "letters").mkdir()
        swarm.sync()
        hosts = {"desktop": (swarm.home, swarm.path), "laptop": (home, place)}
        try:
            for who, command, printed in readme_steps():
                said = session_step(swarm, *hosts[who], command)
                assert printed == "  ...\n" or said == printed, f"{who}$ {command}\n{said}"
        finally:
            swarm.run("umount", str(place), home=home)


def readme_steps() -> list[tuple[str, str, str]]:
    """Who does what, and what is printed then."""
    section = README.read_text().partition("\n## My other computer\n")[2].partition("\n## ")[0]
    found: list[tuple[str, str, str]] = []
    for line in "".join(section.split("```")[1::2]).strip("\n").splitlines():
        if not line:
            continue  # between two of its sessions
        prompt = re.fullmatch(r"(\w+)\$ (.+)", line)
        if prompt:
            found.append((prompt[1], prompt[2], ""))
        else:
            found[-1] = (*found[-1][:2], found[-1][2] + line + "\n")
    assert len(found) > 5
    return found


def session_step(swarm: Practice, home: Path, place: Path, command: str) -> str:
    command = command.replace("NODEID@ADDR:PORT", swarm.places()[0]).replace("~/BitDust", str(place))
    if command.startswith("bitdustfs recover"):
        command += f" --words-file {swarm.words}"
    if command.startswith("bitdustfs"):
        done = swarm.run(*command.split()[1:], home=home)
        return done.stdout
    if command.startswith("cat"):
        until(Path(command.split()[1]).exists)  # a moment later, as a person is
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    return (done.stdout + done.stderr).replace(str(place), "~/BitDust")
