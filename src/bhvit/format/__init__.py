"""The `.bhv` file: the program of ops, its arithmetic, how floats are stored, reading and writing."""

from .file import PackedModel, from_bytes, read, to_bytes, write
from .op import Op

__all__ = ["Op", "PackedModel", "from_bytes", "read", "to_bytes", "write"]
