"""The data of an experiment: stored splits, S_m, S_f, and the batches of stages."""

import os
import pickle
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.core.hooks import DataHooks
from torch import Tensor, nn

from cmu_lightning.data import evaluation, memmap, validation_split
from cmu_lightning.data.batches import EvaluationBatches, Source, TrainingBatches
from cmu_lightning.data.deletion_set import fraction_found, identify, number_found
from cmu_lightning.data.discoveries import Detector, Discovery, Flagged, Inspection
from cmu_lightning.data.evaluation import Evaluation
from cmu_lightning.data.manipulations import Manipulation, Unknown
from cmu_lightning.data.memmap import Images
from cmu_lightning.data.samples import Read, Samples, Split, Splits, choose_device, decode, read_splits, unmanipulated
from cmu_lightning.data.sampling import EpochSampler
from cmu_lightning.data.transforms import CropAndFlip, Pixels
from cmu_lightning.data.validation import (
    check_channels,
    check_classes,
    check_domains,
    check_relabelled,
    check_selected,
    check_sharding,
    check_splits,
)
from cmu_lightning.errors import UserError

DRAWN = frozenset({"identified", "seed", "discovery"})
"""Arguments that decide S_f."""


class CorruptedDataModule(LightningDataModule):
    """Images with a validation split, manipulated training samples S_m, and the deletion set S_f.

    It reads the splits (`load`), holds out validation samples, draws S_m and S_f, and serves batches of the
    requested samples. A custom data set is a subclass that defines `load` and the class attributes.

    Args:
        manipulation: What the adversary did.
        identified: Fraction of S_m that was found, in (0, 1]; the number of samples is rounded.
        seed: Seed of the draw of S_f; for one seed, the S_f of a larger `identified` contains that of a smaller one.
        root: Folder of the data; default the environment's CMU_DATA_DIR, else `./data`.
        val_size: Number of training samples held out for validation, always the same ones; default the data
            set's own.
        val_labels: `clean` holds them out before the manipulation, `given` after it.
        discovery: How S_f is found; default a uniform draw from S_m.
        memory_map: Folder for a file that keeps the images, for data that do not fit into memory; a batch reads only
            what it needs. Default: images stay in memory, and on the accelerator if they fit.

    Example:
        >>> from cmu_lightning.data import DigitsDataModule, Poison
        >>> data = DigitsDataModule(Poison(size=36), identified=0.5)
        >>> data.setup()
        >>> int(data.samples.manipulated.sum()), int(data.samples.deleted.sum())
        (36, 18)
    """

    dataset: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 4
    flip: bool = True
    default_val_size: int = 1000
    names: list[str] | None = None
    """File names of the stored training samples, relative to the training folder; None if samples have only indices."""
    validation_names: list[str] | None = None
    """File names of the samples of a separate validation split, likewise."""
    classes: list[str] | None = None
    """Names of the classes, if they have any."""
    kept: ClassVar[dict[Any, Read] | None] = None
    """The data set that was read last, in a process that runs one stage after the other; None keeps nothing."""
    irrelevant_to_reading: ClassVar[frozenset[str]] = DRAWN | {
        *("manipulation", "stage_loaders", "compares_deleted", "contiguous")
    }
    """Attributes that `load` does not look at."""
    contiguous: bool = False
    """Whether the network takes images only as (n, C, H, W) in memory, not channels last; set for each network."""

    fingerprint: int
    """Checksum of the data as stored; set by `setup`, as the following are."""
    samples: Samples
    """S_tr with its masks of S_m and S_f."""
    validation: Samples
    """The validation samples."""
    test: Split
    """The test split; empty if there is none."""
    held: Tensor
    """Which stored training samples are held out, bool, shape (n,)."""
    validated: Tensor
    """Indices of the validation samples within their split, int64."""
    listed: Tensor
    """S_f before a detector has inspected an original, bool, shape (|S_tr|,)."""
    drawn_by: tuple[object, ...]
    """Arguments that S_f was drawn by."""

    def __init__(
        self,
        manipulation: Manipulation,
        identified: float = 1.0,
        seed: int | None = None,
        root: str | None = None,
        val_size: int | None = None,
        val_labels: Literal["clean", "given"] = "clean",
        discovery: Discovery | None = None,
        memory_map: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 < identified <= 1:
            raise UserError(f"identified={identified} is not in (0, 1]: it is the fraction of S_m that was found")
        if val_size is not None and val_size < 0:
            raise UserError(f"val_size={val_size} is negative: 0 is for no validation")
        if discovery is not None and discovery.extent is not None and identified != 1:
            raise UserError(f"give discovery.{discovery.extent} or identified={identified}, not both")
        if size := getattr(manipulation, "size", None):  # refused here, before an original is trained for it
            number_found(identified, size)
        self.root = Path(root or os.environ.get("CMU_DATA_DIR") or "data")
        self.memory_map = memory_map
        self.manipulation = copy(manipulation)  # another data set may have other classes
        self.manipulation.num_classes = self.num_classes
        self.identified = identified
        self.seed = 0 if seed is None else seed
        self.val_size = val_size
        self.val_labels = val_labels
        self.discovery = discovery
        self.stage_loaders: DataHooks | None = None
        self.compares_deleted = True
        self.resumed: Tensor | None = None
        """S_f that a detector flagged before a run was interrupted, as indices, for the next detection."""
        self.is_detected = False
        """Whether a detector has flagged S_f for the stage that is served."""

    # ---- What a custom data set defines, and what it can use ----

    def load(self) -> Splits:
        """Read the training, the validation and the test split.

        Without a validation split, validation is held out of training; without a test split, nothing is tested.

        Raises:
            UserError: The data are not there.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no load()")

    def decoded(self, path: str | Path) -> np.ndarray:
        """Return an image file as this data set's images are, shape (H, W, C), uint8, never resized.

        Args:
            path: Path of the file.

        Raises:
            UserError: The file is no image.
        """
        return decode(path, grey=len(self.mean) == 1)

    def room(self, *shape: int) -> Images:
        """Return room for the images that `load` reads, uint8: in memory, or in a file if there is a `memory_map`.

        Args:
            shape: n, H, W, C.
        """
        if self.memory_map is None:
            return torch.empty(shape, dtype=torch.uint8)
        return memmap.allocate(shape, self.memory_map)

    def content(self) -> dict[str, str]:
        """Return digests that stand for paths in a run's identity, by the dotted name of the argument."""
        of_discovery = {} if self.discovery is None else self.discovery.content()
        found = {f"discovery.{name}": digest for name, digest in of_discovery.items()}
        return found | {f"manipulation.{name}": digest for name, digest in self.manipulation.content().items()}

    # ---- Identity: what an original depends on ----

    @property
    def deletion_arguments(self) -> frozenset[str]:
        """Arguments that decide S_f; an original does not depend on them.

        With an unknown manipulation, flagged samples do not validate, so the original depends on the list too.
        """
        depends = isinstance(self.manipulation, Unknown) and self.discovery is not None and self.discovery.content()
        return DRAWN - {"discovery"} if depends else DRAWN

    @property
    def is_vouched_for(self) -> bool:
        """Whether another run's hash belongs to the same data, as far as is known without reading them."""
        return type(self).__module__.startswith("cmu_lightning.") or "root" in self.content()

    # ---- Reading ----

    def is_read(self) -> bool:
        """Return whether this process has read the data set before, so that no search is needed."""
        return hasattr(self, "fingerprint") or (self.kept is not None and self._depends() in self.kept)

    def _loaded(self) -> Read:
        """Return the splits from disk, or those kept if everything that `load` may look at is the same."""
        kept, key = self.kept, None if self.kept is None else self._depends()
        if kept is None or key is None:
            return self._read()
        if key not in kept:
            kept.clear()
            kept[key] = self._read()
        return kept[key]

    def _read(self) -> Read:
        splits = self.load()
        check_splits(self, splits)
        return read_splits(splits, self.memory_map)

    def _depends(self) -> Any:
        """Return everything that `load` may look at; None if that is unknown, so that the data are read again."""
        own = vars(self).keys() - vars(LightningDataModule()).keys() - self.irrelevant_to_reading
        try:
            # A list of flagged samples is no image, nor is a file of labels.
            of_lists = ("discovery.", "manipulation.")
            files = tuple(pair for pair in self.content().items() if not pair[0].startswith(of_lists))
            return type(self), pickle.dumps([(name, vars(self)[name]) for name in sorted(own)]), files
        except (pickle.PicklingError, AttributeError, TypeError):
            return None

    # ---- Set-up: validation samples, S_m and S_f ----

    def setup(self, stage: str | None = None) -> None:
        """Read, hold out, manipulate and identify, the first time; afterwards the same data serve another stage.

        Args:
            stage: Ignored: the data are the same for training and testing.

        Raises:
            UserError: The data cannot be what the arguments say.
        """
        check_sharding(self.trainer)
        if hasattr(self, "samples"):
            if self._draws() != self.drawn_by:
                raise UserError(
                    "identified, seed or discovery was changed after S_f had been drawn: make a new data module"
                )
            return
        train, validation, test, self.fingerprint = self._loaded()
        check_channels(self, {"mean": self.mean, "std": self.std}, train.images.shape[-1])
        train = train._replace(labels=self.manipulation.true_labels(train.labels, self.names, self.classes))
        check_domains(self.manipulation, test.labels)
        flagged = self.discovery.flagged(len(train.labels), self.names) if self.discovery else None
        if isinstance(self.discovery, Flagged):
            self.discovery.check_corrections(self.num_classes, self.classes)
        # 1. Validation samples: from a separate split, or held out of training.
        self.held, chosen = self._choose_validation(train, validation, flagged)
        self.validated = torch.nonzero(chosen).flatten()
        # 2. S_m, which includes validation samples only if they use the given labels.
        samples = self._manipulate(train, torch.ones_like(self.held) if self.val_labels == "given" else ~self.held)
        training = samples.take(~self.held) if self.held.any() else samples
        # 3. S_f, except for detectors, which inspect an original first.
        flagged = None if flagged is None else flagged[~self.held]
        pixels = self.pixels(torch.device("cpu"))
        self.identified = identify(training, self.discovery, flagged, self.identified, self.seed, pixels)
        # 4. All images move to the accelerator if they fit.
        running = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        place = choose_device(running, train, test)
        self.samples, self.test = training.to(place), test.to(place)
        if validation is None:
            self.validation = samples.take(self.held).to(place)
        else:
            self.validation = unmanipulated(validation if chosen.all() else validation.take(self.validated)).to(place)
        self.listed = self.samples.deleted.clone()
        self.drawn_by = self._draws()

    def _draws(self) -> tuple[object, ...]:
        """Return the arguments that S_f was drawn by."""
        return self.seed, self.discovery, None if isinstance(self.discovery, Detector) else self.identified

    def _choose_validation(
        self, train: Split, validation: Split | None, flagged: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return which training samples are held out, and which samples of their split validate; bool."""
        if validation is not None:
            chosen = validation_split.choose(validation.labels, self.val_size, self.val_labels)
            return torch.zeros_like(train.labels, dtype=torch.bool), chosen
        size = self.default_val_size if self.val_size is None else self.val_size
        held = validation_split.hold_out(train.labels, size, flagged, self.manipulation, self.names)
        return held, held

    def _manipulate(self, train: Split, exposed: Tensor) -> Samples:
        """Draw S_m among the samples exposed to the adversary, and relabel it."""
        self.manipulation.exposed = exposed
        selected = self.manipulation.select(train.labels[exposed])
        check_selected(self.manipulation, selected, int(exposed.sum()))
        chosen = torch.nonzero(exposed).flatten()[selected]
        relabelled = self.manipulation.relabel(train.labels[chosen])
        check_relabelled(self.manipulation, relabelled, len(chosen))
        labels = train.labels.clone()
        labels[chosen] = relabelled
        location = f"what {type(self.manipulation).__name__} relabels"
        check_classes(labels, self.num_classes, location, "change data.manipulation")
        manipulated = torch.zeros_like(exposed)
        manipulated[chosen] = True
        # A sample's number among those exposed is its index in what `select` was given.
        index = exposed.cumsum(0) - 1
        return Samples(train.images, train.labels, labels, manipulated, torch.zeros_like(exposed), index)

    def detect(self, original: nn.Module | None) -> int:
        """Find S_f by inspecting an original, if the discovery is a detector.

        Args:
            original: Network in evaluation mode, which stays on the device that runs it. None is for a stage that is an
                original itself; S_f then holds the samples of the detector's list.

        Returns:
            Number of samples that the original classified for it.
        """
        if not isinstance(self.discovery, Detector):
            return 0
        self.samples.deleted.copy_(self.listed)
        if original is None:
            return 0
        # A run that is resumed keeps its S_f: another machine may break a tie differently.
        found, self.resumed, seen = self.resumed, None, Inspection(original, self.samples, self.pixels())
        if found is None:
            found = self.discovery.detect(seen, self.seed)
            found = self.trainer.strategy.broadcast(found) if self.trainer else found  # rank 0's, likewise
        self._mark_deleted(found)
        self.is_detected = True
        return seen.classified

    def resume(self, state: dict[str, Any]) -> None:
        """Keep the S_f that a detector flagged before a run was interrupted.

        Args:
            state: The data's part of the run's checkpoint.
        """
        self.resumed = state["deleted"]

    def _mark_deleted(self, found: Tensor) -> None:
        """Make the samples at some indices S_f."""
        self.samples.deleted.zero_()
        self.samples.deleted[found.to(self.samples.deleted.device)] = True
        self.identified = fraction_found(self.samples)

    # ---- What is served ----

    def pixels(self, device: torch.device | None = None) -> Pixels:
        """Return what turns images into a network's input.

        Args:
            device: Device of the input; default the device that runs the network.
        """
        running = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return Pixels(self.mean, self.std, self.manipulation, device or running, self.contiguous)

    def training_source(self, mask: Tensor, batch_size: int, seed: int, augment: bool = True) -> Source:
        """Return the samples under a mask, in epochs of global batches.

        Args:
            mask: Samples of S_tr, bool, shape (n,).
            batch_size: Size of the global batch.
            seed: Decides order and augmentation.
            augment: Whether to shuffle and augment; otherwise samples are unchanged and in ascending order of index.
        """
        view = torch.nonzero(mask).flatten().cpu()
        augmentation = CropAndFlip(self.padding, self.flip) if augment else CropAndFlip(0, flip=False)
        return Source(self.samples, view, EpochSampler(len(view), batch_size, seed, shuffle=augment), augmentation)

    def training_batches(
        self, sources: Sequence[Source], plan: Sequence[int], done: Callable[[], int]
    ) -> TrainingBatches:
        """Return this process's slices of the batches of some steps.

        Args:
            sources: Sources from `training_source`.
            plan: For each step, the index of the source that gives its batch.
            done: Returns how many steps are done, when iteration starts.
        """
        return TrainingBatches(sources, plan, done, self.pixels(), *self._rank())

    def evaluation_batches(self, evaluation: Evaluation) -> EvaluationBatches:
        """Return this process's slices of the batches of an evaluation.

        Args:
            evaluation: What to measure on which samples.
        """
        return EvaluationBatches(evaluation, self.pixels(), *self._rank())

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def evaluations(self, reference: Tensor | None = None) -> dict[str, Evaluation]:
        """Return all evaluations of a stage, on `test`, `train` and `val` samples; nothing on empty splits.

        Args:
            reference: Classes that the original predicts on S_f, shape (|S_f|,); None for an original.
        """
        measured = {
            "test": evaluation.of_test(self),
            "train": evaluation.of_train(self, reference),
            "val": evaluation.of_validation(self),
        }
        return {name: each for name, each in measured.items() if len(each.rows)}

    def all_deleted(self) -> Evaluation:
        """Return an evaluation of S_f that counts predictions of the labels as given."""
        return evaluation.of_deleted(self, self.samples.given_labels[self.samples.deleted].cpu())

    # With a data module, the Trainer takes loaders from it, never from the LightningModule. But the stage decides
    # what it trains on and measures, so it passes its own loaders to the data module in its set-up.

    def serve(self, loaders: DataHooks, depends_on_deleted: bool) -> None:
        """Serve a stage: give the Trainer its loaders, and compare what it depends on with checkpoints.

        Args:
            loaders: Stage whose `train_dataloader`, `val_dataloader` and `test_dataloader` are called.
            depends_on_deleted: Whether its results depend on S_f; those of an original do not.
        """
        self.stage_loaders, self.compares_deleted, self.is_detected = loaders, depends_on_deleted, False

    def train_dataloader(self) -> Any:
        """Return the stage's loader."""
        return self._loaders_of_stage().train_dataloader()

    def val_dataloader(self) -> Any:
        """Return the stage's loaders."""
        return self._loaders_of_stage().val_dataloader()

    def test_dataloader(self) -> Any:
        """Return the stage's loaders."""
        return self._loaders_of_stage().test_dataloader()

    def _loaders_of_stage(self) -> DataHooks:
        if self.stage_loaders is None:
            raise UserError("the data serve what a stage asks for: use them through a lightning Trainer and a stage")
        return self.stage_loaders

    # ---- Checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Return the data's part of every checkpoint.

        S_m with its labels and S_f, as indices into S_tr, a checksum of the data, and the pixels of some of S_m.
        """
        samples = self.samples
        return {
            "manipulated": torch.nonzero(samples.manipulated).flatten().cpu(),
            "labels": samples.given_labels[samples.manipulated].cpu(),
            "deleted": self._deleted(),
            "fingerprint": self.fingerprint,
            "stamped": self.stamped(),
        }

    def _deleted(self) -> Tensor:
        """Return S_f as indices into S_tr."""
        return torch.nonzero(self.samples.deleted).flatten().cpu()

    def stamped(self) -> Tensor:
        """Return the first images of S_m as they are trained on, shape (n, C, H, W), uint8."""
        rows = torch.nonzero(self.samples.manipulated).flatten()[:8]
        images = self.samples.images[rows].cpu().permute(0, 3, 1, 2).float() / 255
        stamped = self.manipulation.stamp_training(images, self.samples.manipulation_index[rows].cpu())
        return (stamped.clamp(0, 1) * 255).round().byte()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that a checkpoint of this run belongs to the same data, and take a detector's S_f from it.

        Args:
            state: Result of `state_dict`.

        Raises:
            UserError: The data differ.
        """
        difference = self.difference(state)
        if difference is None and isinstance(self.discovery, Detector) and not self.is_detected:
            self._mark_deleted(state["deleted"])
        elif difference is None and self.compares_deleted and not torch.equal(self._deleted(), state["deleted"]):
            difference = "another deletion set (S_f)"
        if difference:
            raise UserError(f"the checkpoint is of {difference}: give a checkpoint of this setting")

    def difference(self, state: dict[str, Any]) -> str | None:
        """Return how another run's data differ from these; None if they differ at most in S_f.

        Args:
            state: The other run's `state_dict`.
        """
        if state["fingerprint"] != self.fingerprint:
            return f"other images or labels than those in {self.root.resolve()}"
        own = self.state_dict()
        if any(not torch.equal(own[key], state[key]) for key in ("manipulated", "labels")):
            return "another draw of manipulated samples (S_m)"
        changes = (own["stamped"].int() - state["stamped"].int()).abs()
        if (changes > 1).any():  # 1 may be another machine's rounding
            return f"images that were manipulated in another way than this {type(self.manipulation).__name__} does"
        return None
