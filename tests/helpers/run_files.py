"""Runs that are logged: what they leave in their folders, and what they have written for W&B."""

import json
import subprocess
import sys
from pathlib import Path

SCRUB = ("--config", "unlearn/scrub.yaml", "--data.identified", "0.5", "--trainer.log_every_n_steps", "5")
CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5", "--trainer.log_every_n_steps", "5")


def folder(place, method):
    (path,) = place.glob(f"poison_digits/{method}/*")
    return path


def metrics(place, method):
    return json.loads((folder(place, method) / "metrics.json").read_text())


def numbers(stored):
    """What has to be the same when a run is made again elsewhere."""
    return {key: value for key, value in stored.items() if key not in ("seconds", "environment", "config")}


def published(stored):
    """What W&B's summary holds of a `metrics.json`."""
    return {key: value for key, value in stored.items() if key != "config"}


def records(folder: Path) -> list[dict]:
    """All records of the one offline run under a folder."""
    (path,) = folder.rglob("*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
