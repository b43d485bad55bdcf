"""The data of an experiment: what stages train on, what is measured of them, and what a checkpoint tells of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cmu_lightning.data import evaluation
from cmu_lightning.data.augmentation import CropAndFlip
from cmu_lightning.data.discoveries import Detector
from cmu_lightning.data.evaluation import Evaluation, EvaluationBatches
from cmu_lightning.data.manipulated import ManipulatedDataModule
from cmu_lightning.data.sampling import EpochSampler, mix
from cmu_lightning.data.training import Passes, Source, TrainingBatches
from cmu_lightning.errors import UserError

if TYPE_CHECKING:
    from cmu_lightning.unlearning.stage import Stage


class CorruptedDataModule(ManipulatedDataModule):
    """Images in memory, manipulated, of which a fraction is identified; batches are made on the device.

    A data set of one's own is a subclass that defines `load` and the class attributes.
    """

    def train_dataloader(self) -> TrainingBatches | Passes:
        """The view that the stage declares, for exactly its number of steps."""
        trainer, stage = self._running()
        deleted = self.samples.deleted
        if stage.view == "passes":
            return Passes(*(self._pass(mask, stage) for mask in (deleted, ~deleted)))
        views = {
            "train": [torch.ones_like(deleted)],
            "retain": [~deleted],
            "forget then retain": [deleted, ~deleted],
        }
        if stage.view not in views:
            known = ", ".join(map(repr, [*views, "passes"]))
            raise UserError(f"{type(stage).__name__}.view is {stage.view!r}: give one of {known}")
        masks = views[stage.view]
        seeds = [mix(stage.seed, 2), stage.seed][-len(masks) :]
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
        return evaluation.of_deleted(self, self.samples.labels[self.samples.deleted].cpu())

    def val_dataloader(self) -> list[EvaluationBatches]:
        """What is measured during training: validation samples, and S_f against the original's predictions."""
        reference = self._running()[1].reference
        measured = [evaluation.of_validation(self)] if len(self.validation.labels) else []
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
            "labels": samples.labels[samples.manipulated].cpu(),
            "deleted": torch.nonzero(samples.deleted).flatten().cpu(),
            "fingerprint": self.fingerprint,
            "stamped": self.stamped(),
        }

    def stamped(self) -> Tensor:
        """The first images of S_m as they are trained on, shape (n, C, H, W), uint8."""
        rows = torch.nonzero(self.samples.manipulated).flatten()[:8]
        images = self.samples.images[rows].cpu().permute(0, 3, 1, 2).float() / 255
        stamped = self.manipulation.stamp_training(images, self.samples.number[rows].cpu())
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
