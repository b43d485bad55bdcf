"""Importances on disk, beside the original that they are of."""

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
from cmu_lightning.files import locked
from cmu_lightning.unlearning.checkpoint import save_tensors


class ImportanceFile:
    """A file that is found again by everything its content depends on.

    Args:
        folder: Where it is.
        of: What it depends on: plain data.
        keys: What it holds.
    """

    def __init__(self, folder: Path, of: dict[str, Any], keys: set[str]) -> None:
        named = hashlib.sha256(json.dumps([of, sorted(keys)], sort_keys=True, default=str).encode()).hexdigest()[:10]
        self.path = folder / f"{named}.pt"
        self.keys = keys

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that computes it; wait for another one that does.

        Raises:
            UserError: The folder cannot be written.
        """
        what = f"the importances {self.path}"
        with locked(self.path.with_suffix(".lock"), what, "copy the original to a folder that can be written"):
            yield

    def read(self) -> dict[str, Any] | None:
        """Its content, or None if it is not there or damaged."""
        try:
            content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            if content.keys() == self.keys:
                return content
        except FileNotFoundError:
            return None
        except Exception:  # torch raises whatever the bytes lead it to
            pass
        rank_zero_warn(f"{self.path} is damaged and is made again")
        return None

    def write(self, content: dict[str, Any]) -> None:
        """As a whole or not at all."""
        save_tensors(self.path, content)


def as_text(values: Tensor) -> list[str]:
    """Numbers that are told apart, but not by how they were rounded."""
    return [f"{value:.2e}" for value in values.detach().flatten().tolist()]


Objective = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, num_classes) and given labels (n,) to a value of each sample (n,)."""

Sum = Callable[[Tensor], Tensor]
"""Adds up a tensor over all processes."""


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels as given (SSD: Foster et al., 2024)."""
    return cross_entropy(logits, labels, reduction="none")


def squared_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """||f(x)||^2, which needs no labels (LFSSD: Foster et al., 2024, arXiv 2402.19308)."""
    return logits.square().sum(dim=1)


def norm(logits: Tensor, labels: Tensor) -> Tensor:
    """||f(x)||, which outliers move less than its square (XLF: Schoepf et al., 2024, arXiv 2406.09173)."""
    norms: Tensor = logits.norm(dim=1)
    return norms


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All elements, one after the other; shape (number of them,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def batch_importance(
    network: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    measure: Callable[[Tensor], Tensor],
    total: Sum,
) -> Tensor:
    """The mean over batches of a measure of the gradient of the objective's mean over the global batch.

    With `task_loss` and `torch.square` it is what released implementations of SSD call the diagonal of the Fisher
    information; it depends on the size of the batches.

    Args:
        network: In evaluation mode.
        batches: This process's slices of global batches; as many on every process.
        objective: What is differentiated.
        measure: Measure of a gradient's elements, such as `torch.square` or `torch.abs`.
        total: Adds up over processes.

    Returns:
        Shape (number of parameters,); zero for those that are frozen.
    """
    parameters = list(network.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    importance = torch.zeros_like(flat(parameters).detach())
    count = 0
    for batch in batches:
        gradient = torch.zeros_like(importance)
        if len(batch.image):
            value = objective(network(batch.image), batch.label).sum() / batch.total
            found = iter(torch.autograd.grad(value, trained, materialize_grads=True, allow_unused=True))
            gradient = flat(next(found) if each.requires_grad else torch.zeros_like(each) for each in parameters)
        importance += measure(total(gradient))
        count += 1
    return importance / count
