"""Sums over samples of squared gradients, layer by layer.

Each function takes a layer, its input and the gradient at its output, for samples that have no bearing on each other,
and returns by the names of the layer's parameters the sum over samples of the squares of each sample's gradient.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold
from torch.nn.modules.batchnorm import _BatchNorm

CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Numbers of single samples' gradients in memory at a time: few on a CPU, whose caches are small, many on a GPU."""


def is_known(layer: nn.Module) -> bool:
    """Whether `squares` can tell; of subclasses it cannot, for they may do anything."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear or (isinstance(layer, _BatchNorm) and layer.running_mean is not None)


def squares(layer: nn.Module, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Sum of squared gradients of `weight` and `bias`.

    Args:
        layer: A known one, in evaluation mode.
        seen: Its input, shape (n, ...).
        gradient: At its output, shape (n, ...).
    """
    if isinstance(layer, nn.Linear):
        return _of_linear(seen.flatten(1, -2), gradient.flatten(1, -2)) if seen.dim() > 2 else _of_rows(seen, gradient)
    if isinstance(layer, nn.Conv2d):
        return _of_convolution(layer, seen, gradient.flatten(2))
    return _of_batch_norm(layer, seen, gradient)


def _of_rows(seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """One row a sample: the gradient is an outer product, and its square is that of the squares."""
    squared = gradient.square()
    return {"weight": squared.T @ seen.square(), "bias": squared.sum(0)}


def _of_linear(seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Several rows a sample, shapes (n, rows, in) and (n, rows, out)."""
    weight = torch.zeros(gradient.shape[2], seen.shape[2], dtype=seen.dtype, device=seen.device)
    pieces = pieces_of(len(seen) * weight.numel(), seen.device)
    for a, g in zip(seen.chunk(pieces), gradient.chunk(pieces), strict=True):
        weight += _squared(g.transpose(1, 2) @ a)
    return {"weight": weight, "bias": _squared(gradient.sum(1))}


def _of_convolution(layer: nn.Conv2d, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """A product of patches with the gradient, shape (n, out, places), for each sample and each group."""
    groups, places = layer.groups, gradient.shape[2]
    inputs = layer.weight[0].numel()  # of one output
    weight = torch.zeros_like(layer.weight, memory_format=torch.contiguous_format).view(groups, -1, inputs)
    pieces = pieces_of(len(seen) * inputs * max(groups * places, layer.out_channels), seen.device)
    for a, g in zip(seen.chunk(pieces), gradient.chunk(pieces), strict=True):
        patches = unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        patches = patches.view(len(a), groups, inputs, places)
        weight += _squared(g.reshape(len(g), groups, -1, places) @ patches.transpose(2, 3))
    return {"weight": weight.view_as(layer.weight), "bias": _squared(gradient.sum(2))}


def _of_batch_norm(layer: nn.Module, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """An affine map of each channel, by running statistics."""
    channel = (1, -1, *[1] * (seen.dim() - 2))
    mean, spread = (layer.get_buffer(name).view(channel) for name in ("running_mean", "running_var"))
    normed = (seen - mean) * torch.rsqrt(spread + layer.eps)  # type: ignore[operator]
    return {
        name: _squared(value.flatten(2).sum(2) if value.dim() > 2 else value)
        for name, value in (("weight", gradient * normed), ("bias", gradient))
    }


def pieces_of(numbers: int, device: torch.device) -> int:
    """Into how many pieces a batch is cut, so that its numbers fit into memory."""
    return max(1, -(-numbers // CHUNK.get(device.type, CHUNK["cpu"])))


def _squared(gradients: Tensor) -> Tensor:
    """Sum of squares over the first dimension."""
    return gradients.square().sum(0)
