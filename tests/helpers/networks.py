"""Networks without batch norm, for which one and several processes must train alike."""

import os
import signal
from pathlib import Path

from torch import Tensor, nn


class Linear(nn.Sequential):
    def __init__(self, pixels: int, num_classes: int, channels: int = 1) -> None:
        super().__init__(nn.Flatten(), nn.Linear(pixels * channels, 32), nn.CELU(), nn.Linear(32, num_classes))


class Double(Linear):
    """In 64 bits, whatever its images are in."""

    def __init__(self, pixels: int, num_classes: int) -> None:
        super().__init__(pixels, num_classes)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images.double())
        return logits


class Deadly(Linear):
    """Its process is killed as often as there are files in a folder."""

    def __init__(self, pixels: int, num_classes: int, folder: str, channels: int = 1) -> None:
        super().__init__(pixels, num_classes, channels)
        for path in Path(folder).glob("*"):
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class Telling(Linear):
    """Leaves a file named after the GPUs that its process may use."""

    def __init__(self, pixels: int, num_classes: int, folder: str, channels: int = 1) -> None:
        super().__init__(pixels, num_classes, channels)
        Path(folder, os.environ.get("CUDA_VISIBLE_DEVICES", "all")).touch()
