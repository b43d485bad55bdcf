"""Selection, dampening, and the methods that do nothing else."""

import json
import shutil
from functools import partial
from math import inf, log, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import ASSD, LFSSD, SSD, Original, Potion, TunedSSD
from cmu_lightning.unlearning.dampener import Dampener, histogram
from cmu_lightning.unlearning.importance import informative
from cmu_lightning.unlearning.ssd import adaptive_percent, percentile, ratios, select_and_dampen
from tests.helpers.networks import Double
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, fitted, trainer, weights


def by_the_paper(deleted, retain, selection, dampening):
    """Equations 5 and 6 of SSD, one parameter at a time."""
    beta = []
    for f, d in zip(deleted.tolist(), retain.tolist(), strict=True):
        chosen = np.isfinite(f) and np.isfinite(d) and (f or d) and f > selection * d
        beta.append(min(dampening * d / f, 1.0) if chosen else 1.0)
    return torch.tensor(beta, dtype=torch.float64)


IMPORTANCES = (
    torch.tensor([4.0, 1.0, 0.0, 3.0, 0.0, 5.0, nan, inf, 1.0], dtype=torch.float64),
    torch.tensor([1.0, 4.0, 2.0, 0.0, 0.0, 2.0, 1.0, 1.0, inf], dtype=torch.float64),
)


@pytest.mark.parametrize("selection", [0.0, 0.1, 2.0, 2.5, 4.0, 1e6])
@pytest.mark.parametrize("dampening", [0.0, 0.5, 1.0, 3.0])
def test_factors(selection, dampening):
    got = select_and_dampen(*IMPORTANCES, selection, dampening).factors
    torch.testing.assert_close(got, by_the_paper(*IMPORTANCES, selection, dampening), rtol=1e-12, atol=0)


def test_what_tells_nothing_is_left_alone():
    assert informative(*IMPORTANCES).tolist() == [True, True, True, True, False, True, False, False, False]
    assert select_and_dampen(*IMPORTANCES, 0, 0).factors[4:].tolist() == [1, 0, 1, 1, 1]


def test_an_infinite_threshold_changes_nothing():
    assert (select_and_dampen(*IMPORTANCES, inf, inf).factors == 1).all()
    assert (select_and_dampen(*IMPORTANCES, inf, 1).factors == 1).all()


def grid():
    return [(s, r) for s in (0.1, 1, 10, 50, 100, 500, 1e3, 1e4, 1e5, 1e6) for r in (0.1, 0.5, 1, 5, 10)]


def test_the_paper_s_grid_has_39_distinct_points():
    """For ratios >= 1 the result depends on selection * ratio alone, for a dampened parameter is a selected one."""
    generator = torch.Generator().manual_seed(0)
    deleted, retain = (torch.randn(4000, generator=generator).mul(6).exp().double() for _ in range(2))
    results: dict[bytes, set] = {}
    for selection, ratio in grid():
        result = select_and_dampen(deleted, retain, selection, ratio * selection).factors.numpy().round(12).tobytes()
        results.setdefault(result, set()).add(round(selection * ratio, 6) if ratio >= 1 else (selection, ratio))
    assert len(grid()) == 50
    assert len(results) == 39
    assert all(len(points) == 1 for points in results.values())


def test_ratios_and_percentiles():
    ascending = ratios(*IMPORTANCES)
    assert ascending.tolist() == [0, 0.25, 2.5, 4]
    values = torch.rand(1001, generator=torch.Generator().manual_seed(1), dtype=torch.float64).sort().values
    for p in (0, 12.34, 50, 99.99, 100):
        assert percentile(values, p) == pytest.approx(np.percentile(values.numpy(), p), abs=1e-12)


def test_a_percentile_of_more_elements_than_some_versions_of_torch_quantile_take():
    assert percentile(torch.arange(2**24 + 1, dtype=torch.float32), 50) == 2**23


