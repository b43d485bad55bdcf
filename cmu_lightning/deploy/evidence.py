"""Predictions of the runs of a study for single samples, stored in their folders."""

import io
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from cmu_lightning.deploy.choice import Candidate
from cmu_lightning.deploy.guards import Part, Parts
from cmu_lightning.files import write_atomically

if TYPE_CHECKING:
    from cmu_lightning.data import CorruptedDataModule
    from cmu_lightning.deploy.classifier import Classifier
    from cmu_lightning.deploy.trusted import Trusted

PREDICTED = "predicted.npz"
"""File in the folder of a run: predicted classes of S_tr (`train`) and of the validation samples (`validation`)."""
OF_TRUSTED = "trusted.npz"
"""File in the folder of a run: predicted classes of trusted images, and the images' digest."""


class Evidence:
    """The predictions of the original and of candidates, made on demand, on the GPU if there is one.

    Args:
        original: Run that kept the original; its data are those of all candidates.
        restore_weights: Recomputes the weights of a run if they were dropped.
        read_trusted: Returns the trusted images, given the data; None if there are none.
    """

    def __init__(
        self,
        original: Candidate,
        restore_weights: Callable[[Candidate], None],
        read_trusted: "Callable[[CorruptedDataModule], Trusted] | None" = None,
    ) -> None:
        self.original, self.restore_weights = original, restore_weights
        self.read_trusted = read_trusted

    @cached_property
    def data(self) -> "CorruptedDataModule":
        """The data of all runs."""
        from cmu_lightning.experiment.restore import restore_data  # imports torch

        self.restore_weights(self.original)
        return restore_data(self.original.folder)

    @cached_property
    def trusted(self) -> "Trusted | None":
        """The trusted images."""
        return None if self.read_trusted is None else self.read_trusted(self.data)

    def judged(self, run: Candidate) -> Candidate:
        """Return a run with how many trusted images it classifies correctly.

        Args:
            run: The original or a candidate.
        """
        if self.trusted is None:
            return run
        right = int((self._predicted_of_trusted(run) == self.trusted.labels).sum())
        return replace(run, trusted=(right, len(self.trusted.labels)))

    def parts(self, candidate: Candidate) -> Parts:
        """Return what the original and a candidate predict.

        Args:
            candidate: Run of an unlearner.
        """
        before, after = self.predicted(self.original), self.predicted(candidate)
        data, train = self.data, "train"
        labels, deleted = (each.cpu().numpy() for each in (data.samples.given_labels, data.samples.deleted))
        validated = data.validation.given_labels.cpu().numpy()
        validation = Part(validated, before["validation"], after["validation"]) if len(validated) else None
        retain, flagged = (
            Part(*(each[mask] for each in (labels, before[train], after[train]))) for mask in (~deleted, deleted)
        )
        names = data.classes or [str(label) for label in range(data.num_classes)]
        trusted = None
        if self.trusted is not None:
            of_trusted = [self._predicted_of_trusted(run) for run in (self.original, candidate)]
            trusted = Part(self.trusted.labels, *of_trusted)
        return Parts(validation, retain, flagged, list(names), trusted)

    def predicted(self, run: Candidate) -> dict[str, np.ndarray]:
        """Return the predicted classes of a run, `train` (N,) and `validation` (n,), int64.

        Args:
            run: The original or a candidate.
        """
        stored = read_arrays(run.folder / PREDICTED)
        if stored is None:
            self.restore_weights(run)
            stored = self._predict(run.folder)
            _write_arrays(run.folder / PREDICTED, stored)
        return {name: stored[name].astype(np.int64) for name in ("train", "validation")}

    def _predicted_of_trusted(self, run: Candidate) -> np.ndarray:
        """Return the classes that a run predicts for the trusted images, int64, shape (n,)."""
        import torch

        from cmu_lightning.data.batches import evaluation_size

        assert self.trusted is not None
        stored = read_arrays(run.folder / OF_TRUSTED)
        if stored is not None and str(stored["digest"]) == self.trusted.digest:
            return stored["predicted"].astype(np.int64)
        self.restore_weights(run)
        classifier, images = self._classifier(run.folder), torch.from_numpy(self.trusted.images)
        parts = torch.split(images, evaluation_size(images))
        batches = (classifier.pixels(part, torch.zeros(len(part), dtype=torch.bool)) for part in parts)
        (found,) = classifier.classify(batches, len(parts))
        predicted: np.ndarray = found.classes.numpy()
        _write_arrays(run.folder / OF_TRUSTED, {"digest": np.array(self.trusted.digest), "predicted": predicted})
        return predicted

    def _classifier(self, folder: Path) -> "Classifier":
        """Return the network of a run, ready to classify."""
        from cmu_lightning.deploy.classifier import Classifier
        from cmu_lightning.experiment.restore import restore_network

        return Classifier([restore_network(folder)], self.data)

    def _predict(self, folder: Path) -> dict[str, np.ndarray]:
        """Return the classes that the network of a run predicts."""
        classifier, parts = self._classifier(folder), {"train": self.data.samples, "validation": self.data.validation}
        predicted = {name: classifier.classify_samples(samples)[0].classes for name, samples in parts.items()}
        return {name: classes.numpy().astype(np.int32) for name, classes in predicted.items()}


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of a file; None if there is none, or it is damaged, which its checksums show.

    Args:
        path: Path of an `.npz` file.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:  # np.load would leave a damaged file open
            return dict(stored)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        return None


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to a file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_atomically(path, file.getvalue())
