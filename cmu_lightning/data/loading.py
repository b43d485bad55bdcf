"""Batches ready for a network, made on the device from arrays in memory."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.mapped import Images, Mapped
from cmu_lightning.data.sampling import rank_slice


def taken(images: Images, chosen: Tensor) -> Images:
    """The images at these indices or under this mask."""
    return images.take(chosen) if isinstance(images, Mapped) else images[chosen]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a GPU fetches it by itself, for which memory has to be pinned, and nobody waits for it."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Split(NamedTuple):
    """Images of one split, shape (n, H, W, C) uint8, and their true classes, shape (n,) int64."""

    images: Images
    labels: Tensor

    def take(self, chosen: Tensor) -> "Split":
        """The samples at these indices or under this mask."""
        return Split(taken(self.images, chosen), self.labels[chosen])

    def to(self, device: torch.device) -> "Split":
        """The same on a device."""
        return Split(self.images.to(device), self.labels.to(device))


class Samples(NamedTuple):
    """Images (n, H, W, C) uint8, true classes, labels as given, and bool masks of S_m and S_f, each (n,).

    `number` (n,) tells samples apart to the manipulation: their places among those of which it drew S_m.
    """

    images: Images
    clean: Tensor
    labels: Tensor
    manipulated: Tensor
    deleted: Tensor
    number: Tensor

    def take(self, chosen: Tensor) -> "Samples":
        """The samples at these indices or under this mask."""
        return Samples(taken(self.images, chosen), *(field[chosen] for field in self[1:]))

    def to(self, device: torch.device) -> "Samples":
        """The same on a device."""
        return Samples(self.images.to(device), *(field.to(device) for field in self[1:]))


class Batch(NamedTuple):
    """This process's slice of a global batch, shape (n, ...); n can be 0.

    `label` is what the model is told, `clean` the truth, which no method may use. `deleted` marks S_f. `row` is where
    in S_tr a sample is, for methods that keep something of each. `total` is the size of the global batch.
    """

    image: Tensor
    label: Tensor
    clean: Tensor
    deleted: Tensor
    row: Tensor
    total: int


class Evaluation(NamedTuple):
    """Samples to be classified, and what each of D accuracies counts as right.

    `split` holds the images, `rows` (n,) says which, `stamped` (n,) which carry the manipulation's pixels,
    `target` (n, D) the class that an accuracy asks for, `domain` (n, D) whether it counts the sample; `number`
    (n,) tells training samples apart to the manipulation, and is None where they are stamped as unseen images are.
    """

    names: tuple[str, ...]
    split: Split
    rows: Tensor
    stamped: Tensor
    target: Tensor
    domain: Tensor
    number: Tensor | None = None


class EvaluationBatch(NamedTuple):
    """This process's slice of a batch of an `Evaluation`; n can be 0."""

    image: Tensor
    target: Tensor
    domain: Tensor


class Pixels:
    """From stored images to a network's input.

    Args:
        mean: Mean of each channel, white being 1.
        std: Standard deviation of each channel.
        manipulation: Stamps the images it is asked to.
        device: Where the arithmetic is done.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        manipulation: Manipulation,
        device: torch.device,
    ) -> None:
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)
        self.manipulation = manipulation
        self.device = device

    def __call__(self, images: Tensor, stamped: Tensor, index: Tensor | None = None) -> Tensor:
        """Stamp some and normalise all.

        Args:
            images: Shape (n, H, W, C), uint8.
            stamped: Which ones to stamp, bool, shape (n,), on the CPU, so that no one waits for a device to tell.
            index: Tells training samples apart, shape (n,); None stamps them as unseen images.

        Returns:
            Shape (n, C, H, W), float32, channels last in memory.
        """
        pixels = to_device(images, self.device).float().div_(255)
        picture = pixels.permute(0, 3, 1, 2)
        rows = torch.nonzero(stamped).flatten()
        if len(rows):
            rows = to_device(rows, self.device)
            picture[rows] = self._stamped(picture[rows], None if index is None else to_device(index, self.device)[rows])
        count, height, width, channels = pixels.shape
        lines = pixels.view(count * height, width * channels)  # long rows: broadcasting over 3 channels is slow
        lines.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return picture

    def _stamped(self, images: Tensor, index: Tensor | None) -> Tensor:
        own = self.manipulation
        stamped = own.stamp(images) if index is None else own.stamp_training(images, index)
        return stamped.to(images.dtype)


def evaluation_size(images: Images) -> int:
    """Images in a batch without gradients: many enough to fill an accelerator, few enough for a laptop's memory."""
    height, width = images.shape[1:3]
    return max(16, min(1000, 4 * 1000 * 32 * 32 // (height * width)))


class EvaluationBatches:
    """Every sample of an evaluation exactly once over all processes, in order, not augmented.

    All processes get the same number of batches, some of which may be empty.
    """

    def __init__(self, evaluation: Evaluation, pixels: Pixels, rank: int, world_size: int) -> None:
        self.evaluation, self.pixels = evaluation, pixels
        self.rank, self.world_size = rank, world_size
        self.size = evaluation_size(evaluation.split.images)

    def __len__(self) -> int:
        return -(-len(self.evaluation.rows) // self.size)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        _, split, rows, stamped, target, domain, index = self.evaluation
        place, device = split.images.device, self.pixels.device
        images_at = rows.to(place)  # once, as all of these: a copy a batch would wait for the device
        index = None if index is None else index.to(device)
        target, domain = target.to(device), domain.to(device)
        for start in range(0, len(rows), self.size):
            part = rank_slice(min(self.size, len(rows) - start), self.rank, self.world_size)
            part = slice(start + part.start, start + part.stop)
            image = self.pixels(split.images[images_at[part]], stamped[part], None if index is None else index[part])
            yield EvaluationBatch(image, target[part], domain[part])
