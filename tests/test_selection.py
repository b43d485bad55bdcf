"""Selection rules against references of a few lines."""

import random
from itertools import product

import pytest

from cmu_lightning.selection import (
    RULES,
    balanced,
    balanced_score,
    destroyed,
    in_grid_order,
    oracle,
    paper,
    ptn,
    regret,
    rem,
    scrub_r,
)
from tests.helpers.synthetic_runs import GRIDS

NAMES = ("acc_corr", "selection_score", "fit_identified", "fit_retain", "val_acc", "val_acc_matched")


def measured(draw, **more):
    numbers = {name: round(draw.random(), 2) for name in NAMES} | {"deleted": draw.choice([1, 3, 50])}
    return numbers | {"hyperparameters": {}, "changed": 0.5} | more


REFERENCES = {
    "paper": lambda run: run["selection_score"],
    "balanced": lambda run: (
        5 * run["val_acc"] + 1 - (run["fit_identified"] * run["deleted"] + 1) / (run["deleted"] + 2)
    ),
    "rem": lambda run: run["fit_retain"] * min(1 - run["fit_identified"], 0.8),
    "scrub_r": lambda run: -abs((1 - run["fit_identified"]) - (1 - run["val_acc_matched"])),
    "oracle": lambda run: run["acc_corr"],
}


@pytest.mark.parametrize("rule", REFERENCES)
def test_the_largest_score_wins_and_of_equal_ones_the_first(rule):
    draw = random.Random(0)
    for _ in range(200):
        runs = [measured(draw) for _ in range(draw.randint(1, 30))]
        scores = [REFERENCES[rule](run) for run in runs]
        best = RULES[rule](runs)
        assert REFERENCES[rule](best) == pytest.approx(max(scores), abs=1e-12)
        earlier = [score for run, score in zip(runs, scores, strict=True) if runs.index(run) < runs.index(best)]
        assert all(score < max(scores) + 1e-12 for score in earlier)
    twins = [dict.fromkeys(NAMES, 0.5) | {"twin": at} for at in range(3)]
    assert RULES[rule](twins)["twin"] == 0


@pytest.mark.parametrize("rule", RULES)
def test_no_choice_without_what_a_rule_needs(rule):
    assert RULES[rule]([{"hyperparameters": {}}, {"hyperparameters": {}}]) is None


def test_only_the_oracle_reads_test_accuracies():
    draw = random.Random(1)
    runs = [measured(draw) for _ in range(30)]
    for name, rule in RULES.items():
        blind = [{key: value for key, value in run.items() if key != "acc_corr"} for run in runs]
        if name == "oracle":
            assert rule(blind) is None
        else:
            assert rule(blind)["fit_identified"] == rule(runs)["fit_identified"]


def ssd(selection, ratio, fit, changed=0.5):
    own = {"selection": selection, "dampening_ratio": ratio}
    return {"fit_identified": fit, "changed": changed, "hyperparameters": own}


def test_ptn_takes_the_mildest_dampening_that_forgets_enough():
    runs = [ssd(1, 1, 0.0), ssd(10, 1, 0.1), ssd(100, 1, 0.19), ssd(1000, 1, 0.21), ssd(1e4, 1, 1.0)]
    assert ptn(runs)["hyperparameters"]["selection"] == 100
    assert ptn(runs, rho=0.15)["hyperparameters"]["selection"] == 10
    assert ptn(runs[3:])["hyperparameters"]["selection"] == 1000  # none does: the strongest


def test_ptn_orders_by_dampening_then_by_how_much_is_selected():
    """gamma 50 before 10; of gamma 10, the threshold 100 selects less than 1."""
    runs = [ssd(1, 10, 0.1), ssd(100, 0.1, 0.12), ssd(500, 0.1, 0.15)]
    assert ptn(runs)["hyperparameters"]["selection"] == 500
    assert ptn(runs[:2])["hyperparameters"]["selection"] == 100


def test_ptn_knows_the_originals_fit_from_a_run_that_changed_nothing():
    runs = [ssd(1e6, 1, 0.5, changed=0.0), ssd(100, 1, 0.15), ssd(10, 1, 0.1), ssd(1, 1, 0.0)]
    assert ptn(runs)["hyperparameters"]["selection"] == 10  # 0.2 x 0.5
    assert ptn(runs[1:])["hyperparameters"]["selection"] == 100  # 0.2 x 1


