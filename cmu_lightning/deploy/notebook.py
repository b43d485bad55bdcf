"""`cmu_lightning.repair`: the command `repair` for a network and images that are in memory, as in a notebook."""

import hashlib
import io
import math
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from cmu_lightning.cli.fit import main as fit
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.deploy.choice import Candidate, Outcome
from cmu_lightning.deploy.evidence import read_arrays
from cmu_lightning.deploy.repair import write_outcome
from cmu_lightning.deploy.study import RunFailed, Study, is_finished, may_start, study_points
from cmu_lightning.deploy.trusted import Trusted
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.restore import restore_network
from cmu_lightning.experiment.run import keep_weights
from cmu_lightning.experiment.wandb_settings import one_silence
from cmu_lightning.files import write_atomically
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.queue import Failure, forget_failure, log_path, record_failure
from cmu_lightning.sweep.runner import INTERRUPTED
from cmu_lightning.unlearning.checkpoint import save_tensors

GLOBAL_SEED = "PL_GLOBAL_SEED"
"""Environment variable in which Lightning leaves the last seed."""
EPOCHS = 5
"""Epochs of fine-tuning, where no number of steps is given."""

Arrays = tuple[np.ndarray, np.ndarray]
"""Images, uint8, shape (n, H, W, C) or (n, H, W), and their labels, int64, shape (n,)."""

KEPT: dict[str, nn.Module] = {}
"""Networks of this process, by the names that configs use for them."""


@dataclass(frozen=True)
class Repaired:
    """What `cmu_lightning.repair` returns.

    Args:
        network: The repaired network, in evaluation mode on the CPU; the original one if that was kept.
        suspects: Training samples with the probability that they are manipulated, the most suspicious first, as PURE
            found them; None if PURE was not run.
        report: The original and all candidates, one row each, with `chosen` and a `note`.
        reason: Why the network was chosen, in one sentence.
        outcome: Everything that the command `repair` writes, with the folders of the runs.
    """

    network: nn.Module
    suspects: pd.DataFrame | None
    report: pd.DataFrame
    reason: str
    outcome: Outcome


