"""The code of a volume: of new blocks of what has no code of its own. It is replicated, so it is recovered too."""

from __future__ import annotations

from bitdustfs.core.placement import parse_code
from bitdustfs.errors import BadFormat, BadRequest
from bitdustfs.model import Code
from bitdustfs.ports import Catalog

_CODE = "code"  # in the catalog: K/N as text; empty: by the number of hired suppliers


def kept_code(catalog: Catalog) -> Code | None:
    """The code that somebody chose; None: it goes by the number of hired suppliers. Raises BadFormat."""
    raw = catalog.value(_CODE)
    try:
        return parse_code(raw.decode()) if raw else None
    except (BadRequest, UnicodeDecodeError) as error:
        raise BadFormat(what=f"the catalog names a code that cannot be: {raw!r}") from error


def keep_code(catalog: Catalog, code: Code | None) -> None:
    """Choose another code, or none. The caller commits."""
    chosen = str(code).encode() if code is not None else b""
    if (catalog.value(_CODE) or b"") != chosen:
        catalog.put_value(_CODE, chosen)
