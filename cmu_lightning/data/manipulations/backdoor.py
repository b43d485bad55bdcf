"""What all backdoors share: a trigger in the image, and a target class."""

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.errors import UserError


def check_opacity(name: str, value: float) -> None:
    """Refuse what no picture can be blended with."""
    if not 0 < value <= 1:
        raise UserError(f"{name}={value} is not in (0, 1]: 0 would not be seen, 1 hides the image")


def check_cover(value: float) -> None:
    """Refuse what is no fraction, or leaves nothing that is relabelled."""
    if not 0 <= value < 1:
        raise UserError(f"cover={value} is not in [0, 1): it is the fraction of S_m that keeps its labels")


class Backdoor(Manipulation):
    """Images with a trigger, labelled as the target class; a backdoor of one's own defines `stamp` alone.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, seed)
        self.target = target

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from S_tr, samples of the target class included."""
        return self.draw(torch.ones_like(labels, dtype=torch.bool))

    def relabel(self, labels: Tensor) -> Tensor:
        """All become the target class."""
        return torch.full_like(labels, self.target)

    def affected(self, labels: Tensor) -> Tensor:
        """Every image with the trigger, those of the target class too."""
        return torch.ones_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Every image without it."""
        return torch.ones_like(labels, dtype=torch.bool)

    def wanted(self, labels: Tensor) -> Tensor:
        """The target class."""
        return torch.full_like(labels, self.target)
