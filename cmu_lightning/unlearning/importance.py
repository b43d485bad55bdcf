"""Importances of parameters: their objectives, their estimation, and the file that stores them.

An importance is a tensor of shape (P,), one number for each of the network's P parameters in the order of
`network.parameters()`. `fisher.py` holds the exact per-sample estimator.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch
from cmu_lightning.errors import UserError
from cmu_lightning.files import locked
from cmu_lightning.unlearning.checkpoint import read_tensors, save_tensors

Objective = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (n, num_classes) and given labels (n,) to the value that is differentiated for each sample (n,)."""

Sum = Callable[[Tensor], Tensor]
"""Adds up a tensor over all processes."""


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy with the labels as given, shape (n,) (SSD: Foster et al., 2024).

    Args:
        logits: Outputs of the network, shape (n, num_classes).
        labels: Labels as given, int64, shape (n,).
    """
    return cross_entropy(logits, labels, reduction="none")


def squared_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ||f(x)||^2, shape (n,), which needs no labels (LFSSD: Foster et al., 2024, arXiv 2402.19308).

    Args:
        logits: Outputs of the network, shape (n, num_classes).
        labels: Not used.
    """
    return logits.square().sum(dim=1)


def norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ||f(x)||, shape (n,), less sensitive to outliers than its square (XLF: Schoepf et al., 2024).

    Args:
        logits: Outputs of the network, shape (n, num_classes).
        labels: Not used.
    """
    norms: Tensor = logits.norm(dim=1)
    return norms


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return all elements in one row, shape (total number of elements,).

    Args:
        tensors: Tensors of any shapes, at least one.
    """
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def informative(deleted: Tensor, retain: Tensor) -> Tensor:
    """Return which parameters have a ratio of importances, bool, shape (P,).

    Two zeros give no information on a parameter, as in a frozen or unused layer; neither does an infinity or a NaN.

    Args:
        deleted: I_f, importances over S_f, shape (P,).
        retain: I_r, importances over the retain data, shape (P,).
    """
    return deleted.isfinite() & retain.isfinite() & ((deleted != 0) | (retain != 0))


def batch_importance(
    network: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    measure: Callable[[Tensor], Tensor],
    total: Sum,
) -> Tensor:
    """Return I = 1/B sum_b measure(d/dtheta 1/|b| sum_{i in b} objective_i), shape (P,).

    With `task_loss` and `torch.square` it is what released implementations of SSD call the diagonal of the Fisher
    information. It depends on the batch size: the gradient of a mean over more samples is smaller.

    Args:
        network: Network in evaluation mode.
        batches: This process's slices of B global batches; every process has the same number of slices.
        objective: Value of each sample that is differentiated.
        measure: Element-wise measure of a gradient, such as `torch.square` or `torch.abs`.
        total: Sum over processes.

    Returns:
        The importances; zero for parameters that are frozen.
    """
    parameters = list(network.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    importance = torch.zeros_like(flat(parameters).detach())
    count = 0
    for batch in batches:
        # This process's part of the gradient of the global batch's mean; an empty slice contributes zero.
        gradient = torch.zeros_like(importance)
        if len(batch.image):
            value = objective(network(batch.image), batch.label).sum() / batch.total
            found = iter(torch.autograd.grad(value, trained, materialize_grads=True, allow_unused=True))
            gradient = flat(next(found) if each.requires_grad else torch.zeros_like(each) for each in parameters)
        # The measure is not linear, so processes add up their parts before it.
        importance += measure(total(gradient))
        count += 1
    return importance / count


def rounded_text(values: Tensor) -> list[str]:
    """Return numbers with three digits as text, equal on devices that round differently.

    Args:
        values: Tensor of any shape.
    """
    return [f"{value:.2e}" for value in values.detach().flatten().tolist()]


NAME = "name"
"""Key of an importance file that holds its own name, so that a swapped file is noticed."""


class ImportanceFile:
    """A file next to the original, named by a hash of everything its content depends on.

    Args:
        folder: Folder of the file.
        depends_on: Everything that changes the importances, as plain data.
        keys: Keys of its content; a file with other keys counts as damaged.
    """

    def __init__(self, folder: Path, depends_on: dict[str, Any], keys: set[str]) -> None:
        identity = json.dumps([depends_on, sorted(keys)], sort_keys=True, default=str)
        self.path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:10]}.pt"
        self.keys = keys

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file's lock, so that one process computes its content while others wait.

        Raises:
            UserError: The folder cannot be written.
        """
        description = f"the importances {self.path}"
        with locked(self.path.with_suffix(".lock"), description, "copy the original to a folder that can be written"):
            yield

    def read(self) -> dict[str, Any] | None:
        """Return the content, or None where the file is missing or damaged."""
        if not self.path.exists():
            return None
        try:
            content = read_tensors(self.path)
        except UserError:
            content = None
        is_own = isinstance(content, dict) and content.pop(NAME, self.path.stem) == self.path.stem
        if is_own and content.keys() == self.keys:
            return dict(content)
        rank_zero_warn(f"{self.path} is damaged and is computed again")
        return None

    def write(self, content: dict[str, Any]) -> None:
        """Write the content atomically.

        Args:
            content: Tensors and plain data under exactly `keys`.
        """
        save_tensors(self.path, content | {NAME: self.path.stem})
