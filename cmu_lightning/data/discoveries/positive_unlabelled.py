"""Positive-unlabelled probes: the probability that each training sample is manipulated, given S_f.

S_f is a sample of S_m, and the other training samples of its classes are a mixture of hidden S_m and clean data. Three
steps tell them apart:
  1. A ridge regression separates S_f from the rest within each class, by what a network shows of each sample. Every
     sample is scored by the regression that leaves it out.
  2. A mixture of two Gaussians is fitted to these scores. S_f is known to belong to the upper one, which anchors it.
     The posterior of the mixture is the probability that a sample is manipulated.
  3. The regression is repeated with these probabilities as soft labels, so that it learns from hidden S_m too, as long
     as the two Gaussians move apart. The round in which they are furthest apart is used.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 100
"""Regressions in a row at most, each on the posterior of the one before."""
PATIENCE = 5
"""Rounds without a larger separation after which they end."""
PENALTY = 0.3
"""Ridge penalty of a feature, times the number of samples of S_f that a regression sees."""
MAJORITY = 0.75
"""Largest share of a class that can be called manipulated; above it the probe is not believed for that class."""
CHUNK = 4096
"""Samples in double precision at a time."""


class Look(NamedTuple):
    """Logits and features of n samples.

    `logits` has shape (n, num_classes). `activations` (n, d) holds the pooled activations of its blocks side by side;
    `sizes` tells how many of the d columns belong to each block.
    """

    logits: Tensor
    activations: Tensor
    sizes: Sequence[int]


class Mixture(NamedTuple):
    """Two Gaussians of one variance.

    `posterior` (n,) of the upper one, its `share`, and their `separation` in standard deviations.
    """

    posterior: Tensor
    share: float
    separation: float


class Found(NamedTuple):
    """Result of a probe: the separation of its first round, and mixture and probabilities (n,) of its best one."""

    first: float
    mixture: Mixture
    probability: Tensor

    @property
    def evidence(self) -> float:
        """The separation of the first round, which has only seen S_f, plus that of the best one, which may mislead."""
        return max(0.0, self.first) + self.mixture.separation


class Suspicion(NamedTuple):
    """Result of the probes for n samples.

    `probability` (n,) that a sample is manipulated, smaller the less S_f can be told apart; `confidence` (n,), from 0
    where it cannot to 1 where it can; `separation` of each probe in standard deviations; `probe`, the one that
    was taken.
    """

    probability: Tensor
    confidence: Tensor
    separation: dict[str, float]
    probe: str


def leave_one_out_scores(features: Tensor, membership: Tensor, penalty: float) -> Tensor:
    """Score each sample by a ridge regression of +1 (manipulated) against -1 (clean) that has not seen it.

    Both sides weigh the same: sample i has the weight a_i = q_i / (2 sum q) as manipulated, b_i = (1 - q_i) /
    (2 sum (1 - q)) as clean, w_i = a_i + b_i in all, and the target t_i = (a_i - b_i) / w_i. Its leave-one-out
    prediction follows from the fit f_i on all samples and its leverage h_i as (f_i - h_i t_i) / (1 - h_i).

    Args:
        features: Shape (n, d).
        membership: q, the probability that a sample is manipulated, shape (n,).
        penalty: Ridge penalty; it is multiplied by d, and the intercept is free.

    Returns:
        Shape (n,), float64.
    """
    q = membership.double()
    positive = 0.5 * q / q.sum()
    negative = 0.5 * (1 - q) / (1 - q).sum().clamp(min=1e-9)
    weight = positive + negative
    target = (positive - negative) / weight
    count, width = features.shape
    ridge = torch.full((width + 1,), penalty * width, dtype=torch.double)
    ridge[-1] = 1e-6

    # Fewer samples than features: the fit is linear in the targets, through the n x n kernel.
    if count <= width:
        rows = _with_intercept(features) * weight.sqrt().unsqueeze(1) / ridge.sqrt()
        kernel = rows @ rows.T
        hat = torch.linalg.solve(kernel + torch.eye(count, dtype=torch.double), kernel)
        fit, leverage = hat @ (target * weight.sqrt()) / weight.sqrt(), hat.diagonal()
        return _left_out(fit, leverage, target)

    # More samples than features: the (d + 1) x (d + 1) normal equations, summed over chunks of samples.
    chunks = [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
    gram, moment = torch.diag(ridge), torch.zeros(width + 1, dtype=torch.double)
    for chunk in chunks:
        rows = _with_intercept(features[chunk])
        gram += rows.T @ (rows * weight[chunk].unsqueeze(1))
        moment += rows.T @ (weight[chunk] * target[chunk])
    root = torch.linalg.cholesky(gram)
    coefficients = torch.cholesky_solve(moment.unsqueeze(1), root).squeeze(1)
    scores = []
    for chunk in chunks:
        rows = _with_intercept(features[chunk])
        spread = torch.linalg.solve_triangular(root, rows.T, upper=False).square().sum(0)
        scores.append(_left_out(rows @ coefficients, weight[chunk] * spread, target[chunk]))
    return torch.cat(scores)


def _with_intercept(features: Tensor) -> Tensor:
    """Append a column of ones, in double precision."""
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.double)], dim=1)


def _left_out(fit: Tensor, leverage: Tensor, target: Tensor) -> Tensor:
    """Turn fits into leave-one-out predictions."""
    return (fit - leverage * target) / (1 - leverage).clamp(min=1e-6)


def anchored_mixture(unlabelled: Tensor, known: Tensor, iterations: int = 200) -> Mixture:
    """Fit pi N(m1, s) + (1 - pi) N(m0, s) to unlabelled scores by EM, with known scores drawn from N(m1, s).

    Args:
        unlabelled: Scores of the samples outside S_f, shape (n,), float64.
        known: Scores of S_f, shape (k,), k at least 1, float64.
        iterations: Steps of EM.
    """
    upper, lower = known.mean(), unlabelled.median()
    centred = torch.cat([unlabelled - lower, known - upper])
    spread = (centred.var() + 1e-9).sqrt()
    share = torch.tensor(0.2, dtype=torch.double)
    total = len(unlabelled) + len(known)
    for _ in range(iterations):
        # Expectation: the posterior of the upper component for each unlabelled score.
        ratio = ((unlabelled - lower) / spread).square() - ((unlabelled - upper) / spread).square()
        posterior = torch.sigmoid(0.5 * ratio + share.log() - (1 - share).log())
        # Maximisation: its share, both means and the common spread; S_f counts fully for the upper component.
        share = ((posterior.sum() + 1) / (len(unlabelled) + 2)).clamp(1e-4, 0.95)
        upper = ((posterior * unlabelled).sum() + known.sum()) / (posterior.sum() + len(known))
        lower = ((1 - posterior) * unlabelled).sum() / (1 - posterior).sum()
        within = (posterior * (unlabelled - upper).square()).sum() + (
            (1 - posterior) * (unlabelled - lower).square()
        ).sum()
        before, spread = spread, ((within + (known - upper).square().sum()) / total).sqrt() + 1e-6
        if abs(spread - before) < 1e-12 * spread:
            break
    return Mixture(posterior, float(share), float((upper - lower) / spread))


def believed(separation: float) -> float:
    """Return how far the posterior of two Gaussians that are so many standard deviations apart can be believed.

    It is (1 - 2 e)^2 with their overlap error e: of a quantity that is +1 or -1, this is the share of the variance that
    is left after a fraction e of the signs is flipped. Without a separation it is 0.
    """
    return math.erf(max(0.0, separation) / 2 / math.sqrt(2)) ** 2


def standardised(values: Tensor) -> Tensor:
    """Give every column zero mean and unit deviation; n samples of one class, shape (n, d)."""
    spread = values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
    return (values - values.mean(0)) / (spread + 1e-6)


def members_by_class(labels: Tensor) -> list[Tensor]:
    """Return the indices of the samples of each class that occurs, in ascending order of class.

    Args:
        labels: Shape (n,).
    """
    _, counts = torch.unique(labels, return_counts=True)
    return list(torch.split(labels.argsort(stable=True), counts.tolist()))


def relative_to_class(look: Look, classes: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Describe each sample by a few numbers, relative to the others of its given class.

    Args:
        look: What the network shows of n samples.
        classes: Indices of the samples of each class.
        labels: Given labels, shape (n,).

    Returns:
        How far each block is from its class and what the logits say: the given label's log probability, the best other
        one's, their difference and the entropy; standardised within each class, shape (n, number of blocks + 4),
        float64.
    """
    logs = look.logits.float().log_softmax(1)
    given = logs.gather(1, labels.unsqueeze(1)).squeeze(1)
    other = logs.scatter(1, labels.unsqueeze(1), -1e9).amax(1)
    entropy = -(logs.exp() * logs).sum(1)
    said = torch.stack([given, other, given - other, entropy], dim=1)

    # One class at a time, so that no second copy of all activations is made.
    described = torch.zeros(len(labels), len(look.sizes) + said.shape[1], dtype=torch.double)
    for own in classes:
        parts = torch.split(standardised(look.activations[own]), list(look.sizes), dim=1)
        distances = [part.square().mean(1).clamp(min=1e-6).log() for part in parts]
        numbers = torch.cat([torch.stack(distances, dim=1), said[own]], dim=1)
        described[own] = standardised(numbers.double()).clamp(-8, 8)
    return described


