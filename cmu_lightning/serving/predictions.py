"""Classes that networks predict, sample by sample."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cmu_lightning.console import bar
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.data.evaluation import EvaluationBatches, evaluation_size, of_samples
from cmu_lightning.data.samples import Samples
from cmu_lightning.errors import UserError

LONG = 20
"""Batches from which on progress is shown."""


class Predictions(NamedTuple):
    """The predicted class and its probability, each of shape (n,), on the CPU."""

    classes: Tensor
    probabilities: Tensor


class Classifier:
    """Classifies with several networks at once, on the GPU if there is one.

    Args:
        networks: In evaluation mode.
        data: Data of the run.
    """

    def __init__(self, networks: Sequence[nn.Module], data: CorruptedDataModule) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.networks = [network.to(device) for network in networks]
        self.data = data
        self.pixels = data.pixels(device)

    def samples(self, samples: Samples) -> list[Predictions]:
        """Predictions of each network on samples as they are trained on: not augmented, trigger included."""
        everywhere = torch.ones(len(samples.given_labels), dtype=torch.bool)
        what = of_samples(samples, torch.arange(len(everywhere)), {"fit": (samples.given_labels.cpu(), everywhere)})
        batches = EvaluationBatches(what, self.pixels, rank=0, world_size=1)
        return self._classify((batch.image for batch in batches), len(batches))

    def files(self, files: Sequence[Path]) -> list[Predictions]:
        """Predictions of each network on image files as they are.

        Raises:
            UserError: One cannot be read, or does not fit the data.
        """
        size = evaluation_size(self.data.samples.images)
        parts = [files[start : start + size] for start in range(0, len(files), size)]
        return self._classify((self._read(part) for part in parts), len(parts))

    def _read(self, files: Sequence[Path]) -> Tensor:
        images = torch.stack([torch.from_numpy(self._decoded(file)) for file in files])
        return self.pixels(images, torch.zeros(len(images), dtype=torch.bool))

    def _decoded(self, file: Path) -> np.ndarray:
        image, shape = self.data.decoded(file), self.data.samples.images.shape[1:]
        if image.shape != shape:
            raise UserError(
                f"{file} has {image.shape[1]}x{image.shape[0]} pixels and the run's images have {shape[1]}x{shape[0]}: "
                "bring it to that size in the way in which the data were"
            )
        return image

    @torch.inference_mode()
    def _classify(self, images: Iterator[Tensor], total: int) -> list[Predictions]:
        parts: list[list[Predictions]] = [[] for _ in self.networks]
        for batch in bar(images, "classifying", total) if total >= LONG else images:
            for network, own in zip(self.networks, parts, strict=True):
                logits = network(batch)
                classes = logits.argmax(dim=1, keepdim=True)
                probabilities = logits.float().softmax(dim=1).gather(1, classes)
                own.append(Predictions(classes.flatten().cpu(), probabilities.flatten().cpu()))
        return [Predictions(*(torch.cat(field) for field in zip(*own, strict=True))) for own in parts]
