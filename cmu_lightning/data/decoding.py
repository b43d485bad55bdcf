"""Image files of a user's."""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import functional

from cmu_lightning.errors import UserError


def decode(path: str | Path, grey: bool, size: int | None = None, resize: int | None = None) -> np.ndarray:
    """An image's pixels.

    Args:
        path: Path of the file.
        grey: One channel in place of three.
        size: Side of the square that is cut out of its centre; default as it is.
        resize: Shorter side to which it is resized before.

    Returns:
        Shape (H, W, C), uint8, writable.

    Raises:
        UserError: It is no image, or one of more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            mode, picture = image.mode, image.convert("L" if grey else "RGB")
    except Exception as error:  # PIL raises whatever the bytes lead it to
        raise UserError(f"the image {path} cannot be read ({error}): mend it or take it away") from error
    if mode[0] in "IF":
        raise UserError(f"the image {path} has more than 8 bits a channel (mode {mode}): convert it to 8")
    if size is not None:
        picture = functional.center_crop(functional.resize(picture, [resize or size]), [size])
    pixels = np.asarray(picture)
    return np.array(pixels[..., None] if pixels.ndim == 2 else pixels)
