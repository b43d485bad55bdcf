"""Data sets that torchvision downloads."""

import shutil
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import locked

LOCK = ".download.lock"
"""Name of the file by which one process downloads a data set while others wait."""


def load_or_download(source: type, root: Path, **arguments: Any) -> Any:
    """Return a torchvision data set, downloaded if it is not in its folder.

    Args:
        source: torchvision's class.
        root: Folder of the data.
        arguments: Arguments of the class, apart from `root` and `download`.

    Raises:
        UserError: The data set is not there and cannot be downloaded.
    """
    try:
        return source(root, download=False, **arguments)
    except RuntimeError as missing:
        if "h5py" in str(missing):
            raise UserError("PatchCamelyon is read with h5py: pip install '.[pcam]' in a checkout") from missing
    is_new = not root.exists()
    hint = "put it there, or name its folder by --data.root or CMU_DATA_DIR"
    with locked(root / LOCK, f"the download of {source.__name__}", hint):
        try:
            return source(root, download=True, **arguments)
        except Exception as error:  # urllib, ssl, http, zip and gdown errors, and full or read-only disks
            # A folder made for the download only is removed with its lock.
            if is_new and {path.name for path in root.iterdir()} == {LOCK}:
                shutil.rmtree(root)
            raise UserError(
                f"{source.__name__} is not in {root.resolve()}, or not whole, and could not be downloaded ({error}): "
                f"{hint}"
            ) from error
