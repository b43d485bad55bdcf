"""Random labels and SalUn: the draw, the order, the loss, the mask."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy

from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import Procedure, RandomLabel, SalUn
from cmu_lightning.unlearning.random_label import draw_labels
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, fitted, trainer, weights

TINY = partial(ResNet9, num_classes=10, in_channels=1, width=2)


def test_of_two_classes_the_other_one_is_drawn():
    given = torch.tensor([0, 1, 1, 0, 1])
    assert torch.equal(draw_labels(given, 2, "others", seed=0, epoch=0), 1 - given)


def test_salun_of_no_entry_is_refused(tmp_path, original):
    stage = SalUn(LINEAR, SHORT, original, trained_fraction=1e-9)
    with pytest.raises(UserError, match=r"trained_fraction=1e-09 trains none of the network's [\d,]+ parameters"):
        trainer(tmp_path).fit(stage, datamodule=digits())


@pytest.mark.parametrize("among", ["all", "others"])
def test_labels_are_uniform_among_their_classes(among):
    given = torch.arange(20000) % 5
    drawn = draw_labels(given, 5, among, seed=1, epoch=2)
    counts = torch.zeros(5, 5).index_put_((given, drawn), torch.ones(20000), accumulate=True) / 4000
    expected = torch.full((5, 5), 0.2 if among == "all" else 0.25)
    if among == "others":
        expected.fill_diagonal_(0)
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)


def test_each_epoch_and_seed_has_a_draw_of_its_own_and_the_global_generator_none():
    given = torch.zeros(50, dtype=torch.long)
    before = torch.get_rng_state()
    draws = [draw_labels(given, 10, "all", seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(draw.tolist()) for draw in draws}) == 4
    assert torch.equal(draws[3], draw_labels(given, 10, "all", 1, 1))


class Watch(Callback):
    """What every step trained on, with which labels, and its loss by hand."""

    def on_train_start(self, trainer, stage):
        self.seen, self.losses = [], []

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        with torch.no_grad():
            self.logits = stage.network(batch.image)

    def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
        samples, labels = stage.data.samples, batch.label.clone()
        source, epoch = trainer.train_dataloader.part(batch_idx)
        if stage.order == "mixed" or source == 0:
            rows = torch.nonzero(samples.deleted).flatten()
            drawn = draw_labels(samples.given_labels[rows], 10, stage.labels, stage.seed, epoch)
            told = dict(zip(rows.tolist(), drawn.tolist(), strict=True))
            rows = batch.train_index.tolist()
            labels = torch.tensor([told.get(row, label) for row, label in zip(rows, labels.tolist(), strict=True)])
        self.seen.append((batch.deleted.unique().tolist(), epoch))
        self.losses.append((float(cross_entropy(self.logits, labels)), float(outputs["loss"])))


@pytest.mark.parametrize("labels", ["all", "others"])
def test_turns_of_s_f_with_drawn_labels_and_of_the_retain_data(tmp_path, original, labels):
    watch, procedure = Watch(), Procedure(steps=24, unlearn_steps=14, batch_size=300, lr=0.05)
    made = RandomLabel(LINEAR, procedure, original, labels=labels, seed=3)
    trainer(tmp_path, watch).fit(made, datamodule=digits(0.5))
    # An epoch over the retain data is 4 steps; the turn that would not fit is of the retain data.
    assert watch.seen[:10] == [([True], 0), *[([False], 0)] * 4, ([True], 1), *[([False], 1)] * 4]
    assert watch.seen[10:] == [([False], 2)] * 4
    for expected, got in watch.losses:
        assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("steps", "forget", "retain"), [(100, 1, 10), (100, 3, 9), (7, 2, 4), (5, 2, 9)])
def test_the_plan_ends_with_the_retain_data(steps, forget, retain):
    plan = RandomLabel(LINEAR, Procedure(unlearn_steps=steps)).plan(forget, retain)
    turn = [0] * forget + [1] * retain
    turns = max(1, steps // len(turn))
    assert plan == (turn * turns + [1] * steps)[:steps]
    assert plan[-1] == 1


def test_steps_on_s_f_only_are_refused():
    """Which would leave a network of random labels."""
    with pytest.raises(UserError, match="an epoch of 3 steps over S_f, and unlearn_steps=3 leaves none for the retain"):
        RandomLabel(LINEAR, Procedure(unlearn_steps=3)).plan(3, 9)


def test_mixed_batches(tmp_path, original):
    watch = Watch()
    made = RandomLabel(LINEAR, SHORT, original, order="mixed", labels="others", seed=3)
    trainer(tmp_path, watch).fit(made, datamodule=digits(0.5))
    assert [epoch for _, epoch in watch.seen] == [0] * 4 + [1] * 4 + [2] * 2
    assert [False, True] in [kinds for kinds, _ in watch.seen]
    for expected, got in watch.losses:
        assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("order", ["sequential", "mixed"])
def test_salun_of_all_parameters_is_random_labels(tmp_path, original, order):
    one = fitted(tmp_path, SalUn(LINEAR, SHORT, original, trained_fraction=1.0, lr=0.05, order=order))
    other = fitted(tmp_path, RandomLabel(LINEAR, SHORT, original, lr=0.05, order=order))
    assert equal_tensors(one, other)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_salun_trains_the_most_salient_entries_only(tmp_path, original, fraction):
    procedure = Procedure(steps=24, unlearn_steps=6, batch_size=7, lr=0.05)  # 18 samples: batches of 7, 7 and 4
    made, data = SalUn(LINEAR, procedure, original, trained_fraction=fraction), digits(0.5)
    state = fitted(tmp_path, made)
    data.setup()
    network = made.load_original()
    rows = torch.nonzero(data.samples.deleted).flatten()
    total = [torch.zeros_like(each) for each in network.parameters()]
    for part in rows.split(7):
        image = data.pixels()(data.samples.images[part], data.samples.manipulated[part])
        loss = -cross_entropy(network(image), data.samples.given_labels[part])
        for each, gradient in zip(total, torch.autograd.grad(loss, list(network.parameters())), strict=True):
            each += gradient
    saliency = torch.cat([each.abs().flatten() for each in total])
    start = torch.cat([value.flatten() for value in weights(original).values()])
    moved = torch.cat([value.flatten() for value in state.values()]) != start
    number = int(fraction * len(saliency))
    threshold = saliency.sort(descending=True).values[number - 1]
    assert int(moved.sum()) <= number
    assert int(moved.sum()) > 0.9 * number  # some trained entries have no gradient
    assert bool((saliency[moved] >= threshold * (1 - 1e-4)).all())


@pytest.mark.parametrize("keeps", [False, True])
def test_the_statistics_of_batch_norm_stay_only_where_asked(tmp_path, keeps):
    torch.save(TINY().state_dict(), "own.pt")
    before = torch.load("own.pt", weights_only=True)
    made = SalUn(TINY, Procedure(unlearn_steps=4, batch_size=600), original="own.pt", keep_statistics=keeps)
    state = fitted(tmp_path, made)
    buffers = [key for key in state if "running" in key or "num_batches" in key]
    assert all(torch.equal(state[key], before[key]) == keeps for key in buffers)


def test_a_mask_counts_all_parameters_together(tmp_path, original):
    made = SalUn(LINEAR, SHORT, original, trained_fraction=0.25)
    trainer(tmp_path).fit(made, datamodule=digits(0.5))
    trained = made.trained_entries(made.load_original())
    total = sum(each.numel() for each in made.network.parameters())
    assert sum(int(each.sum()) for each in trained.values()) == total // 4
    assert len({float(each.double().mean()) for each in trained.values()}) > 1


@pytest.mark.parametrize(("kind", "options"), [(SalUn, {"trained_fraction": 0.0}), (RandomLabel, {"lr": -1.0})])
def test_impossible_options(kind, options):
    with pytest.raises(UserError, match=f"{kind.__name__} needs"):
        kind(LINEAR, SHORT, **options)
