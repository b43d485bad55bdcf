"""Fine-tuning on the retain data with an addition: an l1 penalty (L1Sparse) or noisy gradients (NGD)."""

from math import inf, sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.baselines import CF

NOISE = 4
"""Part of the seed of the noise, so that nothing else random depends on it."""


class L1Sparse(CF):
    """l1-sparse unlearning (Jia et al., NeurIPS 2023): CF with a penalty on absolute values that fades.

    Step t of T minimises

        mean CE(retain) + gamma_t ||theta||_1,   gamma_t = gamma max(0, 1 - t / (T - T_0))

    over all parameters, those of batch norm included; the last T_0 steps are without penalty. Subgradients make values
    small, not exactly zero. The logged `train_loss` excludes the penalty.

    Args:
        penalty: gamma, at the first step.
        unpenalised: T_0 / T, the fraction of the steps at the end without penalty.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import L1Sparse, Procedure
        >>> stage = L1Sparse(ResNet9, Procedure(unlearn_steps=10), "original/last.ckpt", penalty=1.0, unpenalised=0.5)
        >>> [round(stage.penalty_at(step), 2) for step in (0, 1, 4, 5, 9)]
        [1.0, 0.8, 0.2, 0.0, 0.0]
    """

    def __init__(self, *args: Any, penalty: float = 5e-4, unpenalised: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (0 <= penalty < inf and 0 <= unpenalised < 1):
            raise UserError(
                "L1Sparse needs penalty >= 0 and unpenalised in [0, 1), "
                f"not penalty={penalty}, unpenalised={unpenalised}"
            )
        self.penalty, self.unpenalised = penalty, unpenalised

    def penalty_at(self, step: int) -> float:
        """Return gamma_t.

        Args:
            step: t, counted from 0.
        """
        return self.penalty * max(0.0, 1 - step / (self.steps * (1 - self.unpenalised)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a step and the penalty, which every process adds, so that their mean is it.

        Args:
            batch: This process's slice of the global batch.
            batch_idx: Step, counted from 0.
        """
        loss = super().training_step(batch, batch_idx)
        weight = self.penalty_at(self.global_step)
        if not weight:
            return loss
        return loss + weight * torch.stack([each.abs().sum() for each in self.network.parameters()]).sum()


class NGD(CF):
    """Noisy gradient descent: CF with Gaussian noise on every gradient (as in Pawelczyk et al., 2024).

    A step descends grad + N(0, sigma^2), drawn for each parameter by seed and step on the CPU: the same on any number
    of processes and on every device, at the price of one draw for each parameter and step.

    Args:
        variance: sigma^2; 0 is CF.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import NGD, Procedure
        >>> NGD(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt").variance
        1e-07
    """

    changes_gradients: ClassVar[bool] = True

    def __init__(self, *args: Any, variance: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= variance < inf:
            raise UserError(f"NGD needs variance >= 0, not variance={variance}")
        self.variance = variance

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Add the noise of this step to the gradients, which are those of the global batch by then.

        Args:
            optimizer: Not used.
        """
        random = generator(self.seed, self.global_step, 0, NOISE)
        for parameter in self.network.parameters() if self.variance else ():
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=random)
                parameter.grad.add_(noise.to(parameter.grad), alpha=sqrt(self.variance))
