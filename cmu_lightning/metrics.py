"""Accuracy by domain, and the scores by which hyperparameters and epochs are chosen."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class DomainAccuracy(Metric):
    """Accuracy within each of D domains, which may overlap: correct samples / samples, per domain.

    The states are integer counts, so that the result is exact on any number of processes and in any order of batches.

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
        """Count the samples of a batch, and the correct ones, in each domain.

        Args:
            preds: Predicted classes, shape (n,), or one for each domain, shape (n, D); or logits, of floating point,
                shape (n, num_classes).
            target: True classes, shape (n,) or (n, 1), or one for each domain, shape (n, D).
            domain: Whether a domain counts a sample, bool, shape (n, D).

        Raises:
            ValueError: The shapes do not fit together.
        """
        classes = preds.argmax(dim=1) if preds.is_floating_point() else preds
        shapes = ((len(classes),), domain.shape)
        if (
            domain.shape != (len(classes), self.num_domains)
            or target.shape not in (*shapes, (len(classes), 1))
            or classes.shape not in shapes
        ):
            raise ValueError(
                f"preds {tuple(preds.shape)}, target {tuple(target.shape)} and domain {tuple(domain.shape)} "
                f"do not fit together for {self.num_domains} domains"
            )
        # One class or target for all domains is broadcast; an empty batch has no elements to infer a dimension from.
        wide = -1 if len(target) else self.num_domains
        correct = classes.reshape(len(classes), wide) == target.reshape(len(target), wide)
        self.correct += (correct & domain).sum(dim=0)
        self.total += domain.sum(dim=0)

    def compute(self) -> Tensor:
        """Return the accuracies, shape (D,), float64; NaN for a domain without samples.

        For D = 1 torchmetrics squeezes the result to shape ().
        """
        return self.correct.cpu().double() / self.total.cpu()


def selection_score(val_acc: float, changed: float) -> float:
    """Return (val_acc + changed) / 2, the paper's criterion for hyperparameters (section 3.2).

    Args:
        val_acc: Accuracy on validation samples, in [0, 1].
        changed: Fraction of S_f whose predicted class differs from the original's, in [0, 1].
    """
    return (val_acc + changed) / 2


def rem_proxy(fit: float, fit_identified: float, gamma: float = 0.2) -> float:
    """Return fit (1 - max(fit_identified, gamma)), the criterion of REM (arXiv 2505.17730): keep the rest, forget S_f.

    Args:
        fit: Accuracy on other samples, by labels as given, in [0, 1].
        fit_identified: Accuracy on S_f, by labels as given, in [0, 1].
        gamma: Accuracy on S_f below which all count as equal.

    Example:
        >>> round(rem_proxy(0.95, 0.1), 2)
        0.76
    """
    return fit * (1 - max(fit_identified, gamma))


def matched_accuracy(accuracies: Tensor, labels: Tensor) -> float:
    """Return the validation accuracy in the class mix of S_f, sum_c n_c acc_c / |S_f| (SCRUB+R: Kurmanji et al., 2023).

    Args:
        accuracies: Validation accuracy of each class, float64, shape (num_classes,); NaN for a class without samples.
        labels: Labels of S_f as given, int64, shape (|S_f|,).

    Returns:
        The accuracy; NaN if a class of S_f has no validation samples.
    """
    counts = torch.bincount(labels.cpu(), minlength=len(accuracies)).double()
    # Divide by the size last: rounded fractions n_c / |S_f| may sum to more than 1.
    return float((counts * accuracies)[counts > 0].sum()) / len(labels)
