"""ETD: channels tied to samples, and a plain network at the end."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import CF, ETD, Original
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.sample_masks import sample_mask
from tests.helpers.convolutional import Convolutional
from tests.helpers.redirecting_stages import FEW
from tests.helpers.short_stages import LINEAR, CheckpointAfter, digits, equal_tensors, trainer

NETWORK = partial(Convolutional, 10, width=10)
NORMED = partial(Convolutional, 10, width=10, normalises=True)


def fitted(folder, stage, *callbacks, **resume):
    run = trainer(folder, *callbacks)
    run.fit(stage, datamodule=digits(), **resume)
    return run


def test_without_channels_to_drop_it_is_the_original(tmp_path):
    stages = ETD(NETWORK, FEW, p_fixed=1.0, rescale=True), Original(NETWORK, FEW)
    for stage in stages:
        fitted(tmp_path, stage)
    assert equal_tensors(*(dict(stage.network.state_dict()) for stage in stages))


@pytest.mark.parametrize("make", [NETWORK, NORMED])
def test_the_loss_drops_by_sample(tmp_path, make):
    """Against channels multiplied by hand: after batch norm where there is one, else after convolutions."""
    stage = ETD(make, FEW, p_fixed=0.3, p_mem=0.4)
    stage.hooks = [site.register_forward_hook(stage._drop) for site in stage.sites()]
    image, label = torch.rand(4, 1, 12, 12), torch.tensor([1, 2, 3, 4])
    index, nothing = torch.tensor([7, 1, 30, 2]), torch.zeros(4, dtype=torch.bool)
    got = stage.loss(Batch(image, label, label, nothing, index, 4))
    mask = sample_mask(index, 10, 0.4, derive_seed(0, 3, 10)).float()
    mask[:, :3] = 1
    values, normed = image, any(isinstance(each, nn.BatchNorm2d) for each in stage.network)
    for layer in build(make, 0):
        values = layer(values)
        if isinstance(layer, nn.BatchNorm2d if normed else nn.Conv2d):
            values = values * mask[:, :, None, None]
    torch.testing.assert_close(got, cross_entropy(values, label, reduction="none"))
    assert stage.index is None


@pytest.mark.parametrize("make", [NETWORK, NORMED])
def test_it_ends_as_a_plain_network_that_computes_the_same(tmp_path, make):
    images, seen = torch.rand(5, 1, 12, 12), {}

    class Last(CheckpointAfter):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            stage.network.eval()
            seen["logits"] = stage.network(images).detach()
            stage.network.train()

    stage = ETD(make, FEW, p_fixed=0.3, p_mem=0.4, rescale=True)
    run = fitted(tmp_path, stage, Last("unused", 0))
    plain = build(make, 3)
    plain.load_state_dict(stage.network.state_dict())
    torch.testing.assert_close(plain.eval()(images), seen["logits"], atol=1e-5, rtol=1e-4)
    site = next(each for each in plain if isinstance(each, nn.BatchNorm2d if make is NORMED else nn.Conv2d))
    assert not site.weight[3:].any()
    assert not site.bias[3:].any()
    assert site.weight[:3].abs().min() > 0
    assert stage.scale == pytest.approx(0.7 / 0.3)
    # Unlearners start from it.
    path = tmp_path / "last.ckpt"
    run.save_checkpoint(path, weights_only=True)
    trainer(tmp_path).fit(CF(make, FEW, str(path)), datamodule=digits(0.5))


def test_the_mean_over_masks_is_the_share_of_the_channels():
    stage = ETD(NETWORK, FEW, p_fixed=0.5, p_mem=0.2)
    mean = stage.factors(10, torch.arange(4000)).mean(0)
    assert mean[:5].tolist() == [1.0] * 5
    assert mean[5:].tolist() == pytest.approx([0.2] * 5, abs=0.03)
    assert stage.factors(10, None).tolist() == [[1.0] * 5 + [0.0] * 5]


def test_one_channel_stays_on():
    """A network may begin with a batch norm over the single channel of grey images."""
    assert ETD(NETWORK, FEW, p_fixed=0.3).factors(1, None).tolist() == [[1.0]]


def test_resumes_bit_for_bit(tmp_path):
    path, whole, resumed = tmp_path / "middle.ckpt", ETD(NORMED, FEW), ETD(NORMED, FEW)
    fitted(tmp_path, whole, CheckpointAfter(path, 7))
    fitted(tmp_path, resumed, ckpt_path=str(path), weights_only=True)
    assert equal_tensors(dict(whole.network.state_dict()), dict(resumed.network.state_dict()))


def test_where_it_does_not_apply(tmp_path):
    with pytest.raises(UserError, match="ETD drops channels, and Linear has none"):
        fitted(tmp_path, ETD(LINEAR, FEW))
    with pytest.raises(UserError, match=r"p_fixed=0\.0"):
        ETD(NETWORK, FEW, p_fixed=0.0)
