"""Data that tell how often they are read."""

import os
from pathlib import Path

from cmu_lightning.data import DigitsDataModule
from cmu_lightning.data.samples import Split


class CountedDigits(DigitsDataModule):
    """Leaves a line in the file READ for each time."""

    def load(self) -> tuple[Split, Split | None, Split]:
        with Path(os.environ["READ"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return super().load()