def suspect(looks: Sequence[Look], labels: Tensor, known: Tensor) -> Suspicion:
    """Tell hidden S_m from clean samples in the classes of S_f.

    Two probes compete, and the one with more evidence that it separates S_f is taken: `within` sees all activations
    and learns a regression for every class of which more than one sample is known; `relative` sees the few numbers of
    `relative_to_class` and learns one regression for all classes.

    Args:
        looks: What one or several networks show of the same n samples; their scores are averaged.
        labels: Given labels, shape (n,); every class has a sample in S_f.
        known: Which samples are in S_f, bool, shape (n,).

    Returns:
        Of S_f itself the probability is 1.
    """
    classes = members_by_class(labels)
    several = _has_several(labels, known)
    found: dict[str, Found] = {}

    def within(q: Tensor) -> Tensor:
        return torch.stack([_scores_by_class(look, classes, known, q, several) for look in looks]).mean(0)

    if (several & known).any() and (several & ~known).any():
        found["within"] = _best_round(within, known, several)
    described = [relative_to_class(look, classes, labels) for look in looks]

    def relative(q: Tensor) -> Tensor:
        penalty = PENALTY / int(known.sum())
        return torch.stack([leave_one_out_scores(numbers, q, penalty) for numbers in described]).mean(0)

    if not known.all():
        found["relative"] = _best_round(relative, known, torch.ones_like(known))
    if not found:  # every sample of these classes is known
        certain = torch.ones(len(labels), dtype=torch.double)
        return Suspicion(known.double(), certain, {}, "none")
    taken = max(found, key=lambda probe: found[probe].evidence)
    _, mixture, probability = found[taken]

    # Where the Gaussians overlap, the posterior says little. Given labels are right more often than such a verdict, so
    # they are believed instead.
    confidence = torch.full((len(labels),), believed(mixture.separation), dtype=torch.double)
    if taken == "within":  # classes that it did not judge keep their labels
        confidence[~several] = 1.0
    probability = confidence * probability

    # A class of which most would be manipulated is a class that the probe got the wrong way round.
    for members in classes:
        own = members[~known[members]]
        if len(own) and float((probability[own] > 0.5).double().mean()) > MAJORITY:
            probability[own], confidence[own] = 0.0, 1.0
    probability[known] = 1.0
    return Suspicion(probability, confidence, {name: each.mixture.separation for name, each in found.items()}, taken)