def test_ptn_without_dampening_goes_by_what_is_forgotten():
    runs = [{"fit_identified": fit, "hyperparameters": {"distill": at}} for at, fit in enumerate((0.05, 0.9, 0.18))]
    assert ptn(runs)["fit_identified"] == 0.18


def test_rem_counts_no_fit_below_gamma():
    runs = [{"fit_retain": 0.9, "fit_identified": 0.2}, {"fit_retain": 0.8, "fit_identified": 0.0}]
    assert rem(runs) is runs[0]
    assert rem(runs, gamma=0.0) is runs[1]


def test_without_validation_samples_retain_decides():
    runs = [{"fit_retain": fit, "fit_identified": flagged} for fit, flagged in ((0.9, 0.9), (0.8, 0.0), (0.95, 0.5))]
    assert balanced(runs) is runs[2]
    assert balanced_score(runs[2]) == pytest.approx(5.25)
    runs.append({"fit_retain": 0.1, "fit_identified": 1.0, "val_acc": 0.5})
    assert balanced(runs) is runs[3], "only what has validation samples is compared"


def test_one_flagged_sample_outweighs_little_accuracy():
    """Of one sample the fit falls from 2/3 to 1/3, of 98 from 0.99 to 0.01."""
    for size, is_worth_it in ((1, False), (98, True)):
        before = {"val_acc": 0.9, "fit_identified": 1.0, "deleted": size}
        after = {"val_acc": 0.8, "fit_identified": 0.0, "deleted": size}
        assert (balanced([before, after]) is after) is is_worth_it
    assert balanced_score(before) == pytest.approx(4.5 + 1 - 0.99)


def test_a_destroyed_class_does_not_pay():
    """Of ten equal classes two are never predicted again, which takes the labels of all of S_f back."""
    original = {"val_acc": 0.9, "changed": 0.0, "fit_identified": 0.5, "selection_score": 0.45}
    broken = {"val_acc": 0.72, "changed": 1.0, "fit_identified": 0.0, "selection_score": 0.86}
    assert paper([original, broken]) is broken
    assert balanced([original, broken]) is original


def test_scrub_r_wants_errors_alike():
    runs = [{"fit_identified": fit, "val_acc_matched": 0.7} for fit in (0.0, 0.6, 1.0)]
    assert scrub_r(runs) is runs[1]


def test_regret_is_what_the_best_run_has_more():
    runs = [{"selection_score": score, "acc_corr": corr} for score, corr in ((0.9, 0.5), (0.8, 0.75))]
    assert regret(runs, paper(runs)) == pytest.approx(0.25)
    assert regret(runs, oracle(runs)) == 0
    assert regret([{}], {}) is None


def test_a_destroyed_model_is_one_with_half_of_the_originals_accuracy():
    assert destroyed({"val_acc": 0.44}, {"val_acc": 0.9}) is True
    assert destroyed({"val_acc": 0.45}, {"val_acc": 0.9}) is False
    assert destroyed({"val_acc": 0.45}, None) is None
    assert destroyed({}, {"val_acc": 0.9}) is None


def results(points):
    return [{"hyperparameters": point} for point in points]


def test_of_the_papers_grid_39_points_differ():
    grid = [dict(zip(GRIDS["SSD"], values, strict=True)) for values in product(*GRIDS["SSD"].values())]
    random.Random(0).shuffle(grid)
    assert len(grid) == 50
    kept = in_grid_order(results(grid))
    assert len(kept) == 39
    products = [run["hyperparameters"] for run in kept if run["hyperparameters"]["dampening_ratio"] >= 1]
    assert len({round(own["selection"] * own["dampening_ratio"], 6) for own in products}) == len(products) == 19


def test_grid_order_is_by_names_then_values():
    points = [{"b": b, "a": a} for b, a in product((10.0, 2, 1e3), (5, 0.1))]
    ordered = [run["hyperparameters"] for run in in_grid_order(results(points))]
    assert [(own["a"], own["b"]) for own in ordered] == [(0.1, 2), (0.1, 10), (0.1, 1e3), (5, 2), (5, 10), (5, 1e3)]
