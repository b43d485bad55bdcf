"""Test `repair` on four models with realistic mistakes in their data.

    python -m benchmarks.cases --case sticker|swap|noise|pcam [--seed 0] [--images 4000] [--steps 600] [--only pure,cf]
        [--results FILE]

A ResNet-9 is trained on real images of which a part is manipulated, some of that is flagged, and `cmu_lightning.repair`
gets the network, the images, the labels as given and the list, as a user would give them. Test images are clean and
are used only by the last lines: accuracy on what was affected, before, after, and of an oracle that was trained
without any of the manipulated images. Data are read from CMU_DATA_DIR.

| case | data | what happens | flagged |
|---|---|---|---|
| sticker | CIFAR-10 | 4% get a white square in a corner and the label airplane | a fifth of them |
| swap | CIFAR-10 | the labels of 30% of cats and dogs are swapped | a fifth of them |
| noise | CIFAR-10 | 10% get a random wrong label | half of them, and a quarter as many clean ones: precision 0.8 |
| pcam | PatchCamelyon | 5% are healthy tissue that is labelled as a tumour | half of them |
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import cmu_lightning
from benchmarks.machine import where
from cmu_lightning.data import (
    CIFAR10DataModule,
    CorruptedDataModule,
    InterclassConfusion,
    OneWayConfusion,
    PCAMDataModule,
    Poison,
    SymmetricNoise,
    Unknown,
)
from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.models import ResNet9

CATS_AND_DOGS = (3, 5)
BATCH = 128


@dataclass
class Case:
    """A manipulation of a data set, and the part of it that is flagged.

    Args:
        data: Class of the data set.
        manipulation: Makes the manipulation, given the true labels of the training images and a seed.
        flagged: Fraction of the manipulated images that is flagged.
        mistakes: Number of clean images that are flagged, as a fraction of the flagged manipulated ones.
    """

    data: type[CorruptedDataModule]
    manipulation: Callable[[Tensor, int], Manipulation]
    flagged: float
    mistakes: float = 0.0


def swapped(labels: Tensor, seed: int) -> Manipulation:
    """Return the swap of 30% of the less frequent one of the two classes, and as many of the other."""
    fewest = min(int((labels == label).sum()) for label in CATS_AND_DOGS)
    return InterclassConfusion(CATS_AND_DOGS, size=2 * round(0.3 * fewest), seed=seed)


CASES = {
    "sticker": Case(CIFAR10DataModule, lambda labels, seed: Poison(fraction=0.04, patch=4, seed=seed), 0.2),
    "swap": Case(CIFAR10DataModule, swapped, 0.2),
    "noise": Case(CIFAR10DataModule, lambda labels, seed: SymmetricNoise(fraction=0.1, seed=seed), 0.5, 0.25),
    "pcam": Case(PCAMDataModule, lambda labels, seed: OneWayConfusion((0, 1), fraction=0.05, seed=seed), 0.5),
}


def normalise(images: Tensor, data: type[CorruptedDataModule]) -> Tensor:
    """Return the network's input, shape (n, C, H, W), of images of shape (n, H, W, C), uint8."""
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (data.mean, data.std))
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


