"""The networks are the published ones, and a procedure is the released code's."""

from math import inf, nan

import pytest
import torch
import yaml
from torch import nn
from torchvision.models import resnet18

from cmu_lightning.cli.fit import main
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9, ResNet18, ViT, WideResNet
from cmu_lightning.unlearning import Procedure


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet9_is_the_released_architecture():
    network = ResNet9()
    assert parameters(network) == 2_276_224
    assert parameters(ResNet9(num_classes=100)) == 2_287_744
    assert len(list(network.parameters())) == 33
    assert len(list(network.buffers())) == 24
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert ResNet9(num_classes=10, in_channels=1, width=4)(torch.zeros(2, 1, 12, 12)).shape == (2, 10)
    assert all(not m.bias.any() for m in network.modules() if isinstance(m, nn.Conv2d))


def test_wide_resnet_is_the_published_architecture():
    with torch.device("meta"):
        assert parameters(WideResNet(depth=28, width=10)) == 36_479_194
    small = WideResNet(depth=10, width=1, num_classes=3)
    assert all(m.bias is None for m in small.modules() if isinstance(m, nn.Conv2d))
    assert small(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(UserError, match="depth=27"):
        WideResNet(depth=27)


def test_resnet18_is_torchvisions_with_another_stem():
    with torch.device("meta"):
        network, theirs = ResNet18(), resnet18(num_classes=10)
    assert parameters(network) == 11_173_962
    shapes, others = (
        {name: tuple(values.shape) for name, values in each.state_dict().items()} for each in (network, theirs)
    )
    assert {name for name in others if shapes[name] != others[name]} == {"conv1.weight"}
    assert shapes.keys() == others.keys()


@pytest.mark.parametrize("width", [4, 64])
def test_the_stem_of_resnet18_keeps_all_places(width):
    network = ResNet18(num_classes=3, in_channels=1, width=width)
    seen = {}
    network.layer1.register_forward_pre_hook(lambda _, given: seen.update(shape=tuple(given[0].shape)))
    assert network(torch.zeros(2, 1, 12, 12)).shape == (2, 3)
    assert seen["shape"] == (2, width, 12, 12)
    assert [getattr(network, f"layer{at}")[0].conv1.weight.shape[0] for at in (1, 2, 3, 4)] == [
        width * 2**at for at in range(4)
    ]


def test_vit_has_the_sizes_of_rems():
    with torch.device("meta"):
        network = ViT()
    attention = 4 * 512 * 512 + 4 * 512
    mlp = 2 * 512 * 1536 + 512 + 1536
    block = attention + mlp + 2 * 2 * 512
    tokens = 512 + (16 + 1) * 512  # the class token, and places of it and of 16 patches
    assert parameters(network) == 4 * block + tokens + (3 * 64 + 1) * 512 + 2 * 512 + 513 * 10
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def test_a_new_vit_of_other_channels_is_initialised_as_torchvisions():
    torch.manual_seed(0)
    grey, colour = (ViT(in_channels=channels, width=64, depth=1, heads=2, hidden=8).conv_proj for channels in (1, 3))
    assert grey.weight.shape == (64, 1, 8, 8)
    assert float(grey.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(colour.weight.detach().std()) == pytest.approx(192**-0.5, rel=0.05)
    assert not grey.bias.any()


@pytest.mark.parametrize(("sizes", "says"), [({"patch": 5}, "patch=5 does not divide"), ({"heads": 3}, "heads=3")])
def test_a_vit_that_cannot_be(sizes, says):
    with pytest.raises(UserError, match=says):
        ViT(**sizes)


@pytest.mark.parametrize("name", ["ResNet18", "ViT"])
def test_an_overlay_of_a_network_keeps_the_settings_classes_and_channels(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "poison_digits.yaml", "--config", f"network/{name.lower()}.yaml", "--print_config"])
    assert not ended.value.code
    network = yaml.safe_load(capsys.readouterr().out)["network"]
    assert network["class_path"] == f"cmu_lightning.models.{name}"
    assert (network["init_args"]["num_classes"], network["init_args"]["in_channels"]) == (10, 1)


@pytest.mark.parametrize("network", [ResNet9, ResNet18, ViT, WideResNet])
@pytest.mark.parametrize("size", ["width", "num_classes", "in_channels"])
def test_a_network_of_no_size(network, size):
    with pytest.raises(UserError, match=f"network.{size}=0 is not positive"):
        network(**{size: 0})


def test_the_schedule_is_the_released_codes():
    """Rates that the released code's run of 4,000 and of 1,000 steps had (steps counted from 0)."""
    procedure = Procedure()
    for step, rate in {0: 6.10e-4, 39: 0.02439, 40: 0.025, 4000: 0.0052}.items():
        assert 0.025 * procedure.rate(step, 4000) == pytest.approx(rate, rel=2e-3)
    assert 0.025 * procedure.rate(0, 1000) == pytest.approx(2.27e-3, rel=2e-3)
    assert 0.0025 * procedure.rate(0, 1000) == pytest.approx(2.27e-4, rel=2e-3)


def test_the_optimiser_against_its_formula():
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    procedure = Procedure(lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = procedure.optimizer([weight])
    schedule = procedure.schedule(optimizer, 10)
    value, velocity = 1.0, 0.0
    for step in range(3):
        weight.grad = torch.full_like(weight, 2.0)
        optimizer.step()
        schedule.step()
        velocity = 0.9 * velocity + 2.0 + 0.01 * value
        value -= 0.1 * (1 - step / 12.5) * velocity
        assert weight.item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": 0}, {"batch_size": -1}, {"lr": 0.0}, {"lr": inf}, {"lr": nan}, {"warmup": 1.0}, {"decay": 0.5}),
        *({"decay": nan}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}, {"weight_decay": nan}),
    ],
    ids=str,
)
def test_a_procedure_that_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Procedure(**wrong)
