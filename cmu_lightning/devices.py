"""Which GPUs there are, and what that means for precision, without asking torch."""

import os
import subprocess
from contextlib import suppress
from functools import cache

AMPERE = 8.0
"""Compute capability of the first GPUs that have bf16."""

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""In which weights stay what they are, by their short names."""


def gpus() -> list[str]:
    """Those that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
    return [str(index) for index in range(len(_capabilities()))]


def has_bf16() -> bool:
    """Whether the machine's GPUs have it, which are taken to be alike."""
    return all(capability >= AMPERE for capability in _capabilities())


@cache
def _capabilities() -> tuple[float, ...]:
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return tuple(map(float, lines))
    return ()
