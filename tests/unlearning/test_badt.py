import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback

from cmu_lightning.data import Batch
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import BadT, Scrub
from cmu_lightning.unlearning.distillation import divergence
from cmu_lightning.unlearning.networks import build
from tests.helpers.networks import Linear
from tests.helpers.short_stages import SHORT, digits, equal_tensors, trainer


def test_divergence_against_sums_over_classes():
    torch.manual_seed(0)
    student, teacher = (torch.randn(4, 5, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    losses = divergence(student, teacher)
    p, q = teacher.softmax(1), student.softmax(1)
    for n in range(4):
        expected = sum(p[n, c] * torch.log(p[n, c] / q[n, c]) for c in range(5))
        assert losses[n].item() == pytest.approx(expected.item(), abs=1e-10)
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    torch.testing.assert_close(gradient, q - p, atol=1e-10, rtol=0)


def stage_with_teachers(reduction):
    stage = BadT(partial(Linear, 9, 4), SHORT, reduction=reduction).double()
    stage.start(build(partial(Linear, 9, 4), 5).double())
    stage.teachers = tuple(teacher.double() for teacher in stage.teachers)
    return stage


def batch(deleted):
    torch.manual_seed(1)
    image, label = torch.rand(6, 1, 3, 3, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    return Batch(image, label, label, deleted, torch.arange(6), 6)


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_the_loss_and_its_gradient_against_torchs_kl_div(reduction):
    stage = stage_with_teachers(reduction)
    mixed = batch(torch.tensor([True, False, True, False, False, False]))
    torch.manual_seed(2)
    for parameter in stage.network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    got = stage.loss(mixed).mean()
    good, bad = (teacher(mixed.image).softmax(1) for teacher in stage.teachers)
    flag = mixed.deleted.double().unsqueeze(1)
    target = flag * bad + (1 - flag) * good
    student = stage.network(mixed.image).log_softmax(1)
    want = torch.nn.functional.kl_div(student, target, reduction="sum") / (24 if reduction == "mean" else 6)
    assert got.item() == pytest.approx(want.item(), abs=1e-10)
    parameters = list(stage.network.parameters())
    for mine, theirs in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)


def test_its_two_limits():
    """Nothing deleted: the student already is the good teacher. All deleted: only the bad teacher counts."""
    stage = stage_with_teachers("batchmean")
    nothing = stage.loss(batch(torch.zeros(6, dtype=torch.bool)))
    torch.testing.assert_close(nothing, torch.zeros_like(nothing), atol=1e-10, rtol=0)
    everything = batch(torch.ones(6, dtype=torch.bool))
    bad = stage.teachers[1](everything.image)
    torch.testing.assert_close(stage.loss(everything), divergence(stage.network(everything.image), bad))
    assert stage.loss(everything).min() > 0


@pytest.mark.parametrize(("method", "count"), [(BadT, 2), (Scrub, 1)])
def test_teachers_stay_as_they_are_and_out_of_checkpoints(tmp_path, method, count):
    """With batch norm, whose statistics move wherever a network is in training mode."""
    network = partial(ResNet9, num_classes=10, in_channels=1, width=2)
    torch.save(network().state_dict(), "own.pt")

    class Keep(Callback):
        def on_train_start(self, trainer, stage):
            self.before = [copy.deepcopy(teacher.state_dict()) for teacher in stage.teachers]

    keep, stage = Keep(), method(network, SHORT, "own.pt")
    assert stage.teachers == ()
    run = trainer(tmp_path, keep)
    run.fit(stage, datamodule=digits(0.5))
    after = [dict(teacher.state_dict()) for teacher in stage.teachers]
    assert [equal_tensors(old, new) for old, new in zip(keep.before, after, strict=True)] == [True] * count
    assert not equal_tensors(keep.before[0], dict(stage.network.state_dict()))
    assert count == 1 or not equal_tensors(*keep.before)
    assert not any(teacher.training for teacher in stage.teachers)
    run.save_checkpoint(tmp_path / "badt.ckpt", weights_only=True)
    kept = torch.load(tmp_path / "badt.ckpt", weights_only=True)["state_dict"]
    assert set(kept) == {f"network.{key}" for key in network().state_dict()}
    assert stage.samples_forward == (1 + count) * stage.samples_backward
