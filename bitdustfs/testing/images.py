"""Where the page images of catalogs go that are in memory: every process and every world needs a place of its own."""

from __future__ import annotations

import os
import tempfile
from itertools import count
from pathlib import Path

from bitdustfs.edges.catalog_image import SqliteImage
from bitdustfs.edges.catalog_sqlite import SqliteCatalog

_numbers = count()


def image_of(catalog: SqliteCatalog) -> SqliteImage:
    """Choose this instant for an image, as `SqliteCatalog.image` does; its file goes when it is closed."""
    return catalog.image(Path(tempfile.gettempdir()) / f"bitdustfs-test-{os.getpid()}-{next(_numbers)}.image")
