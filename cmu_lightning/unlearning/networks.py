"""Building a stage's networks, and checking that they fit the data."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from cmu_lightning.console import say_once
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError

VIEW = "view size is not compatible"
"""torch's words if a tensor cannot be viewed in another shape without a copy."""

SEEN = 8
"""Number of images that decide whether outputs are probabilities."""


def build(network: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a freshly initialised network in training mode; the global random generators do not change.

    Args:
        network: Constructor of the network.
        seed: Seed of its initial weights, which depend on nothing else.

    Raises:
        UserError: The network has no weights before it sees a batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = network()
    if any(isinstance(each, UninitializedParameter | UninitializedBuffer) for each in made.state_dict().values()):
        raise UserError(
            f"{type(made).__name__} has layers that learn their shape from the first batch: give them their sizes, as "
            "Linear instead of LazyLinear"
        )
    return made if made.training else made.train()  # pretrained networks may come in evaluation mode


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode; afterwards each module is in the mode that it was in.

    Args:
        network: Network, parts of which may always be in evaluation mode.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def batch_norm_evaluation(network: nn.Module) -> Iterator[None]:
    """Hold a network's batch norm in evaluation mode; afterwards each of its modules is in the mode that it was in.

    It then normalises by the statistics of training, which do not change, and takes a batch of one sample.

    Args:
        network: Network, parts of which may always be in evaluation mode.
    """
    modes = {module: module.training for module in network.modules() if is_batch_norm(module)}
    for module in modes:
        module.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def is_finite(network: nn.Module) -> bool:
    """Return whether all weights and buffers are finite.

    Args:
        network: Network on any device.
    """
    return all(bool(values.isfinite().all()) for values in network.state_dict().values())


def tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    """Return 16 hexadecimal digits that depend on names, order and bytes of the values, but not on the device.

    Args:
        tensors: Tensors by name, such as a state dict.
    """
    digest = hashlib.sha256()
    for name, values in tensors.items():
        digest.update(name.encode() + values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_outputs(network: nn.Module, data: CorruptedDataModule) -> torch.Tensor:
    """Return the logits of one training image, shape (1, num_classes), computed on the CPU.

    Images are channels last in memory. A network that views them or the outputs of a convolution in another shape does
    not take those; for such a one the data module is set to give contiguous images.

    Args:
        network: Network on the CPU.
        data: Data module after its set-up.

    Raises:
        UserError: The network does not take the data's images, or does not give one logit per class.
    """
    image = _images(data, 1)
    try:
        outputs = _first_outputs(network, data)
    except Exception as error:  # a user's network may raise anything
        raise UserError(
            f"{type(network).__name__} does not take images of shape {tuple(image.shape[1:])} ({error}): change network"
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise UserError(
            f"{type(network).__name__} gives {type(outputs).__name__} for an image: wrap it so that it gives the logits"
        )
    shape = tuple(outputs.shape)
    if shape != (1, data.num_classes):
        raise UserError(
            f"{type(network).__name__} gives outputs of shape {shape[1:]} for the {data.num_classes} classes "
            f"of {data.dataset}: make network of so many classes"
        )
    return outputs


def _first_outputs(network: nn.Module, data: CorruptedDataModule) -> Any:
    """Return what the network gives for one image, channels last if it takes that and contiguous otherwise."""
    data.contiguous = False
    try:
        return _logits(network, _images(data, 1))
    except RuntimeError as error:
        if VIEW not in str(error):
            raise
    data.contiguous = True
    try:
        outputs = _logits(network, _images(data, 1))
    except Exception:
        data.contiguous = False
        raise
    say_once(f"{type(network).__name__} views images in another shape, so it gets them contiguous, not channels last")
    return outputs


def check_function(make: Callable[[], nn.Module], network: nn.Module, data: CorruptedDataModule) -> None:
    """Check that logits are a function of the weights and the image.

    Only weights are stored, and every image is classified by itself.

    Args:
        make: Constructor that made the network.
        network: Network on the CPU.
        data: Data module after its set-up.

    Raises:
        UserError: Logits depend on the other images of a batch, or on random numbers that the network does not store;
            or the constructor gives the same network twice.
    """
    check_outputs(network, data)
    name, images = type(network).__name__, _images(data, 2)
    # An image by itself and in a batch of two.
    logits = _logits(network, images[:1])
    if not _alike(logits, _logits(network, images)[:1]):
        raise UserError(
            f"{name} gives other logits for a single image than in a batch: let its batch norm track running stats"
        )
    warn_of_probabilities(network, data)
    # A second network, of another seed, with the same weights.
    another = build(make, 1)
    if {*map(id, network.parameters())} & {*map(id, another.parameters())}:
        raise UserError(
            f"network gives the same {name} each time, but originals are another one: have it make a new one"
        )
    another.load_state_dict(network.state_dict())
    if not _alike(logits, _logits(another, images[:1])):
        raise UserError(
            f"another {name} with the same weights gives other logits: have what it draws in its state_dict, as a "
            "persistent buffer, or drawn by a fixed seed"
        )


def warn_of_probabilities(network: nn.Module, data: CorruptedDataModule) -> None:
    """Say that a network ends in softmax or sigmoid, which the loss applies to its outputs once more.

    Outputs are probabilities if they are from 0 to 1 and differ, and those of an image sum to 1, or stay from 0 to 1
    however large the pixels are.

    Args:
        network: Network on the CPU.
        data: Data module after its set-up.
    """
    images = _images(data, SEEN)
    outputs = _logits(network, images)
    if not _from_0_to_1(outputs):
        return
    sums_to_one = bool(torch.allclose(outputs.sum(1), torch.ones(len(outputs), dtype=outputs.dtype), atol=1e-4))
    extremes = torch.cat([outputs, *(_logits(network, factor * images) for factor in (-1e3, -30.0, 30.0, 1e3))])
    is_sigmoid = _from_0_to_1(extremes) and float(extremes.max() - extremes.min()) > 0.5
    if sums_to_one or is_sigmoid:
        name = "softmax" if sums_to_one else "sigmoid"
        say_once(
            f"{type(network).__name__} gives probabilities, as if it ended in {name}, and not logits, which the losses "
            f"turn into probabilities themselves: it learns slowly and forgets badly; leave out its {name}"
        )


def _from_0_to_1(outputs: torch.Tensor) -> bool:
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def _images(data: CorruptedDataModule, count: int) -> torch.Tensor:
    """Return the network input of the first training images, with the manipulation's pixels, on the CPU."""
    images = data.samples.images[:count]
    return data.pixels()(images, torch.ones(len(images), dtype=torch.bool)).cpu()


@torch.no_grad()
def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with evaluation_mode(network):
        logits: torch.Tensor = network(images)
    return logits


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether logits are equal up to rounding."""
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()), equal_nan=True))


def refuse_untrainable(network: nn.Module, images: torch.Tensor, error: Exception) -> None:
    """Raise an error that explains a failed training step, if the network is the reason.

    Args:
        network: Network in training mode.
        images: Network input of the step, shape (n, C, H, W).
        error: Exception that the step raised.

    Raises:
        UserError: The network normalises over a batch of one sample, or gives logits only in evaluation mode.
    """
    name = type(network).__name__
    if len(images) == 1 and "more than 1 value per channel" in str(error):
        raise UserError(
            f"the batch norm of {name} cannot train on a batch of one sample: set procedure.batch_size so that none is "
            "left with one, or flag more if S_f is a batch by itself, as in Scrub"
        ) from error
    outputs = network(images)
    if not isinstance(outputs, torch.Tensor):
        raise UserError(
            f"{name} gives {type(outputs).__name__} in training mode: let it give only the logits, as torchvision's "
            "do with aux_logits=false"
        ) from error


def channels_last(network: nn.Module) -> None:
    """Lay out four-dimensional weights and buffers channels last, in place, as images are.

    `Module.to(memory_format=...)` fails where a network has tensors of five dimensions.

    Args:
        network: Network on any device.
    """
    for each in (*network.parameters(), *network.buffers()):
        if each.dim() == 4:
            each.data = each.data.contiguous(memory_format=torch.channels_last)


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether a network normalises by statistics of a batch.

    Args:
        network: Network on any device.
    """
    return any(is_batch_norm(module) for module in network.modules())


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether a module, without those in it, normalises by statistics of a batch.

    Args:
        module: Part of a network.
    """
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network whose batch norm uses the global batch, as far as the device has a kernel for it.

    Args:
        network: Network; it is returned as it is if it has no batch norm, or with a warning on a CPU.
        device: Device that it is trained on.
    """
    if not has_batch_norm(network):
        return network
    if device.type == "cuda":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return shared
    rank_zero_warn("batch norm keeps each process's own statistics on the CPU, so training differs from one process's")
    return network
