"""How S_f comes about."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cmu_lightning.cli.fit import main
from cmu_lightning.data import ByDifficulty, ClassBiased, DigitsDataModule, Poison, SymmetricNoise, Uniform
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import write_metrics


def digits(discovery=None, identified=1.0, seed=0, manipulation=None):
    data = DigitsDataModule(manipulation or Poison(size=60), identified, seed, discovery=discovery)
    data.setup()
    return data


def found(data):
    """The manipulated part of S_f, and the mistakes."""
    samples = data.samples
    return tuple(
        set(torch.nonzero(samples.deleted & mask).flatten().tolist())
        for mask in (samples.manipulated, ~samples.manipulated)
    )


def test_the_default_is_the_draw_of_old():
    for identified, seed in ((0.1, 0), (0.5, 3), (1.0, 7)):
        members = torch.nonzero(digits().samples.manipulated).flatten()
        order = np.random.RandomState(seed).permutation(60)[: round(60 * identified)]
        drawn = set(members[torch.from_numpy(order)].tolist())
        for discovery in (None, Uniform()):
            assert found(digits(discovery, identified, seed)) == (drawn, set())


NESTED = {
    "uniform": lambda **more: Uniform(**more),
    "biased": lambda **more: ClassBiased([3, 4], **more),
    "easiest": lambda **more: ByDifficulty("easiest", **more),
    "hardest": lambda **more: ByDifficulty("hardest", **more),
}


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED)
@pytest.mark.parametrize("by", ["fraction", "count"])
def test_growing_deletion_sets_of_one_seed_are_nested(make, by):
    previous = set(), set()
    for count in (1, 6, 30, 60):
        if by == "fraction":
            data = digits(make(false_discovery_rate=0.25), count / 60)
        else:
            data = digits(make(count=count, false_discovery_rate=0.25))
        now = found(data)
        assert data.identified == count / 60
        assert len(now[0]) == count
        assert len(now[1]) == round(count / 3)
        assert previous[0] < now[0]
        assert previous[1] <= now[1]
        previous = now


def test_a_third_flagged_by_mistake_is_a_third_of_s_f():
    right, wrong = found(digits(Uniform(false_discovery_rate=1 / 3), 0.5))
    assert (len(right), len(wrong)) == (30, 15)
    assert found(digits(Uniform(false_discovery_rate=1 / 3), 0.5, seed=1)) != (right, wrong)


def test_biased_draws_have_the_odds_of_their_weights():
    """The first sample is of a favoured class with probability weight * share."""
    data = digits()
    samples, members = data.samples, torch.nonzero(data.samples.manipulated).flatten()
    favoured = torch.isin(samples.true_labels[members], torch.tensor([3, 4]))
    discovery = ClassBiased([3, 4], bias=5.0)
    orders = [discovery.order(samples, members, np.random.RandomState(seed), data.pixels()) for seed in range(2000)]
    first = sum(bool(favoured[order[0]]) for order in orders) / 2000
    many, few = 5.0 * int(favoured.sum()), int((~favoured).sum())
    assert first == pytest.approx(many / (many + few), abs=0.04)
    assert all(sorted(order.tolist()) == list(range(60)) for order in orders[:20])


def of_ridge_regression(pixels, labels):
    """Squared errors of all training samples."""
    inputs = np.c_[pixels.reshape(len(pixels), -1), np.ones(len(pixels))]
    targets, size = np.eye(10)[labels], inputs.shape[1]
    penalty = 1e-3 * (inputs**2).sum(0).mean()
    stacked = np.r_[inputs, np.sqrt(penalty) * np.eye(size)], np.r_[targets, np.zeros((size, 10))]
    return ((inputs @ np.linalg.lstsq(*stacked, rcond=None)[0] - targets) ** 2).sum(1)


def test_difficulty_is_the_loss_of_a_ridge_regression(monkeypatch):
    data = digits(manipulation=SymmetricNoise(size=60))
    samples = data.samples
    members = torch.nonzero(samples.manipulated).flatten()
    pixels = (samples.images[..., 0].double().numpy() / 255 - data.mean[0]) / data.std[0]
    expected = of_ridge_regression(pixels, samples.given_labels.numpy())[members.numpy()]
    with monkeypatch.context() as large:
        large.setattr(ByDifficulty, "side", 6)
        averaged = of_ridge_regression(pixels.reshape(-1, 6, 2, 6, 2).mean((2, 4)), samples.given_labels.numpy())
        given = ByDifficulty().losses(samples, members, data.pixels()).numpy()
        assert given == pytest.approx(averaged[members.numpy()], rel=1e-4)
    assert ByDifficulty().losses(samples, members, data.pixels()).numpy() == pytest.approx(expected, rel=1e-4)
    right = found(digits(ByDifficulty("easiest", count=20), manipulation=SymmetricNoise(size=60)))[0]
    assert right == set(members[np.argsort(expected)[:20]].tolist())
    hard = found(digits(ByDifficulty("hardest", count=20), manipulation=SymmetricNoise(size=60)))[0]
    assert hard == set(members[np.argsort(expected)[-20:]].tolist())


def test_difficulty_sees_the_trigger(monkeypatch):
    seen = found(digits(ByDifficulty(count=20)))
    monkeypatch.setattr(Poison, "stamp", lambda self, images: images)
    assert found(digits(ByDifficulty(count=20))) != seen


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Uniform(count=0), "count=0"),
        (lambda: Uniform(false_discovery_rate=1.0), "false_discovery_rate=1.0"),
        (lambda: digits(Uniform(count=61)), "count=61 .* 60 manipulated"),
        (lambda: digits(Uniform(count=5), identified=0.5), "count=5 or identified=0.5"),
        (lambda: digits(Uniform(false_discovery_rate=0.99)), "flags 5940 clean ones, and there are 1137"),
        (lambda: ClassBiased([1], bias=0.0), "bias=0.0"),
        (lambda: digits(ClassBiased([12])), r"classes=\[12\]"),
    ],
)
def test_what_cannot_be_found_is_said(make, says):
    with pytest.raises(UserError, match=says):
        make()


CF = ("--config", "unlearn/cf.yaml", "--runs_dir", "runs")


@pytest.fixture
def original(runs):
    """The small original of poison_digits, in this test's own runs folder."""
    shutil.copytree(runs, "runs")


