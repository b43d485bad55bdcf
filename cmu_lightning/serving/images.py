"""Image files of a user's, as the data of a run are stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cmu_lightning.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def find_images(places: Sequence[Path]) -> list[Path]:
    """Files as they are given, and all images in the folders among them.

    Raises:
        UserError: There is none.
    """
    found: list[Path] = []
    known = Image.registered_extensions()
    for place in places:
        if not place.exists():
            raise UserError(f"there is no image {place}: give image files, or a folder of them")
        inside = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in known and path.is_file()]
        if place.is_dir() and not inside:
            raise UserError(f"{place} holds no images: give image files, or a folder of them")
        found += inside if place.is_dir() else [place]
    return found


def read_image(path: Path, shape: tuple[int, int, int]) -> "np.ndarray":
    """An image's pixels, grey or coloured as the data are, never resized.

    Args:
        path: Of the file.
        shape: Of the data's images, (H, W, C).

    Returns:
        Of that shape, uint8.

    Raises:
        UserError: It is no image, or not one of this size.
    """
    import numpy as np

    height, width, channels = shape
    try:
        with Image.open(path) as image:
            if image.size != (width, height):
                raise UserError(
                    f"{path} has {image.width}x{image.height} pixels and the run's images have {width}x{height}: "
                    "bring it to that size in the way in which the data were"
                )
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{path} has more than 8 bits a channel: save it with 8")
            pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): leave it out, or save it again") from error
    return pixels.reshape(shape)
