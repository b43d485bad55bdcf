"""How a stage's networks come about, and whether they fit the data."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError


def build(network: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A freshly initialised network that depends on its seed alone and leaves the global generators alone.

    Raises:
        UserError: It has no weights before it sees a batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = network()
    if any(isinstance(each, UninitializedParameter | UninitializedBuffer) for each in made.state_dict().values()):
        raise UserError(
            f"{type(made).__name__} has layers that learn their shape from the first batch: give them their sizes, as "
            "Linear in place of LazyLinear"
        )
    return made if made.training else made.train()  # pretrained ones may come for evaluation


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; parts that are always in it stay so afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def is_finite(network: nn.Module) -> bool:
    """Whether all its weights and statistics are numbers."""
    return all(bool(values.isfinite().all()) for values in network.state_dict().values())


def tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    """Tells others apart: of other names, or of other values."""
    digest = hashlib.sha256()
    for name, values in tensors.items():
        digest.update(name.encode() + values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_outputs(network: nn.Module, data: CorruptedDataModule) -> torch.Tensor:
    """One image through a network on the CPU, before anything costs time.

    Returns:
        Its logits, shape (1, num_classes).

    Raises:
        UserError: It does not fit the data.
    """
    image = _images(data, 1)
    try:
        with torch.no_grad(), evaluating(network):
            outputs = network(image)
    except Exception as error:  # whatever a network of one's own raises
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


def check_function(make: Callable[[], nn.Module], network: nn.Module, data: CorruptedDataModule) -> None:
    """Logits have to follow from weights and image alone, for weights are kept, and images counted one by one.

    Args:
        make: Made the network, and makes another.
        network: Fits the data.
        data: Set up.

    Raises:
        UserError: They depend on the other images of a batch, or on what the network draws and does not keep; or
            there is but one network.
    """
    check_outputs(network, data)
    name, images = type(network).__name__, _images(data, 2)
    logits = _logits(network, images[:1])
    if not _alike(logits, _logits(network, images)[:1]):
        raise UserError(
            f"{name} gives other logits for an image alone than in a batch: have its batch norm track running stats"
        )
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


def _images(data: CorruptedDataModule, count: int) -> torch.Tensor:
    """The first ones, stamped, on the CPU."""
    images = data.samples.images[:count]
    return data.pixels()(images, torch.ones(len(images), dtype=torch.bool)).cpu()


@torch.no_grad()
def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with evaluating(network):
        logits: torch.Tensor = network(images)
    return logits


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """But for rounding."""
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()), equal_nan=True))


def refuse_untrainable(network: nn.Module, images: torch.Tensor, error: Exception) -> None:
    """Say why a training step failed, if the network is why.

    Raises:
        UserError: It normalises over a batch of one sample, or gives logits in evaluation mode alone.
    """
    name = type(network).__name__
    if len(images) == 1 and "more than 1 value per channel" in str(error):
        raise UserError(
            f"the batch norm of {name} cannot train on a batch of one sample: set procedure.batch_size so that none is "
            "left with one, or flag more if S_f alone is a batch, as in Scrub"
        ) from error
    outputs = network(images)
    if not isinstance(outputs, torch.Tensor):
        raise UserError(
            f"{name} gives {type(outputs).__name__} in training mode: have it give the logits alone, as torchvision's "
            "do with aux_logits=false"
        ) from error


def channels_last(network: nn.Module) -> None:
    """Lay out its images' kernels in memory as the images are; Module.to fails where something has five dimensions."""
    for each in (*network.parameters(), *network.buffers()):
        if each.dim() == 4:
            each.data = each.data.contiguous(memory_format=torch.channels_last)


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """A network whose batch norm is over the global batch, where there is a kernel for it."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return network
    if device.type == "cuda":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return shared
    rank_zero_warn("batch norm keeps each process's own statistics on the CPU, so training differs from one process's")
    return network