def stored(method):
    return [json.loads(path.read_text()) for path in Path("runs").glob(f"poison_digits/{method}/*/metrics.json")]


def test_what_is_stored_of_a_discovery(original, fit, capsys):
    discovery = ("--data.discovery", "Uniform", "--data.discovery.false_discovery_rate", "0.4")
    assert fit(*CF, *discovery, "--data.discovery.count", "9") == 0
    assert len(stored("Original")) == 1
    (run,) = stored("CF")
    assert (run["deleted"], run["false_positives"], run["identified"]) == (15, 6, 0.25)
    assert (run["discovery_precision"], run["discovery_recall"]) == (0.6, 0.25)
    assert 0 <= run["acc_identified"] * 9 <= 9
    assert run["acc_identified"] * 9 == pytest.approx(round(run["acc_identified"] * 9))  # of the 9 in S_m alone
    assert run["changed"] * 15 == pytest.approx(round(run["changed"] * 15))  # of all that was flagged
    (folder,) = Path("runs").glob("poison_digits/CF/*")
    again = ["test", "--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/last.ckpt"]
    assert main(again) == 0
    assert re.search(r"clean samples in S_f.*│ +6 │ +6 │", capsys.readouterr().out)
    write_metrics(folder, run | {"false_positives": 7})
    assert main(again) == 1
    assert capsys.readouterr().err == "not the stored numbers: false_positives\n"
    assert not {"discovery_precision", "discovery_recall", "false_positives"} & stored("Original")[0].keys()


def test_every_unlearner_runs_on_clean_samples_in_s_f(original, fit):
    mistaken = ("--data.discovery", "Uniform", "--data.discovery.false_discovery_rate", "0.3")
    for method in ("badt", "rewod", "scrub", "ssd", "potion"):
        assert (
            fit("--config", f"unlearn/{method}.yaml", "--runs_dir", "runs", "--data.identified", "0.5", *mistaken) == 0
        )
    assert len(stored("Original")) == 1
    assert {run["false_positives"] for run in stored("*") if "identified" in run} == {8}
    assert len(stored("*")) == 6


def test_a_discovery_has_a_run_of_its_own_and_none_is_as_before(original, fit):
    assert fit(*CF, "--data.identified", "0.5") == 0
    (plain,) = stored("CF")
    # As before there were discoveries, for a network of this class path; other values would orphan finished runs.
    assert (plain["original"], plain["hash"]) == ("6dfa5b57b1", "2fe81b97f3")
    (path,) = Path("runs").glob("poison_digits/CF/*/config.yaml")
    config = yaml.safe_load(path.read_text())
    assert config["data"]["init_args"].pop("discovery") is None
    older = Path("older.yaml")
    older.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(older)]) == 0  # finished before, though its config knew of no discovery
    assert [run["hash"] for run in stored("CF")] == [plain["hash"]]
    assert fit(*CF, "--data.identified", "0.5", "--data.discovery", "Uniform") == 0
    assert len({run["hash"] for run in stored("CF")}) == 2
    assert len(stored("Original")) == 1
