"""Data sets that torchvision downloads, with one sentence where that fails."""

import shutil
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import locked

LOCK = ".download.lock"
"""Of several processes that find no data one downloads them."""


def found_or_downloaded(source: type, root: Path, **arguments: Any) -> Any:
    """A torchvision data set from `root`, downloaded if it is not there.

    Args:
        source: torchvision's class.
        root: Folder of the data.
        arguments: Arguments of the class, apart from `root` and `download`.

    Raises:
        UserError: It is not there and cannot be downloaded.
    """
    try:
        return source(root, download=False, **arguments)
    except RuntimeError as missing:
        if "h5py" in str(missing):
            raise UserError("PatchCamelyon is read with h5py: pip install 'cmu-lightning[pcam]'") from missing
    new = not root.exists()
    mend = "put it there, or name its folder by --data.root or CMU_DATA_DIR"
    with locked(root / LOCK, f"the download of {source.__name__}", mend):
        try:
            return source(root, download=True, **arguments)
        except Exception as error:  # urllib, ssl, http, zip and gdown errors, and full or read-only disks
            if new and {path.name for path in root.iterdir()} == {LOCK}:
                shutil.rmtree(root)
            raise UserError(
                f"{source.__name__} is not in {root.resolve()}, or not whole, and could not be downloaded ({error}): "
                f"{mend}"
            ) from error
