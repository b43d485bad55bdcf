"""How much an objective depends on each parameter, over a set of samples.

An importance is one flat tensor over all parameters, in the order of `network.parameters()`. The network is in
evaluation mode, so no sample has a bearing on another.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch

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
