"""The handwritten digits of scikit-learn: real images without a download (Alpaydin and Kaynak, 1998)."""

import torch
from torch.nn.functional import pad

from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.samples import Split
from cmu_lightning.data.sampling import held_out


class DigitsDataModule(CorruptedDataModule):
    """1,797 digits of 8x8 pixels, padded to 12x12: 1,197 for training, 203 for validation, 397 for the test.

    Example:
        >>> from cmu_lightning.data import DigitsDataModule, Poison
        >>> data = DigitsDataModule(Poison(size=36), identified=0.5)
        >>> data.setup()
        >>> data.samples.images.shape, int(data.samples.manipulated.sum()), int(data.samples.deleted.sum())
        (torch.Size([1197, 12, 12, 1]), 36, 18)
    """

    dataset = "digits"
    num_classes = 10
    mean = (0.1357,)
    std = (0.2930,)
    padding = 1
    flip = False
    default_val_size = 203
    test_size = 397

    def load(self) -> tuple[Split, Split | None, Split]:
        """Return training and test split; every class is spread evenly over them."""
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        grey = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)
        labels = torch.from_numpy(digits.target).long()
        whole = Split(pad(grey, (2, 2, 2, 2)).unsqueeze(-1), labels)
        test = held_out(labels, self.test_size)
        return whole.take(~test), None, whole.take(test)
