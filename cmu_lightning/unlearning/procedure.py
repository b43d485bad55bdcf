"""Procedure A: how originals are trained and unlearners fine-tune (paper, A.1)."""

from collections.abc import Iterable
from math import inf

from torch.nn import Parameter
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from cmu_lightning.errors import UserError


class Procedure:
    """SGD with momentum under a linear schedule, for a fixed number of steps.

    Args:
        steps: Steps of the original and of retraining.
        unlearn_steps: Steps of fine-tuning unlearners.
        batch_size: Size of the global batch, over all processes.
        lr: Peak learning rate; the released code's, for the paper states none.
        momentum: Momentum of SGD.
        weight_decay: On all parameters.
        warmup: Fraction of the steps over which the rate rises.
        decay: After warm-up the rate falls linearly, to zero after `decay` times the steps: `t_mult`.
    """

    def __init__(
        self,
        steps: int = 4000,
        unlearn_steps: int = 1000,
        batch_size: int = 512,
        lr: float = 0.025,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        warmup: float = 0.01,
        decay: float = 1.25,
    ) -> None:
        for name, value in {"steps": steps, "unlearn_steps": unlearn_steps, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"procedure.{name}={value} is not positive: give at least 1")
        for name, rate, possible, wanted in (
            ("lr", lr, 0 < lr < inf, "a number over 0"),
            ("momentum", momentum, 0 <= momentum < 1, "0 or more, under 1"),
            ("weight_decay", weight_decay, 0 <= weight_decay < inf, "0 or more"),
            ("warmup", warmup, 0 <= warmup < 1, "a fraction of the steps under 1"),
            ("decay", decay, decay >= 1, "1 or more"),
        ):
            if not possible:
                raise UserError(f"procedure.{name}={rate} is not possible: give {wanted}")
        self.steps = steps
        self.unlearn_steps = unlearn_steps
        self.batch_size = batch_size
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.decay = decay

    def optimizer(self, parameters: Iterable[Parameter], lr: float | None = None, fused: bool = False) -> SGD:
        """SGD.

        Args:
            parameters: What is trained.
            lr: Peak learning rate, if it is not the procedure's own.
            fused: In one kernel, on GPUs.
        """
        rate = lr or self.lr
        return SGD(parameters, rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused or None)

    def schedule(self, optimizer: SGD, steps: int) -> LambdaLR:
        """The schedule for so many steps, to be stepped after each."""
        return LambdaLR(optimizer, lambda step: self.rate(step, steps))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, as a fraction of the peak.

        Args:
            step: Counted from 0.
            steps: Of the whole stage.
        """
        warm = int(steps * self.warmup + 1e-9)  # 2900 * 0.01 must be 29
        return (step + 1) / (warm + 1) if step < warm else 1 - (step - warm) / (self.decay * steps)
