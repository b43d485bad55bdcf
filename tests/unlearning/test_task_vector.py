"""Task vectors: what is subtracted, by how much, and what NegMerge keeps of several."""

import json
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from cmu_lightning.data import DigitsDataModule, Poison, evaluation
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import rem_proxy
from cmu_lightning.unlearning import NegMerge, Original, Procedure, TaskVector
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.task_vector import agreed
from tests.helpers.convolutional import Convolutional
from tests.helpers.short_stages import CheckpointAfter, digits, equal_tensors, trainer, weights

NETWORK = partial(Convolutional, 10, normalises=True)
FEW = Procedure(steps=24, unlearn_steps=4, batch_size=400, lr=0.05)
NORM = ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    run = trainer(folder)
    run.fit(Original(NETWORK, FEW), datamodule=digits())
    run.save_checkpoint(folder / "original.ckpt", weights_only=True)
    return str(folder / "original.ckpt")


@pytest.fixture(autouse=True)
def scales(monkeypatch):
    """Few, for a fast test."""
    monkeypatch.setattr(TaskVector, "scales", (0.0, 1.0, 10.0))


def test_the_scales_are_the_published_ones(monkeypatch):
    monkeypatch.undo()
    assert TaskVector.scales[:3] == (0.0, 0.05, 0.1)
    assert (len(TaskVector.scales), TaskVector.scales[-1]) == (121, 6.0)


def of_original(path):
    return {key.removeprefix("network."): value for key, value in weights(path).items()}


def fitted(folder, stage, *callbacks, data=None, **resume):
    trainer(folder, *callbacks).fit(stage, datamodule=data or digits(0.5), **resume)
    return {key: value.clone() for key, value in stage.network.state_dict().items()}


def fine_tuned(path, seed=0, number=0, lr=0.0025):
    """Fine-tune the original on S_f in evaluation mode, by a plain loop."""
    data, network = digits(0.5), build(NETWORK, 0)
    data.setup()
    network.load_state_dict(of_original(path))
    source = data.training_source(data.samples.deleted, 400, derive_seed(seed, 2, number))
    optimizer = SGD(network.parameters(), lr=lr, momentum=0.9)
    for step in range(4):
        optimizer.param_groups[0]["lr"] = lr * FEW.rate(step, 4)
        batch = source.batch(step, data.pixels(), 0, 1)
        optimizer.zero_grad()
        cross_entropy(network.eval()(batch.image), batch.label).backward()
        optimizer.step()
    return {key: value.detach() for key, value in network.state_dict().items()}


def test_scale_0_is_the_original(tmp_path, original, monkeypatch):
    monkeypatch.setattr(TaskVector, "scales", (0.0,))
    stage = TaskVector(NETWORK, FEW, original)
    assert equal_tensors(fitted(tmp_path, stage), of_original(original))
    assert stage.chosen == {"scale": 0.0}


def test_scale_minus_1_is_the_fine_tuned_network_but_for_batch_norm(tmp_path, original, monkeypatch):
    monkeypatch.setattr(TaskVector, "scales", (-1.0,))
    got, want, start = fitted(tmp_path, TaskVector(NETWORK, FEW, original)), fine_tuned(original), of_original(original)
    for key, value in got.items():
        torch.testing.assert_close(value, start[key] if key in NORM else want[key], atol=1e-6, rtol=1e-5)
        assert key not in NORM or torch.equal(value, start[key])
    assert not torch.allclose(got["0.weight"], start["0.weight"], atol=1e-5)


def test_the_best_scale_is_kept_and_what_is_tried_is_written(tmp_path, original, monkeypatch):
    """Each candidate is scored as the network of that scale is."""
    monkeypatch.setattr(TaskVector, "scales", (0.0, 5.0, 20.0, 80.0))
    stage, data = TaskVector(NETWORK, FEW, original, lr=0.02), digits(0.5)
    got = fitted(tmp_path, stage, data=data)
    tried = json.loads((tmp_path / "candidates.json").read_text())
    assert [each["scale"] for each in tried] == [0.0, 5.0, 20.0, 80.0]
    best = max(tried, key=lambda each: each["proxy"])
    assert stage.chosen == {"scale": best["scale"]}
    assert best["scale"] > 0
    start, vector = of_original(original), fine_tuned(original, lr=0.02)
    for key, value in got.items():
        moved = start[key] if key in NORM else start[key] - best["scale"] * (vector[key] - start[key])
        torch.testing.assert_close(value, moved, atol=1e-4, rtol=1e-4)
    val_acc = float(stage.accuracies(evaluation.of_validation(data))[0])
    fit = float(stage.accuracies(data.all_deleted())[0])
    assert best == {"scale": best["scale"], "val_acc": val_acc, "fit_identified": fit, "proxy": rem_proxy(val_acc, fit)}
    assert best["proxy"] == pytest.approx(val_acc * (1 - max(fit, 0.2)))


