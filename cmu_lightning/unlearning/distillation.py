"""What BadT and Scrub share: frozen teachers and the divergence from them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from cmu_lightning.data import Batch
from cmu_lightning.unlearning.unlearner import Unlearner


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of each sample, shape (n,), from logits of shape (n, num_classes).

    The square keeps gradients as large at every temperature (Hinton et al., 2015, section 2.1).
    """
    expected = log_softmax(teacher / temperature, dim=1)
    reached = log_softmax(student / temperature, dim=1)
    return temperature**2 * (expected.exp() * (expected - reached)).sum(dim=1)


class DistillationUnlearner(Unlearner):
    """Starts from the original and learns from teachers, which are never part of a checkpoint."""

    teachers: tuple[nn.Module, ...] = ()
    """In a tuple, so that they are no part of the module."""

    def start(self, original: nn.Module) -> None:
        """Start from the original and keep it as the first teacher."""
        super().start(original)
        self.teachers = tuple(teacher.eval().requires_grad_(False) for teacher in (original, *self.more_teachers()))

    def more_teachers(self) -> tuple[nn.Module, ...]:
        """Teachers beside the original; none."""
        return ()

    def on_fit_start(self) -> None:
        """Teachers follow the student to its device, and are laid out in memory as it is."""
        for teacher in self.teachers:
            teacher.to(self.device)
            self.lay_out(teacher)

    def curves(self, loss: Tensor, losses: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Beside the loss, its parts: on deleted samples, of which Scrub's is negative, and on the others."""
        deleted = batch.deleted
        return super().curves(loss, losses, batch) | {
            "forget_loss": ((losses * deleted).sum(), deleted.sum()),
            "retain_loss": ((losses * ~deleted).sum(), (~deleted).sum()),
        }

    @torch.no_grad()
    def taught(self, images: Tensor) -> list[Tensor]:
        """Each teacher's logits, shape (n, num_classes)."""
        return [teacher(images) for teacher in self.teachers]
