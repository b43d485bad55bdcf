"""CF-k and EU-k: what a layer is, what is frozen, and that all layers are CF and RewoD."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9, WideResNet
from cmu_lightning.unlearning import CF, CFk, EUk, Procedure, RewoD
from cmu_lightning.unlearning.last_layers import layers, module_name
from cmu_lightning.unlearning.networks import build
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, fitted, trainer, weights

TINY = partial(ResNet9, num_classes=10, in_channels=1, width=2)
FEW = Procedure(steps=5, unlearn_steps=5, batch_size=300)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (ResNet9(width=2), 9),
        (WideResNet(depth=10, width=1), 10 - 0),
        (nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), 1),
    ],
)
def test_layers_hold_every_module_once(network, count):
    found = layers(network)
    names = [name for layer in found for name in layer]
    assert names == [name for name, _ in network.named_modules()]
    modules = dict(network.named_modules())
    weighty = [sum(isinstance(modules[name], nn.Conv2d | nn.Linear) for name in layer) for layer in found]
    assert set(weighty) == {1}
    assert len(found) == sum(isinstance(each, nn.Conv2d | nn.Linear) for each in network.modules())
    assert len(found) == count


def test_batch_norm_belongs_to_the_convolution_before_it():
    last = layers(ResNet9(width=2))[-2:]
    assert last[1] == ["classifier"]
    assert {"features.6.0", "features.6.1"} <= set(last[0])
    resnet = layers(torchvision.models.resnet18(num_classes=10))
    assert resnet[-1] == ["avgpool", "fc"] or resnet[-1] == ["fc"]


@pytest.mark.parametrize("kind", [CFk, EUk])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_frozen_layers_stay_bit_for_bit_with_their_statistics(tmp_path, kind, count):
    torch.save(build(TINY, 9).state_dict(), "own.pt")
    before = torch.load("own.pt", weights_only=True)
    state = fitted(tmp_path, kind(TINY, FEW, original="own.pt", layers=count))
    trained = {name for layer in layers(TINY())[-count:] for name in layer}
    same = {key for key in state if torch.equal(state[key], before[key])}
    assert same == {key for key in state if module_name(key) not in trained}
    assert any("running_mean" in key for key in same)


@pytest.mark.parametrize("count", [-1, 9])
def test_cf_k_of_all_layers_is_cf(tmp_path, count):
    torch.save(TINY().state_dict(), "own.pt")
    one = fitted(tmp_path, CFk(TINY, FEW, original="own.pt", layers=count))
    assert equal_tensors(one, fitted(tmp_path, CF(TINY, FEW, original="own.pt")))


def test_eu_k_of_all_layers_is_rewod(tmp_path, original):
    one = fitted(tmp_path, EUk(LINEAR, FEW, original, layers=-1, seed=3))
    assert equal_tensors(one, fitted(tmp_path, RewoD(LINEAR, FEW, original, seed=3)))


def test_eu_k_starts_from_a_fresh_last_layer_and_the_original_s_first(tmp_path, original):
    made = EUk(LINEAR, SHORT, original, layers=1, seed=4)
    run = trainer(tmp_path, limit_val_batches=0)
    data = digits(0.5)
    starts = {}
    made.on_train_start = lambda: starts.update({k: v.clone() for k, v in made.network.state_dict().items()})
    run.fit(made, datamodule=data)
    fresh, old = build(LINEAR, 4).state_dict(), weights(original)
    assert torch.equal(starts["3.weight"], fresh["3.weight"])
    assert torch.equal(starts["1.weight"], old["network.1.weight"])
    assert not torch.equal(starts["3.weight"], old["network.3.weight"])


def test_more_layers_than_there_are_is_refused(tmp_path, original):
    with pytest.raises(UserError, match="Linear has 2 layers, not layers=3: give fewer, or -1 for all"):
        fitted(tmp_path, CFk(LINEAR, SHORT, original, layers=3))
    with pytest.raises(UserError, match="EUk needs layers >= 1, or -1 for all, not layers=0"):
        EUk(LINEAR, SHORT, original, layers=0)
