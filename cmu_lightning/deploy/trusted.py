"""Images whose correct labels a user knows, such as images with the trigger: `repair --trusted`.

Ordinary validation samples do not carry the trigger, so a score on them cannot detect it; a score on such images can.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cmu_lightning.errors import UserError

if TYPE_CHECKING:
    from cmu_lightning.data import CorruptedDataModule


class Trusted(NamedTuple):
    """Trusted images, shape (n, H, W, C), uint8, and their right labels, shape (n,), int64."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def digest(self) -> str:
        """A name for exactly these images and labels."""
        parts = (str(self.images.shape).encode(), self.images.tobytes(), self.labels.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def refuse_missing(folder: Path) -> None:
    """Refuse a folder that does not exist, before anything runs.

    Args:
        folder: Folder with a folder for each class.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"--trusted {folder}: there is no such folder; give one that holds a folder for each class")


def read_folder(folder: Path, data: "CorruptedDataModule") -> Trusted:
    """Read `FOLDER/CLASS/IMAGE`; the folder of a class has its name, or its number where classes have no names.

    Args:
        folder: Folder with a folder for each class; classes may be missing.
        data: Data of the runs, whose classes and image size count.

    Raises:
        UserError: A folder is no class, there are no images, one cannot be read, or one has another size.
    """
    from PIL import Image

    from cmu_lightning.data.datasets.image_files import find_class_folders, find_images
    from cmu_lightning.deploy.classifier import decode_like

    classes = list(data.classes or map(str, range(data.num_classes)))
    suffixes, images, labels = Image.registered_extensions(), list[np.ndarray](), list[int]()
    for name in find_class_folders(folder, {}):
        if name not in classes:
            shown = ", ".join(classes[:10]) + ", ..." * (len(classes) > 10)
            raise UserError(f"--trusted {folder} has a folder {name}, which is no class; name folders like {shown}")
        for path in find_images(folder / name, suffixes, {}):
            images.append(decode_like(data, Path(path)))
            labels.append(classes.index(name))
    if not images:
        raise UserError(
            f"--trusted {folder} holds no images: put them into a folder for each class, FOLDER/CLASS/IMAGE"
        )
    return Trusted(np.stack(images), np.array(labels, dtype=np.int64))
