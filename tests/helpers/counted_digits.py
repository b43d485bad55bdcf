"""Data that tell how often they are read."""

import os
from pathlib import Path

from cmu_lightning.data import DigitsDataModule
from cmu_lightning.data.samples import Split


class CountedDigits(DigitsDataModule):
    """Digits that leave the number of the process in a line of the file READ each time they are read."""

    def load(self) -> tuple[Split, Split | None, Split]:
        """Leave a line and return the splits."""
        with Path(os.environ["READ"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return super().load()
