"""Arrays of a `.npz` or `.safetensors` file, a piece at a time, for those that fit no memory."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import safe_open
from torch import Tensor

PIECE = 16 * 2**20
"""Bytes of images that are read at once."""


class Header(NamedTuple):
    """What an array is before it is read; `kind` is numpy's name of its type, `in_order` whether its rows follow."""

    shape: tuple[int, ...]
    kind: str
    in_order: bool = True


def header(path: Path, name: str) -> Header | None:
    """Of one array of a file; None if it is not there."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            if name not in file.keys():  # noqa: SIM118
                return None
            lazy = file.get_slice(name)
            return Header(tuple(lazy.get_shape()), "uint8" if lazy.get_dtype() == "U8" else lazy.get_dtype())
    with ZipFile(path) as file:
        return _npy_header(file, name)[0] if f"{name}.npy" in file.namelist() else None


def pieces(path: Path, name: str) -> Iterator[Tensor]:
    """The rows of an array of uint8 in order, shape (m, ...) each."""
    found = header(path, name)
    assert found is not None
    rows = max(1, PIECE // max(1, math.prod(found.shape[1:])))
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            lazy = file.get_slice(name)
            yield from (lazy[start : start + rows] for start in range(0, found.shape[0], rows))
        return
    with ZipFile(path) as file, file.open(f"{name}.npy") as member:
        member.read(_npy_header(file, name)[1])
        for start in range(0, found.shape[0], rows):
            count = min(rows, found.shape[0] - start)
            content = bytearray(member.read(count * math.prod(found.shape[1:])))
            yield torch.frombuffer(content, dtype=torch.uint8).view(count, *found.shape[1:])


def _npy_header(file: ZipFile, name: str) -> tuple[Header, int]:
    """And where the data begin."""
    with file.open(f"{name}.npy") as member:
        version = npy.read_magic(member)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, kind = read(member)
        return Header(shape, np.dtype(kind).name, not fortran), member.tell()
