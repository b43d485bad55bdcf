"""Compare evaluation of all subsets at once with a plain loop over the same images.

    python -m benchmarks.evaluation [--images 10000] [--rounds 5]

Random images of 32x32 pixels stand in for a test split; a poison makes each come twice, with and without the trigger.
The loop stamps, normalises, forwards and compares the same images in the same batches, and counts two accuracies;
ours is `Trainer.test` of a stage, with every metric that a run stores of the test split. Rounds alternate.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from functools import partial

import torch
from lightning.pytorch import Trainer

from benchmarks.machine import where
from cmu_lightning.data import CIFAR10DataModule, Poison, Split
from cmu_lightning.data.batches import evaluation_size
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import Original, Procedure


class Random(CIFAR10DataModule):
    """The requested number of test images, and hardly any others."""

    images = 10_000

    def prepare_data(self) -> None:
        """Nothing."""

    def load(self) -> tuple[Split, Split | None, Split]:
        """Drawn by one seed."""
        generator = torch.Generator().manual_seed(0)

        def split(count: int) -> Split:
            images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
            return Split(images, torch.arange(count) % 10)

        return split(100), split(10), split(self.images)


class TestAlone(Random):
    """Measures only the test split."""

    def evaluations(self, reference=None):
        """Return one of three."""
        return {"test": super().evaluations(reference)["test"]}


def ours(stage: Original, data: TestAlone) -> tuple[float, float]:
    """Seconds of the batches, and acc_retain."""
    run = Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, accelerator="auto", devices=1,
    )  # fmt: skip
    begin = 0.0

    def start(*_: object) -> None:
        nonlocal begin
        begin = time.perf_counter()

    stage.on_test_epoch_start = start  # type: ignore[method-assign]
    run.test(stage, datamodule=data, verbose=False)
    return time.perf_counter() - begin, stage.results["acc_retain"]


@torch.no_grad()
def by_hand(network: torch.nn.Module, data: TestAlone) -> tuple[float, float]:
    """Return the same accuracies by a plain loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    images, labels = data.test.images.to(device), data.test.labels.to(device)
    mean, std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (data.mean, data.std))
    size = evaluation_size(images)
    begin, right = time.perf_counter(), torch.zeros(2, dtype=torch.long, device=device)
    for stamped in (True, False):
        for start in range(0, len(images), size):
            picture = images[start : start + size].permute(0, 3, 1, 2).float() / 255
            if stamped:
                picture[:, :, -3:, -3:] = 1
            predicted = network((picture - mean) / std).argmax(dim=1)
            right[int(stamped)] += (predicted == labels[start : start + size]).sum()
    accuracy = right[0].item() / len(images)
    return time.perf_counter() - begin, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=8, help="Of the ResNet-9; 64 is the paper's.")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    Random.images = given.images
    stage = Original(partial(ResNet9, num_classes=10, width=given.width), Procedure())
    data = TestAlone(Poison(size=1))
    times: dict[str, list[float]] = {"ours": [], "loop": []}
    for number in range(given.rounds + 1):
        order = ("ours", "loop") if number % 2 else ("loop", "ours")
        if number == 0:
            order = ("ours", "loop")
        found = {name: ours(stage, data) if name == "ours" else by_hand(stage.network, data) for name in order}
        assert abs(found["ours"][1] - found["loop"][1]) <= 2 / given.images, found
        for name in order[: len(order) * bool(number)]:  # the first round warms up
            times[name].append(found[name][0])
    ratios = [a / b for a, b in zip(times["ours"], times["loop"], strict=True)]
    for name, seconds in times.items():
        print(f"{name}: {statistics.median(seconds):.2f} s for {2 * given.images:,} images")
    print(
        f"ours takes {statistics.median(ratios):.2f} times the loop (rounds: {', '.join(f'{r:.2f}' for r in ratios)})"
    )
    print(json.dumps(where() | vars(given)))


if __name__ == "__main__":
    main()
