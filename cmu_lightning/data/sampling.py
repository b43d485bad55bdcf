"""Which samples each step sees: the same global batches on any number of processes.

Everything here is a pure function of its arguments, so a resumed run needs no saved sampler state.
"""

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.errors import UserError


def derive_seed(*entropy: int) -> int:
    """Return one seed of 63 bits from several numbers, such as a seed and an epoch.

    Args:
        entropy: Numbers of 0 or more; other numbers give an independent seed. Zeros at the end do not count, and a
            number over 2^32 counts as two.

    Raises:
        UserError: A number is negative.

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    if min(entropy) < 0:
        raise UserError(f"{min(entropy)} is not a seed: give 0 or more")
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


def generator(*entropy: int) -> torch.Generator:
    """Return a new random generator; other entropy gives independent numbers.

    Args:
        entropy: As for `derive_seed`.
    """
    return torch.Generator().manual_seed(derive_seed(*entropy))


def rank_slice(whole: slice, rank: int, world_size: int) -> slice:
    """Return a process's contiguous part of a slice; sizes differ by one at most, and the first ranks' are larger.

    Args:
        whole: Slice of the global batch.
        rank: Number of the process.
        world_size: Number of processes.

    Example:
        >>> [rank_slice(slice(10, 15), rank, 2) for rank in range(2)]
        [slice(10, 13, None), slice(13, 15, None)]
    """
    share, rest = divmod(whole.stop - whole.start, world_size)
    start = whole.start + rank * share + min(rank, rest)
    return slice(start, start + share + (rank < rest))


class EpochSampler:
    """Epochs of global batches, by step.

    Args:
        count: Number of samples.
        batch_size: Size of the global batch; an epoch's last batch holds what is left and can be smaller.
        seed: Decides the order, together with the epoch.
        shuffle: Whether to shuffle; otherwise samples come in ascending order.

    Example:
        >>> sampler = EpochSampler(count=10, batch_size=4, seed=0)
        >>> sampler.batch(5)
        (1, slice(8, 10, None))
    """

    def __init__(self, count: int, batch_size: int, seed: int, shuffle: bool = True) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches in an epoch."""
        return -(-self.count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Return all samples in the order of an epoch, int64, shape (count,).

        Args:
            epoch: Number of the epoch, counted from 0.
        """
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=generator(self.seed, epoch))

    def batch(self, step: int) -> tuple[int, slice]:
        """Return the epoch of a step, and the part of that epoch's order that is its global batch.

        Args:
            step: Number of the step, counted from 0.
        """
        epoch, number = divmod(step, self.steps_per_epoch)
        start = number * self.batch_size
        return epoch, slice(start, min(start + self.batch_size, self.count))


def held_out(labels: Tensor, count: int) -> Tensor:
    """Choose `count` samples evenly from every class, without a seed.

    Sorts by class (stably) and takes evenly spaced samples, so each class gets its share up to one sample.

    Args:
        labels: Classes, int64, shape (n,).
        count: Number of samples to choose, at most n.

    Returns:
        The chosen samples, bool, shape (n,).
    """
    order = torch.argsort(labels, stable=True)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    if count:
        chosen[order[torch.arange(count) * len(labels) // count]] = True
    return chosen
