"""Networks made by functions, and checks of their sizes."""

from pkgutil import resolve_name
from typing import Any

from torch import nn

from cmu_lightning.errors import UserError


def check_sizes(**sizes: int) -> None:
    """Say which of a network's arguments is no size.

    Raises:
        UserError: One of them is not positive.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"network.{name}={value} is not positive: give at least 1")


class NetworkFromFunction(nn.Module):
    """What a function returns, such as torchvision's `resnet18`.

    A config names the function itself, `network: {class_path: torchvision.models.resnet18, init_args: {...}}`; this is
    what becomes of it, so that further networks can be made.

    Args:
        function: Its dotted name.
        arguments: By name.
    """

    def __new__(cls, function: str, arguments: dict[str, Any] | None = None) -> Any:
        """The network itself, which is no `Made`."""
        try:
            return resolve_name(function)(**(arguments or {}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{function} cannot make a network ({error}): change the options of network") from error

    def __init__(self, function: str, arguments: dict[str, Any] | None = None) -> None:
        raise TypeError(f"{function} returns {type(self).__name__}")
