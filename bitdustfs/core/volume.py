"""The secrets of one mounted volume, each derived once, each for one purpose."""

from __future__ import annotations

from bitdustfs.core import fragment
from bitdustfs.core.keys import fingerprint_key, name_key, volume_handle, volume_id
from bitdustfs.core.seal import BlockSeal, Kind
from bitdustfs.model import BlockId, Fingerprint, FragmentName, NodeId, Suite


class VolumeSecrets:
    """What sealing, naming and deduplication need. Shows nothing when printed."""

    __slots__ = ("_fingerprint_key", "_name_key", "_volume_key", "handle", "scope", "volume_id")

    def __init__(self, volume_key: bytes, scope: int = 0) -> None:
        self._volume_key = volume_key
        self._name_key = name_key(volume_key)
        self._fingerprint_key = fingerprint_key(volume_key, scope)
        self.scope = scope
        self.volume_id = volume_id(volume_key)
        self.handle = volume_handle(volume_key)  # what suppliers know the volume by

    def __repr__(self) -> str:
        return "VolumeSecrets(…)"

    def seal_of(self, block_id: BlockId, scope: int, suite: Suite, kind: Kind = Kind.CHUNK) -> BlockSeal:
        """The sealing of one block."""
        return BlockSeal(self._volume_key, self.volume_id, scope, block_id, suite, kind)

    def fragment_name(self, block_id: BlockId, index: int, supplier: NodeId) -> FragmentName:
        """What `supplier` knows fragment `index` of a block by."""
        return fragment.name(self._name_key, block_id, index, supplier)

    def fingerprint(self, plaintext: bytes | memoryview) -> Fingerprint:
        """The keyed hash by which equal chunks are found."""
        return fragment.fingerprint(self._fingerprint_key, plaintext)
