"""Compare images per second of the training data path with torchvision's usual one on the same images.

    python -m benchmarks.data_path [--data.root DIR]

Ours: uint8 tensors in memory, batched crop, flip, stamp and normalisation. Theirs: torchvision's CIFAR10 with
RandomCrop, RandomHorizontalFlip, ToTensor and Normalize on PIL images, in a DataLoader. Both make batches of 512 on the
CPU; rounds alternate, the median is printed, and one line of JSON with the environment.
"""

import argparse
import json
import os
import statistics
import time
from functools import partial

import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.machine import where
from cmu_lightning.data import CIFAR10DataModule, Poison
from cmu_lightning.data.batches import Source, TrainingBatches
from cmu_lightning.data.sampling import EpochSampler
from cmu_lightning.data.transforms import CropAndFlip

BATCH = 512


def ours(root: str, batches: int) -> TrainingBatches:
    data = CIFAR10DataModule(Poison(size=500), root=root)
    data.setup()
    view = torch.arange(len(data.samples.true_labels))
    sampler = EpochSampler(len(view), BATCH, seed=0)
    source = Source(data.samples, view, sampler, CropAndFlip(data.padding, data.flip))
    return TrainingBatches([source], [0] * batches, lambda: 0, data.pixels(), 0, 1)


def theirs(root: str, workers: int) -> DataLoader:
    usual = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(CIFAR10DataModule.mean, CIFAR10DataModule.std),
        ]
    )
    images = torchvision.datasets.CIFAR10(root, transform=usual)
    return DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def rate(loader, batches: int) -> float:
    """Images per second, after a first batch that is not timed."""
    iterator = iter(loader)
    next(iterator)
    begin = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches * BATCH / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", default=os.environ.get("CMU_DATA_DIR", "data"))
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    ways = {"ours": partial(ours, given.root, given.batches + 2)}
    ways |= {f"torchvision, {workers} workers": partial(theirs, given.root, workers) for workers in (0, 2, 4)}
    loaders = {name: make() for name, make in ways.items()}
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(given.rounds):
        for name, loader in loaders.items():
            rates[name].append(rate(loader, given.batches))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:24} {median:9.0f} images/s  {medians['ours'] / median:5.1f} times slower than ours")
    print(json.dumps({"images_per_second": {k: round(v) for k, v in medians.items()}, **where()}))


if __name__ == "__main__":
    main()
