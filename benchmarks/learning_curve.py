"""Compare clean test accuracy after each of the first epochs with the stored runs of the paper's released code.

    python -m benchmarks.learning_curve [--epochs 41] [options of fit ...]

Trains the original of poison_cifar10.yaml with released_code.yaml (all 50,000 images, 98 steps an epoch, the released
trigger) under the schedule of 4,000 steps, and ends after so many epochs; all of them take a GPU. Nothing is chosen by
these numbers. Theirs are of two stored runs of seed 0: the original, and a retraining without 250 of the 500 poisoned
images.
"""

import argparse
import json
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import Callback

from benchmarks.machine import where
from cmu_lightning.cli.fit import CLI
from cmu_lightning.cli.fit import main as run_fit
from cmu_lightning.data.batches import evaluation_size

THEIRS = {
    **{1: (0.5191, 0.5281), 2: (0.6769, 0.6239), 3: (0.7133, 0.7038), 4: (0.7572, 0.7542), 5: (0.7643, 0.7839)},
    **{10: (0.8508, 0.8497), 20: (0.8804, 0.8816), 30: (0.8988, 0.8975), 41: (0.9120, 0.9114)},
}
"""Clean test accuracy after an epoch, of either run."""
STEPS = 98


class Ended(BaseException):
    """All epochs that were asked for are over."""


class Curve(Callback):
    """Measures after every epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.begin = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, stage: Any, outputs: Any, batch: Any, index: int) -> None:
        """Print theirs and ours."""
        epoch, rest = divmod(index + 1, STEPS)
        last = index + 1 == stage.steps
        if rest and not last:
            return
        accuracy = self._accuracy(trainer, stage)
        theirs = ", ".join(f"{value:.4f}" for value in THEIRS.get(epoch + last, ())) or "-"
        passed = time.perf_counter() - self.begin
        print(f"epoch {epoch + last:2}: ours {accuracy:.4f}, theirs {theirs} ({passed:.0f} s)", flush=True)
        if epoch >= self.epochs:
            raise Ended

    @torch.no_grad()
    def _accuracy(self, trainer: Any, stage: Any) -> float:
        """Of the clean test images."""
        data = trainer.datamodule
        size = evaluation_size(data.test.images)
        pixels, right = data.pixels(), 0
        stage.network.eval()
        with trainer.precision_plugin.forward_context():
            for start in range(0, len(data.test.labels), size):
                images, labels = (part[start : start + size] for part in data.test)
                outputs = stage.network(pixels(images, torch.zeros(len(images), dtype=torch.bool)))
                right += int((outputs.argmax(dim=1) == labels.to(outputs.device)).sum())
        stage.network.train()
        return right / len(data.test.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=41)
    given, options = parser.parse_known_args()
    curve, make = Curve(given.epochs), CLI.instantiate_trainer

    def with_curve(self: CLI, **kwargs: Any) -> Any:
        trainer = make(self, **kwargs)
        trainer.callbacks.append(curve)
        return trainer

    CLI.instantiate_trainer = with_curve  # type: ignore[method-assign]
    value = ["--data.manipulation.value", "[1.0166,1.0,1.0028]", "--wandb.mode", "disabled"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["fit", "--config", "poison_cifar10.yaml", "--config", "released_code.yaml", *value, *options]
        try:
            if run_fit([*arguments, "--runs_dir", folder]):
                raise SystemExit(1)
        except Ended:
            pass
    print(json.dumps(where() | {"epochs": given.epochs, "options": options}))


if __name__ == "__main__":
    main()