def train(
    images: Tensor, labels: Tensor, data: type[CorruptedDataModule], steps: int, width: int, seed: int
) -> nn.Module:
    """Return a network that was trained by SGD at a rate that falls to zero, with flips and shifts."""
    torch.manual_seed(seed)
    network = ResNet9(num_classes=data.num_classes, in_channels=3, width=width)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    inputs = normalise(images, data)
    for _ in range(steps):
        rows = torch.randint(len(labels), (min(BATCH, len(labels)),))
        batch = inputs[rows]
        if torch.rand(1) < 0.5:
            batch = batch.flip(3)
        shift = torch.randint(-3, 4, (2,)).tolist()
        loss = nn.functional.cross_entropy(network(batch.roll(shift, (2, 3))), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the accuracy on normalised images."""
    right = [
        (network(part).argmax(1) == true).sum() for part, true in zip(inputs.split(500), labels.split(500), strict=True)
    ]
    return float(sum(right)) / len(labels)


@dataclass
class Made:
    """A case with its images.

    Args:
        images: Training images, some of them manipulated, shape (n, H, W, C), uint8.
        labels: Their labels as given, shape (n,).
        manipulated: Which of them are manipulated, bool, shape (n,).
        flagged: Indices of those that are flagged.
        seen: Clean test images with their true labels, by what accuracy on them is called.
    """

    images: Tensor
    labels: Tensor
    manipulated: Tensor
    flagged: Tensor
    seen: dict[str, tuple[Tensor, Tensor]]


def make(name: str, count: int, seed: int) -> Made:
    """Take real images, manipulate some of them and flag some of those."""
    case = CASES[name]
    stored, _, test = case.data(Unknown()).load()
    random = torch.Generator().manual_seed(derive_seed(seed, 1))
    rows = torch.randperm(len(stored.labels), generator=random)[:count]
    images, true = stored.images[rows].clone(), stored.labels[rows]
    # 1. Manipulate.
    manipulation = case.manipulation(true, seed)
    manipulation.num_classes = case.data.num_classes
    chosen, labels = manipulation.select(true), true.clone()
    labels[chosen] = manipulation.relabel(true[chosen])
    images[chosen] = stamp(images[chosen], manipulation)
    manipulated = torch.zeros(len(true), dtype=torch.bool)
    manipulated[chosen] = True
    # 2. Flag some of that, and where the list has mistakes some of the others.
    found = chosen[torch.randperm(len(chosen), generator=random)[: round(case.flagged * len(chosen))]]
    clean = torch.nonzero(~manipulated).flatten()
    wrong = clean[torch.randperm(len(clean), generator=random)[: round(case.mistakes * len(found))]]
    # 3. Test images: of what is affected, with the trigger, and all unchanged.
    affected = manipulation.affected(test.labels) | manipulation.unaffected(test.labels) * (name == "pcam")
    parts = {
        "affected": (stamp(test.images[affected], manipulation), test.labels[affected]),
        "all": (test.images, test.labels),
    }
    return Made(images, labels, manipulated, torch.cat([found, wrong]), parts)


def stamp(images: Tensor, manipulation: Manipulation) -> Tensor:
    """Return images of shape (n, H, W, C), uint8, with the manipulation's trigger, if it has one."""
    stamped = manipulation.stamp(images.permute(0, 3, 1, 2) / 255)
    return (stamped.permute(0, 2, 3, 1) * 255).round().byte()


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--only", help="Methods that repair tries; default all that fit.")
    parser.add_argument("--results", type=Path, help="File that gets the outcome as a line of JSON.")
    parser.add_argument("--budget", type=float, default=math.inf, help="Minutes that repair has.")
    return parser.parse_args()


def main() -> None:
    """Run a case, and print its outcome as a line of JSON."""
    given, started = arguments(), time.perf_counter()
    data, made = CASES[given.case].data, make(given.case, given.images, given.seed)
    # 1. The manipulated model and an oracle.
    training = (data, given.steps, given.width, given.seed)
    network = train(made.images, made.labels, *training)
    oracle = train(made.images[~made.manipulated], made.labels[~made.manipulated], *training)
    # 2. The repair.
    done = cmu_lightning.repair(
        *(network, made.images.numpy(), made.labels),
        flagged=made.flagged,
        **{"mean": data.mean, "std": data.std, "batch_size": BATCH, "lr": 0.01},
        **{"steps": max(1, given.steps // 4), "only": given.only, "budget": given.budget},
    )
    # 3. The test images, which nothing above has used.
    outcome: dict[str, dict[str, float]] = {}
    for name, network_of in {"before": network, "after": done.network, "oracle": oracle}.items():
        outcome[name] = {
            part: round(accuracy(network_of, normalise(pictures, data), labels), 4)
            for part, (pictures, labels) in made.seen.items()
        }
        print(name, outcome[name])
    print(done.reason, *done.outcome.notes, sep="\n")
    told = {name: value for name, value in vars(given).items() if name != "results" and value not in (None, math.inf)}
    chosen = {"chosen": done.outcome.chosen.name, "notes": list(done.outcome.notes)}
    line = json.dumps(told | outcome | chosen | {"seconds": round(time.perf_counter() - started, 1)} | where())
    print(line)
    if given.results:
        with given.results.open("a") as file:
            file.write(f"{line}\n")


if __name__ == "__main__":
    main()
