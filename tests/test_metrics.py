import math
import pickle

import numpy as np
import pytest
import torch

from cmu_lightning.metrics import DomainAccuracy, matched_accuracy, selection_score


def test_against_numpy_over_uneven_batches():
    random = np.random.RandomState(0)
    preds, target = random.randint(0, 4, 101), random.randint(0, 4, (101, 3))
    domain = random.rand(101, 3) < [0.5, 0.1, 0.9]
    metric = DomainAccuracy(3)
    for part in np.split(np.arange(101), [1, 1, 40, 97]):
        metric.update(*(torch.from_numpy(array[part]) for array in (preds, target, domain)))
    expected = [(preds[domain[:, d]] == target[domain[:, d], d]).mean() for d in range(3)]
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-15)


def test_domains_with_equal_counts_after_a_batch_stay_apart():
    """Merging by equal states, as collections of metrics do, would report 0.25 for both."""
    metric = DomainAccuracy(2)
    domain = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    metric.update(torch.tensor([1, 0, 1, 0]), torch.ones(4, dtype=torch.long), domain)
    metric.update(torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.long), domain)
    assert metric.compute().tolist() == [0.25, 0.75]


def test_logits_one_target_and_an_empty_domain():
    metric = DomainAccuracy(2)
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    metric.update(logits, torch.tensor([1, 1]), torch.tensor([[True, False], [True, False]]))
    metric.update(torch.empty(0, 2), torch.empty(0, dtype=torch.long), torch.empty(0, 2, dtype=torch.bool))
    assert metric.compute()[0] == 0.5
    assert metric.compute()[1].isnan()


def test_a_prediction_for_each_domain():
    metric = DomainAccuracy(2)
    predicted, everywhere = torch.tensor([[0, 1], [2, 1], [1, 1]]), torch.ones(3, 2, dtype=torch.bool)
    metric.update(predicted, torch.tensor([0, 1, 1]), everywhere)
    metric.update(torch.empty(0, 2, dtype=torch.long), torch.empty(0, dtype=torch.long), everywhere[:0])
    np.testing.assert_allclose(metric.compute(), [2 / 3, 2 / 3])
    metric.update(predicted[:1], torch.tensor([[1, 1]]), everywhere[:1])
    np.testing.assert_allclose(metric.compute(), [2 / 4, 3 / 4])
    with pytest.raises(ValueError, match="do not fit together"):
        metric.update(predicted[:, :1], torch.tensor([0, 1, 1]), everywhere)


def test_it_pickles_clones_and_resets():
    metric = DomainAccuracy(1)
    metric.update(torch.tensor([1]), torch.tensor([1]), torch.tensor([[True]]))
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert copy.compute() == 1
        copy.reset()
        assert copy.total.tolist() == [0]
    assert metric.full_state_update is False


def test_states_of_two_processes_add_up():
    parts = [DomainAccuracy(2), DomainAccuracy(2)]
    domain = torch.tensor([[True, True], [True, False]])
    parts[0].update(torch.tensor([0, 1]), torch.tensor([0, 0]), domain)
    parts[1].update(torch.tensor([2, 2]), torch.tensor([2, 2]), domain)
    whole = DomainAccuracy(2)
    for name in ("correct", "total"):  # as torchmetrics does it
        setattr(whole, name, whole._reductions[name](torch.stack([getattr(part, name) for part in parts])))
    whole._update_count = 1
    assert whole.compute().tolist() == [0.75, 1.0]


@pytest.mark.parametrize("domain", [torch.ones(2, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)])
def test_shapes_that_do_not_fit_are_refused(domain):
    with pytest.raises(ValueError, match="do not fit together"):
        DomainAccuracy(2).update(torch.tensor([1, 1]), torch.tensor([1, 1]), domain)


def test_scores():
    assert selection_score(0.9, 0.4) == pytest.approx(0.65)
    by_class = torch.tensor([0.5, 1.0, math.nan], dtype=torch.float64)
    assert matched_accuracy(by_class, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.625)
    assert math.isnan(matched_accuracy(by_class, torch.tensor([0, 2])))


def test_where_all_is_right_the_matched_accuracy_is_one():
    """Tenths and the like do not sum to 1."""
    for size in range(1, 200):
        labels = torch.arange(size) * torch.arange(size) % 10
        assert matched_accuracy(torch.ones(10, dtype=torch.float64), labels) == 1
