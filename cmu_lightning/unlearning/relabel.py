"""Relabel: fine-tuning with labels corrected by a person."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch, Flagged
from cmu_lightning.data.batches import TrainingBatches
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.unlearner import Unlearner


class Relabel(Unlearner):
    """The original, fine-tuned with procedure A on the retain data and on S_f with corrected labels.

    The corrected labels are those of the list (`Flagged`, column `corrected_label`); samples of S_f without one are
    left out, as in CF. Like all unlearners it is measured by the given labels.

    Args:
        kwargs: `network`, `procedure`, `original` and `seed`, as of every unlearner.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import Procedure, Relabel
        >>> Relabel(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt").steps
        1000
    """

    def start(self, original: nn.Module) -> None:
        """Start from the original, and take the corrected labels from the list.

        Raises:
            UserError: The list corrects no label.
        """
        super().start(original)
        data = self.data
        corrected = data.discovery.corrected if isinstance(data.discovery, Flagged) else None
        if corrected is None:
            raise UserError(
                "Relabel trains on corrected labels, and S_f has none: give the list of data.discovery Flagged "
                "a column corrected_label, or use CF"
            )
        own, deleted = corrected[~data.held], data.samples.deleted.cpu()
        self.trained = ~deleted | (own >= 0)
        """Samples of S_tr that are trained on, bool, shape (N,)."""
        self.labels = torch.where(deleted & (own >= 0), own, data.samples.given_labels.cpu())
        """Label of each sample of S_tr, shape (N,)."""

    def train_dataloader(self) -> TrainingBatches:
        """Return batches of the retain data and of the corrected samples."""
        data = self.data
        mask = self.trained.to(data.samples.deleted.device)
        source = data.training_source(mask, self.procedure.batch_size, self.seed)
        return data.training_batches([source], [0] * self.steps, done=lambda: self.trainer.global_step)

    def on_train_start(self) -> None:
        """Start the clock; the labels lie on the device, so that no step waits for it."""
        super().on_train_start()
        self.labels = self.labels.to(self.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return cross-entropy with the corrected labels.

        Args:
            batch: This process's slice of the global batch.
        """
        return cross_entropy(self.network(batch.image), self.labels[batch.train_index], reduction="none")