def repair(
    network: nn.Module,
    images: Any,
    labels: Any = None,
    *,
    flagged: Any,
    corrected: Any = None,
    validation: tuple[Any, Any] | None = None,
    trusted: tuple[Any, Any] | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    steps: int | None = None,
    batch_size: int = 64,
    lr: float = 0.002,
    only: str | None = None,
    budget: float = math.inf,
    folder: str | Path | None = None,
) -> Repaired:
    """Try several methods on a trained network and flagged samples, and choose, as the command `repair` does.

    Args:
        network: Trained network that gives logits of normalised images; it is not changed.
        images: Training images: an array (n, H, W, C) or (n, H, W), a tensor (n, C, H, W) or (n, H, W), uint8 or
            floating point from 0 to 1, not normalised; or a Dataset of pairs of an image and a label.
        labels: Their labels as given, shape (n,); None with a Dataset.
        flagged: Indices of the flagged samples, or a mask, bool, shape (n,).
        corrected: Right label of each flagged sample, in the order of the indices, -1 where it is not known.
        validation: Images and labels that were not trained on; default a tenth of the training images.
        trusted: Images with right labels by which candidates are measured, best with the trigger; as `images`.
        mean: Mean by which the network's input is normalised, of all channels or of each.
        std: Standard deviation, likewise.
        steps: Steps of fine-tuning; default five epochs.
        batch_size: Size of the batches.
        lr: Peak learning rate of fine-tuning: a tenth to a hundredth of what the network was trained with.
        only: Methods to try, separated by commas; default all that fit.
        budget: Minutes after which no further candidate is started.
        folder: Folder for data and runs, by which the same call continues; default a temporary one.

    Raises:
        UserError: The arguments do not fit together, or the original cannot be measured.
    """
    place = Path(folder or tempfile.mkdtemp(prefix="cmu_lightning_"))
    place.mkdir(parents=True, exist_ok=True)
    training = _arrays(images, labels)
    _store_images(place, training, None if validation is None else _arrays(*validation))
    _write_list(place / "flagged.csv", flagged, corrected, len(training[1]))
    original = deepcopy(network).cpu().eval()
    save_tensors(place / "original.pt", original.state_dict())
    channels = training[0].shape[3] if training[0].ndim == 4 else 1
    every = steps or max(1, EPOCHS * len(training[1]) // batch_size)
    procedure = {"steps": every, "unlearn_steps": every, "batch_size": batch_size, "lr": lr}
    settings = _settings(place, original, channels, mean, std) | {"procedure": procedure}
    write_atomically(place / "setting.yaml", yaml.safe_dump(settings))
    arguments = ["--config", str(place / "setting.yaml"), "--model.original", str(place / "original.pt")]
    points = study_points(arguments, place / "runs", only)
    try:
        with one_silence(), keep_weights(), _data_kept(), _generators_kept():
            outcome = Study(points, _run_here, print, budget, trusted=_trusted(trusted)).carry_out()
    except RunFailed as failed:
        raise UserError(f"{failed.consequence}: {failed.failure.reason.removeprefix('error: ')}") from failed
    write_outcome(outcome)
    original.load_state_dict(restore_network(outcome.chosen.folder).state_dict())
    return Repaired(original, _suspects(outcome), _report(outcome), outcome.reason, outcome)


def kept_network(name: str) -> nn.Module:
    """Return a network of this process, initialised again: for configs that `repair` wrote in Python.

    Layers without `reset_parameters` keep their weights.

    Args:
        name: Its name in `KEPT`.

    Raises:
        UserError: It is of another process.
    """
    if name not in KEPT:
        raise UserError(
            f"the network {name} was in the memory of another process: load the run's weights into your own"
        )
    network = deepcopy(KEPT[name])
    for module in network.modules():
        # `_reset_parameters` is that of attention.
        for name in ("reset_parameters", "_reset_parameters"):
            if callable(reset := getattr(module, name, None)):
                reset()
    return network


def _settings(
    place: Path, network: nn.Module, channels: int, mean: float | Sequence[float], std: float | Sequence[float]
) -> dict[str, Any]:
    """Keep the network, and return the config of the runs without the procedure."""
    layers = [f"{name} {tuple(values.shape)}" for name, values in network.state_dict().items()]
    digest = hashlib.sha256("\n".join([str(network), *layers]).encode()).hexdigest()[:10]
    name = f"{type(network).__name__}-{digest}"
    KEPT[name] = network
    with np.load(place / "images.npz") as stored:
        first = torch.from_numpy(stored["train_images"][:2]).float()
    outputs = _count_logits(network, first.reshape(len(first), *first.shape[1:3], channels).permute(0, 3, 1, 2) / 255)
    normalisation = {"mean": _per_channel(mean, channels), "std": _per_channel(std, channels)}
    data = {
        "path": str(place / "images.npz"),
        "num_classes": outputs,
        **normalisation,
        "manipulation": {"class_path": "Unknown"},
        "discovery": {"class_path": "Flagged", "init_args": {"path": str(place / "flagged.csv")}},
    }
    return {
        "setting": "notebook",
        "data": {"class_path": "TensorDataModule", "init_args": data},
        "network": {"class_path": f"{__name__}.{kept_network.__name__}", "init_args": {"name": name}},
        "trainer": {"enable_progress_bar": False, "devices": 1, "num_nodes": 1},  # others would not know the network
    }


@torch.no_grad()
def _count_logits(network: nn.Module, images: Tensor) -> int:
    """Return the number of logits that a network gives."""
    shape = tuple(images.shape[1:])
    try:
        outputs = network(images)
    except Exception as error:  # a user's network may raise anything
        raise UserError(
            f"{type(network).__name__} does not take images of shape {shape} ({error}): give arrays (n, H, W, C), "
            "tensors (n, C, H, W), or another network"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        given = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise UserError(f"{type(network).__name__} gives {given}: it has to give logits, (n, num_classes)")
    return int(outputs.shape[1])


def _per_channel(values: Any, channels: int) -> list[float]:
    """Return a value for each channel: the given ones, or one for all."""
    given: list[float] = np.ravel(np.asarray(_on_cpu(values), dtype=float)).tolist()
    return given * channels if len(given) == 1 else given


def _arrays(images: Any, labels: Any) -> Arrays:
    """Return images as uint8, shape (n, H, W, C) or (n, H, W), and labels as int64, shape (n,)."""
    if labels is None:
        pairs = [images[index] for index in range(len(images))]
        return np.stack([_pixels(image, batch=False) for image, _ in pairs]), np.array([int(each) for _, each in pairs])
    given = _pixels(images, batch=True)
    numbers = np.asarray(_on_cpu(labels)).astype(np.int64)
    if len(given) != len(numbers):
        raise UserError(f"there are {len(given)} images and {len(numbers)} labels: give as many of both")
    return given, numbers


def _on_cpu(values: Any) -> Any:
    """Return values that numpy can read: tensors may be on a GPU."""
    return values.cpu() if isinstance(values, Tensor) else values


def _trusted(given: tuple[Any, Any] | None) -> Callable[[CorruptedDataModule], Trusted] | None:
    """Return what gives a study the trusted images; None if there are none."""
    if given is None:
        return None
    images, labels = _arrays(*given)
    whole = images if images.ndim == 4 else images[..., None]

    def of(data: CorruptedDataModule) -> Trusted:
        if whole.shape[1:] != data.samples.images.shape[1:]:
            shapes = f"{whole.shape[1:]} and the training images {tuple(data.samples.images.shape[1:])}"
            raise UserError(f"trusted images have the shape {shapes}: give images of one size")
        return Trusted(np.ascontiguousarray(whole), labels)

    return of


def _pixels(images: Any, batch: bool) -> np.ndarray:
    """Return images as uint8 with channels last; tensors have them before height and width."""
    if isinstance(images, Tensor):
        whole = images.detach().cpu()
        pixels = (whole.movedim(-3, -1) if whole.ndim == 3 + batch else whole).numpy()
    else:
        pixels = np.asarray(images)
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating) or pixels.min() < 0 or pixels.max() > 1:
        raise UserError(
            f"images are {pixels.dtype} from {pixels.min()} to {pixels.max()}: give uint8, or floating point from 0 to "
            "1 that is not normalised, and mean and std"
        )
    return (pixels * 255).round().astype(np.uint8)


def _write_list(path: Path, flagged: Any, corrected: Any, total: int) -> None:
    """Write the list of flagged samples."""
    given = np.asarray(sorted(flagged) if isinstance(flagged, set | frozenset) else _on_cpu(flagged))
    if given.size and given.dtype != bool and not np.issubdtype(given.dtype, np.integer):
        raise UserError(f"flagged holds {given.dtype}: give indices of images, or a mask of true and false")
    if given.dtype == bool and given.shape != (total,):
        raise UserError(f"flagged is a mask of shape {given.shape}, and there are {total} images: give one for each")
    rows = np.flatnonzero(given) if given.dtype == bool else given.astype(np.int64)
    right = np.full(len(rows), -1) if corrected is None else np.asarray(_on_cpu(corrected))
    if len(right) != len(rows):
        raise UserError(f"there are {len(rows)} flagged samples and {len(right)} corrected labels: give one for each")
    header = "index" if corrected is None else "index,corrected_label"
    lines = [
        f"{row}" if corrected is None else f"{row},{label if label >= 0 else ''}"
        for row, label in zip(rows.tolist(), right.tolist(), strict=True)
    ]
    write_atomically(path, "\n".join([header, *lines, ""]))


def _store_images(place: Path, training: Arrays, validation: Arrays | None) -> None:
    """Write images and labels, unless the file holds the same ones: a run is of the file's content."""
    path, arrays = place / "images.npz", {"train_images": training[0], "train_labels": training[1]}
    if validation is not None:
        arrays |= {"val_images": validation[0], "val_labels": validation[1]}
    stored = read_arrays(path) or {}
    if [*stored] == [*arrays] and all(np.array_equal(stored[name], arrays[name]) for name in arrays):
        return
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getbuffer())


