"""How a stage's networks come about, and whether they fit the data."""

import hashlib
from collections.abc import Callable

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError


def build(network: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A freshly initialised network that depends on its seed alone and leaves the global generators alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network()


def is_finite(network: nn.Module) -> bool:
    """Whether all its weights and statistics are numbers."""
    return all(bool(values.isfinite().all()) for values in network.state_dict().values())


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """Tells other weights apart."""
    digest = hashlib.sha256()
    for name, values in weights.items():
        digest.update(name.encode() + values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_outputs(network: nn.Module, data: CorruptedDataModule) -> None:
    """One image through a network on the CPU, before anything costs time.

    Raises:
        UserError: It does not fit the data.
    """
    image = data.pixels()(data.samples.images[:1], torch.ones(1, dtype=torch.bool)).cpu()
    training = network.training
    try:
        with torch.no_grad():
            shape = tuple(network.eval()(image).shape)
    except RuntimeError as error:
        raise UserError(
            f"{type(network).__name__} does not take images of shape {tuple(image.shape[1:])} ({error}): change network"
        ) from error
    network.train(training)
    if shape != (1, data.num_classes):
        raise UserError(
            f"{type(network).__name__} gives outputs of shape {shape[1:]} for the {data.num_classes} classes "
            f"of {data.dataset}: make network of so many classes"
        )


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """A network whose batch norm is over the global batch, where there is a kernel for it."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return network
    if device.type == "cuda":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return shared
    rank_zero_warn("batch norm keeps each process's own statistics on the CPU, so training differs from one process's")
    return network
