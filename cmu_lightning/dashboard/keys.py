"""What dashboards refer to; runs log all of it (see `tracking/publish.py`), and a test holds this against real ones."""

from cmu_lightning.experiment.run import CURVES

ACCURACIES = (
    "acc_corr",
    "acc_retain",
    "acc_manipulated",
    "acc_identified",
    "acc_unidentified",
    "val_acc",
    "changed",
    "selection_score",
)
SHOWN_WHILE_TRAINING = (*CURVES, "val_acc", "changed", "selection_score")
MEDIA = ("manipulated_images", "importance_ratios")
IDENTITY = ("setting", "method", "identified", "seed")
TUNED = {"Scrub": ("distill",), "SSD": ("selection", "dampening_ratio")}
"""Hyperparameters of the methods that the paper tunes."""
