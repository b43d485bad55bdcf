"""Scrub: alternating ascent on S_f and descent on retain (Kurmanji et al., 2023; paper, A.2 (5))."""

from collections.abc import Callable
from math import inf
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.distilling import Distilling, divergence
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.rewind import Rewind
from cmu_lightning.unlearning.stage import View


def alternation(
    steps: int, forget_steps: int, forget_epoch: int, retain_epoch: int, alternate: Literal["epoch", "step"]
) -> list[int]:
    """Which steps forget and which retain (paper, A.2 (5)): forget first, retain after it, retain alone in the end.

    Args:
        steps: In all.
        forget_steps: Forgetting starts only while fewer steps than these are done.
        forget_epoch: Steps of one epoch over S_f.
        retain_epoch: Steps of one epoch over the retain data.
        alternate: After an epoch or after a step of each.

    Returns:
        For each step 0, which is forget, or 1, which is retain.
    """
    turn = [0] * forget_epoch + [1] * retain_epoch if alternate == "epoch" else [0, 1]
    plan: list[int] = []
    while len(plan) < min(forget_steps, steps):
        plan += turn
    return (plan + [1] * steps)[:steps]


class Scrub(Distilling):
    """Forget steps ascend on S_f, retain steps descend on the rest; then retain steps alone.

    The loss is the task's cross-entropy plus `distill` times the divergence from the original, at temperature 4.
    Every batch is of S_f or of retain as a whole, so that a forget step is one with the sign turned.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: How it is fine-tuned.
        original: Checkpoint of the original.
        seed: Seed of everything random in this method.
        distill: Weight of the divergence.
        lr: Peak learning rate; smaller than the procedure's, which is unstable here.
        forget_steps: While fewer steps are done, forgetting goes on; default a fifth of the steps, which is the paper's
            200 of 1000.
        alternate: After an `epoch` over S_f and one over retain, as the released code does, or after each `step`.
        ascend: What forget steps ascend: `both` terms as in the released code, the `task` as in the paper's A.2, or
            the `distillation` alone, unweighted, as in its section 3.2 and in the original SCRUB.
        rewind: Whether to end at the epoch whose error on S_f is closest to that on validation samples of S_f's class
            mix (SCRUB+R).
    """

    view: ClassVar[View] = "forget then retain"
    forwards: ClassVar[int] = 2
    temperature: ClassVar[float] = 4.0

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        distill: float = 0.5,
        lr: float = 0.0025,
        forget_steps: int | None = None,
        alternate: Literal["epoch", "step"] = "epoch",
        ascend: Literal["both", "task", "distillation"] = "both",
        rewind: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed)
        forget_steps = self.steps // 5 if forget_steps is None else forget_steps
        if not (0 <= distill < inf and 0 < lr < inf and forget_steps >= 0):
            raise UserError(
                "Scrub needs distill >= 0, lr > 0 and forget_steps >= 0, "
                f"not distill={distill}, lr={lr}, forget_steps={forget_steps}"
            )
        self.distill, self.lr, self.forget_steps = distill, lr, forget_steps
        self.alternate, self.ascend, self.rewind = alternate, ascend, rewind

    def plan(self, *epochs: int) -> list[int]:
        """Alternate while step < `forget_steps`."""
        forget_epoch, retain_epoch = epochs
        return alternation(self.steps, self.forget_steps, forget_epoch, retain_epoch, self.alternate)

    def loss(self, batch: Batch) -> Tensor:
        """Of a retain sample CE + distill * KD; of a deleted one what is to be ascended, negated."""
        (teacher,) = self.taught(batch.image)
        student = self.network(batch.image)
        task = cross_entropy(student, batch.label, reduction="none")
        distillation = divergence(student, teacher, self.temperature)
        both = task + self.distill * distillation
        ascended = {"both": both, "task": task, "distillation": distillation}[self.ascend]
        return torch.where(batch.deleted, -ascended, both)

    def configure_callbacks(self) -> list[Rewind]:
        """Keep the weights of epochs, if they are to be gone back to."""
        return [Rewind()] if self.rewind else []
