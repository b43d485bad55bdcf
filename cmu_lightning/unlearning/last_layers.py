"""CF-k and EU-k: fine-tuning or retraining of the last k layers, the others frozen (Goel et al., 2022)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.masking import MaskedUnlearner
from cmu_lightning.unlearning.stage import View


def layers(network: nn.Module) -> list[list[str]]:
    """Return the names of the modules of each layer, first to last.

    A layer is a module with weights of two or more dimensions, as a convolution or a linear layer has, and all modules
    that are registered after it up to the next such module, as its batch norm. What comes before the first one belongs
    to that.

    Args:
        network: Network whose modules are registered in the order in which they are called.

    Example:
        >>> layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)))
        [['', '0', '1', '2'], ['3']]
    """
    found: list[list[str]] = [[]]
    has_begun = False
    for name, module in network.named_modules():
        if any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False)):
            if has_begun:
                found.append([])
            has_begun = True
        found[-1].append(name)
    return found


def module_name(key: str) -> str:
    """Return the name of the module that a parameter or a buffer belongs to.

    Args:
        key: Name of the tensor in a state dict.
    """
    return key.rpartition(".")[0]


class LastLayersUnlearner(MaskedUnlearner):
    """Base of the methods that train the last k layers on the retain data.

    The frozen layers keep the original's values; their batch norm is in evaluation mode.

    Args:
        layers: k, counted as by `layers`; -1 for all. The paper's comparison tries 2 and 4 of ResNet-9's 9.
    """

    view: ClassVar[View] = "retain"

    def __init__(self, *args: Any, layers: int = 2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if layers < 1 and layers != -1:
            raise UserError(f"{type(self).__name__} needs layers >= 1, or -1 for all, not layers={layers}")
        self.layers = layers

    def trained_modules(self) -> set[str]:
        """Return the names of the modules in the last k layers.

        Raises:
            UserError: The network has fewer layers.
        """
        found = layers(self.network)
        if self.layers > len(found):
            raise UserError(
                f"{type(self.network).__name__} has {len(found)} layers, not layers={self.layers}: give fewer, or -1 "
                "for all"
            )
        return {name for layer in (found if self.layers == -1 else found[-self.layers :]) for name in layer}

    def trained_entries(self, original: nn.Module) -> dict[str, Tensor]:
        """Return the parameters of the last k layers, as a whole.

        Args:
            original: The original in evaluation mode, on the CPU.
        """
        return {
            name: torch.full_like(parameter, module_name(name) in self.trained, dtype=torch.bool)
            for name, parameter in original.named_parameters()
        }

    def start(self, original: nn.Module) -> None:
        """Start from the original's weights, and freeze all except the last k layers.

        Args:
            original: The original in evaluation mode, on the CPU.
        """
        self.trained = self.trained_modules()
        super().start(original)

    def holds_statistics(self, name: str) -> bool:
        """Return whether a module is in a frozen layer.

        Args:
            name: Name of the module in the network.
        """
        return name not in self.trained


class CFk(LastLayersUnlearner):
    """CF-k: catastrophic forgetting in the last k layers, which are fine-tuned with procedure A on the retain data.

    With all layers it is CF.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import CFk, Procedure
        >>> CFk(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt", layers=4).steps
        1000
    """


class EUk(LastLayersUnlearner):
    """EU-k: exact unlearning of the last k layers, which are initialised again and trained on the retain data.

    It trains for `procedure.unlearn_steps` steps. With all layers it is RewoD with that number of steps.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import EUk, Procedure
        >>> EUk(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt", layers=2).steps
        1000
    """

    def start(self, original: nn.Module) -> None:
        """Start from the original's first layers and freshly initialised last ones, and freeze the first.

        Args:
            original: The original in evaluation mode, on the CPU.
        """
        fresh = {name: values.clone() for name, values in self.network.state_dict().items()}
        super().start(original)
        kept = self.network.state_dict()
        self.network.load_state_dict(
            {name: fresh[name] if module_name(name) in self.trained else values for name, values in kept.items()}
        )
