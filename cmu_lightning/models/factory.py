"""Networks that a function returns, and the check of a network's sizes."""

from typing import Any

from torch import nn

from cmu_lightning.errors import UserError
from cmu_lightning.models.admitted import find_maker


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1.

    Args:
        sizes: Arguments of a network, by name.

    Raises:
        UserError: One of them is below 1.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"network.{name}={value} is not positive: give at least 1")


class NetworkFromFunction(nn.Module):
    """The network that a function such as torchvision's `resnet18` returns.

    A config names the function itself, `network: {class_path: torchvision.models.resnet18, init_args: {...}}`. In the
    resolved config this class replaces it, because a stage makes further networks by calling a class.

    Args:
        function: Dotted name of the function.
        arguments: Its arguments by name.

    Example:
        >>> network = NetworkFromFunction("torchvision.models.resnet18", {"num_classes": 3})
        >>> type(network).__name__, network.fc.out_features
        ('ResNet', 3)
    """

    def __new__(cls, function: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return what the function returns, which is no instance of this class."""
        make = find_maker(function)
        try:
            network = make(**(arguments or {}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{function} cannot make a network ({error}): change the options of network") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{function} returns a {type(network).__name__}, not a network: give another network")
        return network

    def __init__(self, function: str, arguments: dict[str, Any] | None = None) -> None:
        # Python calls __init__ only if __new__ returned an instance of this class.
        raise TypeError(f"{function} returns {type(self).__name__}")
