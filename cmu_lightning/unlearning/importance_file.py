"""Importances on disk, beside the original that they are of."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from cmu_lightning.files import locked
from cmu_lightning.unlearning.checkpoint import save_tensors


class ImportanceFile:
    """A file that is found again by everything its content depends on.

    Args:
        folder: Where it is.
        of: What it depends on: plain data.
        keys: What it holds.
    """

    def __init__(self, folder: Path, of: dict[str, Any], keys: set[str]) -> None:
        named = hashlib.sha256(json.dumps([of, sorted(keys)], sort_keys=True, default=str).encode()).hexdigest()[:10]
        self.path = folder / f"{named}.pt"
        self.keys = keys

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that computes it; wait for another one that does.

        Raises:
            UserError: The folder cannot be written.
        """
        what = f"the importances {self.path}"
        with locked(self.path.with_suffix(".lock"), what, "copy the original to a folder that can be written"):
            yield

    def read(self) -> dict[str, Any] | None:
        """Its content, or None if it is not there or damaged."""
        try:
            content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            if content.keys() == self.keys:
                return content
        except FileNotFoundError:
            return None
        except Exception:  # torch raises whatever the bytes lead it to
            pass
        rank_zero_warn(f"{self.path} is damaged and is made again")
        return None

    def write(self, content: dict[str, Any]) -> None:
        """As a whole or not at all."""
        save_tensors(self.path, content)


def as_text(values: Tensor) -> list[str]:
    """Numbers that are told apart, but not by how they were rounded."""
    return [f"{value:.2e}" for value in values.detach().flatten().tolist()]
