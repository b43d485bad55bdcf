"""REM: redirection for erasing memory (ICLR 2026, arXiv 2505.17730), for any convolutional network."""

from math import inf
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from cmu_lightning.data import Batch
from cmu_lightning.data.batches import TrainingBatches
from cmu_lightning.data.evaluation import of_samples
from cmu_lightning.data.samples import to_device
from cmu_lightning.data.sampling import derive_seed, rank_slice
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import rem_proxy
from cmu_lightning.unlearning.ascent import preference
from cmu_lightning.unlearning.distillation import DistillationUnlearner
from cmu_lightning.unlearning.extra_channels import ExtraCapacity
from cmu_lightning.unlearning.networks import evaluation_mode
from cmu_lightning.unlearning.progress import track_parts
from cmu_lightning.unlearning.sample_masks import SHARED
from cmu_lightning.unlearning.stage import View


class REM(DistillationUnlearner):
    """Redirection for erasing memory: pushes S_f out of the network into extra capacity that is dropped at the end.

    The network theta_1 gets extra channels theta_2 in every ungrouped convolution (`ExtraCapacity`); their outgoing
    weights are zero, so at the start the function is the original's. A sample uses an extra channel with
    probability `p_mem`, fixed by a hash of its index; all of S_f use the same ones. With the losses l of a sample as
    labelled, l_ref that of the original, and B(u) = (2 / beta) log sigmoid(beta u), in turns:
      1. Flush: whole epochs over S_f of descent on -B(l_1 - l_ref), theta_2 being off, until the accuracy on S_f by
         labels as given is at most `gamma`; these steps do not count.
      2. Repair and redirect: one epoch over S_tr of descent on B(l_12 - l_ref) - [in S_f] B(l_1 - l_ref): all labels
         are fitted by both parts, those of S_f not by theta_1.
      3. Propose: the weights after the epoch are kept if fit_retain (1 - max(fit_identified, gamma)) is the largest so
         far, both accuracies being by labels as given, with theta_2 off.

    It ends with the kept weights and theta_2 dropped: a network of the original's architecture. `metrics.json` then has
    `fit_identified_extra_on` and `fit_identified_extra_off`, the accuracy on S_f by labels as given with theta_2 and
    without it: redirection has happened where the first is high and the second low.

    Samples of S_f pass theta_1 in evaluation mode, so one sample is enough, and batch norm uses the statistics of all
    data. In the published experiments half of a network's own channels are kept free in the training of the original
    and serve as theta_2. Here the channels are new, so any original works. Proposals are compared on images that are
    not augmented; in the released code they are.

    Args:
        lr: Learning rate, constant; the published one.
        beta: How fast a sample's weight changes with its loss.
        gamma: Accuracy on S_f at which flushing ends; proposals below it count as equal.
        p_mem: Probability with which a sample uses an extra channel.
        extra: Extra channels for each channel of a convolution.
        flush_epochs: Largest number of epochs over S_f in one flush.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import REM, Procedure
        >>> REM(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt").gamma
        0.2
    """

    view: ClassVar[View] = "train"
    averages: ClassVar[bool] = False
    forwards: ClassVar[int] = 2
    resumes = ("flushed", "best")
    keeps = ("redirected",)

    def __init__(
        self,
        *args: Any,
        lr: float = 0.005,
        beta: float = 1.0,
        gamma: float = 0.2,
        p_mem: float = 0.2,
        extra: float = 1.0,
        flush_epochs: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not (0 < lr < inf and 0 < beta < inf and 0 < extra < inf and flush_epochs >= 0):
            raise UserError(
                "REM needs lr > 0, beta > 0, extra > 0 and flush_epochs >= 0, "
                f"not lr={lr}, beta={beta}, extra={extra}, flush_epochs={flush_epochs}"
            )
        if not (0 <= gamma <= 1 and 0 <= p_mem <= 1):
            raise UserError(f"gamma={gamma} and p_mem={p_mem} are an accuracy and a probability: give 0 to 1")
        self.lr, self.beta, self.gamma, self.p_mem = lr, beta, gamma, p_mem
        self.extra, self.flush_epochs = extra, flush_epochs
        self.flushed = 0
        """Number of flushing steps so far."""
        self.best: dict[str, Any] | None = None
        """The kept proposal: `score`, `weights` of theta_1, and the accuracies on S_f with theta_2 `on` and `off`."""
        self.redirected: dict[str, float] = {}
        """Accuracies on S_f with theta_2 on and off, once the run has ended."""
        self.counted: tuple[int, Tensor] | None = None
        self.known_rows = torch.empty(0, dtype=torch.long)
        """Positions of S_f's samples in this process's slice of the batch."""

    def start(self, original: nn.Module) -> None:
        """Start from the original, keep it as the reference, and add the extra channels.

        Args:
            original: The original, on the CPU.

        Raises:
            UserError: The network has no convolutions, or only the one of a transformer.
        """
        super().start(original)
        self.own = list(self.network.parameters())
        self.own_keys = list(self.network.state_dict())
        self.capacity = ExtraCapacity(self.network, self.extra, self.p_mem, derive_seed(self.seed, 3))
        self.compiles = False  # masks are not a part of the compiled graph

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return procedure A's optimiser at a constant rate."""
        made: Any = super().configure_optimizers()
        optimizer: torch.optim.Optimizer = made["optimizer"]
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, lambda step: 1.0), "interval": "step"},
        }

    def train_dataloader(self) -> TrainingBatches:
        """Return batches of all of S_tr, and keep the source of those of S_f that are flushed."""
        batches: Any = super().train_dataloader()
        self.main: Any = batches.sources[0]
        self.known = self.data.samples.deleted.cpu()
        self.forget = self.data.training_source(self.known, self.procedure.batch_size, derive_seed(self.seed, 2))
        taken: TrainingBatches = batches
        return taken

    # ---- The steps ----

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Propose the last epoch's weights and flush, at the start of an epoch."""
        step = self.global_step
        if step % self.main.sampler.steps_per_epoch:
            return
        if step:
            self._propose()
        self._flush()

    def begin_step(self, batch: Batch) -> None:
        """Count the samples of S_f that pass theta_1, too.

        Args:
            batch: This process's slice of the global batch.
        """
        super().begin_step(batch)
        known = self._known_in(self.global_step)
        self.samples_forward += int(known.sum())
        self.samples_backward += int(known.sum())
        part = rank_slice(slice(0, batch.total), self.global_rank, self.trainer.world_size)
        self.known_rows = to_device(torch.nonzero(known[part]).flatten(), self.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return B(l_12 - l_ref) - [in S_f] B(l_1 - l_ref) of each sample, shape (n,).

        Args:
            batch: This process's slice of the global batch, n samples.
        """
        # 1. Repair: every sample, through both parts; all of S_f use the same extra channels.
        index = torch.where(batch.deleted, SHARED, batch.train_index)
        with self.capacity.on(index):
            logits = self.network(batch.image)
        reference = self._reference(batch)
        losses = -preference(cross_entropy(logits, batch.label, reduction="none"), reference, self.beta)
        # 2. Redirect: S_f away from theta_1.
        rows = self.known_rows
        if not len(rows):
            return losses
        away = self._away(batch.image[rows], batch.label[rows], reference[rows])
        return losses.index_add(0, rows, away.to(losses.dtype))

    def _away(self, images: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
        """Return -B(l_1 - l_ref), shape (n,)."""
        with evaluation_mode(self.network):
            logits = self.network(images)
        return preference(cross_entropy(logits, labels, reduction="none"), reference, self.beta)

    def _reference(self, batch: Batch) -> Tensor:
        """Return l_ref, shape (n,)."""
        (logits,) = self.teacher_logits(batch.image)
        return cross_entropy(logits, batch.label, reduction="none")

    def _flush(self) -> None:
        """Ascend on S_f, theta_2 being off, in whole epochs until its labels are forgotten."""
        known = self.data.all_deleted()
        for _ in track_parts(self.trainer, range(self.flush_epochs), "flushing S_f, at most", self.flush_epochs):
            with evaluation_mode(self.network):
                fit = float(self.accuracies(known)[0])
            # Process 0 decides for all: on CPUs each has batch-norm statistics of its own.
            if self.trainer.strategy.broadcast(fit <= self.gamma):
                break
            for _ in range(self.forget.sampler.steps_per_epoch):
                self._flush_step()

    def _flush_step(self) -> None:
        """Do one step on a batch of S_f, outside Lightning's loop, whose steps count."""
        trainer: Any = self.trainer
        batch = self.forget.batch(self.flushed, self.data.pixels(), self.global_rank, trainer.world_size)
        self.flushed += 1
        self.samples_forward += self.forwards * batch.total
        self.samples_backward += batch.total
        with torch.autocast(self.device.type, enabled=False):
            losses = self._away(batch.image, batch.label, self._reference(batch))
        loss = self.global_mean(losses, batch)
        # Request the gradients instead of accumulating them, which would trigger DDP's own reduction.
        trained = [parameter for parameter in self.own if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        (optimizer,) = trainer.optimizers
        optimizer.zero_grad()
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = trainer.strategy.reduce(gradient, reduce_op="mean")
        self.clip_gradients(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        optimizer.step()
        optimizer.zero_grad()

    # ---- Proposals ----

    def on_train_epoch_end(self) -> None:
        """Propose the last weights, then go back to the best proposal and drop the extra channels."""
        self._propose()
        assert self.best is not None
        self.capacity.drop()
        self.network.load_state_dict(self.best["weights"])
        self.redirected = {f"fit_identified_extra_{name}": self.best[name] for name in ("on", "off")}

    def _propose(self) -> None:
        """Keep the weights if they are the best so far."""
        labels, everywhere = self.data.samples.given_labels.cpu(), torch.arange(len(self.known))
        questions = {"retain": (labels, ~self.known), "off": (labels, self.known)}
        with evaluation_mode(self.network):
            retain, off = self._accuracies(of_samples(self.data.samples, everywhere, questions))
            # All of S_f share the same mask, in any batch.
            with self.capacity.on(torch.tensor([SHARED], device=self.device)):
                on = float(self.accuracies(self.data.all_deleted())[0])
        score = rem_proxy(retain, off, self.gamma)
        measured = {
            "proxy": score,
            "fit_retain": retain,
            "fit_identified_extra_off": off,
            "fit_identified_extra_on": on,
        }
        for logger in self.trainer.loggers:
            logger.log_metrics(measured, step=self.global_step)
        # Process 0 decides for all.
        if self.trainer.strategy.broadcast(self.best is None or score > self.best["score"]):
            state = self.network.state_dict()
            kept = {key: state[key].detach().cpu().clone() for key in self.own_keys}
            self.best = {"score": score, "on": on, "off": off, "weights": kept}

    @torch.no_grad()
    def _accuracies(self, evaluation: Any) -> list[float]:
        """Return accuracies of the current network; each process classifies its share of the samples."""
        self.samples_forward += len(evaluation.rows)
        right = torch.zeros(len(evaluation.names), device=self.device)
        with self.trainer.precision_plugin.forward_context(), self.without_autotuning():
            for batch in self.data.evaluation_batches(evaluation):
                if len(batch.image):
                    predicted = self.network(batch.image).argmax(dim=1, keepdim=True)
                    right += ((predicted == batch.target) & batch.domain).sum(dim=0)
        right = self.trainer.strategy.reduce(right, reduce_op="sum")
        accuracies: list[float] = (right.cpu().double() / evaluation.domain.sum(dim=0)).tolist()
        return accuracies

    def _known_in(self, step: int) -> Tensor:
        """Return which samples of a step's global batch are in S_f, bool, on the CPU, so that no step waits."""
        epoch, part = self.main.sampler.batch(step)
        if self.counted is None or self.counted[0] != epoch:
            self.counted = epoch, self.known[self.main.view[self.main.sampler.order(epoch)]]
        return self.counted[1][part]

    # ---- Metrics ----

    def on_test_epoch_end(self) -> None:
        """Add the accuracies on S_f with and without the extra channels, which have been dropped."""
        super().on_test_epoch_end()
        self.results |= self.redirected
        self.log_dict(self.redirected)
