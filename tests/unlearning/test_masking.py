"""Masks over parameters: masked entries stay bit for bit, whatever optimiser trains the others."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import CF, MaskedUnlearner, Procedure
from cmu_lightning.unlearning.masking import ParameterMask
from tests.helpers.networks import Linear
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, fitted, trainer, weights

NETWORK = partial(Linear, 9, 4)
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.1, momentum=0.5, weight_decay=0.1),
    "Rprop": partial(torch.optim.Rprop, lr=0.1),
}


def random_mask(network, seed=3):
    random = torch.Generator().manual_seed(seed)
    return {name: torch.rand(each.shape, generator=random) < 0.5 for name, each in network.named_parameters()}


def train(network, optimizer, mask, steps=6):
    random = torch.Generator().manual_seed(1)
    optimizer.register_step_post_hook(lambda *_: mask.restore(optimizer))
    for _ in range(steps):
        image, label = torch.rand(6, 1, 3, 3, generator=random), torch.arange(6) % 4
        optimizer.zero_grad()
        cross_entropy(network(image), label).backward()
        mask.gate_gradients()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_entries_stay_bit_for_bit_and_are_forgotten_by_the_optimiser(name):
    network = NETWORK()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    trained, optimizer = random_mask(network), OPTIMIZERS[name](network.parameters())
    train(network, optimizer, ParameterMask(network, trained))
    for key, parameter in network.named_parameters():
        assert torch.equal(parameter[~trained[key]], before[key][~trained[key]])
        assert (parameter[trained[key]] != before[key][trained[key]]).double().mean() > 0.9
        for remembered in optimizer.state[parameter].values():
            if remembered.shape == parameter.shape:
                assert not remembered[~trained[key]].any()


def test_the_other_entries_move_as_by_an_optimiser_of_their_own():
    """SGD with momentum and weight decay, by hand, on the trained entries."""
    network, by_hand = NETWORK(), NETWORK()
    by_hand.load_state_dict(network.state_dict())
    trained = random_mask(network)
    train(network, OPTIMIZERS["SGD"](network.parameters()), ParameterMask(network, trained))
    random, velocity = torch.Generator().manual_seed(1), dict.fromkeys(trained, 0.0)
    for _ in range(6):
        image, label = torch.rand(6, 1, 3, 3, generator=random), torch.arange(6) % 4
        by_hand.zero_grad()
        cross_entropy(by_hand(image), label).backward()
        for key, parameter in by_hand.named_parameters():
            velocity[key] = 0.9 * velocity[key] + parameter.grad + 0.1 * parameter.data
            parameter.data -= 0.1 * velocity[key] * trained[key]
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, by_hand.get_parameter(key))


def test_of_a_parameter_that_is_masked_as_a_whole_there_is_no_gradient():
    network = NETWORK()
    trained = {name: torch.ones_like(each, dtype=torch.bool) for name, each in network.named_parameters()}
    trained["1.weight"].zero_()
    mask = ParameterMask(network, trained)
    assert mask.parts == []
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == ["1.weight"]


class Half(MaskedUnlearner):
    """CF on every second entry."""

    view = "retain"

    def trained_entries(self, original):
        return {name: (torch.arange(each.numel()) % 2 == 0).view_as(each) for name, each in original.named_parameters()}


class Everything(Half):
    def trained_entries(self, original):
        return {name: torch.ones_like(each, dtype=torch.bool) for name, each in original.named_parameters()}


@pytest.mark.parametrize("kind", [None, torch.optim.AdamW])
def test_a_stage_with_a_mask(tmp_path, original, kind):
    procedure = Procedure(steps=24, unlearn_steps=10, batch_size=300, lr=0.05, optimizer=kind)
    state = fitted(tmp_path, Half(LINEAR, procedure, original))
    for key, values in weights(original).items():
        got, start = state[key.removeprefix("network.")].flatten(), values.flatten()
        assert torch.equal(got[1::2], start[1::2])
        assert (got[::2] != start[::2]).any()


def test_a_mask_of_everything_is_no_mask(tmp_path, original):
    assert equal_tensors(
        fitted(tmp_path, Everything(LINEAR, SHORT, original)), fitted(tmp_path, CF(LINEAR, SHORT, original))
    )


def test_a_mask_that_is_not_defined_is_said(tmp_path, original):
    class Nothing(MaskedUnlearner):
        view = "retain"

    with pytest.raises(UserError, match="Nothing has no trained_entries, which says what is trained: define it"):
        fitted(tmp_path, Nothing(LINEAR, SHORT, original))


def test_clipping_does_not_see_the_gradients_of_masked_entries(tmp_path, original):
    """With a norm that only the trained entries exceed: the step is as long as the clipped gradient."""
    procedure = Procedure(
        steps=24, unlearn_steps=1, batch_size=300, lr=0.05, momentum=0.0, weight_decay=0.0, warmup=0.0
    )
    made = Half(LINEAR, procedure, original)
    trainer(tmp_path, gradient_clip_val=1e-3).fit(made, datamodule=digits(0.5))
    start = {key.removeprefix("network."): value for key, value in weights(original).items()}
    moved = torch.cat([(value - start[key]).flatten() for key, value in made.network.state_dict().items()])
    assert float(moved.double().norm()) == pytest.approx(0.05 * 1e-3, rel=1e-2)
