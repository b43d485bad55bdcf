"""REM: its masks, its extra channels, its loss, its phases, and the network that is left."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import VisionTransformer, resnet18

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import REM, Original
from cmu_lightning.unlearning.ascent import preference
from cmu_lightning.unlearning.extra_channels import ExtraCapacity
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.sample_masks import SHARED, sample_mask, sample_words
from tests.helpers.convolutional import Convolutional
from tests.helpers.redirecting_stages import CONVOLUTIONAL, FEW, fit_on
from tests.helpers.short_stages import LINEAR, CheckpointAfter, digits, equal_tensors, trainer, weights

NORMED = partial(Convolutional, 10, normalises=True)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Paths of short originals, without batch norm and with it."""
    paths = []
    for make in (CONVOLUTIONAL, NORMED):
        folder = tmp_path_factory.mktemp("original")
        run = trainer(folder)
        run.fit(Original(make, FEW), datamodule=digits())
        run.save_checkpoint(folder / "original.ckpt", weights_only=True)
        paths.append(str(folder / "original.ckpt"))
    return paths


# ---- Masks ----


def mixed(word):
    """The hash in Python's integers."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        word = (word ^ (word >> shift)) * factor % 2**32
    return word ^ (word >> 15)


def test_the_hash_against_plain_integers():
    seed = derive_seed(5)
    got = sample_words(torch.tensor([0, 3, SHARED]), 4, seed, first=7)
    low, high = mixed(seed % 2**32), mixed((seed >> 32) % 2**32)
    for row, index in enumerate((0, 3, SHARED)):
        for unit in range(4):
            of_sample = mixed((mixed(index ^ low) + high) % 2**32)
            assert got[row, unit] == mixed((of_sample + mixed(7 + unit)) % 2**32)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_masks_have_the_density_and_no_pattern(probability):
    mask = sample_mask(torch.arange(3000), 64, probability, seed=1).double()
    spread = (probability * (1 - probability)) ** 0.5
    assert mask.mean().item() == pytest.approx(probability, abs=4 * spread / (3000 * 64) ** 0.5)
    for dimension, count in ((0, 3000), (1, 64)):
        assert (mask.mean(dimension) - probability).abs().max().item() <= 5 * spread / count**0.5
    # Neighbouring samples and channels are no more alike than any two.
    if spread:
        both = ((mask[1:] * mask[:-1]).mean().item(), (mask[:, 1:] * mask[:, :-1]).mean().item())
        assert both == pytest.approx((probability**2,) * 2, abs=0.01)


def test_masks_depend_on_nothing_but_index_and_seed():
    torch.manual_seed(3)
    state, index = torch.get_rng_state(), torch.tensor([5, 9, 2, 7])
    whole = sample_mask(index, 32, 0.2, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(sample_mask(index[order], 32, 0.2, seed=4), whole[order])  # order of a batch
    assert torch.equal(torch.cat([sample_mask(part, 32, 0.2, 4) for part in index.split(3)]), whole)  # processes
    assert torch.equal(sample_mask(index, 12, 0.2, seed=4, first=20), whole[:, 20:])  # layers
    assert not torch.equal(sample_mask(index, 32, 0.2, seed=5), whole)
    assert not torch.equal(sample_mask(index, 32, 0.2, seed=4 + 2**40), whole)


# ---- Extra channels ----

NETWORKS = {
    "plain": CONVOLUTIONAL,
    "with batch norm": NORMED,
    "ResNet-9": partial(ResNet9, 10, 1, 4),
    "torchvision's ResNet-18": partial(resnet18, num_classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_unchanged_at_the_start_and_the_keys_at_the_end(name):
    network = build(NETWORKS[name], 3).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    channels = next(each.in_channels for each in network.modules() if isinstance(each, nn.Conv2d))
    images = torch.randn(5, channels, 12, 12)
    want = network(images)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    capacity = ExtraCapacity(network, ratio=1.0, probability=0.5, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network(images), want)
    with capacity.on(torch.arange(5)):
        assert torch.equal(network(images), want)
    assert len(network.state_dict()) > len(before)
    # Once the outgoing weights are not zero, the channels count while they are on, and only then.
    for each in network.modules():
        if hasattr(each, "extra_channels"):
            nn.init.normal_(each.extra_channels.outgoing.weight)
    with capacity.on(torch.arange(5)):
        assert not torch.allclose(network(images), want)
    assert torch.equal(network(images), want)
    capacity.drop()
    assert list(network.state_dict()) == list(before)
    assert equal_tensors(dict(network.state_dict()), before)
    assert torch.equal(network(images), want)


def test_extra_channels_against_a_wider_convolution():
    """A convolution with more filters, whose masked outputs are mixed into the first ones."""
    convolution = nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    capacity = ExtraCapacity(convolution, ratio=2.0, probability=0.5, seed=1)
    convolution.double()
    extra = convolution.extra_channels
    nn.init.normal_(extra.outgoing.weight)
    images, index = torch.randn(4, 2, 7, 7, dtype=torch.double), torch.tensor([8, 3, 5, 1])
    with capacity.on(index):
        got = convolution(images)
    weight = torch.cat([convolution.weight, extra.incoming.weight])
    bias = torch.cat([convolution.bias, extra.incoming.bias])
    wide = torch.conv2d(images, weight, bias, stride=2, padding=1)
    mask = sample_mask(index, 6, 0.5, seed=1)[:, :, None, None]
    want = wide[:, :3] + torch.einsum("oc,nchw->nohw", extra.outgoing.weight[:, :, 0, 0], wide[:, 3:].relu() * mask)
    torch.testing.assert_close(got, want)


def test_without_convolutions_or_with_attention_it_does_not_apply(tmp_path, original):
    with pytest.raises(UserError, match="extra channels need convolutions, and Linear has none: use Scrub or PURE"):
        trainer(tmp_path).fit(REM(LINEAR, FEW, original), datamodule=digits())
    transformer = VisionTransformer(16, 8, 1, 2, 8, 8, num_classes=10)
    with pytest.raises(UserError, match="VisionTransformer has only one, which cuts the image into patches"):
        ExtraCapacity(transformer, 1.0, 0.2, 0)


def test_a_name_makes_no_transformer():
    class ChannelAttention(nn.Conv2d):
        pass

    network = nn.Sequential(nn.Conv2d(1, 4, 3), ChannelAttention(4, 4, 1), nn.Flatten())
    assert ExtraCapacity(network, 1.0, 0.2, 0).channels == 8


# ---- The loss ----


def test_the_bounded_loss_and_the_weight_of_its_gradient():
    losses = torch.tensor([0.5, 2.0, 0.0], dtype=torch.double, requires_grad=True)
    reference = torch.tensor([0.5, 0.1, 9.0], dtype=torch.double)
    for beta in (0.1, 1.0, 3.0):
        got = -preference(losses, reference, beta)
        difference = beta * (losses - reference)
        want = 2 / beta * torch.log(1 / (1 + torch.exp(-difference)))
        torch.testing.assert_close(got, want)
        (weight,) = torch.autograd.grad(got.sum(), losses)
        torch.testing.assert_close(weight, 2 / (1 + torch.exp(difference)).detach())
        assert weight[0].item() == pytest.approx(1)  # at the original, for every beta


def made(deleted, **options):
    """A stage away from its start, and a batch."""
    stage = REM(NORMED, FEW, **options)
    original = build(NORMED, 1).double().eval()
    stage.network.double()
    stage.start(original)
    torch.manual_seed(1)
    for parameter in stage.network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    image = torch.rand(6, 1, 12, 12, dtype=torch.double)
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    return stage, Batch(image, label, label, torch.tensor(deleted), torch.tensor([4, 0, 7, 9, 2, 11]), 6)


@pytest.mark.parametrize("deleted", [[False] * 6, [True, False, False, True, False, False], [True] * 6])
def test_repair_and_redirection_against_the_formula(deleted):
    stage, batch = made(deleted, beta=0.7)
    stage.known_rows = torch.nonzero(batch.deleted).flatten()
    got = stage.loss(batch)
    parameters = list(stage.network.parameters())
    mine = torch.autograd.grad(got.sum(), parameters, allow_unused=True, materialize_grads=True)
    # The same by hand, with what each pass is given.
    stage, batch = made(deleted, beta=0.7)
    parameters = list(stage.network.parameters())
    index = torch.where(batch.deleted, SHARED, batch.train_index)
    with stage.capacity.on(index):
        on = cross_entropy(stage.network(batch.image), batch.label, reduction="none")
    stage.network.eval()
    off = cross_entropy(stage.network(batch.image), batch.label, reduction="none")
    with torch.no_grad():
        reference = cross_entropy(stage.teachers[0](batch.image), batch.label, reduction="none")

    def term(losses):
        return 2 / 0.7 * torch.log(torch.sigmoid(0.7 * (losses - reference)))

    want = term(on) - batch.deleted * term(off)
    torch.testing.assert_close(got, want)
    theirs = torch.autograd.grad(want.sum(), parameters, allow_unused=True, materialize_grads=True)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)
    # Without S_f there is only the repair.
    if not any(deleted):
        torch.testing.assert_close(got, term(on))


def test_all_of_s_f_use_the_same_channels_and_others_their_own(monkeypatch):
    stage, batch = made([True, False, True, False, False, False])
    seen = []
    on = stage.capacity.on
    monkeypatch.setattr(stage.capacity, "on", lambda index: seen.append(index) or on(index))
    stage.loss(batch)
    assert seen[0].tolist() == [SHARED, 0, SHARED, 9, 2, 11]


# ---- The run ----


def fitted(folder, original, make=NORMED, *callbacks, identified=0.25, **options):
    stage = REM(make, FEW, original, **options)
    run, data = trainer(folder, *callbacks), digits(identified)
    run.fit(stage, datamodule=data)
    return stage, run, data


def test_with_gamma_1_nothing_is_flushed_and_samples_are_counted(tmp_path, originals):
    """Two epochs of 3 steps; two proposals pass S_tr and S_f, and before each epoch one looks at S_f."""
    stage, _, data = fitted(tmp_path, originals[1], gamma=1.0)
    total, known = len(data.samples.deleted), int(data.samples.deleted.sum())
    assert stage.flushed == 0
    assert stage.global_step == 6
    assert stage.samples_forward == 2 * (2 * total + known) + 2 * (total + known) + 2 * known
    assert stage.samples_backward == 2 * (total + known)


def test_flushing_ends_where_the_labels_are_forgotten(tmp_path, originals):
    levels = []

    class Levels(CheckpointAfter):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            levels.append(stage.flushed)

    stage, _, _ = fitted(tmp_path, originals[1], NORMED, Levels("unused", 0), gamma=0.0, flush_epochs=7)
    assert 0 < levels[0] <= 7
    assert levels[0] == levels[1] == levels[2]  # before the first step of an epoch, not in between
    assert stage.flushed <= 14


def test_it_leaves_a_plain_network_and_says_what_the_extra_channels_hold(tmp_path, originals):
    stage, run, _ = fitted(tmp_path, originals[1], gamma=0.1)
    plain = build(NORMED, 0)
    assert {key: value.shape for key, value in stage.network.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert equal_tensors(dict(stage.network.state_dict()), stage.best["weights"])
    path = tmp_path / "last.ckpt"
    run.save_checkpoint(path, weights_only=True)
    assert set(weights(path)) == {f"network.{key}" for key in plain.state_dict()}
    assert "state" not in torch.load(path, weights_only=True)["cmu_lightning"]
    # Another process measures the same, the accuracy with the channels being that of the checkpoint.
    results = []
    for fresh in (stage, REM(NORMED, FEW, originals[1])):
        other = trainer(tmp_path)
        other.test(fresh, datamodule=digits(0.25), ckpt_path=str(path), weights_only=True, verbose=False)
        results.append(fresh.results)
    assert results[0] == results[1]
    assert results[0]["fit_identified_extra_off"] == pytest.approx(results[0]["fit_identified"])
    assert 0 <= results[0]["fit_identified_extra_on"] <= 1


@pytest.mark.parametrize("step", [2, 3, 4])
def test_resumes_bit_for_bit(tmp_path, originals, step):
    """Within an epoch, at its end, and after the first proposal."""
    path = tmp_path / "middle.ckpt"
    whole, _, _ = fitted(tmp_path, originals[1], NORMED, CheckpointAfter(path, step), gamma=0.1, flush_epochs=3)
    resumed = REM(NORMED, FEW, originals[1], gamma=0.1, flush_epochs=3)
    trainer(tmp_path).fit(resumed, datamodule=digits(0.25), ckpt_path=str(path), weights_only=True)
    assert equal_tensors(dict(whole.network.state_dict()), dict(resumed.network.state_dict()))
    assert whole.redirected == resumed.redirected
    assert whole.samples_forward == resumed.samples_forward


def test_one_known_sample_works(tmp_path, originals):
    stage, _, data = fitted(tmp_path, originals[1], identified=1 / 36)
    assert int(data.samples.deleted.sum()) == 1
    assert all(bool(values.isfinite().all()) for values in stage.network.state_dict().values())


def test_redirection_moves_s_f_into_the_extra_channels(tmp_path, originals):
    """Where weights of samples hardly fall with their losses, and nothing is flushed, so that both parts learn."""
    procedure = copy.copy(FEW)
    procedure.unlearn_steps = 48
    stage = REM(NORMED, procedure, originals[1], lr=0.1, beta=0.1, extra=4.0, flush_epochs=0)
    trainer(tmp_path).fit(stage, datamodule=digits(1.0))
    assert stage.redirected["fit_identified_extra_off"] < 0.3
    assert stage.redirected["fit_identified_extra_on"] > stage.redirected["fit_identified_extra_off"] + 0.15


def test_averaged_weights_are_refused(tmp_path, originals):
    with pytest.raises(UserError, match="leave one of them out"):
        fitted(tmp_path, originals[1], NORMED, EMAWeightAveraging())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 0.0}, "lr=0.0"),
        ({"beta": -1.0}, r"beta=-1\.0"),
        ({"gamma": 1.5}, r"gamma=1\.5"),
        ({"p_mem": -0.1}, "0 to 1"),
    ],
)
def test_impossible_options(options, said):
    with pytest.raises(UserError, match=said):
        REM(NORMED, FEW, **options)


@pytest.mark.slow
def test_two_processes_equal_one(originals, tmp_path, ranks):
    """REM, task vectors, SAP and ETD."""
    one = fit_on(originals[0], tmp_path, 1)
    two, other = ranks.run(fit_on, originals[0], tmp_path, 2)
    for name, fitted_ in one.items():
        assert two[name]["samples"] == fitted_["samples"], name
        assert two[name]["said"] == fitted_["said"], name
        assert equal_tensors(two[name]["weights"], other[name]["weights"]), name
        for key, value in fitted_["weights"].items():
            torch.testing.assert_close(two[name]["weights"][key], value, atol=1e-5, rtol=1e-4)
