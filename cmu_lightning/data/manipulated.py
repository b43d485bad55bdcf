"""What was done to a data set, and what was found of that: S_m and S_f."""

from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from cmu_lightning.data import validating
from cmu_lightning.data.checks import check_channels, check_domains, check_relabelled, check_selected, check_sharding
from cmu_lightning.data.discoveries import Detector, Discovery, Inspection
from cmu_lightning.data.identifying import identify, number_found
from cmu_lightning.data.manipulations import Manipulation, Unknown
from cmu_lightning.data.pixels import Pixels
from cmu_lightning.data.samples import Samples, Split
from cmu_lightning.data.stored import StoredDataModule
from cmu_lightning.errors import UserError

if TYPE_CHECKING:
    from cmu_lightning.unlearning.stage import Stage

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
        own = None if validation is None else validating.untouched(validation, self.validated)
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
            rows = validating.of_own_split(validation.labels, self.val_size, self.val_labels)
            return torch.zeros_like(labels, dtype=torch.bool), rows
        held = validating.of_training(labels, self.default_val_size if self.val_size is None else self.val_size)
        if flagged is not None:
            if not isinstance(self.manipulation, Unknown):
                validating.refuse_flagged(held, flagged, self.names)
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
