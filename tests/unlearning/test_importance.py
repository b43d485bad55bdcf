"""Importances against loops over samples, closed forms and each other."""

from math import exp

import pytest
import torch
from torch import nn
from torch.nn.functional import celu, cross_entropy

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import rank_slice
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9, WideResNet
from cmu_lightning.unlearning import fisher
from cmu_lightning.unlearning.fisher import fisher_diagonal
from cmu_lightning.unlearning.importance import batch_importance, norm, squared_norm, task_loss
from cmu_lightning.unlearning.ssd import select_and_dampen


def alone(tensor):
    """The sum over one process."""
    return tensor


def batches(images, labels, size, rank=0, world_size=1):
    made = []
    for start in range(0, len(images), size):
        total = min(size, len(images) - start)
        rows = rank_slice(slice(start, start + total), rank, world_size)
        label = labels[rows]
        made.append(Batch(images[rows], label, label, torch.zeros(len(label), dtype=torch.bool), label, total))
    return made


def loop(network, images, labels, objective):
    """The mean of squared gradients, one sample after the other."""
    total = 0
    for n in range(len(images)):
        value = objective(network(images[n : n + 1]), labels[n : n + 1]).sum()
        gradients = torch.autograd.grad(value, list(network.parameters()), allow_unused=True, materialize_grads=True)
        total = total + torch.cat([gradient.flatten() for gradient in gradients]) ** 2
    return total / len(images)


class Attention(nn.Module):
    """Rows that a linear layer sees several of, a parameter of its own, a layer used twice, and a tied one."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.rand(5))
        self.twice = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)
        self.tied = nn.Linear(5, 5, bias=False)
        self.other = nn.Linear(5, 5)
        self.other.weight = self.tied.weight
        self.head = nn.Linear(5, 3)

    def forward(self, images):
        seen = torch.tanh(self.rows(images.flatten(1, 2))) * self.scale
        seen = self.twice(torch.tanh(self.twice(seen)))
        return self.head(self.other(torch.tanh(self.tied(self.norm(seen)))).mean(1))


class Convolutions(nn.Sequential):
    """Strides, dilation, groups, padding by reflection and by name, batch norm without and with an affine map."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
            nn.BatchNorm2d(4),
            nn.CELU(inplace=True),
            nn.Conv2d(4, 6, (2, 3), dilation=2, padding=(1, 2), bias=False),
            nn.BatchNorm2d(6, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(6, 4, 3, padding="same"),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(16),
            nn.Linear(16, 3),
        )


class Windows(nn.Module):
    """Parts of an image, and places of a sequence, where a layer has its samples otherwise."""

    def __init__(self):
        super().__init__()
        self.window = nn.Linear(4, 5)
        self.place = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, images):
        seen = torch.tanh(self.window(images.reshape(-1, 4))).reshape(len(images), -1, 5)
        seen = torch.tanh(self.place(seen.transpose(0, 1))).transpose(0, 1)
        return self.head(seen.mean(1))


class Normed(nn.Module):
    """Weights that hooks make from other parameters, and one that is used beside its layer, too."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.weight_norm(nn.Linear(8, 6))
        self.second = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.third = nn.utils.spectral_norm(nn.Linear(6, 6))
        self.tied = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, images):
        seen = torch.tanh(self.second(torch.tanh(self.first(images))))
        seen = torch.tanh(self.tied(torch.tanh(self.third(seen))))
        return self.head(torch.tanh(seen @ self.tied.weight))


class Places(nn.Module):
    """Places of a sequence before samples, one or two, a layer that sees no image, a part without gradients."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.none = nn.Linear(48, 5), nn.Linear(24, 5), nn.Linear(4, 5)
        self.latent = nn.Parameter(torch.rand(1, 4))
        self.still, self.head = nn.Linear(48, 5), nn.Linear(5, 3)

    def forward(self, images):
        with torch.no_grad():
            still = self.still(images.flatten(1))
        one = self.one(images.flatten(1).unsqueeze(0)).squeeze(0)
        two = torch.tanh(self.two(images.flatten(2).transpose(0, 1))).sum(0)
        return self.head(torch.tanh(one + two + self.none(self.latent.expand(len(images), 4)) + still))


