"""What a class of one's own gives, looked at before anything is computed from it."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.memmap import Mapped
from cmu_lightning.data.samples import Split
from cmu_lightning.errors import UserError


def check_sharding(trainer: Trainer | None) -> None:
    """Lightning would give each process a part of what is its own already.

    Raises:
        UserError: It is about to.
    """
    if trainer and trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise UserError(
            "each process already gets its own slice of every global batch: "
            "set use_distributed_sampler to False in the Trainer"
        )


def check_splits(owner: object, splits: Sequence[Split | None]) -> None:
    """What `load` gives: three splits of images that belong to their labels.

    Raises:
        UserError: It is something else.
    """
    name = f"{type(owner).__name__}.load()"
    if len(splits) != 3 or splits[0] is None:
        raise UserError(f"{name} gives {len(splits)} splits: give training, validation or None, and test or None")
    sides = {}
    for which, split in zip(("training", "validation", "test"), splits, strict=True):
        if split is None:
            continue
        pixels = split.images.array if isinstance(split.images, Mapped) else split.images
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise UserError(f"{name} gives {which} images of {_kind(pixels)}: give a uint8 tensor of (n, H, W, C)")
        labels, count = split.labels, len(split.images)
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (count,):
            raise UserError(f"{name} gives {which} labels of {_kind(labels)}: give an int64 tensor of ({count},)")
        sides[which] = tuple(pixels.shape[1:])
    if len(set(sides.values())) > 1:
        raise UserError(f"{name} gives images of several shapes, {sides}: give all of one")


def check_channels(owner: object, statistics: dict[str, Sequence[float]], channels: int) -> None:
    """The mean and the standard deviation of each channel.

    Raises:
        UserError: There are more or fewer of them.
    """
    for name, values in statistics.items():
        if len(values) != channels:
            raise UserError(
                f"{name}={list(values)} of {type(owner).__name__} has {len(values)} numbers for {channels} channels: "
                f"give {channels}"
            )


def check_selected(owner: Manipulation, chosen: Tensor, total: int) -> None:
    """What `select` gives: each sample of S_m once.

    Raises:
        UserError: It is something else.
    """
    ascending = chosen.dtype == torch.int64 and chosen.ndim == 1 and bool((chosen[1:] > chosen[:-1]).all())
    if not ascending or (len(chosen) and not 0 <= int(chosen[0]) <= int(chosen[-1]) < total):
        raise UserError(
            f"{type(owner).__name__}.select gives {_kind(chosen)}: give int64 indices under {total}, ascending, each "
            "once"
        )


def check_relabelled(owner: Manipulation, labels: Tensor, count: int) -> None:
    """What `relabel` gives: a class for each sample of S_m.

    Raises:
        UserError: It is something else.
    """
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise UserError(f"{type(owner).__name__}.relabel gives {_kind(labels)}: give int64 of ({count},)")


def check_domains(owner: Manipulation, labels: Tensor) -> None:
    """What `affected` and `unaffected` give: a mask.

    Raises:
        UserError: It is something else.
    """
    wanted = owner.target_labels(labels)
    if wanted is not None and (not isinstance(wanted, Tensor) or wanted.shape != labels.shape):
        raise UserError(
            f"{type(owner).__name__}.target_labels gives {_kind(wanted)}: give a class for each label, or None"
        )
    for name in ("affected", "unaffected"):
        mask = getattr(owner, name)(labels)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != labels.shape:
            raise UserError(
                f"{type(owner).__name__}.{name} gives {_kind(mask)}: give a bool tensor of ({len(labels)},)"
            )


def check_order(owner: object, order: Tensor, count: int) -> None:
    """What a discovery's `order` gives: each position in S_m once.

    Raises:
        UserError: It is something else.
    """
    whole = isinstance(order, Tensor) and order.dtype == torch.int64 and order.shape == (count,)
    if not whole or not torch.equal(order.sort().values, torch.arange(count)):
        raise UserError(
            f"{type(owner).__name__}.order gives {_kind(order)}: give each position in S_m, 0 to {count - 1}, once"
        )


def check_deletion_set(deleted: Tensor) -> None:
    """There is something to unlearn, and something to keep.

    Raises:
        UserError: S_f is empty, or everything.
    """
    if not deleted.any():
        raise UserError("S_f is empty, so there is nothing to unlearn: give data.discovery Flagged and its path")
    if deleted.all():
        raise UserError(f"S_f is all {len(deleted)} training samples, so nothing is left to keep: flag less")


def check_scores(owner: object, scores: Tensor, total: int) -> None:
    """What a detector's `scores` gives: a number for each sample.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(scores, Tensor) or scores.shape != (total,) or bool(scores.isnan().any()):
        lacking = " with NaN" * (isinstance(scores, Tensor) and bool(scores.isnan().any()))
        raise UserError(
            f"{type(owner).__name__}.scores gives {_kind(scores)}{lacking}: give one number for each of {total} samples"
        )


def _kind(given: object) -> str:
    if not isinstance(given, Tensor):
        return type(given).__name__
    return f"{str(given.dtype).removeprefix('torch.')} of {tuple(given.shape)}"