def _best_round(score: Callable[[Tensor], Tensor], known: Tensor, judged: Tensor) -> Found:
    """Repeat regression and mixture while that separates better, and return the round that separates best.

    Args:
        score: Returns the leave-one-out scores that follow from probabilities, shape (n,).
        known: Which samples are in S_f, bool, shape (n,).
        judged: Which samples are judged, bool, shape (n,); some of them are in S_f, some are not.

    Returns:
        Probabilities are 1 in S_f and 0 for what is not judged.
    """
    hidden, probability, best, since = judged & ~known, known.double(), None, 0
    for _ in range(ROUNDS):
        scores = score(probability)
        mixture = anchored_mixture(scores[hidden], scores[judged & known])
        probability = known.double()
        probability[hidden] = mixture.posterior
        if best is None:
            best = Found(mixture.separation, mixture, probability)
        elif mixture.separation > best.mixture.separation:
            best, since = Found(best.first, mixture, probability), 0
        else:
            since += 1
        if since == PATIENCE:
            break
    assert best is not None
    return best


def _has_several(labels: Tensor, known: Tensor) -> Tensor:
    """Tell which samples are of a class of which more than one sample is known; bool, shape (n,)."""
    counts = torch.bincount(labels[known], minlength=int(labels.max()) + 1)
    return counts[labels] > 1


def _scores_by_class(
    look: Look, classes: Sequence[Tensor], known: Tensor, probability: Tensor, judged: Tensor
) -> Tensor:
    """Score the samples of the judged classes by a regression for each; others get 0."""
    scores = torch.zeros(len(known), dtype=torch.double)
    for own in classes:
        if judged[own[0]]:
            penalty = PENALTY / int(known[own].sum())
            scores[own] = leave_one_out_scores(standardised(look.activations[own]), probability[own], penalty)
    return scores
