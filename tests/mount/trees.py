"""A tree of real files, and running a program on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from tests.mount.support import HANGS_S


def real_tree(target: Path, files: int) -> Path:
    """Copy a part of Python's standard library: real names, sizes and modes, a symlink and a hard link."""
    source = Path(sysconfig.get_path("stdlib"))
    count = 0
    for path in sorted(source.rglob("*")):
        if count >= files:
            break
        if "__pycache__" in path.parts or "site-packages" in path.parts or not path.is_file():
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
