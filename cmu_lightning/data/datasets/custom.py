"""What a user's own images share, wherever they come from."""

from typing import Any

from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.samples import Read
from cmu_lightning.errors import UserError


class CustomDataModule(CorruptedDataModule):
    """Images of which the classes, their number and the normalisation are found or given, not fixed.

    Args:
        manipulation: `Unknown`, or what a researcher does to the images.
        num_classes: Those of the labels.
        count: Number of stored training samples, a tenth of which validates by default, but no more than 1,000.
        mean: Mean of each channel, white being 1, as the network was trained with; default 0.5.
        std: Standard deviation of each channel, likewise; default 0.5.
        padding: Pixels by which training images are moved at most; default 0, as they are.
        flip: Whether training images are mirrored at random.
        more: `identified`, `seed`, `root`, `val_size`, `val_labels`, `discovery` and `memory_map`, as of every data
            module.
    """

    def __init__(
        self,
        manipulation: Manipulation,
        num_classes: int,
        count: int,
        mean: list[float] | None,
        std: list[float] | None,
        padding: int,
        flip: bool,
        **more: Any,
    ) -> None:
        self.num_classes = num_classes
        self.mean, self.std = tuple(mean or ()), tuple(std or ())
        if padding < 0:
            raise UserError(f"data.padding={padding} is negative: 0 leaves training images where they are")
        if any(value <= 0 for value in self.std):
            raise UserError(f"data.std={list(self.std)} divides by nothing: give positive numbers")
        if any(not 0 <= value <= 1 for value in self.mean):
            raise UserError(f"data.mean={list(self.mean)} is not from 0 to 1, and white is 1: divide it and std by 255")
        self.padding, self.flip = padding, flip
        self.default_val_size = min(1000, count // 10)
        super().__init__(manipulation, **more)

    def _loaded(self) -> Read:
        """With a mean and a standard deviation for each channel."""
        read = super()._loaded()
        channels = read.train.images.shape[-1]
        self.mean, self.std = (given or (0.5,) * channels for given in (self.mean, self.std))
        return read
