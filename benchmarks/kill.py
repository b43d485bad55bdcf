"""A sweep whose worker, or which itself, is killed at random moments, and the results beside an undisturbed one's.

    python benchmarks/kill.py [--moments 10] [--seed 0]

Each round starts the sweep anew in real processes, kills -9 either a worker or the sweep at a random moment, and starts
the sweep again until it ends by itself. At the end four sweeps at once share a new runs folder.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = ["--network.width", 4, "--procedure.steps", 40, "--procedure.unlearn_steps", 20, "--threads", 1]
COMMAND = ["-m", "cmu_lightning", "fit", "--config", "poison_digits.yaml", *SMALL, "--trainer.accelerator", "cpu"]
PARAMETERS = {
    "data.identified": {"values": [0.5, 1.0]},
    "model.class_path": {"values": ["CF", "SSD"]},
    "seed_everything": {"values": [0, 1]},
}


def results(runs: Path) -> dict[str, dict]:
    """By folder, without times and places."""
    found = {}
    for path in sorted(runs.glob("*/*/*/metrics.json")):
        stored = json.loads(path.read_text())
        found["/".join(path.parts[-4:-1])] = {k: v for k, v in stored.items() if k not in ("seconds", "environment")}
    return found


def start(file: Path, runs: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cmu_lightning", "sweep", str(file), "--runs_dir", str(runs), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers(sweep: int) -> list[int]:
    """Return the processes two generations below: the sweep starts a server, which forks workers."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return [pid for pid, parent in parents.items() if parents.get(parent) == sweep]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "sweep.yaml"
        command = [*COMMAND, "${args}"]
        content = {"program": "cmu_lightning", "method": "grid", "parameters": PARAMETERS, "command": command}
        file.write_text(json.dumps(content))
        begin = time.monotonic()
        assert start(file, folder / "whole").wait() == 0
        lasts = time.monotonic() - begin
        whole = results(folder / "whole")
        print(f"undisturbed: {len(whole)} runs in {lasts:.0f} s", flush=True)
        runs = folder / "killed"
        for moment in range(given.moments):
            if len(results(runs)) >= len(whole) - 1:
                shutil.rmtree(runs)
            sweep = start(file, runs)
            wait = chance.uniform(0.4, 0.95) * lasts
            time.sleep(wait)
            victims = workers(sweep.pid)
            victim = "a worker" if moment % 2 and victims else "the sweep"
            os.kill(chance.choice(victims) if victim == "a worker" else sweep.pid, signal.SIGKILL)
            if victim == "a worker":
                code = sweep.wait()
            else:
                sweep.wait()
                code = "killed"
            print(
                f"{victim} killed after {wait:.1f} s, sweep ended: {code}, {len(results(runs))} runs done", flush=True
            )
            assert all(whole[run] == stored for run, stored in results(runs).items())
        assert start(file, runs).wait() == 0
        assert results(runs) == whole
        print(f"after {given.moments} kills the results are equal", flush=True)
        four = [start(file, folder / "four") for _ in range(4)]
        assert [sweep.wait() for sweep in four] == [0] * 4
        twice = list((folder / "four").glob("*/*/*/csv/version_1"))
        originals = len([run for run in results(folder / "four") if "/Original/" in run])
        assert results(folder / "four") == whole
        assert not twice
        print(f"four sweeps at once: equal results, no run twice, {originals} originals for 2 seeds")


if __name__ == "__main__":
    main()
