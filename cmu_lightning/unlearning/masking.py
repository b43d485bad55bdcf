"""Training of a part of the parameters: all other entries keep the original's values bit for bit."""

from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.networks import is_batch_norm
from cmu_lightning.unlearning.unlearner import Unlearner


class ParameterMask:
    """Which entries of a network's parameters an optimiser trains.

    An optimiser changes an entry by its gradient, by weight decay and by its state, such as momentum. Therefore
    gradients are masked before a step; after it, the masked entries are reset to their values, and their optimiser
    state is cleared. No gradient is computed for a parameter without any trained entry.

    Args:
        network: Network with the values that masked entries keep.
        trained: Which entries are trained: for each of its parameters, by name, a bool tensor of the same shape.
    """

    def __init__(self, network: nn.Module, trained: dict[str, Tensor]) -> None:
        self.parts: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        """Parameters of which a part is trained, their masked entries, and the values to keep."""
        for name, parameter in network.named_parameters():
            masked = ~trained[name]
            if masked.all():
                parameter.requires_grad_(False)
            elif masked.any():
                self.parts.append((parameter, masked, parameter.detach().clone()))

    def to(self, device: torch.device) -> None:
        """Move the mask to the device that the network is on.

        Args:
            device: Device of the parameters.
        """
        self.parts = [(parameter, masked.to(device), kept.to(device)) for parameter, masked, kept in self.parts]

    def gate_gradients(self) -> None:
        """Set the gradients of masked entries to zero."""
        for parameter, masked, _ in self.parts:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(masked, 0)

    @torch.no_grad()
    def restore(self, optimizer: Optimizer) -> None:
        """Give masked entries their values back, and clear what an optimiser remembers of them.

        Args:
            optimizer: Optimiser after a step.
        """
        for parameter, masked, kept in self.parts:
            parameter.copy_(torch.where(masked, kept, parameter))
            for remembered in optimizer.state[parameter].values():
                if isinstance(remembered, Tensor) and remembered.shape == parameter.shape:
                    remembered.masked_fill_(masked, 0)


class MaskedUnlearner(Unlearner):
    """Base of the methods that train a part of the parameters.

    A method defines `trained_entries`, and `holds_statistics` where batch norm is frozen, too.
    """

    mask: ParameterMask

    @abstractmethod
    def trained_entries(self, original: nn.Module) -> dict[str, Tensor]:
        """Return which entries are trained: for each parameter, by name, a bool tensor of its shape, on the CPU.

        Args:
            original: The original in evaluation mode, on the CPU.
        """

    def start(self, original: nn.Module) -> None:
        """Start from the original's weights, and mask them.

        Args:
            original: The original in evaluation mode, on the CPU.

        Raises:
            UserError: The class does not define `trained_entries`.
        """
        if type(self).trained_entries is MaskedUnlearner.trained_entries:  # a LightningModule has no abstract methods
            raise UserError(f"{type(self).__name__} has no trained_entries, which says what is trained: define it")
        super().start(original)
        self.mask = ParameterMask(self.network, self.trained_entries(original))

    def holds_statistics(self, name: str) -> bool:
        """Return whether a batch norm keeps its statistics, and normalises by them; by default none does.

        Args:
            name: Name of the module in the network.
        """
        return False

    def on_train_start(self) -> None:
        """Start the clock, and hold the batch norm that keeps its statistics in evaluation mode."""
        super().on_train_start()
        for name, module in self.network.named_modules():
            if is_batch_norm(module) and self.holds_statistics(name):
                module.eval()

    def on_fit_start(self) -> None:
        """Move the mask to the network's device."""
        super().on_fit_start()
        self.mask.to(self.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return procedure A's optimiser and schedule; the optimiser's steps do not change masked entries."""
        configured: Any = super().configure_optimizers()
        configured["optimizer"].register_step_post_hook(lambda optimizer, *_: self.mask.restore(optimizer))
        return configured  # type: ignore[no-any-return]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gate the gradients, before they are clipped.

        Args:
            optimizer: Not used.
        """
        self.mask.gate_gradients()
