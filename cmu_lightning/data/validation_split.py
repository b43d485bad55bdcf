"""The choice of the validation samples: from the data set's own validation split, or held out of training."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cmu_lightning.data.manipulations import Manipulation, Unknown
from cmu_lightning.data.sampling import held_out
from cmu_lightning.errors import UserError


def hold_out(
    labels: Tensor, size: int, flagged: Tensor | None, manipulation: Manipulation, names: Sequence[str] | None
) -> Tensor:
    """Return which stored training samples validate and are not trained on.

    Args:
        labels: Their true classes, shape (n,).
        size: Number of samples to hold out.
        flagged: Samples that a list flags, bool, shape (n,); None without a list.
        manipulation: What the adversary did.
        names: Names of the samples' files; None where samples have only indices.

    Returns:
        Bool, shape (n,).

    Raises:
        UserError: Nothing is left to train on, or a flagged sample would validate.
    """
    if size >= len(labels):
        raise UserError(f"val_size={size} leaves nothing of {len(labels)} samples to train on: give less")
    held = held_out(labels, size)
    # A class of which every sample was chosen would not be trained on: its first sample is.
    for label in torch.unique(labels[~torch.isin(labels, labels[~held])]):
        held[torch.nonzero(labels == label)[0]] = False
    if flagged is None:
        return held
    # With an unknown manipulation the list is the only knowledge, and its samples must be trained on. Otherwise
    # S_m was drawn among the training samples, and a list that names others belongs to other data.
    if not isinstance(manipulation, Unknown):
        _refuse_flagged(held & flagged, names)
    return held & ~flagged


def _refuse_flagged(both: Tensor, names: Sequence[str] | None) -> None:
    rows = torch.nonzero(both).flatten()
    if len(rows):
        row = int(rows[0])
        name = names[row] if names else f"index {row}"
        raise UserError(
            f"the list flags {name}, which validates and is not trained on: take it out of the list, or set "
            "data.val_size to 0"
        )


def choose(labels: Tensor, size: int | None, val_labels: Literal["clean", "given"]) -> Tensor:
    """Return which samples of a validation split validate.

    Args:
        labels: Classes of the split, shape (n,).
        size: Number of samples to choose; None or more than n takes all.
        val_labels: `clean`, the only possible value here: nobody manipulates a validation split.

    Returns:
        Bool, shape (n,).

    Raises:
        UserError: Labels as given are asked for.
    """
    if val_labels == "given":
        raise UserError(
            "val_labels=given applies to held-out training samples, and these data have a val split: leave it out"
        )
    return held_out(labels, len(labels) if size is None else min(size, len(labels)))
