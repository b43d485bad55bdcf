"""What all stages share: a network, procedure A and exact losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import mix
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.measuring import Measuring
from cmu_lightning.unlearning.networks import (
    build,
    channels_last,
    check_function,
    refuse_untrainable,
    share_batch_norm,
    tensors_digest,
)
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.trainers import check_trainer

RECORD = "cmu_lightning"
"""Key of the checkpoint's part that is a stage's own."""


View = Literal["train", "retain", "forget then retain", "passes"]
"""The data that a stage trains on: all of S_tr, the retain data, S_f and retain in turns, or one pass over each."""


class Stage(Measuring):
    """One LightningModule run by `fit` under `Trainer(max_epochs=1)`, for exactly its number of steps.

    A stage declares the view of the data it trains on and defines `loss`; the base does the rest.

    Args:
        network: Makes the network, such as `ResNet9` or a partial of it.
        procedure: How it is trained.
        seed: Seed of the initial weights, of the order of the data and of its augmentation.
    """

    view: ClassVar[View] = "train"
    unlearns: ClassVar[bool] = False
    """Whether it starts from an original, and depends on S_f."""
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"
    """Which of the procedure's numbers of steps is the stage's."""
    forwards: ClassVar[int] = 1
    """Forward passes over a sample in a step; teachers count."""
    augment: bool = False
    """Whether `passes` are shuffled and augmented; what is trained on always is."""
    lr: float | None = None
    """Peak learning rate, where it is not the procedure's."""

    def __init__(self, network: Callable[[], nn.Module], procedure: Procedure, seed: int | None = None) -> None:
        super().__init__()
        self.seed = 0 if seed is None else seed
        self.procedure = procedure
        self.make_network = network
        self.network = build(network, self.seed)
        self.record: dict[str, Any] = {}
        """What the command line wants to travel in the checkpoint."""
        self.samples_forward = 0
        self.samples_backward = 0
        self.folder: Path | None = None
        """Of the run, if the command line made one."""
        self.automatic_optimization = self.trains

    @property
    def trains(self) -> bool:
        """Whether its steps are an optimiser's; otherwise one step is the whole method."""
        return self.view != "passes"

    @property
    def steps(self) -> int:
        """Optimiser steps of this stage."""
        steps: int = getattr(self.procedure, self.uses)
        return steps

    @property
    def place(self) -> Path:
        """Where the stage leaves files of its own."""
        return self.folder or Path(self.trainer.default_root_dir)

    def plan(self, *epochs: int) -> list[int]:
        """For each step, which of the view's parts gives its batch.

        Args:
            epochs: Steps of an epoch of each part.
        """
        return [0] * self.steps

    def loss(self, batch: Batch) -> Tensor:
        """The loss of each sample, shape (n,): cross-entropy with the labels as given."""
        return cross_entropy(self.network(batch.image), batch.label, reduction="none")

    def global_mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """The mean over the global batch, of which this process holds a slice, maybe an empty one.

        DDP divides summed gradients by the number of processes; that is undone here.
        """
        return losses.sum() * (self.trainer.world_size / batch.total)

    def load_original(self) -> nn.Module | None:
        """What the stage starts from, in evaluation mode; None for an original."""
        return None

    def prepare(self) -> None:
        """What comes before the first step, on the CPU; nothing for an original."""

    def setup(self, stage: str) -> None:
        """Check that the trainer runs the stage once and that the network fits the data."""
        trainer = self.trainer
        if stage != "fit":
            return
        check_trainer(trainer, self)
        check_function(self.make_network, self.network, self.data)
        self.prepare()
        if trainer.world_size > 1 and self.trains:
            self.network = share_batch_norm(self.network, trainer.strategy.root_device)
        self.lay_out(self.network)
        if self.compiles and self.trains:
            self.network.compile(dynamic=False)

    def lay_out(self, network: nn.Module) -> None:
        """On GPUs channels last, as images are, so that no step has to turn weights over."""
        if self.trainer.strategy.root_device.type == "cuda":
            channels_last(network)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Procedure A; None for what trains nothing."""
        if not self.trains:
            return None
        clipped = self.trainer.gradient_clip_val is not None  # Lightning cannot clip what a fused kernel unscales
        fused = self.trainer.strategy.root_device.type == "cuda" and not clipped
        optimizer = self.procedure.optimizer(self.network.parameters(), self.lr, fused)
        schedule = self.procedure.schedule(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """After a resume, have what an optimiser remembers as this device needs it; another one may have written it."""
        super().on_train_start()
        for each in self.trainer.optimizers:
            for group in each.param_groups if "fused" in each.defaults else ():
                group["fused"] = each.defaults["fused"]
            for parameter, remembered in each.state.items():
                for name, value in remembered.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        remembered[name] = torch.empty_like(parameter).copy_(value)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a step."""
        self.begin_step(batch)
        try:
            losses = self.loss(batch)
        except (AttributeError, TypeError, ValueError) as error:
            refuse_untrainable(self.network, batch.image, error)
            raise
        if losses.shape != batch.label.shape:
            raise UserError(
                f"{type(self).__name__}.loss gives shape {tuple(losses.shape)} for {len(batch.label)} samples: give "
                "one loss for each, not their mean"
            )
        loss = self.global_mean(losses, batch)
        self.log_curves(self.curves(loss.detach(), losses.detach(), batch))
        return loss

    def begin_step(self, batch: Batch) -> None:
        """Reseed what is random in a network, such as dropout, and count samples."""
        torch.manual_seed(mix(self.seed, self.global_step, self.global_rank))
        self.samples_forward += self.forwards * batch.total
        self.samples_backward += batch.total

    def curves(self, loss: Tensor, losses: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """What is logged of a step: by its name, a sum and the number of terms in it.

        Args:
            loss: What is minimised.
            losses: This process's samples', shape (n,).
            batch: Of the samples.
        """
        return {"train_loss": (loss, torch.ones_like(loss))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What has been spent, and the original's predictions."""
        checkpoint[RECORD] = self.record | {
            "seconds": self.seconds,
            "samples_forward": self.samples_forward,
            "samples_backward": self.samples_backward,
            "reference": self.reference,
            "steps": self.steps,
        }
        if "optimizer_states" not in checkpoint:  # the last one, which others start from
            checkpoint[RECORD]["weights"] = tensors_digest(checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what had been spent."""
        record = checkpoint[RECORD]
        self.seconds_before = record["seconds"]
        self.samples_forward = record["samples_forward"]
        self.samples_backward = record["samples_backward"]
        self.reference = record["reference"]
