"""Reads what an offline run has written, by the client's own inspector."""

import json
import subprocess
import sys
from pathlib import Path


def records(folder: Path) -> list[dict]:
    """All records of the one offline run under a folder."""
    (path,) = folder.rglob("*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
