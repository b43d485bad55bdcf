"""REM, task vectors and SAP on a few digits, on one process or several."""

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from cmu_lightning.unlearning import ETD, REM, SAP, NegMerge, Procedure, Stage, TaskVector
from tests.helpers.convolutional import Convolutional
from tests.helpers.short_stages import digits

CONVOLUTIONAL = partial(Convolutional, 10)
FEW = Procedure(steps=24, unlearn_steps=6, batch_size=400, lr=0.05)
STAGES: dict[str, Any] = {
    "REM": partial(REM, extra=0.5, flush_epochs=2, gamma=0.1),
    "TaskVector": TaskVector,
    "NegMerge": partial(NegMerge, rates=(1.0, 4.0), repeats=1),
    "SAP": partial(SAP, trusted=40, strengths=(3.0, 300.0)),
}
"""Unlearners with options under which each does something on the short original."""


def plain_trainer(folder: Path, processes: int = 1) -> Trainer:
    """Return a trainer of one process or several.

    Args:
        folder: Its root folder.
        processes: Number of processes; several exist already and are in one process group.
    """
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=1,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
    )


def fit_on(original: str, folder: Path, processes: int, identified: float = 0.25) -> dict[str, dict[str, Any]]:
    """Fit each unlearner, and ETD, and return by its name the weights, the counted samples and what it says of itself.

    Args:
        original: Path of the checkpoint that the unlearners start from.
        folder: Root folder of the trainers.
        processes: Number of processes.
        identified: Fraction of the 36 poisoned digits that was found.
    """
    stages: dict[str, Stage] = {name: make(CONVOLUTIONAL, FEW, original) for name, make in STAGES.items()}
    stages["ETD"] = ETD(CONVOLUTIONAL, FEW)
    fitted = {}
    for name, stage in stages.items():
        plain_trainer(folder, processes).fit(stage, datamodule=digits(identified))
        said = getattr(stage, "chosen", {}) | getattr(stage, "redirected", {})
        fitted[name] = {
            "weights": {key: value.clone() for key, value in stage.network.state_dict().items()},
            "samples": (stage.samples_forward, stage.samples_backward),
            "said": said,
        }
    return fitted
