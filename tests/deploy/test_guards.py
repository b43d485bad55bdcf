"""Guards of the choice, against plain loops and known limits."""

from math import comb

import numpy as np
import pytest

from cmu_lightning.deploy.guards import LEVEL, Part, _at_most, chance_of_no_gain, lost_classes


def part(labels, before, after):
    return Part(*(np.array(each) for each in (labels, before, after)))


@pytest.mark.parametrize(("successes", "trials", "chance"), [(0, 5, 0.5), (3, 10, 0.5), (7, 7, 0.3), (0, 0, 0.5)])
def test_the_binomial_probability(successes, trials, chance):
    expected = sum(comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(successes + 1))
    assert _at_most(successes, trials, chance) == pytest.approx(expected, rel=1e-12)


def test_a_class_that_is_called_otherwise_is_lost():
    labels, right = [0] * 20 + [1] * 20, [0] * 20 + [1] * 20
    assert lost_classes(part(labels, right, [0] * 40), 3) == [1]
    assert lost_classes(part(labels, right, [1] * 40), 3) == [0]
    assert lost_classes(part(labels, right, right), 3) == []
    assert lost_classes(part(labels, [0] * 40, [0] * 20 + [1] * 20), 3) == [], "a class that is won"


def test_a_class_of_few_samples_is_not_lost_by_chance():
    """4 of 4 wrong is 1/16 by chance, 5 of 5 is 1/32; more than half may be left by chance where 9 of 20 are."""
    for size, is_lost in ((4, False), (5, True)):
        assert (lost_classes(part([1] * size, [1] * size, [0] * size), 2) == [1]) is is_lost
    assert lost_classes(part([1] * 20, [1] * 20, [1] * 9 + [0] * 11), 2) == []
    assert lost_classes(part([1] * 20, [1] * 20, [1] * 5 + [0] * 15), 2) == [1]
    assert LEVEL == 0.05


def test_the_bootstrap_against_a_plain_one():
    random = np.random.RandomState(0)
    labels = random.randint(0, 3, 60)
    before = np.where(random.rand(60) < 0.7, labels, 0)
    after = np.where(random.rand(60) < 0.72, labels, 1)
    flagged = part(np.zeros(8, int), np.zeros(8, int), np.array([0, 0, 1, 1, 0, 0, 0, 0]))
    utility = part(labels, before, after)
    losses = []
    for _ in range(3000):
        rows, marked = random.randint(0, 60, 60), random.randint(0, 8, 8)
        gain = 5 * ((after == labels)[rows].mean() - (before == labels)[rows].mean())
        gain += ((flagged.before == 0)[marked].sum() - (flagged.after == 0)[marked].sum()) / (8 + 2)
        losses.append(gain < 1e-9)  # equal scores may be rounded apart
    assert chance_of_no_gain(utility, flagged) == pytest.approx(np.mean(losses), abs=0.03)
    assert chance_of_no_gain(utility, flagged) == chance_of_no_gain(utility, flagged), "the same draws"


def test_limits_of_the_bootstrap():
    same, few = part([0, 1], [0, 1], [0, 1]), part([0], [0], [1])
    assert chance_of_no_gain(same, few) == 0
    assert chance_of_no_gain(same, same) == 1, "no difference is no gain"
    assert chance_of_no_gain(same, part([0], [1], [0])) == 1
    one_of_many = part([0] * 100, [0] * 99 + [1], [0] * 100)
    assert 0.3 < chance_of_no_gain(one_of_many, same) < 0.43, "(1 - 1/100)^100"
