"""Where a benchmark was run, for the first line of what it prints."""

import os
import platform
from datetime import date
from typing import Any

import torch


def where() -> dict[str, Any]:
    """Return the date, the machine, and how busy it was."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "date": str(date.today()),
        "device": device,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }
