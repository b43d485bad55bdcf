"""What methods over S_f share: the stop, batch norm's mode, a batch of each in every step, one sample, resuming."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from cmu_lightning.data import Batch, DigitsDataModule, Poison, Uniform
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import (
    NGD,
    NPO,
    CFk,
    EUk,
    GradientAscent,
    L1Sparse,
    NegGradPlus,
    Procedure,
    RandomLabel,
    SalUn,
    Unlearner,
)
from cmu_lightning.unlearning.networks import batch_norm_evaluation
from tests.helpers.short_stages import LINEAR, SHORT, CheckpointAfter, digits, equal_tensors, fitted, trainer, weights

TINY = partial(ResNet9, num_classes=10, in_channels=1, width=2)
METHODS = {
    "GradientAscent": partial(GradientAscent, lr=0.05, stop_at=None),
    "GradientAscent that stops": partial(GradientAscent, lr=0.3, stop_at=0.4),
    "NPO": partial(NPO, lr=0.05, stop_at=None),
    "NegGradPlus": partial(NegGradPlus, retain_weight=0.8),
    "NegGradPlus that stops": partial(NegGradPlus, retain_weight=0.2, lr=0.3, stop_at=0.4),
    "RandomLabel": RandomLabel,
    "RandomLabel, mixed": partial(RandomLabel, labels="others", order="mixed"),
    "SalUn": partial(SalUn, trained_fraction=0.3),
    "L1Sparse": partial(L1Sparse, penalty=0.01),
    "CFk": partial(CFk, layers=1),
    "EUk": partial(EUk, layers=1),
    "NGD": partial(NGD, variance=1e-4),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_ends_at_the_same_weights(tmp_path, original, name):
    whole, broken, rest = (METHODS[name](LINEAR, SHORT, original) for _ in range(3))
    before = fitted(tmp_path, whole)
    middle = max(1, whole.samples_backward and whole.trainer.global_step - 2)
    path = tmp_path / "half.ckpt"
    trainer(tmp_path, CheckpointAfter(path, middle)).fit(broken, datamodule=digits(0.5))
    trainer(tmp_path).fit(rest, datamodule=digits(0.5), ckpt_path=path, weights_only=True)
    assert equal_tensors(before, dict(rest.network.state_dict()))
    assert not equal_tensors(before, {key.removeprefix("network."): each for key, each in weights(original).items()})
    assert (rest.samples_forward, rest.samples_backward) == (whole.samples_forward, whole.samples_backward)
    assert rest.trainer.global_step == whole.trainer.global_step


@pytest.mark.parametrize("name", METHODS)
def test_one_sample_and_batch_norm(tmp_path, name):
    torch.save(TINY().state_dict(), "own.pt")
    data = DigitsDataModule(Poison(size=36), discovery=Uniform(count=1))
    made = METHODS[name](TINY, Procedure(unlearn_steps=5, batch_size=300), original="own.pt")
    trainer(tmp_path).fit(made, datamodule=data)
    assert all(values.isfinite().all() for values in made.network.state_dict().values())


@pytest.mark.parametrize(("processes", "total", "enough"), [(1, 1, False), (1, 2, True), (3, 5, False), (3, 6, True)])
def test_a_batch_has_statistics_where_every_slice_has_two_samples(monkeypatch, processes, total, enough):
    """On CPUs, where each process has its own; the slices of 5 samples are of 2, 2 and 1."""
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: processes > 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: processes)
    label = torch.zeros(total, dtype=torch.long)
    of = Batch(torch.rand(total, 1, 12, 12), label, label, label > 0, label, total)
    assert Unlearner.has_statistics(of) == enough
    alike = Batch(torch.empty(total, 1, device="meta"), *of[1:])  # not a CPU: statistics are shared
    assert Unlearner.has_statistics(alike) == (total >= 2)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_batch_of_one_sample_leaves_the_statistics_of_batch_norm(tmp_path, mode):
    torch.save(TINY().state_dict(), "own.pt")
    data = DigitsDataModule(Poison(size=36), discovery=Uniform(count=1))
    few = Procedure(unlearn_steps=3)
    made = GradientAscent(TINY, few, original="own.pt", stop_at=None, forget_batch_norm=mode)
    trainer(tmp_path).fit(made, datamodule=data)
    before, after = torch.load("own.pt", weights_only=True), made.network.state_dict()
    is_statistic = {key: "running" in key or "num_batches" in key for key in after}
    assert any(is_statistic.values())
    assert all(torch.equal(after[key], before[key]) for key in after if is_statistic[key])
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])


class Accuracies(Callback):
    """Accuracy on S_f as labelled, after every step, by hand."""

    def on_train_start(self, trainer, stage):
        self.fitted = []

    def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
        data = stage.data
        rows = torch.nonzero(data.samples.deleted).flatten()
        image = data.pixels()(data.samples.images[rows], data.samples.manipulated[rows])
        with torch.no_grad():
            predicted = stage.network(image).argmax(1)
        self.fitted.append(float((predicted == data.samples.given_labels[rows]).double().mean()))


@pytest.mark.parametrize(("kind", "lr"), [(GradientAscent, 0.02), (partial(NegGradPlus, retain_weight=0.1), 0.02)])
@pytest.mark.parametrize("every", [None, 3])
def test_ascent_stops_at_the_first_look_that_finds_s_f_forgotten(tmp_path, original, kind, lr, every):
    procedure = Procedure(steps=24, unlearn_steps=40, batch_size=5, lr=0.05)  # 9 samples, so an epoch is 2 steps
    watch = Accuracies()
    made = kind(LINEAR, procedure, original, lr=lr, stop_at=0.4, check_every=every)
    run = trainer(tmp_path, watch)
    run.fit(made, datamodule=digits(0.25))
    looks = range(every or 2, 40, every or 2)
    expected = next(step for step in looks if watch.fitted[step - 1] <= 0.4)
    assert 2 < expected < 38
    assert len(watch.fitted) == run.global_step == expected
    assert run.logged_metrics["stopped_at"] == expected


def test_without_a_stop_all_steps_are_taken(tmp_path, original):
    made = GradientAscent(LINEAR, SHORT, original, lr=0.3, stop_at=None)
    run = trainer(tmp_path)
    run.fit(made, datamodule=digits(0.5))
    assert run.global_step == 10
    assert made.samples_forward == made.samples_backward == 180  # no looks


def test_a_stop_at_one_ends_after_the_first_epoch(tmp_path, original):
    made = GradientAscent(LINEAR, SHORT, original, stop_at=1.0)
    run = trainer(tmp_path)
    run.fit(made, datamodule=digits(0.5))
    assert run.global_step == 1
    assert (made.samples_forward, made.samples_backward) == (36, 18)


class Modes(Callback):
    """Whether batch norm's statistics moved in each step, and its mode after it."""

    def on_train_start(self, trainer, stage):
        self.before = stage.network.features[0][1].running_mean.clone()
        self.moved, self.training = [], []

    def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
        norm = stage.network.features[0][1]
        self.moved.append(not torch.equal(norm.running_mean, self.before))
        self.training.append(norm.training)
        self.before = norm.running_mean.clone()


