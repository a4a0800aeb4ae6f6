"""A tree of real files, and running a program on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from tests.mount.support import HANGS_S

_LEFT_OUT = {"__pycache__", "site-packages"}


def real_tree(target: Path, files: int) -> Path:
    """Copy a part of Python's standard library: real names, sizes and modes, a symlink and a hard link.

    Without what belongs to a linker: a Python that was built on the machine itself has a static library there, larger
    than everything else together.
    """
    source = Path(sysconfig.get_path("stdlib"))
    count = 0
    for path in sorted(source.rglob("*")):
        if count >= files:
            break
        if _LEFT_OUT & {*path.parts} or path.suffix == ".a" or not path.is_file():
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
        count += 1
    (target / "a symlink").symlink_to("abc.py")
    os.link(target / "abc.py", target / "a hard link")
    return target


def run(*words: str | Path) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
