"""Children of the tests' mother are as processes that were started, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import Child, bitdustfs, run, start
from tests.mount.practice import wait_until
from tests.traces import MARK, processes

ROOT = Path(__file__).resolve().parents[1]
DO = ("timeit", "-n1", "-r1")  # a module of Python that does what its last word says
WAIT = "import time; time.sleep(600)"
TELL = """
import json, os, random, sys
line = open('/proc/self/cmdline').read().rstrip('\\0').split('\\0')
print(json.dumps([line, dict(os.environ), os.getcwd(), os.getsid(0), sys.stdin.read(), random.random()]))
"""
ASK_AND_WAIT = f"""
import sys
from pathlib import Path
from tests.children import start
child = start(*{DO!r}, {WAIT!r})
print(Path(f"/proc/{{child.pid}}/stat").read_text().rpartition(")")[2].split()[1], child.pid, flush=True)
sys.stdin.read()
"""
MOUNT_AND_WAIT = """
import sys
from pathlib import Path
from tests.mount.practice import Practice
with Practice(Path(sys.argv[1]), suppliers=1, code="1/1"):
    print("mounted", flush=True)
    sys.stdin.read()
"""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it went between opening and reading
        return True


def test_child_prints_and_ends_as_a_process_that_was_started() -> None:
    good, bad = bitdustfs("--version"), bitdustfs("nonsense")
    assert good.returncode == 0 and good.stdout.startswith("bitdustfs ") and good.stderr == ""
    assert bad.returncode == 2 and bad.stdout == "" and "nonsense" in bad.stderr


def test_child_with_a_fault_ends_with_a_trace() -> None:
    done = run("tests.mount.scribe", "too few words")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "IndexError" in done.stderr


def test_child_has_everything_of_its_own(tmp_path: Path) -> None:
    environment = {MARK: "mine"}
    told = []
    for _ in range(2):
        given, said = tmp_path / "given", tmp_path / "said"
        given.write_text("what it is told")
        with given.open() as stdin, said.open("w") as stdout:
            child = start(*DO, TELL, stdin=stdin, stdout=stdout, environment=environment, cwd="/", new_session=True)
            assert child.wait() == 0
        line, environ, cwd, session, heard, dice = json.loads(said.read_text().splitlines()[0])
        assert line == [sys.executable, "-m", *DO, TELL, f"{MARK}=mine"]
        assert (environ, cwd, session, heard) == (environment, "/", child.pid, "what it is told")
        told.append(dice)
    assert told[0] != told[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_child_ends_by_a_signal(number: signal.Signals) -> None:
    child = start(*DO, WAIT)
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0)
    child.send_signal(number)
    assert child.wait() == -number
    child.send_signal(number)  # which is nothing any more
    assert child.poll() == -number


def test_child_is_talked_to_through_pipes() -> None:
    with start(*DO, "print(input()[::-1])", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("drawer\n")
        child.stdin.flush()
        assert child.stdout.readline() == "reward\n"
    assert child.returncode == 0


def test_files_of_the_mother_are_not_open_in_a_child() -> None:
    children: list[Child] = [start(*DO, WAIT) for _ in range(2)]
    try:
        for child in children:
            wait_until("it runs", lambda pid=child.pid: len(os.listdir(f"/proc/{pid}/fd")) == 3)
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.slow
def test_mother_ends_when_who_asked_her_is_killed_and_so_do_her_children() -> None:
    asking = [sys.executable, "-c", ASK_AND_WAIT]
    with subprocess.Popen(asking, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as asker:
        assert asker.stdout is not None
        mother, child = map(int, asker.stdout.readline().split())
        assert not is_gone(mother) and not is_gone(child)
        asker.kill()
    wait_until("they are gone", lambda: is_gone(mother) and is_gone(child))


@pytest.mark.slow
def test_no_process_and_no_mount_stays_of_tests_that_are_killed(tmp_path: Path) -> None:
    directory = tmp_path / "with a space"
    asking = [sys.executable, "-c", MOUNT_AND_WAIT, str(directory)]
    with subprocess.Popen(asking, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as asker:
        assert asker.stdout is not None
        assert asker.stdout.readline() == "mounted\n"
        assert processes([directory]) and os.path.ismount(directory / "mnt")
        asker.kill()
    wait_until("they are gone", lambda: not processes([directory]))
    wait_until("it is detached", lambda: str(tmp_path) not in Path("/proc/self/mountinfo").read_text())
