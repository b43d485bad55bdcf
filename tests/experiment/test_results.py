"""What `test` compares."""

from math import inf, nan

import pytest

from cmu_lightning.experiment.results import find_differences, print_columns


@pytest.mark.parametrize("stored", [nan, None, "0.5", inf, -inf, 0.5 + 1e-9, [0.5]])
def test_what_is_not_the_stored_number_differs(stored):
    assert find_differences({"acc_corr": 0.5}, {"acc_corr": stored}) == ["acc_corr"]


@pytest.mark.parametrize("stored", [nan, 0.5, None])
def test_what_is_missing_differs_from_whatever_is_stored(stored):
    assert find_differences({}, {"acc_corr": stored}) == ["acc_corr"]
    assert find_differences({"acc_corr": nan}, {}) == ["acc_corr"]


@pytest.mark.parametrize(("now", "stored"), [(0.5, 0.5 + 1e-14), (nan, nan), (7, 7), (1.0, 1)])
def test_the_same_number_does_not_differ(now, stored):
    assert find_differences({"acc_corr": now}, {"acc_corr": stored}) == []


def test_whatever_is_stored_is_shown(capsys):
    print_columns("runs", {"metrics.json": {"acc_corr": None, "val_acc": "much"}, "now": {"acc_corr": nan}})
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("None", "much", "nan"))
