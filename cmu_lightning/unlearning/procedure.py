"""Procedure A: how originals are trained and unlearners fine-tune (paper, A.1)."""

from collections.abc import Callable, Iterable
from math import inf

from torch.nn import Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cmu_lightning.errors import UserError


class Procedure:
    """SGD with momentum, or another optimiser, under a linear schedule with warm-up, for a fixed number of steps.

    Args:
        steps: Number of steps of the original and of retraining.
        unlearn_steps: Number of steps of unlearners that fine-tune.
        batch_size: Size of the global batch, over all processes.
        lr: Peak learning rate; that of the released code, as the paper states none.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of all parameters, by SGD.
        warmup: Fraction of the steps over which the rate rises.
        decay: The rate falls linearly after warm-up and would reach zero after `decay` times the steps; the released
            code's `t_mult`.
        optimizer: Class of another optimiser, such as `torch.optim.AdamW`, which takes parameters and learning rate
            first; its other arguments, including momentum and weight decay, are given as `init_args`. Default SGD.

    Example:
        >>> procedure = Procedure(warmup=0.0, decay=1.25)
        >>> [round(procedure.rate(step, steps=10), 2) for step in (0, 5, 9)]
        [1.0, 0.6, 0.28]
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
        optimizer: Callable[[Iterable[Parameter], float], Optimizer] | None = None,
    ) -> None:
        for name, value in {"steps": steps, "unlearn_steps": unlearn_steps, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"procedure.{name}={value} is not positive: give at least 1")
        for name, rate, possible, hint in (
            ("lr", lr, 0 < lr < inf, "a number over 0"),
            ("momentum", momentum, 0 <= momentum < 1, "0 or more, under 1"),
            ("weight_decay", weight_decay, 0 <= weight_decay < inf, "0 or more"),
            ("warmup", warmup, 0 <= warmup < 1, "a fraction of the steps under 1"),
            ("decay", decay, decay >= 1, "1 or more"),
        ):
            if not possible:
                raise UserError(f"procedure.{name}={rate} is not possible: give {hint}")
        self.steps = steps
        self.unlearn_steps = unlearn_steps
        self.batch_size = batch_size
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.decay = decay
        self.make_optimizer = optimizer

    def optimizer(self, parameters: Iterable[Parameter], lr: float | None = None, fused: bool = False) -> Optimizer:
        """Return the optimiser of these parameters.

        Args:
            parameters: Parameters to train.
            lr: Peak learning rate; default the procedure's.
            fused: Whether SGD's update is one kernel, which GPUs have.
        """
        rate = lr or self.lr
        if self.make_optimizer is not None:
            return self.make_optimizer(parameters, rate)
        return SGD(parameters, rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused or None)

    def schedule(self, optimizer: Optimizer, steps: int) -> LambdaLR:
        """Return the schedule of the learning rate, to be stepped after each step.

        Args:
            optimizer: Optimizer whose rate it sets.
            steps: Number of steps of the stage.
        """
        return LambdaLR(optimizer, lambda step: self.rate(step, steps))

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step t as a fraction of the peak.

        With N steps, W = floor(warmup N) of them warm-up: (t + 1) / (W + 1) for t < W, then 1 - (t - W) / (decay N).

        Args:
            step: t, counted from 0.
            steps: N, of the whole stage.
        """
        warm = int(steps * self.warmup + 1e-9)  # in floating point 2900 * 0.01 is a little below 29
        return (step + 1) / (warm + 1) if step < warm else 1 - (step - warm) / (self.decay * steps)
