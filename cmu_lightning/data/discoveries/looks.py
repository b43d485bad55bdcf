"""Features of images for PURE's probes: logits and pooled activations of a network's blocks, for any architecture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest

import torch
from torch import Tensor, nn

from cmu_lightning.data.discoveries.positive_unlabelled import Look
from cmu_lightning.errors import UserError

WHOLE = 0.8
"""Share of a network's parameters from which on a module is opened: it is the network's trunk, not a block of it."""
FEW = 3
"""Fewer maps than this say too little: the largest module that gives one is opened too."""


@torch.no_grad()
def look(network: nn.Module, batches: Iterator[Tensor], gather: Callable[[Tensor], Tensor] | None = None) -> Look:
    """Show a network images, and keep its outputs and activations.

    Each block's map is reduced to the maximum and the mean of every channel over its places; for a transformer, over
    its tokens. The input of the last linear layer follows unchanged.

    Args:
        network: In evaluation mode.
        batches: Images as the network takes them, each of shape (n, C, H, W), n at least 1.
        gather: Joins what several processes show of their parts of a batch, n rows in all; default what is shown here.

    Returns:
        On the CPU, float32: 4 bytes a sample and feature.
    """
    blocks: list[nn.Module] | None = None
    logits, activations, sizes = [], [], []
    for images in batches:
        if blocks is None:
            blocks = find_blocks(network, images[:1])
        with _recorded(network, blocks) as seen:
            said = network(images).float()
        parts = [part for output, block in zip_longest(seen, blocks) for part in _pooled(output, block)]
        if not parts:
            raise UserError(
                f"{type(network).__name__} has no maps, tokens or linear layers as modules, by which samples are told "
                "apart: build it of torch.nn modules"
            )
        sizes = [part.shape[1] for part in parts]
        shown = torch.cat(parts, dim=1)
        logits.append((gather(said) if gather else said).cpu())
        activations.append((gather(shown) if gather else shown).cpu())
    return Look(torch.cat(logits), torch.cat(activations), sizes)


@torch.no_grad()
def find_blocks(network: nn.Module, image: Tensor) -> list[nn.Module]:
    """Find the modules whose outputs are maps (n, channels, h, w) or tokens (n, tokens, channels).

    The network is opened, and every child that holds nearly all of its parameters, down to its blocks.

    Args:
        network: In evaluation mode.
        image: Shape (1, C, H, W).

    Returns:
        In the order in which they are registered; empty for a network that has neither maps nor tokens.
    """
    total = sum(parameter.numel() for parameter in network.parameters())
    level = list(network.children())
    while True:
        sizes = {module: sum(parameter.numel() for parameter in module.parameters()) for module in level}
        openable = [module for module in level if any(True for _ in module.children())]
        trunk = next((module for module in openable if sizes[module] > WHOLE * total), None)
        if trunk is None:
            maps = _with_maps(network, level, image)
            larger = [module for module in maps if module in openable]
            if len(maps) >= FEW or not larger:
                return maps
            trunk = max(larger, key=lambda module: sizes[module])
        at = level.index(trunk)
        level[at : at + 1] = trunk.children()


def _with_maps(network: nn.Module, modules: list[nn.Module], image: Tensor) -> list[nn.Module]:
    """Keep the modules that give maps or tokens of an image."""
    shapes: dict[nn.Module, torch.Size] = {}

    def keep(module: nn.Module, _: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            shapes[module] = output.shape

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [module for module in modules if module in shapes and _places(shapes[module]) > 1]


def _places(shape: torch.Size) -> int:
    """Count the places of a map or the tokens of a sequence; 0 for anything else."""
    if len(shape) == 4:
        return shape[-1] * shape[-2]
    return shape[1] if len(shape) == 3 else 0


@contextmanager
def _recorded(network: nn.Module, blocks: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the blocks' outputs, in order, and then the input of the linear layer that runs last."""
    outputs: dict[int, Tensor] = {}
    latest: list[Tensor] = []
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output, number=number: outputs.__setitem__(number, output))
        for number, block in enumerate(blocks)
    ]
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks += [
        module.register_forward_pre_hook(lambda _, given: latest.__setitem__(slice(None), given)) for module in linear
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
    seen.extend(outputs[number] for number in sorted(outputs))
    seen.extend(part.flatten(1) for part in latest[:1])


def _pooled(output: Tensor, block: nn.Module | None) -> list[Tensor]:
    """Reduce a map or a sequence of tokens to the maximum and the mean of each channel; each (n, channels), float32."""
    values = output.float()
    if values.dim() == 3:
        return [values.amax(1), values.mean(1)]
    if values.dim() == 4:
        places = (1, 2) if block is not None and _ends_in_channels(values.shape, block) else (2, 3)
        return [values.amax(places), values.mean(places)]
    return [values.flatten(1)]


def _ends_in_channels(shape: torch.Size, block: nn.Module) -> bool:
    """Return whether a block's map is (n, h, w, channels), as Swin's are, and not (n, channels, h, w)."""
    sizes = [size for module in block.modules() if (size := _channels(module)) is not None]
    if sizes and (shape[1] == sizes[-1]) != (shape[3] == sizes[-1]):
        return shape[3] == sizes[-1]
    return shape[1] == shape[2] != shape[3]  # without a hint: of a square map the two equal sides


def _channels(module: nn.Module) -> int | None:
    """Return the number of channels that a layer gives; None for a module that does not say."""
    match module:
        case nn.Conv2d():
            return module.out_channels
        case nn.Linear():
            return module.out_features
        case nn.LayerNorm():
            return module.normalized_shape[-1]
        case nn.modules.batchnorm._BatchNorm():
            return module.num_features
    return None
