"""Sizes that a network can have."""

from cmu_lightning.errors import UserError


def check_sizes(**sizes: int) -> None:
    """Say which of a network's arguments is no size.

    Raises:
        UserError: One of them is not positive.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"network.{name}={value} is not positive: give at least 1")