def _run_here(points: list[Point], original: Candidate | None, deadline: float) -> list[Failure]:
    """Run the unfinished points in this process, because no other one knows the network; return the failures."""
    failures = []
    for point in points:
        if is_finished(point, original) or not may_start(point, deadline):
            continue
        forget_failure(point)
        log = log_path(point)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
            code = _exit_code([*point.arguments, "--runs_dir", str(point.runs_dir), "--checkpoints", "chosen"])
        if code in (INTERRUPTED, 128 + signal.SIGTERM):  # Lightning has made an exit of it
            raise KeyboardInterrupt
        if code:
            failures.append(record_failure(point, code))
    return failures


def _exit_code(arguments: list[str]) -> int:
    """Return the exit code of a command line of `fit`; what went wrong is printed."""
    try:
        return fit(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Exception:  # a candidate that fails does not end the others
        traceback.print_exc()
        return 1


@contextmanager
def _data_kept() -> Iterator[None]:
    """Read the images once for all runs of this process, and release them at the end."""
    before, CorruptedDataModule.kept = CorruptedDataModule.kept, {}
    try:
        yield
    finally:
        CorruptedDataModule.kept = before


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Restore the random generators of the calling program, which every run seeds."""
    python, of_numpy, seed = random.getstate(), np.random.get_state(), os.environ.get(GLOBAL_SEED)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)
        os.environ.pop(GLOBAL_SEED, None)
        if seed is not None:
            os.environ[GLOBAL_SEED] = seed


def _report(outcome: Outcome) -> pd.DataFrame:
    """Return the original and all candidates as a table."""
    names = ("val_acc", "fit_retain", "fit_identified", "changed", "seconds")
    rows = [
        {
            "name": run.name,
            **{name: run.metrics.get(name) for name in names},
            "trusted": run.trusted[0] / run.trusted[1] if run.trusted else None,
            "score": run.score if outcome.is_scored(run) else None,
            "chosen": run is outcome.chosen,
            "note": outcome.note(run),
            "folder": str(run.folder),
        }
        for run in (outcome.original, *outcome.candidates)
    ]
    rows += [{"name": name, "note": f"failed: {message}"} for name, message in outcome.failures.items()]
    rows += [{"name": name, "note": "not tried: no time"} for name in outcome.not_tried]
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _suspects(outcome: Outcome) -> pd.DataFrame | None:
    """Return what PURE suspects; None if it was not run."""
    files = (run.folder / "suspects.csv" for run in outcome.candidates)
    return next((pd.read_csv(file) for file in files if file.exists()), None)
