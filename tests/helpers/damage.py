"""Damage to files, as a disk or a copy does it."""

from pathlib import Path


def flip_bit(path: Path, at: float = 0.5) -> None:
    """Turn one bit of a file around.

    Args:
        path: Path of the file.
        at: Where, as a fraction of the file's length.
    """
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
