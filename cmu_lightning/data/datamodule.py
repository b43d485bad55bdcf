"""The data of an experiment: splits as stored, S_m, S_f, and the batches that stages ask for."""

import math
import os
import pickle
import zlib
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from cmu_lightning.data import evaluation, memmap
from cmu_lightning.data.batches import FullPasses, Source, TrainingBatches
from cmu_lightning.data.deletion_set import identify, number_found
from cmu_lightning.data.discoveries import Detector, Discovery, Inspection
from cmu_lightning.data.evaluation import Evaluation, EvaluationBatches
from cmu_lightning.data.manipulations import Manipulation, Unknown
from cmu_lightning.data.memmap import Images
from cmu_lightning.data.samples import Samples, Split, decode
from cmu_lightning.data.sampling import EpochSampler, derive_seed, held_out
from cmu_lightning.data.transforms import CropAndFlip, Pixels
from cmu_lightning.data.validation import (
    check_channels,
    check_domains,
    check_relabelled,
    check_selected,
    check_sharding,
    check_splits,
)
from cmu_lightning.errors import UserError

if TYPE_CHECKING:
    from cmu_lightning.unlearning.stage import Stage


Splits = tuple[Split, Split | None, Split | None]
"""Training, validation and test; None for one that there is not."""


class Read(NamedTuple):
    """The splits, images contiguous, and a checksum that tells other data apart."""

    train: Split
    validation: Split | None
    test: Split
    fingerprint: int