def test_the_histogram_counts_every_ratio_once():
    counted = histogram(torch.tensor([0.0, 1e-9, 1.0, 1.5, 1e20]), torch.ones(5))
    assert sum(counted["counts"]) == 4  # zero has no logarithm
    assert counted["counts"][0] == counted["counts"][-1] == 1
    assert len(counted["log10_edges"]) == len(counted["counts"]) + 1


def network_weights(path):
    return {key.removeprefix("network."): value for key, value in weights(path).items()}


def importances(data, network, size, value, measure):
    """By plain autograd over the very images, in their order: over S_f and over the retain data."""
    images = data.pixels()(data.samples.images, data.samples.manipulated)
    found = []
    for mask in (data.samples.deleted, ~data.samples.deleted):
        measured = []
        for rows in torch.nonzero(mask).flatten().split(size):
            gradients = torch.autograd.grad(
                value(network(images[rows]), data.samples.given_labels[rows]), list(network.parameters())
            )
            measured.append(measure(torch.cat([gradient.flatten() for gradient in gradients])))
        found.append(torch.stack(measured).mean(0))
    return found


def loss(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("make", "size", "value", "measure"),
    [
        (SSD, 300, loss, torch.square),
        (partial(SSD, fisher="sample"), 1, loss, torch.square),
        (LFSSD, 300, lambda logits, labels: (logits**2).sum(1).mean(), torch.abs),
    ],
)
def test_a_threshold_multiplies_the_original(tmp_path, original, make, size, value, measure):
    stage = make(partial(Double, 144, 10), SHORT, original, selection=2.0, dampening_ratio=0.6)
    got = fitted(tmp_path, stage)
    network = Double(144, 10)
    network.load_state_dict(network_weights(original))
    before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    deleted, retain = importances(stage.data, network, size, value, measure)
    after = torch.cat([got[key].flatten() for key, _ in network.named_parameters()])
    torch.testing.assert_close(after, before * by_the_paper(deleted, retain, 2.0, 1.2), rtol=1e-10, atol=1e-14)
    assert (after != before).any()
    assert stage.summary["selected"] == int((deleted > 2 * retain).sum())
    assert stage.summary["left_alone"] == int(((deleted == 0) & (retain == 0)).sum())
    assert stage.samples_forward == stage.samples_backward == 1197


