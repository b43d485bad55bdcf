"""Base of the methods that learn from frozen teachers, and the divergence from a teacher."""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from cmu_lightning.data import Batch
from cmu_lightning.unlearning.unlearner import Unlearner


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of each sample, shape (n,).

    The factor T^2 keeps gradients at the same scale for every temperature (Hinton et al., 2015, section 2.1).

    Args:
        student: Logits of the network that is trained, shape (n, num_classes).
        teacher: Logits of the teacher, shape (n, num_classes).
        temperature: T; larger values also compare the ratios of small probabilities.
    """
    expected = log_softmax(teacher / temperature, dim=1)
    reached = log_softmax(student / temperature, dim=1)
    return temperature**2 * (expected.exp() * (expected - reached)).sum(dim=1)


class DistillationUnlearner(Unlearner):
    """Base of methods that start from the original and learn from teachers, the first of which is the original.

    A method defines `loss` with the logits of `teacher_logits`; `more_teachers` adds teachers to the original.
    Teachers are in evaluation mode, have no gradients and are never part of a checkpoint.
    """

    teachers: tuple[nn.Module, ...] = ()
    """A tuple, which hides the teachers from the module's parameters and state dict."""

    def start(self, original: nn.Module) -> None:
        """Start from the original's weights and keep the original as the first teacher.

        Args:
            original: The original, on the CPU.
        """
        super().start(original)
        self.teachers = tuple(teacher.eval().requires_grad_(False) for teacher in (original, *self.more_teachers()))

    def more_teachers(self) -> tuple[nn.Module, ...]:
        """Return the teachers in addition to the original; none by default."""
        return ()

    def on_fit_start(self) -> None:
        """Move the teachers to the student's device, and lay them out in memory like the student."""
        for teacher in self.teachers:
            teacher.to(self.device)
            self.lay_out(teacher)

    def curves(self, loss: Tensor, losses: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the loss and its parts, `forget_loss` on deleted samples and `retain_loss` on the others.

        Args:
            loss: The minimised loss, a scalar.
            losses: Losses of this process's samples, shape (n,); a method that ascends on S_f has negative ones there.
            batch: This process's slice of the global batch.

        Returns:
            By name a sum and the number of terms in it.
        """
        deleted = batch.deleted
        return super().curves(loss, losses, batch) | {
            "forget_loss": ((losses * deleted).sum(), deleted.sum()),
            "retain_loss": ((losses * ~deleted).sum(), (~deleted).sum()),
        }

    @torch.no_grad()
    def teacher_logits(self, images: Tensor) -> list[Tensor]:
        """Return each teacher's logits, shape (n, num_classes).

        Args:
            images: Network input, shape (n, C, H, W).
        """
        return [teacher(images) for teacher in self.teachers]
