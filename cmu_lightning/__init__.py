"""Corrective machine unlearning of image classifiers on PyTorch Lightning."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"


def load(run: str | Path) -> "nn.Module":
    """The network of a run, in evaluation mode, ready for inference.

    Args:
        run: Folder of a run: `config.yaml` and `last.ckpt` are read.

    Returns:
        Takes normalised images, shape (n, C, H, W), and returns logits, shape (n, num_classes).
    """
    from cmu_lightning.experiment.restore import restore_network

    return restore_network(Path(run))
