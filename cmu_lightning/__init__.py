"""Corrective machine unlearning of image classifiers on PyTorch Lightning."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from cmu_lightning.deploy.notebook import Repaired

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
    """Return the finished runs of a folder as a table, one row per run.

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


def repair(network: "nn.Module", images: Any, labels: Any = None, *, flagged: Any, **options: Any) -> "Repaired":
    """Try several methods on a trained network and flagged training samples, and choose, as the command `repair` does.

    Args:
        network: Trained network that gives logits of normalised images; it is not changed.
        images: Training images, an array (n, H, W, C), a tensor (n, C, H, W), uint8 or from 0 to 1; or a Dataset of
            pairs of an image and a label.
        labels: Their labels as given, shape (n,); None with a Dataset.
        flagged: Indices of the flagged samples, or a mask.
        options: `validation`, `corrected`, `trusted`, `mean`, `std`, `steps`, `batch_size`, `lr`, `only`, `budget` and
            `folder`; see `cmu_lightning.deploy.notebook.repair`.

    Returns:
        The repaired `network`, the `suspects`, and a `report` of all candidates.

    Raises:
        UserError: The arguments do not fit together.

    >>> done = repair(network, images, labels, flagged=[3, 17])  # doctest: +SKIP
    >>> done.network, done.suspects.head(), done.report  # doctest: +SKIP
    """
    from cmu_lightning.deploy.notebook import repair as carry_out  # imports torch, which light commands avoid

    return carry_out(network, images, labels, flagged=flagged, **options)
