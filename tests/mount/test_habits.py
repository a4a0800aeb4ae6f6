"""Habits of file managers and editors: the trash, and saving by a temporary file and a rename."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.mount.support import Mount, as_user, child, code_of, renameat2

NOREPLACE = 1


@pytest.fixture
def trash(mount: Mount) -> Iterator[Path]:
    """The place of root's trash in the mount; removed afterwards."""
    place = mount.path / ".Trash-0"
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.slow
def test_trash_is_made_filled_and_emptied_as_its_specification_says(place: Path, trash: Path) -> None:
    (place / "d").mkdir()
    (place / "d/f").write_bytes(b"thrown away")
    trash.mkdir(0o700)
    for inner in ("files", "info"):
        (trash / inner).mkdir(0o700)
    assert trash.lstat().st_dev == place.stat().st_dev
    os.close(os.open(trash / "info/d.trashinfo", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    (trash / "info/d.trashinfo").write_text(f"[Trash Info]\nPath={place.name}/d\n")
    renameat2(place / "d", trash / "files/d", NOREPLACE)
    assert (trash / "files/d/f").read_bytes() == b"thrown away"
    with as_user():
        assert code_of(lambda: os.listdir(trash)) is not None
    os.rename(trash / "files/d", place / "d")
    assert (place / "d/f").read_bytes() == b"thrown away"
    os.rename(place / "d", trash / "files/d")
    shutil.rmtree(trash / "files")
    assert os.listdir(trash) == ["info"]


@pytest.mark.skipif(shutil.which("gio") is None, reason="gio, of GLib, is not installed")
def test_file_goes_to_the_trash_of_its_mount_by_gio(place: Path, trash: Path, tmp_path: Path) -> None:
    (place / "f").write_bytes(b"thrown away")
    subprocess.run(["gio", "trash", place / "f"], check=True, env={**os.environ, "HOME": str(tmp_path)})
    assert os.listdir(place) == []
    assert (trash / "files/f").read_bytes() == b"thrown away"
    assert "DeletionDate=" in (trash / "info/f.trashinfo").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("lines", [100, 10_000])  # kept in the catalog; kept in the spool
def test_file_saved_by_rename_is_never_empty_after_a_kill(lines: int) -> None:
    with Mount() as mount:
        path, found = mount.path / "saved", 0
        path.write_bytes(b"0\n" * lines)
        with path.open("rb") as f:
            os.fsync(f.fileno())
        for _ in range(3):
            saved, say = os.pipe()
            editor = child(partial(save_for_ever, path, found, lines, say))
            os.close(say)
            count = 0
            while count < 20:
                count += len(os.read(saved, 1))
            mount.stop(signal.SIGKILL)
            os.waitpid(editor, 0)
            count += len(os.read(saved, 1 << 16))
            os.close(saved)
            mount.start()
            versions = path.read_bytes().split()
            assert len(versions) == lines and len(set(versions)) == 1, "one version, whole"
            assert found <= int(versions[0]) <= found + count + 1
            found = int(versions[0])


@pytest.mark.slow
def test_killed_mount_is_mounted_again_though_the_kernel_remembers_it() -> None:
    with Mount() as mount:
        mount.path.stat()
        mount.stop(signal.SIGKILL)
        mount.path.stat()
        mount.start()
        assert os.listdir(mount.path) == []


def save_for_ever(path: Path, number: int, lines: int, say: int) -> None:
    """Save higher and higher numbers, without fsync, as many editors do; one byte to `say` after each."""
    while True:
        number += 1
        path.with_name("temporary").write_bytes(b"%d\n" % number * lines)
        os.rename(path.with_name("temporary"), path)
        os.write(say, b"!")
