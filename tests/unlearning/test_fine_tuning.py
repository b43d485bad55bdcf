"""L1Sparse and NGD: a step by hand, and that nothing added is CF."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import CF, NGD, L1Sparse, Procedure
from tests.helpers.networks import Linear
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, fitted, trainer, weights

PLAIN = Procedure(steps=24, unlearn_steps=3, batch_size=300, lr=0.05, momentum=0.0, weight_decay=0.0, warmup=0.0)


@pytest.mark.parametrize("made", [partial(L1Sparse, penalty=0.0), partial(NGD, variance=0.0)])
def test_with_nothing_added_it_is_cf(tmp_path, original, made):
    one = fitted(tmp_path, made(LINEAR, SHORT, original))
    assert equal_tensors(one, fitted(tmp_path, CF(LINEAR, SHORT, original)))


@pytest.mark.parametrize("unpenalised", [0.0, 0.5])
def test_l1_sparse_against_a_plain_loop(tmp_path, original, unpenalised):
    made, data = L1Sparse(LINEAR, PLAIN, original, penalty=0.01, unpenalised=unpenalised), digits(0.5)
    run = trainer(tmp_path)
    run.fit(made, datamodule=data)
    network = Linear(144, 10)
    network.load_state_dict({key.removeprefix("network."): value for key, value in weights(original).items()})
    batches = data.train_dataloader()
    for step in range(3):
        batch = batches.batch(step)
        loss = cross_entropy(network(batch.image), batch.label)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        gamma = 0.01 * max(0, 1 - step / (3 * (1 - unpenalised)))
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.data -= 0.05 * (1 - step / 3.75) * (gradient + gamma * parameter.data.sign())
    for got, want in zip(made.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


class Flat(L1Sparse):
    """A penalty and no loss."""

    def loss(self, batch):
        return super().loss(batch) * 0


def test_without_a_gradient_of_the_data_weights_shrink_by_the_sign(tmp_path, original):
    one_step = Procedure(steps=24, unlearn_steps=1, batch_size=300, lr=0.05, weight_decay=0.0, warmup=0.0)
    state = fitted(tmp_path, Flat(LINEAR, one_step, original, penalty=0.01))
    for key, values in weights(original).items():
        expected = values - 0.05 * 0.01 * values.sign()
        torch.testing.assert_close(state[key.removeprefix("network.")], expected, atol=1e-8, rtol=1e-6)


def test_ngd_adds_noise_of_its_variance_to_each_gradient(tmp_path, original):
    """By one step of rate 0.05 without momentum: the difference to CF's step is 0.05 times the noise."""
    one_step = Procedure(steps=24, unlearn_steps=1, batch_size=300, lr=0.05, momentum=0.0, weight_decay=0.0, warmup=0.0)
    cf = fitted(tmp_path, CF(LINEAR, one_step, original))
    states = [fitted(tmp_path, NGD(LINEAR, one_step, original, variance=0.04, seed=seed)) for seed in (0, 0, 1)]
    noise = torch.cat([((cf[key] - states[0][key]) / 0.05).flatten() for key in cf])
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.03)
    assert equal_tensors(states[0], states[1])
    assert not equal_tensors(states[0], states[2])


def test_noise_differs_from_step_to_step(tmp_path, original):
    two_steps = Procedure(
        steps=24, unlearn_steps=2, batch_size=2000, lr=1e-3, momentum=0.0, weight_decay=0.0, warmup=0.0
    )
    made = NGD(LINEAR, two_steps, original, variance=1e6)
    seen = []
    made.on_train_batch_end = lambda *_: seen.append(made.network[1].weight.detach().clone())
    trainer(tmp_path).fit(made, datamodule=digits(0.5))
    start = weights(original)["network.1.weight"]
    first, second = (seen[0] - start).flatten(), (seen[1] - seen[0]).flatten()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1


@pytest.mark.parametrize(
    ("kind", "options"), [(L1Sparse, {"penalty": -1.0}), (L1Sparse, {"unpenalised": 1.0}), (NGD, {"variance": -1.0})]
)
def test_impossible_options(kind, options):
    with pytest.raises(UserError, match=f"{kind.__name__} needs"):
        kind(LINEAR, SHORT, **options)
