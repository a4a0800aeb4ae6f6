"""HOME/keys on the disk: written durably, and read only if nobody else could have read it."""

from __future__ import annotations

import errno
import os
import stat

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core import certificate
from bitdustfs.core.certificate import Identity
from bitdustfs.core.keyfile import KEY_FILE_BYTES, NodeKeys, decode_keys, encode_keys
from bitdustfs.edges.home import Home, translated, write_atomically
from bitdustfs.errors import AlreadyThere, BadFormat, Forbidden, NotFound


def write_keys(home: Home, keys: NodeKeys) -> None:
    """Write the key file of a home that has none.

    Raises:
        AlreadyThere: there is one; it is never overwritten.
    """
    if os.path.lexists(home.keys):
        raise AlreadyThere(what=f"{home} holds keys already; they are not touched")
    write_atomically(home.keys, encode_keys(keys))


def replace_keys(home: Home, keys: NodeKeys) -> None:
    """Put other keys in place of those of a home, durably and all at once.

    Raises:
        DiskFull, DiskFault, Forbidden
    """
    write_atomically(home.keys, encode_keys(keys))


def read_keys(home: Home) -> NodeKeys:
    """Read the key file.

    Raises:
        NotFound: there is none. Forbidden: others can read it, it is not ours, or we may not read it.
        BadFormat: it is no key file, is cut, or is of an unknown version.
    """
    try:
        descriptor = os.open(home.keys, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as bad:
        raise NotFound(what=f"{home} holds no keys: run `bitdustfs init` first") from bad
    except OSError as bad:
        if bad.errno == errno.ELOOP:
            raise BadFormat(what=f"{home.keys} is a symbolic link, not a key file") from bad
        raise translated(bad, home.keys) from bad
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise BadFormat(what=f"{home.keys} is not a file")
        if seen.st_uid != os.geteuid():
            raise Forbidden(what=f"{home.keys} belongs to user {seen.st_uid}, not to you: these are not your keys")
        if seen.st_mode & 0o077:
            raise Forbidden(what=f"others can read {home.keys}: run `chmod 600` on it, if nobody has read it")
        content = os.read(descriptor, KEY_FILE_BYTES + 1)
    except OSError as bad:
        raise translated(bad, home.keys) from bad
    finally:
        os.close(descriptor)
    if len(content) > KEY_FILE_BYTES:
        raise BadFormat(what=f"{home.keys}: this is too long for a key file")
    try:
        return decode_keys(content)
    except BadFormat as bad:
        raise BadFormat(what=f"{home.keys}: {bad}") from bad


def identity_of(keys: NodeKeys) -> Identity:
    """The running node that these keys make.

    Raises:
        BadFormat: key, owner and certificate do not belong together.
    """
    signed = certificate.parse(keys.certificate)
    if signed.owner_public != keys.owner_public:
        raise BadFormat(what="the key file holds the certificate of another owner")
    return Identity(Ed25519PrivateKey.from_private_bytes(keys.seed), signed)
