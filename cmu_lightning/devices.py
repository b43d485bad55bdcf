"""The GPUs of this machine and the precision they support, found without importing torch."""

import os
import subprocess
from contextlib import suppress
from functools import cache

AMPERE = 8.0
"""Compute capability of the first GPUs with bf16 arithmetic."""

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Short and full names of the precisions that keep weights in 32 bits."""


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
    return [str(index) for index in range(len(_capabilities()))]


def has_bf16() -> bool:
    """Return whether every GPU of the machine supports bf16; True where there is none."""
    return all(capability >= AMPERE for capability in _capabilities())


@cache
def _capabilities() -> tuple[float, ...]:
    """Return the compute capability of each GPU; empty where nvidia-smi is missing or fails."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return tuple(map(float, lines))
    return ()