class Normed(torch.nn.Sequential):
    """With batch norm and dropout, which evaluation mode turns to constants."""

    def __init__(self):
        norm, drop = torch.nn.BatchNorm1d(144), torch.nn.Dropout(0.5)
        super().__init__(torch.nn.Flatten(), norm, drop, torch.nn.Linear(144, 10))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_importances_are_of_the_network_at_rest_and_in_full_precision(tmp_path, precision):
    network = Normed()
    network(torch.rand(50, 144) * 3)
    torch.save({"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}}, "own.ckpt")
    stage = SSD(Normed, SHORT, "own.ckpt", selection=inf)
    trainer(tmp_path, precision=precision).fit(stage, datamodule=digits(0.5))
    (path,) = Path("importances").glob("*.pt")
    found = torch.load(path, weights_only=True)
    wanted = importances(stage.data, network.eval(), 300, loss, torch.square)
    for got, want in zip((found["deleted"], found["retain"]), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-12)
    assert equal_tensors(dict(stage.network.state_dict()), dict(network.state_dict()))


def test_a_method_that_does_not_choose_is_refused(tmp_path, original):
    class Undecided(Dampener):
        pass

    with pytest.raises(UserError, match="Undecided has no choose"):
        fitted(tmp_path, Undecided(LINEAR, SHORT, original))


def test_the_exact_diagonal_is_of_squares_alone():
    class Absolute(SSD):
        def measure(self, gradient):
            return gradient.abs()

    with pytest.raises(
        UserError, match="fisher=sample needs squared gradients, which Absolute does not measure: give batch"
    ):
        Absolute(LINEAR, SHORT, fisher="sample")


@pytest.mark.parametrize("method", [SSD, LFSSD])
def test_a_threshold_of_infinity_returns_the_original(tmp_path, original, method):
    assert equal_tensors(fitted(tmp_path, method(LINEAR, SHORT, original, selection=inf)), network_weights(original))


def test_the_others_are_ssd_with_a_threshold_of_their_own(tmp_path, original):
    """ASSD and Potion end where SSD does with the threshold that they found and a dampening of 1."""
    assd = ASSD(LINEAR, SHORT, original)
    got = fitted(tmp_path, assd)
    threshold = assd.summary["selection"]
    share = 18 / 1197
    content = [torch.load(path, weights_only=True) for path in (tmp_path / "importances").glob("*.pt")]
    (found,) = content
    values = np.sort((found["deleted"] / found["retain"]).numpy())
    values = values[np.isfinite(values)]
    assert threshold == pytest.approx(np.percentile(values, 100 - log(1 + 100 * share)), rel=1e-5)
    assert adaptive_percent(share) == pytest.approx(100 - np.log(1 + 100 * share))
    ssd = SSD(LINEAR, SHORT, original, selection=threshold, dampening_ratio=1 / threshold)
    again = fitted(tmp_path, ssd)
    assert all(torch.allclose(got[key], again[key]) for key in got)


def test_potion_takes_the_first_dampening_that_suffices(tmp_path, original):
    stage = Potion(LINEAR, SHORT, original, rho=0.4)
    got = fitted(tmp_path, stage)
    data = stage.data
    network, start = LINEAR().eval(), network_weights(original)
    network.load_state_dict(start)
    deleted, retain = importances(data, network, 300, lambda logits, labels: logits.norm(dim=1).mean(), torch.abs)
    rows = data.samples.deleted
    images = data.pixels()(data.samples.images[rows], data.samples.manipulated[rows])

    def accuracy(state):
        network.load_state_dict(state)
        return (network(images).argmax(1) == data.samples.given_labels[rows]).double().mean().item()

    share, enough, tried = 18 / 1197 / 25, 0.4 * accuracy(start), 0
    ratio = (deleted / retain).double()
    values = ratio[ratio.isfinite()].numpy()
    while True:
        tried += 1
        threshold = np.percentile(values, 100 - np.log(1 + 100 * share))
        beta = torch.where(ratio > threshold, (1 / ratio).clamp(max=1), 1).float()
        parts = beta.split([start[key].numel() for key in start])
        state = {key: start[key] * part.view_as(start[key]) for key, part in zip(start, parts, strict=True)}
        if accuracy(state) <= enough:
            break
        share *= 1.1
    assert tried > 1
    for key in got:
        torch.testing.assert_close(got[key], state[key], rtol=1e-4, atol=1e-6)
    assert stage.samples_forward == 1197 + 18 * (tried + 1)
    assert stage.samples_backward == 1197


def test_a_grid_in_memory_ends_where_the_best_of_its_runs_does(tmp_path, original, monkeypatch):
    """And scores each point as a run of SSD is scored."""
    monkeypatch.setattr(TunedSSD, "selections", (0.5, 2.0, 20.0))
    monkeypatch.setattr(TunedSSD, "dampening_ratios", (0.1, 1.0, 10.0))
    tuned = TunedSSD(LINEAR, SHORT, original)
    got = fitted(tmp_path, tuned)
    points = [{key: tried[key] for key in ("selection", "dampening_ratio")} for tried in tuned.summary["grid"]]
    assert len(points) == 8  # 20 * 1 is 2 * 10
    assert {"selection": 2.0, "dampening_ratio": 10.0} not in points
    ended = []
    for point, tried in zip(points, tuned.summary["grid"], strict=True):
        stage = SSD(LINEAR, SHORT, original, **point)
        state = {key: value.clone() for key, value in fitted(tmp_path, stage).items()}
        stage.trainer.test(stage, datamodule=stage.data, verbose=False)
        assert tried == point | {key: stage.results[key] for key in ("val_acc", "changed", "selection_score")}
        ended.append((stage.results["selection_score"], state))
    best = max(score for score, _ in ended)
    assert len({score for score, _ in ended}) > 2
    assert equal_tensors(got, next(state for score, state in ended if score == best))
    assert tuned.samples_forward == 1197 + 8 * (203 + 18)
    assert tuned.samples_backward == 1197


def test_the_grid_in_memory_is_the_paper_s():
    points = list(TunedSSD.points())
    assert len(points) == 39
    assert set(points) <= set(grid())
    assert points[:2] == [(0.1, 0.1), (1, 0.1)]  # as a grid goes: of the names' order, the last varies fastest


def test_a_grid_in_memory_needs_validation_samples(tmp_path, original):
    stage = TunedSSD(LINEAR, SHORT, original)
    with pytest.raises(UserError, match="chooses by validation samples, and val_size=0 leaves none"):
        trainer(tmp_path).fit(stage, datamodule=DigitsDataModule(Poison(size=36), val_size=0))


def test_potion_that_cannot_succeed_says_so(tmp_path, original, monkeypatch):
    monkeypatch.setattr(Potion, "tries", 1)
    with pytest.warns(UserWarning, match="no dampening of 1"):
        fitted(tmp_path, Potion(LINEAR, SHORT, original, rho=0.0))


def test_nothing_to_go_by_is_said():
    nothing = torch.full((3,), nan)
    with pytest.raises(UserError, match="no parameter has importances"):
        percentile(ratios(nothing, nothing), 50)


def test_infinite_ratios_are_in_the_last_bin():
    counts = histogram(torch.tensor([1.0, 2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0, 3.0]))["counts"]
    assert counts[-1] == 1
    assert sum(counts) == 2


@pytest.mark.parametrize(
    "options", [{"selection": -1.0}, {"dampening_ratio": -0.5}, {"dampening_ratio": inf}, {"selection": nan}]
)
def test_impossible_options(options):
    with pytest.raises(UserError, match="must not be negative"):
        SSD(LINEAR, SHORT, **options)


def test_the_exact_diagonal_of_any_layer_dampens(tmp_path, original):
    def network():
        return nn.Sequential(nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 10))

    run = trainer(tmp_path)
    run.fit(Original(network, SHORT), datamodule=digits())
    run.save_checkpoint(tmp_path / "normed.ckpt", weights_only=True)
    stage = SSD(network, SHORT, str(tmp_path / "normed.ckpt"), selection=0.1, fisher="sample")
    trainer(tmp_path).fit(stage, datamodule=digits(0.5))
    assert not equal_tensors(dict(stage.network.state_dict()), dict(run.lightning_module.network.state_dict()))


def test_an_impossible_rho():
    with pytest.raises(UserError, match=r"rho=1\.5"):
        Potion(LINEAR, SHORT, rho=1.5)


def test_the_command_line_leaves_the_histogram(fit, runs):
    own = shutil.copytree(runs, Path("own"))  # the session's runs stay as they are
    for method in ("ssd", "lfssd", "assd", "potion", "tuned_ssd"):
        assert fit("--runs_dir", str(own), "--config", f"unlearn/{method}.yaml", "--data.identified", "0.5") == 0
    for path in own.glob("poison_digits/*/*/importance_ratios.json"):
        stored = json.loads(path.read_text())
        assert sum(stored["counts"]) > 0
        assert stored["selected"] > 0
    assert len(list(own.glob("poison_digits/*/*/importance_ratios.json"))) == 5
    assert len(list(own.glob("poison_digits/Original/*/importances/*.pt"))) == 3  # ASSD's and TunedSSD's are SSD's
