"""Which samples validate: held out of training, or of a split of their own."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cmu_lightning.data.samples import Samples, Split
from cmu_lightning.data.sampling import held_out
from cmu_lightning.errors import UserError


def of_training(labels: Tensor, count: int) -> Tensor:
    """Which training samples validate; bool, shape (n,).

    Raises:
        UserError: None is left to train on.
    """
    if count >= len(labels):
        raise UserError(f"val_size={count} leaves nothing of {len(labels)} samples to train on: give less")
    return held_out(labels, count)


def of_own_split(labels: Tensor, size: int | None, val_labels: Literal["clean", "given"]) -> Tensor:
    """Which samples of a validation split validate, as many as asked for; bool, shape (n,).

    Raises:
        UserError: Its labels cannot be manipulated.
    """
    if val_labels == "given":
        raise UserError(
            "val_labels=given is of held-out training samples, and these data have a val split: leave it out"
        )
    return held_out(labels, len(labels) if size is None else min(size, len(labels)))


def refuse_flagged(held: Tensor, flagged: Tensor, names: Sequence[str] | None) -> None:
    """A list of what is known to be manipulated can only be of samples that are trained on.

    Raises:
        UserError: It flags one that validates.
    """
    both = torch.nonzero(held & flagged).flatten()
    if len(both):
        row = int(both[0])
        name = names[row] if names else f"index {row}"
        raise UserError(
            f"the list flags {name}, which validates and is not trained on: take it out of the list, or set "
            "data.val_size to 0"
        )


def untouched(split: Split, rows: Tensor) -> Samples:
    """Those samples of a validation split that validate.

    Args:
        split: The data set's own.
        rows: Indices, ascending.
    """
    if len(rows) < len(split.labels):
        split = split.take(rows)
    nothing = torch.zeros_like(split.labels, dtype=torch.bool)
    return Samples(split.images.contiguous(), split.labels, split.labels, nothing, nothing, torch.arange(len(nothing)))
