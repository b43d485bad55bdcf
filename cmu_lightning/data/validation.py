"""Checks of custom classes for mistakes that would otherwise go unnoticed or surface far from their cause."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.memmap import MappedImages
from cmu_lightning.data.samples import Split
from cmu_lightning.errors import UserError


def check_sharding(trainer: Trainer | None) -> None:
    """Refuse a Trainer that would give each process a part of its slice only.

    Args:
        trainer: Trainer that runs the stage; None without one.

    Raises:
        UserError: Lightning's distributed sampler is on in a run of several processes.
    """
    if trainer and trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise UserError(
            "each process already gets its own slice of every global batch: "
            "set use_distributed_sampler to False in the Trainer"
        )


def check_splits(owner: object, splits: Sequence[Split | None]) -> None:
    """Refuse splits other than three, of uint8 images of one shape with a label each.

    Args:
        owner: Data module, for its name.
        splits: Result of its `load`.

    Raises:
        UserError: The splits are something else.
    """
    name = f"{type(owner).__name__}.load()"
    if len(splits) != 3 or splits[0] is None:
        raise UserError(f"{name} gives {len(splits)} splits: give training, validation or None, and test or None")
    sides = {}
    for which, split in zip(("training", "validation", "test"), splits, strict=True):
        if split is None:
            continue
        pixels = split.images.array if isinstance(split.images, MappedImages) else split.images
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise UserError(f"{name} gives {which} images of {_kind(pixels)}: give a uint8 tensor of (n, H, W, C)")
        labels, count = split.labels, len(split.images)
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (count,):
            raise UserError(f"{name} gives {which} labels of {_kind(labels)}: give an int64 tensor of ({count},)")
        sides[which] = tuple(pixels.shape[1:])
    if len(set(sides.values())) > 1:
        raise UserError(f"{name} gives images of several shapes, {sides}: give all of one")


def check_channels(owner: object, statistics: dict[str, Sequence[float]], channels: int) -> None:
    """Refuse a mean or a standard deviation that has not one number for each channel.

    Args:
        owner: Data module, for its name.
        statistics: `mean` and `std`, by their names.
        channels: Number of channels of the images.

    Raises:
        UserError: There are more or fewer numbers than channels.
    """
    for name, values in statistics.items():
        if len(values) != channels:
            raise UserError(
                f"{name}={list(values)} of {type(owner).__name__} has {len(values)} numbers for {channels} channels: "
                f"give {channels}"
            )


def check_selected(owner: Manipulation, chosen: Tensor, total: int) -> None:
    """Refuse an S_m that is no ascending list of indices.

    Args:
        owner: Manipulation, for its name.
        chosen: Result of its `select`.
        total: Number of samples it could choose from.

    Raises:
        UserError: The indices are out of range, repeated or out of order.
    """
    ascending = chosen.dtype == torch.int64 and chosen.ndim == 1 and bool((chosen[1:] > chosen[:-1]).all())
    if not ascending or (len(chosen) and not 0 <= int(chosen[0]) <= int(chosen[-1]) < total):
        raise UserError(
            f"{type(owner).__name__}.select gives {_kind(chosen)}: give int64 indices under {total}, ascending, each "
            "once"
        )


def check_relabelled(owner: Manipulation, labels: Tensor, count: int) -> None:
    """Refuse new labels that are not one for each sample of S_m; a single one would be broadcast.

    Args:
        owner: Manipulation, for its name.
        labels: Result of its `relabel`.
        count: |S_m|.

    Raises:
        UserError: The labels have another shape or type.
    """
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise UserError(f"{type(owner).__name__}.relabel gives {_kind(labels)}: give int64 of ({count},)")


def check_classes(labels: Tensor, num_classes: int, location: str, hint: str) -> None:
    """Refuse labels of no class; on a GPU they would end the process.

    Args:
        labels: Shape (n,).
        num_classes: Number of classes.
        location: Source of the labels, for the message.
        hint: What the user can do about it.

    Raises:
        UserError: A label is negative or too large.
    """
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        raise UserError(
            f"{location} has the label {int(labels[wrong[0]])} at index {int(wrong[0])}, but the classes are 0 to "
            f"{num_classes - 1}: {hint}"
        )


def check_domains(owner: Manipulation, labels: Tensor) -> None:
    """Refuse domains that are no masks, and target labels that are not one for each sample.

    Args:
        owner: Manipulation to ask.
        labels: True classes of the test split, shape (n,).

    Raises:
        UserError: `affected`, `unaffected` or `target_labels` gives something else.
    """
    targets = owner.target_labels(labels)
    if targets is not None and (not isinstance(targets, Tensor) or targets.shape != labels.shape):
        raise UserError(
            f"{type(owner).__name__}.target_labels gives {_kind(targets)}: give a class for each label, or None"
        )
    for name in ("affected", "unaffected"):
        mask = getattr(owner, name)(labels)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != labels.shape:
            raise UserError(
                f"{type(owner).__name__}.{name} gives {_kind(mask)}: give a bool tensor of ({len(labels)},)"
            )


def check_order(owner: object, order: Tensor, count: int) -> None:
    """Refuse an order that is no permutation of S_m.

    Args:
        owner: Discovery, for its name.
        order: Result of its `order`.
        count: |S_m|.

    Raises:
        UserError: A position is missing, repeated or out of range.
    """
    whole = isinstance(order, Tensor) and order.dtype == torch.int64 and order.shape == (count,)
    if not whole or not torch.equal(order.sort().values, torch.arange(count)):
        raise UserError(
            f"{type(owner).__name__}.order gives {_kind(order)}: give each position in S_m, 0 to {count - 1}, once"
        )


def check_deletion_set(deleted: Tensor) -> None:
    """Refuse an S_f that leaves nothing to unlearn or nothing to keep.

    Args:
        deleted: Mask of S_f, bool, shape (n,).

    Raises:
        UserError: S_f is empty, or all of S_tr.
    """
    if not deleted.any():
        raise UserError("S_f is empty, so there is nothing to unlearn: give data.discovery Flagged and its path")
    if deleted.all():
        raise UserError(f"S_f is all {len(deleted)} training samples, so nothing is left to keep: flag less")


def check_scores(owner: object, scores: Tensor, total: int) -> None:
    """Refuse scores that are not one number for each sample.

    Args:
        owner: Detector, for its name.
        scores: Result of its `scores`.
        total: |S_tr|.

    Raises:
        UserError: The scores have another shape, or one is NaN.
    """
    if not isinstance(scores, Tensor) or scores.shape != (total,) or bool(scores.isnan().any()):
        lacking = " with NaN" * (isinstance(scores, Tensor) and bool(scores.isnan().any()))
        raise UserError(
            f"{type(owner).__name__}.scores gives {_kind(scores)}{lacking}: give one number for each of {total} samples"
        )


def _kind(given: object) -> str:
    """Return the type and the shape of a tensor, or the name of another class."""
    if not isinstance(given, Tensor):
        return type(given).__name__
    return f"{str(given.dtype).removeprefix('torch.')} of {tuple(given.shape)}"