@pytest.mark.parametrize(
    ("kind", "mode", "moved"),
    [
        (GradientAscent, "eval", [False] * 4),
        (GradientAscent, "train", [True] * 4),
        (NPO, "eval", [False] * 4),
        (NegGradPlus, "eval", [True] * 4),
        (RandomLabel, "eval", [False, True, True, True]),
        (RandomLabel, "train", [True] * 4),
    ],
)
def test_the_statistics_of_batch_norm_move_only_where_it_trains(tmp_path, kind, mode, moved):
    torch.save(TINY().state_dict(), "own.pt")
    watch, procedure = Modes(), Procedure(unlearn_steps=4, batch_size=600)
    made = kind(TINY, procedure, original="own.pt", forget_batch_norm=mode)
    trainer(tmp_path, watch).fit(made, datamodule=digits(0.5))
    assert watch.moved[: len(moved)] == moved[: len(watch.moved)]
    assert watch.moved
    assert all(watch.training)


def test_batch_norm_in_evaluation_mode_leaves_everything_else():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3).eval())
    with batch_norm_evaluation(network):
        assert [each.training for each in network] == [False, True, False]
    assert [each.training for each in network] == [True, True, False]


class Totals(Callback):
    def on_train_start(self, trainer, stage):
        self.seen = []

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        retain, forget = batch
        assert forget.deleted.all()
        assert not retain.deleted.any()
        self.seen.append((retain.train_index.tolist(), forget.train_index.tolist()))


def test_every_step_pairs_a_batch_of_the_retain_data_with_one_of_s_f(tmp_path, original):
    """Epochs of each by itself, over and over, and the retain data as in CF."""
    watch = Totals()
    procedure = Procedure(steps=24, unlearn_steps=7, batch_size=10)
    data = digits(0.5)
    trainer(tmp_path, watch).fit(NegGradPlus(LINEAR, procedure, original), datamodule=data)
    assert len(watch.seen) == 7
    assert [len(forget) for _, forget in watch.seen] == [10, 8, 10, 8, 10, 8, 10]
    (everything,) = {tuple(sorted(watch.seen[at][1] + watch.seen[at + 1][1])) for at in (0, 2, 4)}
    assert list(everything) == torch.nonzero(data.samples.deleted).flatten().tolist()
    assert len({row for retain, _ in watch.seen for row in retain}) == 70
