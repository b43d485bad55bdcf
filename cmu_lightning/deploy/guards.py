"""Guards that refuse a repaired model, whatever its score: it must not lose a class or win by chance.

Both guards compare the predictions of the original and of a candidate for single samples: the validation samples, the
retain data and S_f.
"""

from dataclasses import dataclass

import numpy as np

from cmu_lightning.selection import UTILITY_WEIGHT

Classes = np.ndarray
"""Classes of some samples, int64, shape (n,)."""

LEFT = 0.5
"""Share of a class's recall that has to remain: below it the model misses most of the class."""

LEVEL = 0.05
"""Probability up to which a difference counts as chance."""

RESAMPLES = 2000
"""Samples of the bootstrap; the probability that decides is known to 0.005."""


SMALL = 1e-9
"""Gains below this are rounding errors of equal scores."""


@dataclass(frozen=True)
class Part:
    """Samples with the predictions of two models.

    Args:
        labels: Labels as given.
        before: Predictions of the original.
        after: Predictions of a candidate.

    Example:
        >>> part = Part(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([0, 1, 1]))
        >>> part.gains().tolist()
        [0, -1, 0]
    """

    labels: Classes
    before: Classes
    after: Classes

    def gains(self) -> np.ndarray:
        """Return for each sample 1 if only the candidate predicts its label, -1 if only the original does, else 0."""
        gains: np.ndarray = np.subtract(self.after == self.labels, self.before == self.labels, dtype=int)
        return gains


def lost_classes(part: Part, num_classes: int) -> list[int]:
    """Return the classes that keep less than half of the original's recall, beyond chance.

    If half of the recall were left, the candidate would be right on about half as many samples as the original; a class
    is lost if the exact binomial probability of at most as many as it is right on is below `LEVEL`.

    Args:
        part: Validation samples, or the retain data.
        num_classes: Number of classes.
    """
    lost = []
    for label in range(num_classes):
        own = part.labels == label
        right_before = int((part.before[own] == label).sum())
        right_after = int((part.after[own] == label).sum())
        if right_after < LEFT * right_before and _at_most(right_after, right_before, LEFT) < LEVEL:
            lost.append(label)
    return lost


def _at_most(successes: int, trials: int, chance: float) -> float:
    """Return the binomial probability of at most `successes` in `trials`."""
    count = np.arange(trials + 1)
    # log of the binomial coefficients, by cumulated logs of factorials
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(count[1:], 1)))])
    logs = factorials[trials] - factorials - factorials[::-1]
    logs = logs + count * np.log(chance) + (trials - count) * np.log1p(-chance)
    return float(np.exp(logs[: successes + 1]).sum())


def chance_of_no_gain(utility: Part, deleted: Part, trusted: Part | None = None, seed: int = 0) -> float:
    """Return how often a candidate's `balanced_score` is not above the original's in bootstrap samples.

    This is the paired bootstrap: validation samples and S_f are each drawn with replacement, and both models are scored
    on the same draw. A sample's gain has one of three values, so only their counts are drawn.

    Args:
        utility: Validation samples; the retain data where there are none.
        deleted: S_f.
        trusted: Trusted images with their right labels; None if there are none.
        seed: Seed of the draws.
    """
    random = np.random.default_rng(seed)
    # As in the score of a candidate.
    gains = UTILITY_WEIGHT * _means(random, utility) - _smoothed_means(random, deleted)
    if trusted is not None:
        gains = gains + _smoothed_means(random, trusted)
    return float((gains < SMALL).mean())


def _means(random: np.random.Generator, part: Part) -> np.ndarray:
    """Return the mean gain of each bootstrap sample, shape (RESAMPLES,)."""
    gains, size = part.gains(), len(part.labels)
    numbers = [int((gains == gain).sum()) for gain in (-1, 0, 1)]
    drawn = random.multinomial(size, np.array(numbers) / size, RESAMPLES)
    return np.asarray((drawn[:, 2] - drawn[:, 0]) / size)


def _smoothed_means(random: np.random.Generator, part: Part) -> np.ndarray:
    """Return the change of (k + 1) / (n + 2) in each bootstrap sample, shape (RESAMPLES,)."""
    size = len(part.labels)
    return _means(random, part) * size / (size + 2)


@dataclass(frozen=True)
class Parts:
    """Predictions of the original and of a candidate for all samples that the guards compare.

    Args:
        validation: Validation samples; None where there are none.
        retain: The retain data.
        deleted: S_f.
        classes: Names of the classes.
        trusted: Trusted images with their right labels; None if there are none.
    """

    validation: Part | None
    retain: Part
    deleted: Part
    classes: list[str]
    trusted: Part | None = None


def objection(parts: Parts) -> str | None:
    """Return why a candidate must not be chosen; None if nothing speaks against it.

    1. No class may be lost, neither on validation samples nor on the retain data: a mean over classes
       falls by only a tenth for one lost class of ten, and by a hundredth for one of a hundred.
    2. Its score has to be above the original's in 95% of bootstrap samples: a gain within the noise does not justify
       another model.

    Args:
        parts: Predictions of both models.
    """
    for name, part in (("validation samples", parts.validation), ("samples that are not flagged", parts.retain)):
        lost = [] if part is None else lost_classes(part, len(parts.classes))
        if part is not None and lost:
            shown = ", ".join(f"{parts.classes[label]} ({_recalls(part, label)})" for label in lost[:3])
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            return f"it loses {'class' if len(lost) == 1 else 'classes'} {shown}{more} on {name}"
    chance = chance_of_no_gain(parts.validation or parts.retain, parts.deleted, parts.trusted)
    if chance > LEVEL:
        return f"its gain is within the noise: {chance:.0%} of bootstrap samples show none"
    return None


def _recalls(part: Part, label: int) -> str:
    """Return the recall of a class before and after."""
    own = part.labels == label
    before, after = ((predicted[own] == label).mean() for predicted in (part.before, part.after))
    return f"recall {before:.2f} to {after:.2f}"
