"""SQLite's way to the disk, with a switch that breaks writes to the write-ahead log."""

from __future__ import annotations

import apsw


class FullFile(apsw.VFSFile):
    def __init__(self, disk: FullDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._is_wal = name is not None and str(
            name.filename() if isinstance(name, apsw.URIFilename) else name
        ).endswith("-wal")
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        error = self._disk.error
        if self._is_wal and error is not None:
            if self._disk.once:
                self._disk.error = None
            raise error
        super().xWrite(data, offset)


class FullDisk(apsw.VFS):
    """Registered with SQLite as "bitdustfs-full" until `unregister`."""

    def __init__(self) -> None:
        self.error: apsw.Error | None = None
        self.once = False  # only the next write fails
        super().__init__("bitdustfs-full", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> FullFile:
        return FullFile(self, name, flags)