class Still(nn.Module):
    """A layer on features without gradients, after a change of the image in place."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(48, 5), nn.Linear(5, 3)

    def forward(self, images):
        with torch.no_grad():
            seen = torch.tanh(self.backbone(images.flatten(1).clone().relu_()))
        return self.head(seen)


CASES = {
    "places": (Places, (2, 4, 6)),
    "still": (Still, (2, 4, 6)),
    "normed": (Normed, (8,)),
    "windows": (Windows, (2, 4, 6)),
    "attention": (Attention, (2, 4, 6)),
    "convolutions": (Convolutions, (2, 9, 9)),
    "resnet9": (lambda: ResNet9(3, 1, 4), (1, 12, 12)),
    "wide_resnet": (lambda: WideResNet(10, 1, num_classes=3), (3, 8, 8)),
}


def case(name, count=7):
    torch.manual_seed(3)
    make, shape = CASES[name]
    network = make().double()
    images = torch.randn(count, *shape, dtype=torch.float64)
    network.train()(images)  # running statistics that are not those of the start
    return network.eval(), images, torch.arange(count) % 3


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")  # and still in many networks
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("objective", [task_loss, norm])
@pytest.mark.parametrize("name", CASES)
def test_the_exact_diagonal_against_a_loop_over_samples(name, objective, memory, monkeypatch):
    """In whole batches and in pieces, and with weights laid out in memory as on a GPU."""
    network, images, labels = case(name)
    want = loop(network, images, labels, objective)
    network.to(memory_format=memory)
    for chunk in (fisher.CHUNK["cpu"], 1):
        monkeypatch.setitem(fisher.CHUNK, "cpu", chunk)
        got = fisher_diagonal(network, batches(images, labels, 3), objective, alone)
        assert not got.requires_grad
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-14)
    assert want.count_nonzero() > (0 if name == "still" else 0.5) * len(want)


def test_it_depends_neither_on_order_nor_on_batches_and_leaves_no_trace():
    network, images, labels = case("resnet9")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    order = torch.tensor([4, 2, 0, 6, 1, 3, 5])
    one = fisher_diagonal(network, batches(images, labels, 7), task_loss, alone)
    other = fisher_diagonal(network, batches(images[order], labels[order], 2), task_loss, alone)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_closed_form():
    """Two parameters: logits (w . x, 0) and the label 0 give the gradient (p - 1) x, so that F = mean of its square."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

        def forward(self, x):
            logit = x @ self.weight
            return torch.stack([logit, torch.zeros_like(logit)], dim=1)

    x = torch.tensor([[1.0, 0.5], [2.0, -1.0], [-1.5, 3.0]], dtype=torch.float64)
    p = torch.tensor([1 / (1 + exp(-(0.3 * a - 0.2 * b))) for a, b in x.tolist()], dtype=torch.float64)
    gradients = (p - 1).unsqueeze(1) * x
    labels = torch.zeros(3, dtype=torch.long)
    got = fisher_diagonal(Two(), batches(x, labels, 2), task_loss, alone)
    torch.testing.assert_close(got, gradients.square().mean(0), rtol=1e-10, atol=0)
    assert got[0] != got[1]
    whole = batch_importance(Two(), batches(x, labels, 3), task_loss, torch.square, alone)
    torch.testing.assert_close(whole, gradients.mean(0).square(), rtol=1e-10, atol=0)
    one, other = gradients[:1].square().mean(0), gradients[1:].square().mean(0)  # S_f is the first sample
    found = [fisher_diagonal(Two(), batches(x[part], labels[part], 2), task_loss, alone) for part in ([0], [1, 2])]
    multiplied = Two().weight.detach() * select_and_dampen(*found, 0.1, 0.2).factors
    chosen = [a / b > 0.1 for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    by_hand = [w * min(0.2 * b / a, 1) if c else w for w, a, b, c in zip((0.3, -0.2), one, other, chosen, strict=True)]
    assert multiplied.tolist() == pytest.approx([float(w) for w in by_hand], rel=1e-10)
    assert chosen == [True, False]


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_frozen_has_no_importance(exact):
    network, images, labels = case("convolutions")
    whole = [network[0].weight.numel(), network[0].bias.numel()]
    network[0].requires_grad_(False)
    made = batches(images, labels, 3)
    found = (
        fisher_diagonal(network, made, task_loss, alone)
        if exact
        else batch_importance(network, made, norm, torch.abs, alone)
    )
    assert found[: sum(whole)].count_nonzero() == 0
    assert found[sum(whole) :].count_nonzero() > 0
    assert not network[0].weight.requires_grad


def reference(network, images, labels, size, value, measure):
    """The mean over batches of a measure of the gradient of a batch's mean."""
    measured = []
    for start in range(0, len(images), size):
        network.zero_grad()
        value(network(images[start : start + size]), labels[start : start + size]).backward()
        measured.append(torch.cat([measure(parameter.grad).flatten() for parameter in network.parameters()]))
    network.zero_grad()
    return torch.stack(measured).mean(0)


@pytest.mark.parametrize(
    ("objective", "measure", "value"),
    [
        (task_loss, torch.square, lambda logits, labels: cross_entropy(logits, labels)),
        (squared_norm, torch.abs, lambda logits, labels: (logits**2).sum() / len(logits)),
        (norm, torch.abs, lambda logits, labels: (logits**2).sum(1).sqrt().mean()),
    ],
)
def test_importances_of_batches(objective, measure, value):
    network, images, labels = case("resnet9")
    got = batch_importance(network, batches(images, labels, 3), objective, measure, alone)
    want = reference(network, images, labels, 3, value, measure)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_a_batch_of_one_is_the_exact_diagonal():
    network, images, labels = case("wide_resnet")
    of_one = batch_importance(network, batches(images, labels, 1), task_loss, torch.square, alone)
    torch.testing.assert_close(of_one, fisher_diagonal(network, batches(images, labels, 4), task_loss, alone))


def test_a_sum_over_two_slices_is_that_of_the_whole():
    """The last batch has one sample, so that one of the slices is empty."""
    network, images, labels = case("resnet9")
    parts = [fisher_diagonal(network, batches(images, labels, 3, rank, 2), task_loss, alone) for rank in range(2)]
    torch.testing.assert_close(sum(parts), fisher_diagonal(network, batches(images, labels, 3), task_loss, alone))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, images):
        seen = images.flatten(1) * 1
        out = self.layer(seen)
        seen += 1
        return celu(out)


def test_an_input_changed_in_place_is_refused():
    network = InPlace().eval()
    with pytest.raises(UserError, match="layer in place: use fisher: batch"):
        fisher_diagonal(network, batches(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), 2), task_loss, alone)
