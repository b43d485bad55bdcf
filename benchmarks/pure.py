"""Compare PURE with CF in seconds and samples of one run, and measure the memory of its looks.

    python -m benchmarks.pure [--data digits] [--steps 100] [--width 16]
    python -m benchmarks.pure --data cifar10 --steps 20
    python -m benchmarks.pure --looks 50000

The first two take turns, CF and PURE, from one original that was trained for as many steps, on digits or on CIFAR-10 in
`CMU_DATA_DIR`, of which 2% are poisoned and a tenth of that is known. The last one judges so many random samples of ten
classes by four looks: what they take in memory at the peak, and how long the probes need.
"""

import argparse
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from benchmarks.machine import where
from benchmarks.memory import Peak, anonymous
from cmu_lightning.data import CIFAR10DataModule, CorruptedDataModule, DigitsDataModule, Poison
from cmu_lightning.data.discoveries.positive_unlabelled import Look, suspect
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import CF, PURE, Original, Procedure, Stage

LOOKS = 4
CHANNELS = (1, 2, 2, 4, 4, 4, 2)
"""Channels of ResNet-9's seven maps of images of 32x32 pixels, in widths; the input of its last layer has 2 more."""


def trained(stage: Stage, data: CorruptedDataModule, folder: str) -> Trainer:
    """Return a trainer that has run a stage to its end."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=folder,
    )
    trainer.fit(stage, datamodule=data)
    return trainer


def compare(name: str, steps: int, width: int, rounds: int) -> None:
    """Print seconds and samples of CF and PURE, taking turns."""
    if name == "digits":
        data: CorruptedDataModule = DigitsDataModule(Poison(size=24), identified=0.1)
        channels, batch = 1, 128
    else:
        data = CIFAR10DataModule(Poison(size=1000), identified=0.1, root=os.environ.get("CMU_DATA_DIR", "data"))
        channels, batch = 3, 256
    network = partial(ResNet9, num_classes=10, in_channels=channels, width=width)
    procedure = Procedure(steps=steps, unlearn_steps=steps, batch_size=batch)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "original.ckpt")
        trained(Original(network, procedure), data, folder).save_checkpoint(path, weights_only=True)
        for _ in range(rounds):
            measured = {}
            for method in (CF, PURE):
                stage = method(network, procedure, path)
                trained(stage, data, folder)
                measured[method.__name__] = {
                    "seconds": round(stage.seconds, 2),
                    "samples_forward": stage.samples_forward,
                    "samples_backward": stage.samples_backward,
                }
            ratio = measured["PURE"]["seconds"] / measured["CF"]["seconds"]
            print(json.dumps({"data": name, "width": width, "steps": steps, **measured, "ratio": round(ratio, 2)}))


def judge(samples: int, width: int) -> None:
    """Print the peak of memory over what was there before, and the seconds of the probes."""
    peak = Peak()
    sizes = [part * width for part in CHANNELS for _ in (0, 1)] + [2 * width]
    labels = torch.arange(samples) % 10
    manipulated = torch.arange(samples) < samples // 20
    known = torch.arange(samples) < samples // 200
    before = anonymous()
    peak.start()
    looks = []
    for _ in range(LOOKS):
        activations = torch.randn(samples, sum(sizes))
        activations[manipulated, :20] += 2
        looks.append(Look(torch.randn(samples, 10), activations, sizes))
    held = anonymous() - before
    start = time.perf_counter()
    found = suspect(looks, labels, known)
    seconds = time.perf_counter() - start
    recall = float((found.probability[manipulated & ~known] > 0.5).double().mean())
    print(
        json.dumps(
            {
                "samples": samples,
                "features": sum(sizes),
                "looks_mib": round(held),
                "peak_mib": round(peak.reached - before),
                "seconds_of_probes": round(seconds, 1),
                "recall": round(recall, 3),
            }
        )
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--looks", type=int, help="number of random samples to judge, in place of a comparison")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(where()))
    if arguments.looks:
        judge(arguments.looks, arguments.width)
    else:
        compare(arguments.data, arguments.steps, arguments.width, arguments.rounds)


if __name__ == "__main__":
    main()
