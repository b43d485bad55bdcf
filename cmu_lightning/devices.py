"""Which GPUs there are, without asking torch."""

import os
import subprocess
from contextlib import suppress

AMPERE = 8.0
"""Compute capability of the first GPUs that have bf16."""


def gpus() -> list[str]:
    """Those that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
    return [str(index) for index in range(len(_capabilities()))]


def has_bf16() -> bool:
    """Whether all of the machine's GPUs have it."""
    return all(capability >= AMPERE for capability in _capabilities())


def _capabilities() -> list[float]:
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return [float(line) for line in lines]
    return []
