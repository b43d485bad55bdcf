"""Gradient ascent, NPO and NegGrad+: losses and gradients, limits, the stop rule, one step by hand."""

import copy
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import CF, NPO, GradientAscent, NegGradPlus, Procedure
from cmu_lightning.unlearning.ascent import preference
from cmu_lightning.unlearning.networks import build
from tests.helpers.networks import Linear
from tests.helpers.short_stages import LINEAR, SHORT, digits, fitted, trainer

NETWORK = partial(Linear, 9, 4)
NORMED = partial(ResNet9, num_classes=10, in_channels=1, width=2)
CONSTANT = Procedure(steps=24, unlearn_steps=6, batch_size=300, lr=0.05, momentum=0.0, weight_decay=0.0, warmup=0.0)


def batch(size=6, seed=1):
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(size, 1, 3, 3, dtype=torch.float64, generator=random)
    label = torch.arange(size) % 4
    return Batch(image, label, label, torch.ones(size, dtype=torch.bool), torch.arange(size), size)


def stage(kind, moved=0.0, **options):
    """An unlearner in 64 bits, started from an original, `moved` away from it."""
    made = kind(NETWORK, SHORT, **options).double()
    made.start(build(NETWORK, 5).double())
    made.teachers = tuple(teacher.double() for teacher in getattr(made, "teachers", ()))
    torch.manual_seed(2)
    for parameter in made.network.parameters():
        parameter.data += moved * torch.randn_like(parameter)
    return made


def gradients(loss, network):
    return torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)


def assert_equal_gradients(one, other, network, factor=1.0):
    for mine, theirs in zip(gradients(one, network), gradients(other, network), strict=True):
        torch.testing.assert_close(mine, factor * theirs, atol=1e-10, rtol=0)


def test_gradient_ascent_is_the_negative_of_fine_tuning_on_s_f():
    made, of = stage(GradientAscent, 0.3), batch()
    task = cross_entropy(made.network(of.image), of.label, reduction="none")
    torch.testing.assert_close(made.loss(of), -task)
    assert_equal_gradients(made.loss(of).mean(), task.mean(), made.network, factor=-1)


@pytest.mark.parametrize("beta", [0.01, 0.5, 3.0])
def test_npo_against_its_formula(beta):
    made, of = stage(NPO, 0.5, beta=beta), batch()
    with torch.no_grad():
        original = build(NETWORK, 5).double()(of.image)
    expected = []
    for n in range(6):
        ratio = made.network(of.image)[n].softmax(0)[of.label[n]] / original[n].softmax(0)[of.label[n]]
        # The preference for the label as in the paper: (2 / beta) log(1 + ratio^beta).
        expected.append(2 / beta * torch.log(1 + ratio**beta))
    torch.testing.assert_close(made.loss(of), torch.stack(expected))
    assert_equal_gradients(made.loss(of).mean(), torch.stack(expected).mean(), made.network)


@pytest.mark.parametrize("beta", [0.01, 1.0, 20.0])
def test_at_the_original_npo_has_the_gradient_of_gradient_ascent(beta):
    npo, ascent, of = stage(NPO, beta=beta), stage(GradientAscent), batch()
    assert npo.loss(of).mean().item() == pytest.approx(2 / beta * torch.tensor(2.0).log().item())
    for mine, theirs in zip(
        gradients(npo.loss(of).mean(), npo.network), gradients(ascent.loss(of).mean(), ascent.network), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_npo_with_a_small_beta_is_gradient_ascent():
    made, of = stage(NPO, 0.5, beta=1e-6), batch()
    task = cross_entropy(made.network(of.image), of.label)
    for mine, theirs in zip(gradients(made.loss(of).mean(), made.network), gradients(-task, made.network), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_npo_fades_as_a_sample_is_forgotten():
    loss = torch.tensor([0.0, 1.0, 30.0], requires_grad=True)
    preference(loss, torch.zeros(3), beta=1.0).sum().backward()
    torch.testing.assert_close(loss.grad, -2 / (1 + torch.tensor([0.0, 1.0, 30.0]).exp()))


def step_of(made, retain, forget):
    """The loss of a step, on one process."""

    class One:
        world_size = 1
        log_every_n_steps = 0
        loggers = ()
        global_step = 0
        global_rank = 0

    made._trainer = One()
    made.begin_step = lambda _: None
    made.log_curves = lambda _: None
    return made.training_step((retain, forget), 0)


def pair(retain_size=5, forget_size=3):
    return (
        batch(retain_size, seed=3)._replace(deleted=torch.zeros(retain_size, dtype=torch.bool)),
        batch(forget_size, seed=4),
    )


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.95, 1.0])
def test_neg_grad_plus_against_its_formula(weight):
    made, (retain, forget) = stage(NegGradPlus, 0.3, retain_weight=weight), pair()
    expected = weight * cross_entropy(made.network(retain.image), retain.label)
    expected = expected - (1 - weight) * cross_entropy(made.network(forget.image), forget.label)
    loss = step_of(made, retain, forget)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
    assert_equal_gradients(loss, expected, made.network)


def test_equal_batches_of_equal_weight_cancel():
    made, same = stage(NegGradPlus, 0.3, retain_weight=0.5), batch()
    loss = step_of(made, same, same)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in gradients(loss, made.network):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [LINEAR, NORMED])
def test_neg_grad_plus_with_all_weight_on_one_part_is_the_method_of_that_part(tmp_path, make):
    """Statistics of batch norm included, which a pass without weight would move."""
    torch.save(build(make, 7).state_dict(), "own.pt")
    limits = {1.0: CF(make, SHORT, "own.pt"), 0.0: GradientAscent(make, SHORT, "own.pt", lr=None, stop_at=None)}
    for weight, method in limits.items():
        one = fitted(tmp_path, NegGradPlus(make, SHORT, "own.pt", retain_weight=weight))
        other = fitted(tmp_path, method)
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], atol=1e-4, rtol=1e-3)


def test_the_first_step_of_gradient_ascent_by_hand(tmp_path, original):
    procedure = Procedure(steps=24, unlearn_steps=1, batch_size=300, momentum=0.0, weight_decay=0.0, warmup=0.0)
    made, data = GradientAscent(LINEAR, procedure, original, lr=0.1), digits(0.5)
    run = trainer(tmp_path)
    run.fit(made, datamodule=data)
    network = LINEAR()
    network.load_state_dict(made.load_original().state_dict())
    before = copy.deepcopy(network)
    seen = data.train_dataloader().batch(0)
    assert seen.deleted.all()
    assert len(seen.label) == seen.total == 18
    cross_entropy(network(seen.image), seen.label).backward()
    for got, parameter, start in zip(made.network.parameters(), network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(got, start + 0.1 * parameter.grad)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (GradientAscent, {"lr": 0.0}, "GradientAscent needs lr > 0, not lr=0.0"),
        (GradientAscent, {"stop_at": 1.5}, "stop_at from 0 to 1, a fraction of S_f, not stop_at=1.5"),
        (NPO, {"check_every": 0}, "check_every >= 1, a number of steps, not check_every=0"),
        (NPO, {"beta": 0.0}, "NPO needs beta > 0, not beta=0.0"),
        (NegGradPlus, {"retain_weight": 1.1}, "retain_weight from 0 to 1, not retain_weight=1.1"),
    ],
)
def test_impossible_options(kind, options, says):
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        kind(LINEAR, SHORT, **options)
