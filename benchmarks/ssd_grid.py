"""The paper's 50-point SSD grid: importances once, compared with importances at every point as in the released code.

    python -m benchmarks.ssd_grid [--cifar DIR] [--share 0.05] [--width 16]

Digits unchanged, and with `--cifar` a share of CIFAR-10's images in its proportions (train to test), so that 50
recomputations end in minutes; ResNet-9 in both, on a GPU if there is one. Every dampening and every recomputation is
really done. An evaluation is one pass over the test images, with the trigger and without, and over the validation
images; ours is done at the 39 points that differ, the other way has one at each of the 50. Ratios are of times in one
process.
"""

import argparse
import json
import time
from functools import partial
from itertools import product

import torch

from benchmarks.machine import where
from cmu_lightning.data import Batch, CIFAR10DataModule, DigitsDataModule, Poison, evaluation
from cmu_lightning.data.batches import EvaluationBatches
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import TunedSSD
from cmu_lightning.unlearning.importance import batch_importance, flat, task_loss
from cmu_lightning.unlearning.ssd import select_and_dampen

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GRID = list(product(TunedSSD.selections, TunedSSD.dampening_ratios))


class Case:
    """An original (untrained: the arithmetic is the same), its importances and its evaluation."""

    def __init__(self, data, channels: int, batch_size: int, share: float, width: int) -> None:
        torch.manual_seed(0)
        data.setup()
        network = ResNet9(data.num_classes, channels, width=width).eval()
        self.network = network.to(DEVICE, memory_format=torch.channels_last)
        self.start = flat(self.network.parameters()).detach().clone()
        self.pixels = data.pixels(DEVICE)
        samples = data.samples.to(DEVICE)
        rows = [torch.nonzero(mask).flatten() for mask in (samples.deleted, ~samples.deleted)]
        self.manipulated = data.samples.manipulated
        self.parts = [self.batches(samples, part[: max(1, round(share * len(part)))], batch_size) for part in rows]
        asked = [evaluation.of_test(data), evaluation.of_validation(data)]
        self.asked = [self.some(what, share) for what in asked]

    def batches(self, samples, rows, size):
        """Not augmented, in order."""
        made = []
        for part in rows.split(size):
            images, clean, label, _, deleted, _ = samples.take(part)
            made.append(
                Batch(self.pixels(images, self.manipulated[part.cpu()]), label, clean, deleted, part, len(part))
            )
        return made

    def some(self, what, share):
        """Return the first part of an evaluation."""
        count = round(share * len(what.rows))
        first = {key: getattr(what, key)[:count] for key in ("rows", "stamped", "target", "domain")}
        return what._replace(images=what.images.to(DEVICE), **first)

    def importances(self):
        """Over S_f and over the retain data."""
        return [
            batch_importance(self.network, part, task_loss, torch.square, lambda total: total) for part in self.parts
        ]

    @torch.no_grad()
    def dampen(self, importances, selection, ratio):
        """One grid point."""
        values = self.start * select_and_dampen(*importances, selection, ratio * selection).factors
        parameters = list(self.network.parameters())
        for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))

    @torch.no_grad()
    def evaluate(self):
        """One pass over all samples of the evaluation."""
        for what in self.asked:
            for batch in EvaluationBatches(what, self.pixels, 0, 1):
                (self.network(batch.image).argmax(1).unsqueeze(1) == batch.target).sum()


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(work) -> float:
    wait()
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin


def compare(name: str, case: Case) -> dict:
    case.importances()  # first calls are slower
    dampenings = recomputed = 0.0
    shared = []
    once = seconds(lambda: shared.append(case.importances()))
    for point in GRID:
        dampenings += seconds(partial(case.dampen, shared[0], *point))
        case.dampen(shared[0], 1e30, 1)  # back to the original
        recomputed += seconds(case.importances)
    evaluation_seconds = sum(seconds(case.evaluate) for _ in range(5)) / 5
    points = len(list(TunedSSD.points()))
    ours, theirs = once + dampenings, recomputed + dampenings
    ours_all, theirs_all = ours + points * evaluation_seconds, theirs + 50 * evaluation_seconds
    found = {
        "case": name,
        "importances and dampening, ours": ours,
        "importances and dampening, recomputed": theirs,
        "ratio": theirs / ours,
        "with evaluation, ours": ours_all,
        "with evaluation, recomputed": theirs_all,
        "ratio with evaluation": theirs_all / ours_all,
        "distinct points": points,
    }
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", help="folder of CIFAR-10")
    parser.add_argument("--share", type=float, default=0.05, help="of CIFAR-10's images")
    parser.add_argument("--width", type=int, default=16, help="of ResNet-9; the paper's is 64")
    given = parser.parse_args()
    print(json.dumps(compare("digits", Case(DigitsDataModule(Poison(size=36)), 1, 128, 1.0, given.width))))
    if given.cifar:
        data = CIFAR10DataModule(Poison(size=500), root=given.cifar)
        print(json.dumps(compare(f"CIFAR-10, {given.share:.0%}", Case(data, 3, 512, given.share, given.width))))
    print(json.dumps(where() | vars(given)))


if __name__ == "__main__":
    main()
