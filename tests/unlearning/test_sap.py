"""SAP: curvature, patches, projections, and what they do to a network."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import SAP, Original
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.sample_masks import sample_words
from cmu_lightning.unlearning.sap import curvature, patches, projections
from tests.helpers.convolutional import Convolutional
from tests.helpers.redirecting_stages import FEW
from tests.helpers.short_stages import digits, equal_tensors, trainer, weights

NETWORK = partial(Convolutional, 10, normalises=True)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    run = trainer(folder)
    run.fit(Original(NETWORK, FEW), datamodule=digits())
    run.save_checkpoint(folder / "original.ckpt", weights_only=True)
    return str(folder / "original.ckpt")


def original_network(path):
    network = build(NETWORK, 0).eval()
    network.load_state_dict({key.removeprefix("network."): value for key, value in weights(path).items()})
    return network


def fitted(folder, stage, identified=0.5):
    data = digits(identified)
    trainer(folder).fit(stage, datamodule=data)
    return data


def test_curvature_against_the_finite_difference_of_one_sample():
    network = build(NETWORK, 1).double().eval()
    images, labels = torch.rand(3, 1, 12, 12, dtype=torch.double), torch.tensor([1, 5, 2])
    got = curvature(network, images, labels, torch.tensor([4, 9, 70]), seed=6)

    def gradient(image, label):
        image = image.clone().requires_grad_(True)
        cross_entropy(network(image[None]), label[None]).backward()
        return image.grad

    for n, index in enumerate((4, 9, 70)):
        sizes = []
        for draw in range(10):
            words = sample_words(torch.tensor([index]), 144, 6, first=144 * draw)
            signs = torch.where(words % 2 == 1, 1.0, -1.0).view(1, 12, 12).double()
            moved = gradient(images[n] + 1e-3 * signs, labels[n])
            sizes.append((moved - gradient(images[n], labels[n])).norm().item())
        assert got[n].item() == pytest.approx(sum(sizes) / 10, rel=1e-5)
    assert len(curvature(network, images[:0], labels[:0], labels[:0], seed=6)) == 0


LAYERS = {
    "linear": nn.Linear(5, 3),
    "padded and strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "grouped": nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
    "same": nn.Conv2d(4, 6, (2, 3), padding="same", padding_mode="circular", bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_weights_times_its_patches(name):
    layer = LAYERS[name]
    inputs = torch.randn(2, 5) if name == "linear" else torch.randn(2, 4, 6, 7)
    columns = patches(layer, inputs)
    groups = getattr(layer, "groups", 1)
    products = layer.weight.view(groups, -1, columns.shape[1]) @ columns
    bias = 0 if layer.bias is None else layer.bias.view(groups, -1, 1)
    outputs = layer(inputs)
    rows = outputs.flatten(2).transpose(0, 1).flatten(1) if outputs.dim() == 4 else outputs.T
    torch.testing.assert_close((products + bias).flatten(0, 1), rows, atol=1e-5, rtol=1e-4)


def test_projections_against_singular_values():
    torch.manual_seed(2)
    columns = torch.randn(6, 4, dtype=torch.double)
    strengths = (1.0, 30.0, 1e4, float("inf"))
    got = list(projections((columns @ columns.T)[None], strengths))
    left, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    share = singular**2 / (singular**2).sum()
    for alpha, projection in zip(strengths[:3], got, strict=False):
        kept = alpha * share / ((alpha - 1) * share + 1)
        torch.testing.assert_close(projection[0], left @ kept.diag() @ left.T)
    torch.testing.assert_close(got[0][0], left @ share.diag() @ left.T)  # alpha = 1
    # An infinite alpha projects on what the columns span: they stay, and what is orthogonal to them vanishes.
    torch.testing.assert_close(got[3][0], left @ left.T)
    torch.testing.assert_close(got[3][0] @ columns, columns)
    # The scale of the columns has no effect.
    torch.testing.assert_close(list(projections(9 * (columns @ columns.T)[None], strengths))[1], got[1])


def test_an_infinite_alpha_leaves_the_outputs_on_trusted_samples(tmp_path, original):
    """With fewer trusted samples than inputs of the linear layer, so that something is projected out."""
    stage = SAP(NETWORK, FEW, original, trusted=10, strengths=(float("inf"),))
    data = fitted(tmp_path, stage)
    before = original_network(original)
    projected = {key: value.clone() for key, value in stage.network.state_dict().items()}
    stage.network.load_state_dict(before.state_dict())
    trusted = stage._trust(stage.train_dataloader())
    stage.network.load_state_dict(projected)
    images = data.pixels()(trusted.images[trusted.rows], trusted.stamped, trusted.number)
    with torch.no_grad():
        torch.testing.assert_close(stage.network.eval()(images), before(images), atol=1e-4, rtol=1e-3)
        others = torch.rand(50, 1, 12, 12)
        assert not torch.allclose(stage.network(others), before(others), atol=1e-2)


def test_trusted_samples_are_retained_balanced_and_of_the_least_curvature(tmp_path, original):
    stage = SAP(NETWORK, FEW, original, trusted=40, strengths=(100.0,))
    data = fitted(tmp_path, stage)
    stage.network.load_state_dict(original_network(original).state_dict())
    trusted = stage._trust(stage.train_dataloader())
    samples = data.samples
    rows, labels = trusted.rows, samples.given_labels
    assert torch.bincount(labels[rows]).tolist() == [5] * 10
    assert not samples.deleted[rows].any()
    retain = torch.nonzero(~samples.deleted).flatten()
    batch = data.training_source(~samples.deleted, 2000, 0, augment=False).batch(0, data.pixels(), 0, 1)
    found = curvature(stage.network.eval(), batch.image, batch.label, batch.train_index, derive_seed(0, 4))
    for label in range(10):
        of_class = labels[retain] == label
        chosen = torch.isin(retain, rows) & of_class
        assert found[chosen].max() <= found[of_class & ~chosen].min() * (1 + 1e-4)


def test_it_projects_only_weights_and_counts_samples(tmp_path, original):
    stage = SAP(NETWORK, FEW, original, trusted=40, strengths=(3.0, 300.0))
    data = fitted(tmp_path, stage)
    retain, known = int((~data.samples.deleted).sum()), int(data.samples.deleted.sum())
    assert stage.samples_backward == 11 * retain
    assert stage.samples_forward == 11 * retain + 3 * 50 + 2 * (known + 203)
    before, after = weights(original), stage.network.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[f"network.{key}"])}
    assert changed == {"0.weight", "3.weight", "6.weight"}
    assert set(stage.chosen) == {"alpha"}


def test_the_same_run_twice_and_one_known_sample(tmp_path, original):
    states = []
    for identified in (1 / 36, 1 / 36):
        stage = SAP(NETWORK, FEW, original, trusted=40)
        fitted(tmp_path, stage, identified)
        states.append({key: value.clone() for key, value in stage.network.state_dict().items()})
    assert equal_tensors(*states)


def test_impossible_options():
    for options, said in (({"trusted": 0}, "trusted=0"), ({"strengths": (0.5,)}, r"strengths=\[0\.5\]")):
        with pytest.raises(UserError, match=said):
            SAP(NETWORK, FEW, **options)
