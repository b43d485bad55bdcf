"""Unlearners whose results on one process and on several are compared."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from cmu_lightning.unlearning import SSD, BadT, Potion, Scrub, Stage, Unlearner
from tests.helpers.short_stages import LINEAR, SHORT, digits


class GlobalLosses(Callback):
    """A record of the loss of every step over the global batch.

    Attributes:
        values: The losses, in the order of the steps.
    """

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the mean over the ranks; a stage that does not train has no outputs."""
        if outputs:
            self.values.append(trainer.strategy.reduce(outputs["loss"].clone(), reduce_op="mean").item())


def stages(original: str) -> dict[str, Unlearner]:
    """Return unlearners by a name.

    Args:
        original: Path of the checkpoint that they start from.
    """
    return {
        "SSD of one sample": SSD(LINEAR, SHORT, original, selection=2.0, dampening_ratio=0.5),
        "Scrub": Scrub(LINEAR, SHORT, original, forget_steps=6),
        "BadT": BadT(LINEAR, SHORT, original),
        "SSD": SSD(LINEAR, SHORT, original, selection=2.0, dampening_ratio=0.5),
        "SSD-Det": SSD(LINEAR, SHORT, original, selection=2.0, dampening_ratio=0.5, fisher="sample"),
        "Potion": Potion(LINEAR, SHORT, original, rho=0.4),
    }


class Fitted(NamedTuple):
    """What the unlearners left.

    Attributes:
        stages: By the unlearner's name: `losses` by step, `weights` by parameter, `samples`, the number passed forward.
        importances: The importances stored beside the original, by file name, which says what they are of.
    """

    stages: dict[str, dict[str, Any]]
    importances: list[dict[str, Tensor]]


def fit_stage(stage: Stage, folder: Path, processes: int, identified: float) -> dict[str, Any]:
    """Fit a stage on poisoned digits, and return what has to be the same on any number of processes.

    Args:
        stage: Stage to fit.
        folder: Root folder of the trainer.
        processes: Number of processes; several exist already and are in one process group.
        identified: Fraction of the 36 poisoned digits that is known.
    """
    losses = GlobalLosses()
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
    trainer.fit(stage, datamodule=digits(identified))
    weights = {key: value.clone() for key, value in stage.network.state_dict().items()}
    counts = stage.samples_forward, stage.samples_backward, trainer.global_step
    return {"losses": losses.values, "weights": weights, "counts": counts}


def fit_unlearners(original: str, folder: Path, processes: int) -> Fitted:
    """Fit each of them on 9 of 36 poisoned digits, an odd number, and one on 1.

    Args:
        original: Path of the checkpoint that they start from.
        folder: Root folder of the trainers.
        processes: Number of processes; several exist already and are in one process group.
    """
    fitted = {}
    for name, stage in stages(original).items():
        fitted[name] = fit_stage(stage, folder, processes, 1 / 36 if "one sample" in name else 0.25)
    paths = sorted((Path(original).parent / "importances").glob("*.pt"))
    return Fitted(fitted, [torch.load(path, weights_only=True) for path in paths])
