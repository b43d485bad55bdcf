"""Pixels and numbers that depend on a seed alone, drawn on the CPU or, for each sample, on any device."""

from functools import lru_cache

import torch
from torch import Tensor

from cmu_lightning.data.sampling import generator, mix


@lru_cache(maxsize=16)
def noise_image(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform noise in [0, 1), the same on every device."""
    return torch.rand(shape, generator=generator(seed)).to(device)


def uniform_numbers(seed: int, index: Tensor, count: int) -> Tensor:
    """Uniform numbers in (0, 1) that depend on the sample, not on its batch, process or device.

    They are the SplitMix64 generator's (Steele et al., 2014) at positions index * count, index * count + 1, ...

    Args:
        seed: Seed of all of them.
        index: Tells samples apart, int64, shape (n,).
        count: Numbers for each sample.

    Returns:
        Shape (n, count), float32, multiples of 2**-24.
    """
    position = index.unsqueeze(1) * count + torch.arange(1, count + 1, device=index.device)
    bits = position * _signed(0x9E3779B97F4A7C15) + mix(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ _right(bits, shift)) * _signed(factor)
    bits = bits ^ _right(bits, 31)
    return (_right(bits, 41).float() + 0.5) / 2**23


def _right(bits: Tensor, shift: int) -> Tensor:
    """Shift as an unsigned number does; torch's own shift repeats the sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    return number - (1 << 64)
