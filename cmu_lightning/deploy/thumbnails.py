"""Training images as small pictures that are embedded in a page as data URIs."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from cmu_lightning.data import CorruptedDataModule

LARGEST = 96
"""Longer side of a picture in pixels; larger images are scaled down to it, small ones are shown enlarged."""


class Thumbnail(NamedTuple):
    """A picture as a data URI, the size at which it is shown, and whether that enlarges it pixel by pixel."""

    source: str
    width: int
    height: int
    is_enlarged: bool


def thumbnails(data: "CorruptedDataModule", rows: Sequence[int]) -> Iterator[Thumbnail]:
    """Yield images as they are trained on, a trigger included.

    Args:
        data: Data module after its set-up.
        rows: Positions in S_tr.
    """
    import torch

    from cmu_lightning.data.transforms import Pixels

    samples, chosen = data.samples, torch.tensor(rows, dtype=torch.long)
    channels = samples.images.shape[-1]
    stamp = Pixels((0.0,) * channels, (1.0,) * channels, data.manipulation, torch.device("cpu"))
    stamped, number = (field.cpu()[chosen] for field in (samples.manipulated, samples.manipulation_index))
    images = samples.images[chosen.to(samples.images.device)].cpu()
    pictures = stamp(images, stamped, number).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
    yield from map(_thumbnail, pictures.numpy())


def _thumbnail(pixels: "np.ndarray") -> Thumbnail:
    """Return a picture: a PNG file where it is small, else JPEG.

    Args:
        pixels: Shape (H, W, C), uint8; of other numbers of channels than 1 and 3 their mean is shown.
    """
    from PIL import Image

    channels = pixels.shape[-1]
    image = Image.fromarray(pixels if channels == 3 else pixels.mean(axis=-1).round().astype("uint8"))
    image.thumbnail((LARGEST, LARGEST))
    factor = LARGEST // max(image.size)  # a whole one, so that all pixels are equally large
    file, kind = io.BytesIO(), "png" if factor > 1 else "jpeg"
    image.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    source = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Thumbnail(source, factor * image.width, factor * image.height, factor > 1)
