"""From 24 words to one key for each purpose."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import keys
from bitdustfs.core.keys import Secret
from bitdustfs.model import BlockId

SECRET = Secret(bytes(range(32)))
secrets = st.binary(min_size=32, max_size=32).map(Secret)


def test_keys_of_a_known_secret_never_change() -> None:
    volume = keys.volume_keys(SECRET)
    public = keys.public_bytes(keys.owner_key(SECRET))
    assert volume.volume.hex() == "1b5af8ad30b1957440188ae03803369c6ac4720e1bc6a575c74110dfdf6c0e30"
    assert volume.record.hex() == "50376ad6ac761797fc4390c23d02205b4d6ff3d455fcb1146d26bc613b0232fc"
    assert public.hex() == "8b43159ea8181fefd565d5f047655b8d6e6d99b431875c9204d895b2a546b1c5"
    assert keys.owner_id(public).hex() == "5b888e79be7055249d61a675ea1ef03c39cdb0db536d6feb57213f90df17740a"


def test_keys_below_a_known_volume_key_never_change() -> None:
    volume = keys.volume_keys(SECRET).volume
    block = keys.block_key(volume, 1, BlockId(bytes(range(32, 64))))
    assert block.hex() == "116de29bd1e9ab398cbee388a2bac049c934ede8c0b22dc0f804a557e538fe9c"
    assert keys.name_key(volume).hex() == "d7bcb69acf18b6e9f92576918892aad244ee1e0397d7f06c5be0060a819198e5"
    assert keys.fingerprint_key(volume, 1).hex() == "a26ee7c1e8885c872bbc79723546b96456204d95adf372ed7700ecd99ac46961"
    assert keys.volume_id(volume).hex() == "3e121bad161cd4b70df44a4806ecec5d"


@pytest.mark.slow
@given(st.binary(min_size=32, max_size=32), st.text("abc ", min_size=1), st.binary(max_size=40))
def test_derived_key_is_one_step_of_rfc_5869(key: bytes, label: str, context: bytes) -> None:
    written_out = b"bitdustfs 1 " + label.encode() + b"\0" + context + b"\x01"
    assert keys.derive(key, label, context) == hmac.new(key, written_out, hashlib.sha256).digest()


@given(secrets)
def test_one_secret_gives_a_different_key_for_each_purpose(secret: Secret) -> None:
    volume = keys.volume_keys(secret)
    made = [
        volume.volume,
        volume.record,
        keys.public_bytes(keys.owner_key(secret)),
        keys.name_key(volume.volume),
        keys.fingerprint_key(volume.volume, 0),
        keys.fingerprint_key(volume.volume, 1),
        keys.block_key(volume.volume, 0, BlockId(bytes(32))),
        keys.block_key(volume.volume, 1, BlockId(bytes(32))),
        keys.block_key(volume.volume, 0, BlockId(b"\x01" * 32)),
    ]
    assert len(set(made)) == len(made)


def test_secrets_show_nothing_of_themselves() -> None:
    assert repr(SECRET) == "Secret(…)"
    assert repr(keys.volume_keys(SECRET)) == "VolumeKeys(…)"
