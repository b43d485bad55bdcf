"""Corrective machine unlearning of image classifiers on PyTorch Lightning."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

__version__ = "0.2.0"


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


def results(runs: str | Path) -> "pd.DataFrame":
    """Return the finished runs of a folder as a table, one row a run.

    Args:
        runs: A runs folder, or a file that `report --pack` has written.

    Returns:
        Columns are everything plain in `metrics.json` under its own name, and with dotted names
        `hyperparameters.NAME`, `environment.NAME`, `network.NAME`, `procedure.NAME` and `data.NAME`.

    >>> table = results("runs")  # doctest: +SKIP
    >>> table.groupby(["setting", "method", "identified"]).acc_corr.mean()  # doctest: +SKIP
    """
    from cmu_lightning.report.load import results as read_table  # imports pandas, which other commands do not need

    return read_table(runs)
