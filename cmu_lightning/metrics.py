"""Accuracy by domain, and the score by which hyperparameters are chosen."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class DomainAccuracy(Metric):
    """Accuracy within each of several domains, which may overlap.

    States are integer counts, so the result is exact on any number of processes and in any order of batches.

    Example:
        >>> metric = DomainAccuracy(num_domains=2)
        >>> domain = torch.tensor([[True, False], [True, True], [False, False]])
        >>> metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2]), domain)
        >>> metric.compute()
        tensor([0.5000, 0.0000], dtype=torch.float64)

    Args:
        num_domains: Number of domains, D.
        kwargs: Keyword arguments of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, num_domains: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_domains < 1:
            raise ValueError(f"num_domains={num_domains} must be at least 1")
        self.num_domains = num_domains
        zeros = torch.zeros(num_domains, dtype=torch.long)
        self.add_state("correct", default=zeros, dist_reduce_fx="sum")
        self.add_state("total", default=zeros.clone(), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, domain: Tensor) -> None:
        """Count a batch.

        Args:
            preds: Predicted classes, shape (n,), or logits, shape (n, num_classes).
            target: True classes, shape (n,), or one for each domain, shape (n, D).
            domain: Which domains count a sample, bool, shape (n, D).

        Raises:
            ValueError: The shapes do not fit together.
        """
        classes = preds.argmax(dim=1) if preds.ndim == 2 else preds
        if domain.shape != (len(classes), self.num_domains) or target.shape not in (
            classes.shape,
            domain.shape,
        ):
            raise ValueError(
                f"preds {tuple(preds.shape)}, target {tuple(target.shape)} and domain {tuple(domain.shape)} "
                f"do not fit together for {self.num_domains} domains"
            )
        right = classes.unsqueeze(1) == target.reshape(len(target), -1 if len(target) else self.num_domains)
        self.correct += (right & domain).sum(dim=0)
        self.total += domain.sum(dim=0)

    def compute(self) -> Tensor:
        """The accuracies, shape (D,), float64; NaN for a domain without samples (torchmetrics drops D = 1)."""
        return self.correct.cpu().double() / self.total.cpu()


def selection_score(val_acc: float, changed: float) -> float:
    """The paper's criterion for hyperparameters (section 3.2).

    Args:
        val_acc: Accuracy on validation samples.
        changed: Fraction of S_f whose predicted class is not the original's.
    """
    return (val_acc + changed) / 2


def matched_accuracy(accuracies: Tensor, labels: Tensor) -> float:
    """Accuracy on validation samples, reweighted to the class mix of S_f (for SCRUB+R, Kurmanji et al., 2023).

    Args:
        accuracies: Accuracies of each class, shape (num_classes,); NaN for a class without validation samples.
        labels: Given labels of S_f, shape (|S_f|,).

    Returns:
        NaN if a class of S_f has no validation samples.
    """
    counts = torch.bincount(labels.cpu(), minlength=len(accuracies)).double()
    return float((counts * accuracies)[counts > 0].sum()) / len(labels)  # at most 1: fractions may sum to more
