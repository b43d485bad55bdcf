"""Which samples each step sees: the same global batches on any number of processes.

Everything here is a pure function of its arguments, so a resumed run needs no saved sampler state.
"""

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.errors import UserError


def generator(*entropy: int) -> torch.Generator:
    """A generator of its own for everything that is random, independent for different `entropy`."""
    return torch.Generator().manual_seed(derive_seed(*entropy))


def derive_seed(*entropy: int) -> int:
    """One seed from several numbers, such as a seed and an epoch; 63 bits.

    Raises:
        UserError: One of them is negative.
    """
    if min(entropy) < 0:
        raise UserError(f"{min(entropy)} is not a seed: give 0 or more")
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


def rank_slice(whole: slice, rank: int, world_size: int) -> slice:
    """The contiguous part of a slice that is `rank`'s; the first ranks take one more if it must be."""
    share, rest = divmod(whole.stop - whole.start, world_size)
    start = whole.start + rank * share + min(rank, rest)
    return slice(start, start + share + (rank < rest))


class EpochSampler:
    """Epochs of global batches, by step.

    Args:
        count: Number of samples.
        batch_size: Size of the global batch; the last one of an epoch is smaller where it must be.
        seed: With the epoch, decides the order.
        shuffle: Whether there is one.
    """

    def __init__(self, count: int, batch_size: int, seed: int, shuffle: bool = True) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""
        return -(-self.count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """All samples in this epoch's order, shape (count,)."""
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=generator(self.seed, epoch))

    def batch(self, step: int) -> tuple[int, slice]:
        """The epoch of a step, and the part of that epoch's order which is its global batch."""
        epoch, number = divmod(step, self.steps_per_epoch)
        start = number * self.batch_size
        return epoch, slice(start, min(start + self.batch_size, self.count))


def held_out(labels: Tensor, count: int) -> Tensor:
    """Choose `count` samples evenly from every class, without a seed.

    Sorts by class (stably) and takes evenly spaced ones, so each class gets its share up to one sample.

    Args:
        labels: Shape (n,).
        count: At most n.

    Returns:
        Bool, shape (n,).
    """
    order = torch.argsort(labels, stable=True)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    if count:
        chosen[order[torch.arange(count) * len(labels) // count]] = True
    return chosen
