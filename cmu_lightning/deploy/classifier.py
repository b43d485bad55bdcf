"""Networks that classify the same images: samples of a run, or others that are prepared like them.

Importing torch takes seconds, so functions import it once there is something to classify.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cmu_lightning.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from cmu_lightning.data import CorruptedDataModule
    from cmu_lightning.data.samples import Samples

LONG = 20
"""Number of batches from which on a progress bar is shown."""


class Predictions(NamedTuple):
    """The predicted class of each sample and its softmax probability, each of shape (n,), on the CPU."""

    classes: "Tensor"
    probabilities: "Tensor"


class Classifier:
    """Networks that classify the same images, on the GPU if there is one.

    Args:
        networks: In evaluation mode, such as those of an original and of a run.
        data: Data of the run, which say how images are prepared.
    """

    def __init__(self, networks: Sequence["nn.Module"], data: "CorruptedDataModule") -> None:
        import torch

        from cmu_lightning.unlearning.networks import check_outputs

        for network in networks:
            check_outputs(network, data)  # settles how images lie in memory
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.networks = [network.to(device) for network in networks]
        self.data = data
        self.pixels = data.pixels(device)

    def classify_samples(self, samples: "Samples") -> list[Predictions]:
        """Return each network's predictions for samples as trained on: trigger included, not augmented.

        Args:
            samples: Of the training or of the validation split, n of them.
        """
        import torch

        from cmu_lightning.data.batches import EvaluationBatches
        from cmu_lightning.data.evaluation import of_samples

        # An evaluation needs labels and a domain; here only its images are used.
        everywhere = torch.ones(len(samples.given_labels), dtype=torch.bool)
        evaluation = of_samples(
            samples, torch.arange(len(everywhere)), {"fit": (samples.given_labels.cpu(), everywhere)}
        )
        batches = EvaluationBatches(evaluation, self.pixels, rank=0, world_size=1)
        return self.classify((batch.image for batch in batches), len(batches))

    def classify(self, batches: Iterator["Tensor"], total: int) -> list[Predictions]:
        """Return each network's predictions for all batches.

        Args:
            batches: Images of shape (n, C, H, W), normalised, on the device.
            total: Number of batches; a bar shows their progress if there are many.
        """
        import torch

        from cmu_lightning.console import bar

        parts: list[list[Predictions]] = [[] for _ in self.networks]
        with torch.inference_mode():
            for images in bar(batches, "classifying", total) if total >= LONG else batches:
                for network, predictions in zip(self.networks, parts, strict=True):
                    logits = network(images)
                    classes = logits.argmax(dim=1, keepdim=True)
                    probabilities = logits.float().softmax(dim=1).gather(1, classes)
                    # Predictions are small; on the CPU they take no memory of the GPU.
                    predictions.append(Predictions(classes.flatten().cpu(), probabilities.flatten().cpu()))
        if not parts[0]:
            return [Predictions(torch.empty(0, dtype=torch.int64), torch.empty(0)) for _ in self.networks]
        return [Predictions(*(torch.cat(field) for field in zip(*each, strict=True))) for each in parts]


def decode_like(data: "CorruptedDataModule", file: Path) -> "np.ndarray":
    """Return an image file as the images of some data are stored, shape (H, W, C), uint8.

    Args:
        data: Data module after its set-up.
        file: Path of the image.

    Raises:
        UserError: The file cannot be decoded, or the image has another size.
    """
    image, shape = data.decoded(file), data.samples.images.shape[1:]
    if image.shape != shape:
        raise UserError(
            f"{file} has {image.shape[1]}x{image.shape[0]} pixels and the run's images have {shape[1]}x{shape[0]}: "
            "resize it as the training images were"
        )
    return image
