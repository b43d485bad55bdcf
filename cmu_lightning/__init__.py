"""Corrective machine unlearning of image classifiers on PyTorch Lightning."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"


def load(run: str | Path) -> "nn.Module":
    """Return the network of a run in evaluation mode, ready for inference.

    Args:
        run: Folder of the run; its `config.yaml` and `last.ckpt` are read.

    Returns:
        A module that maps normalised images, shape (n, C, H, W), to logits, shape (n, num_classes).

    Raises:
        UserError: The folder is not a run's, or its weights were dropped.

    >>> network = load("runs/poison_digits/SSD/0-0123456789")  # doctest: +SKIP
    """
    from cmu_lightning.experiment.restore import restore_network  # imports torch, which light commands avoid

    return restore_network(Path(run))
