"""The code of a volume is changed, and what is stored follows on command: real processes, one of them killed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.mount.practice import Practice, wait_until

pytestmark = pytest.mark.slow
CODE = "user.bitdustfs.code"
CONTENT = random.Random(8).randbytes(3_000_000)


@pytest.fixture
def swarm(rough_swarm: Practice) -> Iterator[Practice]:
    before = rough_swarm.code
    yield rough_swarm
    rough_swarm.code = before
    rough_swarm.remount()


def is_recoded(swarm: Practice) -> bool:
    told = swarm.status()
    return not told["recode_blocks"] and not told["unlike_blocks"] and set(told["codes"]) == {"2/5"}


def test_volume_is_coded_anew_over_a_kill_and_its_code_is_kept(swarm: Practice) -> None:
    (swarm.path / "tale").write_bytes(CONTENT)
    (swarm.path / "folder").mkdir(exist_ok=True)
    swarm.sync()
    assert os.getxattr(swarm.path / "folder", CODE) == b"3/5"
    swarm.umount()
    refused = swarm.run("mount", "--code", "2/6", "--", str(swarm.path), ok=(2,))
    assert "--code 2/6 makes 6 fragments of each block, each for another supplier, and 5 are hired" in refused.stderr
    swarm.code = "2/5"
    swarm.mount()
    assert "3/5 -> 2/5" in swarm.run("recode", "--dry-run", str(swarm.path / "tale")).stdout
    assert "see `bitdustfs recode --help`" in swarm.run("status", str(swarm.path / "tale"), ok=(0, 30)).stdout
    assert "3/5 -> 2/5" in swarm.run("recode", str(swarm.path)).stdout
    swarm.kill_mount()
    swarm.run("mount", "--", str(swarm.path))
    assert os.getxattr(swarm.path / "folder", CODE) == b"2/5"
    wait_until("everything is coded anew", lambda: is_recoded(swarm), 120)
    assert "Nothing is to be coded anew" in swarm.run("recode").stdout
    swarm.sync()
    swarm.forget()
    assert (swarm.path / "tale").read_bytes() == CONTENT
