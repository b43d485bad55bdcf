"""Which GPUs there are, without asking torch."""

import os
import subprocess
from contextlib import suppress


def gpus() -> list[str]:
    """Those that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=20).stdout
        return [str(index) for index in range(listed.count("GPU "))]
    return []
