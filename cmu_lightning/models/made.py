"""Networks that a function makes, not a class."""

from pkgutil import resolve_name
from typing import Any

from torch import nn

from cmu_lightning.errors import UserError


class Made(nn.Module):
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
