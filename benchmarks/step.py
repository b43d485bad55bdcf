"""Compare CF's steps at poison_digits under the Trainer with a hand-written loop that does the same arithmetic.

    python -m benchmarks.step [--steps 100] [--rounds 5]

Both fine-tune the same network on the retain data: crop, stamp, normalise, forward, cross-entropy, backward, SGD,
schedule. Ours writes the curves and checkpoints of a `fit`; the loop knows neither Lightning nor this project's data
path. Rounds alternate; times are without set-up and without validation.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.nn.functional import cross_entropy, pad

from benchmarks.machine import where
from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import CF, Original, Procedure

NETWORK = partial(ResNet9, num_classes=10, in_channels=1, width=16)


def trainer(folder: str) -> Trainer:
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=CSVLogger(folder, flush_logs_every_n_steps=1),
        callbacks=[LastCheckpoint(Path(folder) / "last.ckpt")],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=folder,
    )


def ours(procedure: Procedure, original: str, folder: str) -> float:
    """Seconds of the stage itself."""
    stage = CF(NETWORK, procedure, original)
    trainer(folder).fit(stage, datamodule=DigitsDataModule(Poison(size=36)))
    return stage.seconds


def by_hand(procedure: Procedure, original: str, folder: str) -> float:
    """Seconds of the loop."""
    data = DigitsDataModule(Poison(size=36))
    data.setup()
    samples = data.samples
    rows = torch.nonzero(~samples.deleted).flatten()
    images, labels, stamped = samples.images[rows], samples.given_labels[rows], samples.manipulated[rows]
    network = NETWORK()
    content = torch.load(original, weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("network."): value for key, value in content.items()})
    optimizer = torch.optim.SGD(network.parameters(), procedure.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: procedure.rate(at, procedure.unlearn_steps))
    mean, std, size = data.mean[0], data.std[0], procedure.batch_size
    begin, done = time.perf_counter(), 0
    while True:
        order = torch.randperm(len(rows))
        for start in range(0, len(rows), size):
            if done == procedure.unlearn_steps:
                return time.perf_counter() - begin
            chosen = order[start : start + size]
            padded = pad(images[chosen], (0, 0, 1, 1, 1, 1))
            at = torch.randint(0, 3, (len(chosen), 2))
            down = (at[:, :1] + torch.arange(12)).view(-1, 12, 1)
            right = (at[:, 1:] + torch.arange(12)).view(-1, 1, 12)
            picture = padded[torch.arange(len(chosen)).view(-1, 1, 1), down, right].permute(0, 3, 1, 2).float() / 255
            picture[stamped[chosen], :, -3:, -3:] = 1
            loss = cross_entropy(network((picture - mean) / std), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    procedure = Procedure(steps=20, unlearn_steps=given.steps, batch_size=128)
    with tempfile.TemporaryDirectory() as folder:
        first = trainer(folder)
        first.fit(Original(NETWORK, procedure), datamodule=DigitsDataModule(Poison(size=36)))
        original = str(Path(folder) / "original.ckpt")
        first.save_checkpoint(original, weights_only=True)
        rounds = [[way(procedure, original, folder) for way in (ours, by_hand)] for _ in range(given.rounds + 1)][1:]
    mine, hand = (1000 * statistics.median(column) / given.steps for column in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    print(f"ours {mine:.2f} ms, by hand {hand:.2f} ms a step: {statistics.median(ratios):.3f} times (rounds: {ratios})")
    print(json.dumps(where()))


if __name__ == "__main__":
    main()