def test_samples_are_counted(tmp_path, original):
    """4 steps on 18 samples, and 3 looks at these and at 203 that validate."""
    stage = TaskVector(NETWORK, FEW, original)
    fitted(tmp_path, stage)
    assert stage.samples_backward == 4 * 18
    assert stage.samples_forward == 4 * 18 + 3 * (18 + 203)


def test_consensus_of_signs_against_a_loop():
    torch.manual_seed(0)
    vectors = torch.randn(5, 40).mul(torch.randint(0, 2, (40,)))  # zeros, too
    got = agreed(vectors.sum(0), vectors.sign().sum(0), 5)
    for entry in range(40):
        column = vectors[:, entry]
        same = bool((column > 0).all() or (column < 0).all())
        assert got[entry].item() == pytest.approx(column.mean().item() if same else 0.0)
    assert torch.equal(agreed(vectors[0], vectors[0].sign(), 1), vectors[0])  # one vector is itself
    opposite = torch.stack([vectors[0], -vectors[0]])
    assert not agreed(opposite.sum(0), opposite.sign().sum(0), 2).any()


def test_neg_merge_subtracts_what_all_fine_tunings_agree_on(tmp_path, original, monkeypatch):
    monkeypatch.setattr(TaskVector, "scales", (0.5,))
    stage = NegMerge(NETWORK, FEW, original, lr=0.01, rates=(0.5, 2.0), repeats=1)
    got, start = fitted(tmp_path, stage), of_original(original)
    assert stage.global_step == 8
    ends = [fine_tuned(original, number=0, lr=0.005), fine_tuned(original, number=1, lr=0.02)]
    share = []
    for key in start.keys() - set(NORM):
        vectors = torch.stack([end[key] - start[key] for end in ends])
        same = (vectors.sign().sum(0).abs() == 2) | (vectors.abs().amax(0) < 1e-7)
        share.append(same.double().mean().item())
        want = start[key] - 0.5 * vectors.mean(0) * same
        # Entries that hardly move may round to either sign.
        clear = vectors.abs().amin(0) > 1e-6
        torch.testing.assert_close(got[key][clear], want[clear], atol=1e-6, rtol=1e-4)
    assert min(share) > 0
    assert all(torch.equal(got[key], start[key]) for key in NORM)


def test_neg_merge_of_one_is_a_task_vector(tmp_path, original):
    one = fitted(tmp_path, TaskVector(NETWORK, FEW, original))
    assert equal_tensors(fitted(tmp_path, NegMerge(NETWORK, FEW, original, rates=(1.0,), repeats=1)), one)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_resumes_bit_for_bit(tmp_path, original, step):
    """Within a fine-tuning, at its end, and within the second."""
    path, make = (
        tmp_path / "middle.ckpt",
        partial(NegMerge, NETWORK, FEW, original, lr=0.02, rates=(1.0, 2.0), repeats=1),
    )
    whole, resumed = make(), make()
    want = fitted(tmp_path, whole, CheckpointAfter(path, step))
    assert equal_tensors(fitted(tmp_path, resumed, ckpt_path=str(path), weights_only=True), want)
    assert resumed.chosen == whole.chosen
    assert resumed.samples_forward == whole.samples_forward


def test_one_known_sample_works(tmp_path, original):
    state = fitted(tmp_path, TaskVector(NETWORK, FEW, original), data=digits(1 / 36))
    assert all(bool(values.isfinite().all()) for values in state.values())


def test_it_needs_validation_samples(tmp_path, original):
    with pytest.raises(UserError, match="TaskVector chooses by validation samples, and val_size=0 leaves none"):
        fitted(tmp_path, TaskVector(NETWORK, FEW, original), data=DigitsDataModule(Poison(size=36), val_size=0))


def test_impossible_options():
    with pytest.raises(UserError, match=r"lr=0\.0"):
        TaskVector(NETWORK, FEW, lr=0.0)
    with pytest.raises(UserError, match="repeats=0"):
        NegMerge(NETWORK, FEW, repeats=0)
