"""Unlearners on several processes.

`torchrun ... -m tests.helpers.parallel_stages ORIGINAL FOLDER PROCESSES` writes FOLDER/RANK.pt.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer

from cmu_lightning.unlearning import SSD, BadT, Potion, Scrub
from tests.helpers.short_stages import LINEAR, SHORT, digits


class Losses(Callback):
    """The loss of every step over the global batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
        if outputs:
            self.seen.append(trainer.strategy.reduce(outputs["loss"].clone(), reduce_op="mean").item())


def stages(original):
    return {
        "SSD of one sample": SSD(LINEAR, SHORT, original, selection=2.0, dampening_ratio=0.5),
        "Scrub": Scrub(LINEAR, SHORT, original, forget_steps=6),
        "BadT": BadT(LINEAR, SHORT, original),
        "SSD": SSD(LINEAR, SHORT, original, selection=2.0, dampening_ratio=0.5),
        "SSD-Det": SSD(LINEAR, SHORT, original, selection=2.0, dampening_ratio=0.5, fisher="sample"),
        "Potion": Potion(LINEAR, SHORT, original, rho=0.4),
    }


def run(original: str, folder: Path, processes: int) -> dict:
    """Fit all of them on 9 of 36 poisoned digits, an odd number, and one on 1; keep losses, weights and importances."""
    result = {}
    for name, stage in stages(original).items():
        losses = Losses()
        trainer = Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            use_distributed_sampler=False,
            max_epochs=1,
            callbacks=[losses],
            default_root_dir=str(folder),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
        )
        trainer.fit(stage, datamodule=digits(1 / 36 if "one sample" in name else 0.25))
        result[name] = {"losses": losses.seen, "weights": stage.network.state_dict(), "samples": stage.samples_forward}
    return result


def kept(original: str) -> list[dict]:
    """The importances beside an original, in the order of their names, which say what they are of."""
    return [
        torch.load(path, weights_only=True) for path in sorted((Path(original).parent / "importances").glob("*.pt"))
    ]


if __name__ == "__main__":
    original, folder = sys.argv[1], Path(sys.argv[2])
    result = run(original, folder, int(sys.argv[3]))
    torch.save({"stages": result, "importances": kept(original)}, folder / f"{os.environ['RANK']}.pt")
