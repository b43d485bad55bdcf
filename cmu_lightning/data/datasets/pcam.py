"""PatchCamelyon (Veeling et al., 2018)."""

import torch
from torchvision.datasets import PCAM

from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.datasets.download import load_or_download
from cmu_lightning.data.memmap import CHUNK
from cmu_lightning.data.samples import Split
from cmu_lightning.errors import UserError


class PCAMDataModule(CorruptedDataModule):
    """PatchCamelyon: 262,144 training, 32,768 validation and 32,768 test patches of 96x96 pixels.

    The label depends on the centre of 32x32 pixels, and only that is used. `val_size` takes so many of the validation
    patches. Requires h5py.

    Example:
        >>> from cmu_lightning.data import PCAMDataModule, Poison
        >>> PCAMDataModule(Poison(fraction=0.01)).num_classes
        2
    """

    dataset = "pcam"
    num_classes = 2
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    side = 32  # pixels

    def prepare_data(self) -> None:
        """Download the files that are missing."""
        for split in () if self.is_read() else ("train", "val", "test"):
            load_or_download(PCAM, self.root, split=split)

    def load(self) -> tuple[Split, Split | None, Split]:
        """Read the centres of the patches of all splits."""
        return self._split("train"), self._split("val"), self._split("test")

    def _split(self, split: str) -> Split:
        """Return a split, read chunk by chunk.

        Args:
            split: `train`, `val` or `test`.

        Raises:
            UserError: Its files are damaged.
        """
        stored = load_or_download(PCAM, self.root, split=split)
        folder, files = stored._base_folder, stored._FILES[split]
        try:
            with stored.h5py.File(folder / files["images"][0]) as images:
                count, height, width, channels = images["x"].shape
                top, left = (height - self.side) // 2, (width - self.side) // 2
                pixels = self.room(count, self.side, self.side, channels)
                for start in range(0, count, CHUNK):
                    part = images["x"][start : start + CHUNK, top : top + self.side, left : left + self.side]
                    pixels[start : start + CHUNK] = torch.from_numpy(part)
            with stored.h5py.File(folder / files["targets"][0]) as targets:
                labels = targets["y"][:].reshape(-1)
        except OSError as error:
            raise UserError(f"{split} split of PCAM in {folder} cannot be read ({error}): download it again") from error
        return Split(pixels, torch.from_numpy(labels).long())
