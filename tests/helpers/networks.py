"""Networks without batch norm, for which one and several processes must train alike."""

import os
import signal
from pathlib import Path

from torch import Tensor, nn

from cmu_lightning.experiment.callbacks import LastCheckpoint


class Linear(nn.Sequential):
    """Two linear layers.

    Args:
        pixels: Height times width of an image.
        num_classes: Number of logits.
        channels: Channels of an image.
    """

    def __init__(self, pixels: int, num_classes: int, channels: int = 1) -> None:
        super().__init__(nn.Flatten(), nn.Linear(pixels * channels, 32), nn.CELU(), nn.Linear(32, num_classes))


class Double(Linear):
    """Two linear layers in 64 bits, whatever the images are in.

    Args:
        pixels: Height times width of an image of one channel.
        num_classes: Number of logits.
    """

    def __init__(self, pixels: int, num_classes: int) -> None:
        super().__init__(pixels, num_classes)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, shape (n, num_classes).

        Args:
            images: Shape (n, 1, H, W).
        """
        logits: Tensor = super().forward(images.double())  # type: ignore[no-untyped-call]
        return logits


class WithIdleLayer(Linear):
    """Two linear layers, and one that is never called.

    Args:
        pixels: Height times width of an image of one channel.
        num_classes: Number of logits.
    """

    def __init__(self, pixels: int, num_classes: int) -> None:
        super().__init__(pixels, num_classes)
        self.idle = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, shape (n, num_classes).

        Args:
            images: Shape (n, 1, H, W).
        """
        for layer in [*self][:-1]:
            images = layer(images)
        return images


class KilledWhenBuilt(Linear):
    """A network whose construction kills its process as often as there are files in a folder.

    Args:
        pixels: Height times width of an image.
        num_classes: Number of logits.
        folder: Folder that loses a file each time.
        channels: Channels of an image.
    """

    def __init__(self, pixels: int, num_classes: int, folder: str, channels: int = 1) -> None:
        super().__init__(pixels, num_classes, channels)
        for path in Path(folder).glob("*"):
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class CheckpointedEachEpoch(Linear):
    """A network whose construction lets its process write a checkpoint after each epoch, not only every ten seconds.

    A test that kills a run once there is a checkpoint then waits a moment. Only for processes that end with the test.

    Args:
        pixels: Height times width of an image.
        num_classes: Number of logits.
        channels: Channels of an image.
    """

    def __init__(self, pixels: int, num_classes: int, channels: int = 1) -> None:
        super().__init__(pixels, num_classes, channels)
        LastCheckpoint.__init__.__defaults__ = (120.0, 0.0)


class GPURecorder(Linear):
    """A network whose construction leaves a file named after the GPUs that its process may use.

    Args:
        pixels: Height times width of an image.
        num_classes: Number of logits.
        folder: Folder of the files.
        channels: Channels of an image.
    """

    def __init__(self, pixels: int, num_classes: int, folder: str, channels: int = 1) -> None:
        super().__init__(pixels, num_classes, channels)
        Path(folder, os.environ.get("CUDA_VISIBLE_DEVICES", "all")).touch()