class StoredDataModule(LightningDataModule):
    """The splits of a data set.

    Args:
        root: Folder of the data; default the environment's CMU_DATA_DIR, else `./data`.
        memory_map: Folder for a file in which images stay; default in memory.
    """

    dataset: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 4
    flip: bool = True
    default_val_size: int = 1000
    names: list[str] | None = None
    """Of the files of the stored training samples, relative to the training folder; None if they have indices alone."""
    validation_names: list[str] | None = None
    """Of the files of a validation split of its own, likewise."""
    classes: list[str] | None = None
    """Names of the classes, if they have any."""
    fingerprint: int
    """Tells other data apart; not there before the data are read."""
    kept: ClassVar[dict[Any, Read] | None] = None
    """The data set that was read last, in a process that runs one stage after the other; None keeps nothing."""

    irrelevant_to_reading: ClassVar[frozenset[str]] = frozenset({"manipulation"})
    """Attributes that `load` does not look at."""

    def __init__(self, root: str | None, memory_map: str | None) -> None:
        super().__init__()
        self.root = Path(root or os.environ.get("CMU_DATA_DIR") or "data")
        self.memory_map = memory_map

    def load(self) -> Splits:
        """Read the training, the validation and the test split.

        Without a validation split, validation is held out of training; without a test split, nothing is tested.

        Raises:
            UserError: The data are not there.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no load()")

    def decoded(self, path: str | Path) -> np.ndarray:
        """An image file as this data set's images are, shape (H, W, C), uint8, never resized.

        Raises:
            UserError: It is no image.
        """
        return decode(path, grey=len(self.mean) == 1)

    def room(self, *shape: int) -> Images:
        """Room for the images that `load` reads, uint8: in memory, or in a file if there is a `memory_map`.

        Args:
            shape: n, H, W, C.
        """
        if self.memory_map is None:
            return torch.empty(shape, dtype=torch.uint8)
        return memmap.room(shape, self.memory_map)

    def _read(self) -> Read:
        """Images that `load` did not put into `room` follow here."""
        loaded = self.load()
        check_splits(self, loaded)
        train, validation, test = (split and self._placed(split) for split in loaded)
        assert train is not None
        test = train.take(torch.zeros(0, dtype=torch.long)) if test is None else test
        there = (train, test) if validation is None else (train, validation, test)
        return Read(train, validation, test, checksum(*there))

    def _placed(self, split: Split) -> Split:
        if self.memory_map is None:
            return Split(split.images.contiguous(), split.labels)
        return Split(memmap.mapped(split.images, self.memory_map), split.labels)

    def _loaded(self) -> Read:
        """From disk, or from the last time, if everything that `load` may look at is the same."""
        kept, of = self.kept, None if self.kept is None else self._depends()
        if kept is None or of is None:
            return self._read()
        if of not in kept:
            kept.clear()
            kept[of] = self._read()
        return kept[of]

    def _depends(self) -> Any:
        """Everything that `load` may look at; None if nobody can tell, so that it is read anew."""
        own = vars(self).keys() - vars(LightningDataModule()).keys() - self.irrelevant_to_reading
        try:
            return type(self), pickle.dumps([(name, vars(self)[name]) for name in sorted(own)]), self._file_digests()
        except (pickle.PicklingError, AttributeError, TypeError):
            return None

    def _file_digests(self) -> tuple[tuple[str, str], ...]:
        """What is known of the files that `load` reads, by the data module that knows; none of most data sets."""
        return ()

    def is_read(self) -> bool:
        """Whether this process has read the data set before, so that nobody need look for it."""
        return hasattr(self, "fingerprint") or (self.kept is not None and self._depends() in self.kept)

    def _place(self, *splits: Split) -> torch.device:
        """Where the images live: on the accelerator if they fit there, with as much left for the network."""
        device: torch.device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.memory_map is not None:
            return torch.device("cpu")
        if device.type == "cuda":
            need = sum(math.prod(split.images.shape) for split in splits)
            return device if 2 * need < torch.cuda.mem_get_info(device)[0] else torch.device("cpu")
        return device


def checksum(*splits: Split) -> int:
    """Tells other data apart."""
    checksum = 0
    for split in splits:
        checksum = memmap.checksum(split.images, checksum)
        checksum = zlib.crc32(split.labels.contiguous().numpy().data, checksum)
    return checksum


def of_training(labels: Tensor, count: int) -> Tensor:
    """Which training samples validate; bool, shape (n,).

    Raises:
        UserError: None is left to train on.
    """
    if count >= len(labels):
        raise UserError(f"val_size={count} leaves nothing of {len(labels)} samples to train on: give less")
    return held_out(labels, count)


def of_own_split(labels: Tensor, size: int | None, val_labels: Literal["clean", "given"]) -> Tensor:
    """Which samples of a validation split validate, as many as asked for; bool, shape (n,).

    Raises:
        UserError: Its labels cannot be manipulated.
    """
    if val_labels == "given":
        raise UserError(
            "val_labels=given is of held-out training samples, and these data have a val split: leave it out"
        )
    return held_out(labels, len(labels) if size is None else min(size, len(labels)))


def refuse_flagged(held: Tensor, flagged: Tensor, names: Sequence[str] | None) -> None:
    """A list of what is known to be manipulated can only be of samples that are trained on.

    Raises:
        UserError: It flags one that validates.
    """
    both = torch.nonzero(held & flagged).flatten()
    if len(both):
        row = int(both[0])
        name = names[row] if names else f"index {row}"
        raise UserError(
            f"the list flags {name}, which validates and is not trained on: take it out of the list, or set "
            "data.val_size to 0"
        )


def untouched(split: Split, rows: Tensor) -> Samples:
    """Those samples of a validation split that validate.

    Args:
        split: The data set's own.
        rows: Indices, ascending.
    """
    if len(rows) < len(split.labels):
        split = split.take(rows)
    nothing = torch.zeros_like(split.labels, dtype=torch.bool)
    return Samples(split.images.contiguous(), split.labels, split.labels, nothing, nothing, torch.arange(len(nothing)))


DRAWN = frozenset({"identified", "seed", "discovery"})
"""Arguments that say how S_f comes about."""


class ManipulatedDataModule(StoredDataModule):
    """A data set of which some samples validate, some are manipulated and some of those are found.

    Args:
        manipulation: What the adversary did.
        identified: Fraction of S_m that was found, in (0, 1]; its number is rounded.
        seed: Draws S_f; for growing `identified` the S_f of one seed are nested.
        root: Folder of the data; default the environment's CMU_DATA_DIR, else `./data`.
        val_size: Number of training samples held out for validation, always the same ones; default the data
            set's own.
        val_labels: `clean` holds them out before the manipulation, `given` after it.
        discovery: How S_f comes about; default a uniform draw from S_m.
        memory_map: Folder for a file in which images stay, of which no more is read than a batch needs; for data
            that fit no memory. Default in memory, and on the accelerator where they fit.
    """

    irrelevant_to_reading: ClassVar[frozenset[str]] = DRAWN | {"manipulation"}

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
        super().__init__(root, memory_map)
        if not 0 < identified <= 1:
            raise UserError(f"identified={identified} is not in (0, 1]: it is the fraction of S_m that was found")
        if val_size is not None and val_size < 0:
            raise UserError(f"val_size={val_size} is negative: 0 is for no validation")
        if discovery is not None and discovery.extent is not None and identified != 1:
            raise UserError(f"give discovery.{discovery.extent} or identified={identified}, not both")
        if size := getattr(manipulation, "size", None):  # known before an original is trained for it
            number_found(identified, size)
        self.manipulation = copy(manipulation)  # of which another data set may have other classes
        self.manipulation.num_classes = self.num_classes
        self.identified = identified
        self.seed = 0 if seed is None else seed
        self.val_size = val_size
        self.val_labels = val_labels
        self.discovery = discovery

    @property
    def deletion_arguments(self) -> frozenset[str]:
        """Arguments that say how S_f comes about; an original does not depend on them.

        Where nobody knows what was done, flagged samples do not validate, so the original depends on the list too.
        """
        depends = isinstance(self.manipulation, Unknown) and self.discovery is not None and self.discovery.content()
        return DRAWN - {"discovery"} if depends else DRAWN

    def content(self) -> dict[str, str]:
        """Digests that stand for paths in a run's identity, by the dotted name of the argument."""
        of_discovery = {} if self.discovery is None else self.discovery.content()
        return {f"discovery.{name}": digest for name, digest in of_discovery.items()}

    def _file_digests(self) -> tuple[tuple[str, str], ...]:
        """Without a list of flagged samples, which is no image."""
        return tuple((name, digest) for name, digest in self.content().items() if not name.startswith("discovery."))

    def setup(self, stage: str | None = None) -> None:
        """Read, hold out, manipulate and identify; once."""
        check_sharding(self.trainer)
        if hasattr(self, "samples"):
            self._again(stage)
            return
        train, validation, test, self.fingerprint = self._loaded()
        check_channels(self, {"mean": self.mean, "std": self.std}, train.images.shape[-1])
        check_domains(self.manipulation, test.labels)
        flagged = self.discovery.flagged(len(train.labels), self.names) if self.discovery else None
        self.held, rows = self._validating(train.labels, validation, flagged)
        held, self.validated = self.held, torch.nonzero(rows).flatten()
        samples = self._manipulate(train, ~held if self.val_labels == "clean" else torch.ones_like(held))
        place = self._place(train, test)
        left = samples.take(~held) if held.any() else samples
        flagged, pixels = None if flagged is None else flagged[~held], self.pixels(torch.device("cpu"))
        self.identified = identify(left, self.discovery, flagged, self.identified, self.seed, pixels)
        self.samples = left.to(place)
        own = None if validation is None else untouched(validation, self.validated)
        self.validation = (samples.take(held) if own is None else own).to(place)
        self.test = test.to(place)
        self.listed = self.samples.deleted.clone()
        self.drawn = self._asked()
        if isinstance(self.discovery, Detector) and stage == "fit":
            self._detect(self.discovery)

    def _asked(self) -> tuple[object, ...]:
        """What S_f was drawn by."""
        return self.seed, self.discovery, None if isinstance(self.discovery, Detector) else self.identified

    def _again(self, stage: str | None) -> None:
        """Another stage on the same data: a detector looks at its original."""
        if self._asked() != self.drawn:
            raise UserError(
                "identified, seed or discovery was changed after S_f had been drawn: make a new data module"
            )
        if isinstance(self.discovery, Detector) and stage == "fit":
            self._detect(self.discovery)

    def _validating(self, labels: Tensor, validation: Split | None, flagged: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which training samples validate, and which of the split from which validation comes; bool."""
        if validation is not None:
            rows = of_own_split(validation.labels, self.val_size, self.val_labels)
            return torch.zeros_like(labels, dtype=torch.bool), rows
        held = of_training(labels, self.default_val_size if self.val_size is None else self.val_size)
        if flagged is not None:
            if not isinstance(self.manipulation, Unknown):
                refuse_flagged(held, flagged, self.names)
            held = held & ~flagged
        return held, held

    def _manipulate(self, train: Split, exposed: Tensor) -> Samples:
        """Draw S_m among the samples exposed to the adversary, and relabel it."""
        selected = self.manipulation.select(train.labels[exposed])
        check_selected(self.manipulation, selected, int(exposed.sum()))
        chosen = torch.nonzero(exposed).flatten()[selected]
        relabelled = self.manipulation.relabel(train.labels[chosen])
        check_relabelled(self.manipulation, relabelled, len(chosen))
        labels = train.labels.clone()
        labels[chosen] = relabelled
        self.check_classes(labels, f"what {type(self.manipulation).__name__} relabels", "change data.manipulation")
        manipulated = torch.zeros_like(exposed)
        manipulated[chosen] = True
        index = exposed.cumsum(0) - 1
        return Samples(train.images, train.labels, labels, manipulated, torch.zeros_like(exposed), index)

    def check_classes(self, labels: Tensor, where: str, mend: str) -> None:
        """Refuse labels of no class.

        Args:
            labels: Shape (n,).
            where: They come from.
            mend: What to do about wrong ones.

        Raises:
            UserError: There is one.
        """
        wrong = torch.nonzero((labels < 0) | (labels >= self.num_classes)).flatten()
        if len(wrong):
            raise UserError(
                f"{where} has the label {int(labels[wrong[0]])} at index {int(wrong[0])}, but the classes are 0 to "
                f"{self.num_classes - 1}: {mend}"
            )

    def _detect(self, detector: Detector) -> None:
        """S_f as the detector sees the stage's original; of a stage that is one itself there is none."""
        trainer, stage = self._running()
        original = stage.load_original()
        self.samples.deleted.copy_(self.listed)
        if original is not None:
            found = detector.detect(Inspection(original, self.samples, self.pixels()), self.seed)
            self._flag(trainer.strategy.broadcast(found))  # rank 0's, should a tie be broken otherwise elsewhere
            original.cpu()

    def _flag(self, found: Tensor) -> None:
        """Take over S_f, and tell which fraction of S_m that is."""
        manipulated, deleted = self.samples.manipulated, self.samples.deleted
        deleted.zero_()
        deleted[found.to(deleted.device)] = True
        members = int(manipulated.sum())
        self.identified = int((deleted & manipulated).sum()) / members if members else 1.0

    def pixels(self, device: torch.device | None = None) -> Pixels:
        """Makes a network's input on a device; default that on which it runs."""
        running = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return Pixels(self.mean, self.std, self.manipulation, device or running)

    def _running(self) -> tuple[Any, "Stage"]:
        if self.trainer is None:
            raise UserError("the data serves what a stage declares: use it through a lightning Trainer and a stage")
        stage: Any = self.trainer.lightning_module
        return self.trainer, stage


class CorruptedDataModule(ManipulatedDataModule):
    """Images in memory, manipulated, of which a fraction is identified; batches are made on the device.

    A data set of one's own is a subclass that defines `load` and the class attributes.
    """

    def train_dataloader(self) -> TrainingBatches | FullPasses:
        """The view that the stage declares, for exactly its number of steps."""
        trainer, stage = self._running()
        deleted = self.samples.deleted
        if stage.view == "passes":
            return FullPasses(*(self._pass(mask, stage) for mask in (deleted, ~deleted)))
        views = {
            "train": [torch.ones_like(deleted)],
            "retain": [~deleted],
            "forget then retain": [deleted, ~deleted],
        }
        if stage.view not in views:
            known = ", ".join(map(repr, [*views, "passes"]))
            raise UserError(f"{type(stage).__name__}.view is {stage.view!r}: give one of {known}")
        masks = views[stage.view]
        seeds = [derive_seed(stage.seed, 2), stage.seed][-len(masks) :]
        sources = [self._source(mask, stage, seed) for mask, seed in zip(masks, seeds, strict=True)]
        plan = stage.plan(*(source.sampler.steps_per_epoch for source in sources))
        return self._batches(sources, plan, lambda: trainer.global_step)

    def _pass(self, mask: Tensor, stage: "Stage") -> TrainingBatches:
        """One epoch; augmented only if the stage wants it so, else in the order of the samples."""
        source = self._source(mask, stage, stage.seed, stage.augment)
        return self._batches([source], [0] * source.sampler.steps_per_epoch, lambda: 0)

    def _source(self, mask: Tensor, stage: "Stage", seed: int, augment: bool = True) -> Source:
        view = torch.nonzero(mask).flatten().cpu()
        sampler = EpochSampler(len(view), stage.procedure.batch_size, seed, shuffle=augment)
        augmentation = CropAndFlip(self.padding, self.flip) if augment else CropAndFlip(0, flip=False)
        return Source(self.samples, view, sampler, augmentation)

    def _batches(self, sources: list[Source], plan: list[int], done: Callable[[], int]) -> TrainingBatches:
        trainer = self._running()[0]
        return TrainingBatches(sources, plan, done, self.pixels(), trainer.global_rank, trainer.world_size)

    def batches(self, what: Evaluation) -> EvaluationBatches:
        """An evaluation's batches for this process."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EvaluationBatches(what, self.pixels(), rank, world_size)

    def evaluations(self) -> dict[str, Evaluation]:
        """All that is measured of the stage that is being run: on test, training and validation samples."""
        stage = self._running()[1]
        measured = {
            "test": evaluation.of_test(self),
            "train": evaluation.of_train(self, stage.reference),
            "val": evaluation.of_validation(self),
        }
        return {name: what for name, what in measured.items() if len(what.rows)}

    def test_dataloader(self) -> list[EvaluationBatches]:
        """One loader for each of `evaluations`."""
        return [self.batches(what) for what in self.evaluations().values()]

    def all_deleted(self) -> Evaluation:
        """On S_f: whether its predicted classes are the labels as given."""
        return evaluation.of_deleted(self, self.samples.given_labels[self.samples.deleted].cpu())

    def val_dataloader(self) -> list[EvaluationBatches]:
        """What is measured during training: validation samples, and S_f against the original's predictions."""
        reference = self._running()[1].reference
        measured = [evaluation.of_validation(self)] if len(self.validation.given_labels) else []
        if reference is not None:
            measured.append(evaluation.of_deleted(self, reference))
        return [self.batches(what) for what in measured]

    def state_dict(self) -> dict[str, Any]:
        """What travels in every checkpoint.

        S_m with its labels and S_f, as indices into S_tr, a checksum of the data, and what some of S_m look like.
        """
        samples = self.samples
        return {
            "manipulated": torch.nonzero(samples.manipulated).flatten().cpu(),
            "labels": samples.given_labels[samples.manipulated].cpu(),
            "deleted": torch.nonzero(samples.deleted).flatten().cpu(),
            "fingerprint": self.fingerprint,
            "stamped": self.stamped(),
        }

    def stamped(self) -> Tensor:
        """The first images of S_m as they are trained on, shape (n, C, H, W), uint8."""
        rows = torch.nonzero(self.samples.manipulated).flatten()[:8]
        images = self.samples.images[rows].cpu().permute(0, 3, 1, 2).float() / 255
        stamped = self.manipulation.stamp_training(images, self.samples.manipulation_index[rows].cpu())
        return (stamped.clamp(0, 1) * 255).round().byte()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that a checkpoint of this same run is of the same data; a detector's S_f is taken from it."""
        difference = self.difference(state)
        if difference is None and isinstance(self.discovery, Detector):
            self._flag(state["deleted"])
        elif difference is None and self._unlearns and not torch.equal(self.state_dict()["deleted"], state["deleted"]):
            difference = "another deletion set (S_f)"
        if difference:
            raise UserError(f"the checkpoint is of {difference}: give a checkpoint of this setting")

    @property
    def _unlearns(self) -> bool:
        """Whether what runs depends on S_f; an original does not."""
        return self.trainer is None or self._running()[1].unlearns

    @property
    def is_vouched_for(self) -> bool:
        """Whether another run's hash is of the same data, as far as can be told without reading them."""
        return type(self).__module__.startswith("cmu_lightning.") or "root" in self.content()

    def difference(self, state: dict[str, Any]) -> str | None:
        """In what another run's `state_dict` differs from this data; None if in nothing but S_f."""
        if state["fingerprint"] != self.fingerprint:
            return f"other images or labels than those in {self.root.resolve()}"
        own = self.state_dict()
        if any(not torch.equal(own[key], state[key]) for key in ("manipulated", "labels")):
            return "another draw of manipulated samples (S_m)"
        changes = (own["stamped"].int() - state["stamped"].int()).abs()
        if (changes > 1).any():  # 1 may be another machine's rounding
            return f"images that were manipulated in another way than this {type(self.manipulation).__name__} does"
        return None
