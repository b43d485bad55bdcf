"""Masks computed from a sample's index by a hash of counters: no generator, no storage, equal in all processes."""

from typing import Any

import torch
from torch import Tensor

BITS = 32
WORD = 2**BITS - 1
SHARED = WORD
"""An index that no sample has: samples with this index share one mask."""


def _mix(words: Any) -> Any:
    """Return a bijection of 32-bit words, of a tensor or an int, each of whose bits depends on all bits of the word.

    The multipliers are below 2^31, so that no product leaves 63 bits.
    """
    words = ((words ^ (words >> 16)) * 0x21F0AAAD) & WORD
    words = ((words ^ (words >> 15)) * 0x735A2D97) & WORD
    return words ^ (words >> 15)


def sample_words(index: Tensor, units: int, seed: int, first: int = 0) -> Tensor:
    """Return one word of 32 bits for each sample and unit, a function of index, unit and seed only.

    Args:
        index: Index of each sample, int64, shape (n,), from 0 to 2^32 - 1.
        units: Number of units, such as channels or pixels.
        seed: Seed; others give independent words.
        first: Number of the first unit, if units are counted over several layers.

    Returns:
        Shape (n, units), int64.
    """
    unit = torch.arange(first, first + units, device=index.device)
    of_sample = _mix((_mix(index ^ _mix(seed & WORD)) + _mix((seed >> BITS) & WORD)) & WORD)
    words: Tensor = _mix((of_sample.unsqueeze(1) + _mix(unit)) & WORD)
    return words


def sample_mask(index: Tensor, units: int, probability: float, seed: int, first: int = 0) -> Tensor:
    """Return which units each sample uses: fixed draws, each unit with the same probability.

    Args:
        index: Index of each sample, int64, shape (n,).
        units: Number of units.
        probability: Probability of a unit to be used.
        seed: Seed of the draws.
        first: Number of the first unit, where units are counted over several layers.

    Returns:
        Shape (n, units), bool.

    Example:
        >>> one = sample_mask(torch.tensor([7, 3]), units=64, probability=0.2, seed=0)
        >>> bool((one == sample_mask(torch.tensor([3, 7]), units=64, probability=0.2, seed=0).flip(0)).all())
        True
    """
    used: Tensor = sample_words(index, units, seed, first) < round(probability * 2**BITS)
    return used
