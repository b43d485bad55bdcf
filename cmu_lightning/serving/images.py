"""Image files that a user names."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cmu_lightning.errors import UserError


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
    for path in found:
        if "\r" in str(path) or not _is_text(str(path)):
            raise UserError(f"the name of {str(path)!r} cannot stand in a CSV file: rename the image")
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
