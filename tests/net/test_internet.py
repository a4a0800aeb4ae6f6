"""What the tests between hosts stand on: hosts are apart, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.net.internet import Host, Internet, wait_until

_ROOT = Path(__file__).resolve().parents[2]
_KILLED = """
import sys, time
from pathlib import Path
from tests.net.internet import Internet
with Internet(Path(sys.argv[1])) as internet:
    internet.start(["sleep", "1000"], host=internet.host())
    print(internet.inside, flush=True)
    time.sleep(1000)
"""

_KNOCK = """
import socket, sys
with socket.socket() as knocking:
    knocking.settimeout(2)
    try:
        knocking.connect((sys.argv[1], 9))
    except ConnectionRefusedError:
        sys.exit(0)
    except TimeoutError:
        sys.exit(1)
"""


@pytest.mark.slow
def test_nothing_stays_of_an_internet_whose_test_is_killed(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _KILLED, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=_ROOT) as test:
        assert test.stdout is not None
        inside = int(test.stdout.readline())
        namespace = os.readlink(f"/proc/{inside}/ns/pid_for_children")
        test.send_signal(signal.SIGKILL)
    wait_until("all processes have ended", lambda: namespace not in _process_namespaces())


@pytest.mark.slow
def test_host_that_moves_has_other_addresses_of_both_families(internet: Internet) -> None:
    host = internet.host()
    before = host.address, host.address6
    host.move()
    shown = host.exec("ip", "-o", "addr", "show", "dev", "eth0", "scope", "global").out
    assert host.address in shown and host.address6 in shown
    assert not any(f" {address}/" in shown for address in before)


@pytest.mark.slow
def test_host_that_drops_inbound_answers_nobody_and_reaches_everybody(internet: Internet) -> None:
    open_host, walled = internet.host("open"), internet.host("walled")
    assert [_answers(open_host, walled), _answers(walled, open_host)] == [True, True]
    walled.drop_inbound()
    assert [_answers(open_host, walled), _answers(walled, open_host)] == [False, True]


@pytest.mark.slow
def test_link_that_is_cut_carries_nothing_until_it_is_healed(internet: Internet) -> None:
    one, other, third = internet.host(), internet.host(), internet.host()
    internet.cut(one, other)
    assert [_answers(one, other), _answers(other, one), _answers(one, third)] == [False, False, True]
    internet.heal(one, other)
    assert _answers(one, other)


def _answers(one: Host, other: Host) -> bool:
    """Whether a packet gets there and back: nobody listens, and the other one says so."""
    return one.exec(sys.executable, "-S", "-c", _KNOCK, other.address, ok=(0, 1)).code == 0


def _process_namespaces() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(os.readlink(entry / "ns" / "pid"))
            except OSError:
                continue
    return found
