"""Memory of the data path against the size of the data set, in memory and with `memory_map`.

    python -m benchmarks.memory [--sizes 25000 50000 100000 200000]

Each size runs in a separate process: random images of 32x32 pixels are written into the memory of a data set,
a poison is drawn, and 20 training batches of 512 are made. Anonymous memory is what the process holds for itself, at
the end and at its peak; pages of the file come and go with what else the machine needs them for.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path

import torch

from benchmarks.machine import where
from cmu_lightning.data import CIFAR10DataModule, Poison, Split
from cmu_lightning.data.memmap import CHUNK


class Random(CIFAR10DataModule):
    """The requested number of training images."""

    images = 0

    def prepare_data(self) -> None:
        """Nothing."""

    def load(self) -> tuple[Split, Split | None, Split]:
        """Return splits that are filled in pieces, as files are read."""
        train = self.room(self.images, 32, 32, 3)
        for start in range(0, self.images, CHUNK):
            count = min(CHUNK, self.images - start)
            train[start : start + count] = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
        few = torch.zeros((10, 32, 32, 3), dtype=torch.uint8)
        return Split(train, torch.arange(self.images) % 10), Split(few, torch.arange(10)), Split(few, torch.arange(10))


def anonymous() -> float:
    """MiB of memory that belong only to this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


class Peak(threading.Thread):
    """Samples the memory every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.reached = 0.0

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.reached = max(self.reached, anonymous())
            time.sleep(0.005)


def measure(size: int, folder: str | None, connection) -> None:
    """Send MiB more than before, at the end and at the peak."""
    Random.images = size
    torch.zeros(1)
    before = anonymous()
    peak = Peak()
    peak.start()
    data = Random(Poison(size=500), memory_map=folder)
    data.setup()
    source = data.training_source(torch.ones_like(data.samples.deleted), batch_size=512, seed=0)
    for _ in data.training_batches([source], [0] * 20, done=lambda: 0):
        pass
    connection.send((anonymous() - before, peak.reached - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[25_000, 50_000, 100_000, 200_000])
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in given.sizes:
            found = []
            for place in (None, folder):
                ours, theirs = context.Pipe()
                process = context.Process(target=measure, args=(size, place, theirs))
                process.start()
                found.append(ours.recv())
                process.join()
            raw = size * 32 * 32 * 3 / 2**20
            memory, file = (f"+{end:5.0f} MiB, at the peak +{peak:5.0f}" for end, peak in found)
            print(f"{size:>8,} images, {raw:6.0f} MiB: in memory {memory}; mapped {file}", flush=True)
    print(json.dumps(where()))


if __name__ == "__main__":
    main()
