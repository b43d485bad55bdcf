"""Scrub: its loss, its turns, its rewinding."""

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.nn.functional import cross_entropy, kl_div

from cmu_lightning.data import Batch, DigitsDataModule, Poison, Uniform, evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.experiment.execute import Job
from cmu_lightning.experiment.run import Run
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import CF, Original, Procedure, Scrub
from cmu_lightning.unlearning.checkpoint import save_tensors
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.scrub import Rewind, alternation
from tests.helpers.damage import flip_bit
from tests.helpers.networks import Linear
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, trainer, weights

NETWORK = partial(Linear, 9, 4)


def stage(**options):
    made = Scrub(NETWORK, SHORT, **options).double()
    made.start(build(NETWORK, 5).double())
    made.teachers = tuple(teacher.double() for teacher in made.teachers)
    torch.manual_seed(2)
    for parameter in made.network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def batch(deleted):
    torch.manual_seed(1)
    image, label = torch.rand(6, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    return Batch(image, label, label, torch.full((6,), deleted), torch.arange(6), 6)


def terms(made, of):
    """The two terms of the loss, summed by hand."""
    task = distillation = 0.0
    with torch.no_grad():
        teacher = made.teachers[0](of.image)
    student = made.network(of.image)
    for n in range(6):
        task = task + cross_entropy(student[n : n + 1], of.label[n : n + 1])
        soft, target = (student[n] / 4).log_softmax(0), (teacher[n] / 4).softmax(0)
        distillation = distillation + 16 * kl_div(soft, target, reduction="sum")
    return task / 6, distillation / 6


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("ascend", ["both", "task", "distillation"])
def test_the_loss_and_its_gradient(ascend, deleted):
    made, of = stage(ascend=ascend, distill=0.7), batch(deleted)
    task, distillation = terms(made, of)
    both = task + 0.7 * distillation
    want = -{"both": both, "task": task, "distillation": distillation}[ascend] if deleted else both
    got = made.loss(of).mean()
    assert got.item() == pytest.approx(want.item(), abs=1e-10)
    parameters = list(made.network.parameters())
    for mine, theirs in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)


def test_forgetting_is_the_retain_loss_with_its_sign_turned():
    made = stage()
    torch.testing.assert_close(made.loss(batch(True)), -made.loss(batch(False)), atol=0, rtol=0)


def by_the_paper(steps, forget_steps, forget_epoch, retain_epoch):
    """The released code's loop: the number of steps is looked at between epochs alone."""
    done = []
    while len(done) < steps:
        if len(done) < forget_steps:
            done += [0] * forget_epoch
        done += [1] * retain_epoch
    return done[:steps]


@pytest.mark.parametrize(
    "case", [(1000, 200, 1, 98), (1000, 200, 10, 88), (100, 20, 1, 10), (7, 3, 2, 2), (5, 9, 3, 4)]
)
def test_the_turns_by_epoch(case):
    assert alternation(*case, "epoch") == by_the_paper(*case)


def test_the_paper_s_settings_forget_in_three_or_thirty_steps():
    assert alternation(1000, 200, 1, 98, "epoch").count(0) == 3
    assert alternation(1000, 200, 10, 88, "epoch").count(0) == 30


def test_the_turns_by_step():
    assert alternation(8, 4, 3, 3, "step") == [0, 1, 0, 1, 1, 1, 1, 1]
    assert alternation(5, 0, 3, 3, "step") == [1] * 5


class Watch(Callback):
    """What every step trained on, and at which rate."""

    def on_train_start(self, trainer, stage):
        self.seen = []

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.seen.append((batch.deleted.unique().tolist(), batch.total, rate))


def test_a_run_alternates_over_whole_passes_and_then_only_retains(tmp_path, original):
    watch, procedure = Watch(), Procedure(steps=24, unlearn_steps=14, batch_size=300)
    made = Scrub(LINEAR, procedure, original, forget_steps=5)
    trainer(tmp_path, watch).fit(made, datamodule=digits(0.5))
    kinds = [deleted for deleted, _, _ in watch.seen]
    assert kinds == [[True], *[[False]] * 4, *[[False]] * 9]
    assert [total for _, total, _ in watch.seen][:6] == [18, 300, 300, 300, 279, 300]
    assert [rate for _, _, rate in watch.seen] == pytest.approx(
        [0.0025 * procedure.rate(step, 14) for step in range(14)]
    )
    assert made.samples_forward == 2 * made.samples_backward


def test_without_forget_steps_and_distillation_it_is_fine_tuning(tmp_path, original):
    one, other = trainer(tmp_path), trainer(tmp_path)
    scrub = Scrub(LINEAR, SHORT, original, distill=0.0, lr=SHORT.lr, forget_steps=0)
    cf = CF(LINEAR, SHORT, original)
    one.fit(scrub, datamodule=digits(0.5))
    other.fit(cf, datamodule=digits(0.5))
    assert equal_tensors(dict(scrub.network.state_dict()), dict(cf.network.state_dict()))


class Stop(Callback):
    def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
        if batch_idx == 6:
            trainer.save_checkpoint(trainer.default_root_dir + "/half.ckpt")


@pytest.mark.parametrize("alternate", ["epoch", "step"])
def test_a_resumed_run_ends_at_the_same_weights(tmp_path, original, alternate):
    whole, rest = (Scrub(LINEAR, SHORT, original, forget_steps=8, alternate=alternate) for _ in range(2))
    trainer(tmp_path, Stop()).fit(whole, datamodule=digits(0.5))
    trainer(tmp_path).fit(rest, datamodule=digits(0.5), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert equal_tensors(dict(whole.network.state_dict()), dict(rest.network.state_dict()))


@pytest.mark.parametrize(("lr", "ends", "chosen"), [(0.05, [5, 10, 13], 13), (0.3, [5, 10, 15, 20, 23], 10)])
def test_rewinding_ends_at_the_epoch_that_forgot_just_enough(tmp_path, original, lr, ends, chosen):
    """Recomputed from the kept weights, one sample at a time: once it is the last epoch, once an earlier one."""
    procedure = Procedure(steps=24, unlearn_steps=ends[-1], batch_size=300, lr=0.05)
    made = Scrub(LINEAR, procedure, original, lr=lr, forget_steps=ends[-1], rewind=True)
    data = digits(0.5)
    run = trainer(tmp_path)
    run.fit(made, datamodule=data)
    kept = sorted((tmp_path / Rewind.folder).glob("*.pt"), key=lambda path: int(path.stem))
    assert [int(path.stem) for path in kept] == ends
    deleted, held = data.all_deleted(), evaluation.of_validation(data)

    def wrong(network, what, row):
        image = data.pixels()(what.images[what.rows[row : row + 1]], what.stamped[row : row + 1])
        return float(network(image).argmax() != what.target[row, 0])

    errors, labels = [], deleted.target[:, 0]
    network = LINEAR().eval()
    for path in kept:
        network.load_state_dict(torch.load(path, weights_only=True))
        errors.append(sum(wrong(network, deleted, row) for row in range(18)) / 18)
    wanted = 0.0
    for label in labels.unique():
        rows = torch.nonzero(held.target[:, 0] == label).flatten().tolist()
        share = float((labels == label).double().mean())
        wanted += share * sum(wrong(network, held, row) for row in rows) / len(rows)
    best = min(reversed(range(len(kept))), key=lambda at: abs(errors[at] - wanted))
    assert len(set(errors)) > 1
    assert ends[best] == chosen
    assert equal_tensors(dict(made.network.state_dict()), torch.load(kept[best], weights_only=True))


class Dies(Rewind):
    """The power goes as soon as the weights of an epoch are kept, or while it looks back."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if batch_idx == self.at:
            raise KeyError("the power went")

    def on_train_epoch_end(self, trainer, pl_module):
        raise KeyError("the power went")


@pytest.mark.parametrize("at", [0, 9, None])
def test_a_run_that_dies_anywhere_still_rewinds(tmp_path, original, monkeypatch, at):
    """After an epoch's weights are kept and before a checkpoint, and after the last step."""
    procedure = Procedure(steps=24, unlearn_steps=23, batch_size=300, lr=0.05)
    whole, dying, rest = (Scrub(LINEAR, procedure, original, lr=0.3, forget_steps=23, rewind=True) for _ in range(3))
    trainer(tmp_path / "whole").fit(whole, datamodule=digits(0.5))
    every = LastCheckpoint(tmp_path / "last.ckpt", seconds=-1, rest=-1)
    every.look = 1
    monkeypatch.setattr(dying, "configure_callbacks", lambda: [Dies(at)])
    with pytest.raises(KeyError, match="power"):
        trainer(tmp_path, every).fit(dying, datamodule=digits(0.5))
    last = tmp_path / "last.ckpt"
    assert last.exists() is (at != 0)
    trainer(tmp_path).fit(rest, datamodule=digits(0.5), ckpt_path=last if last.exists() else None, weights_only=True)
    assert equal_tensors(dict(whole.network.state_dict()), dict(rest.network.state_dict()))
    assert rest.samples_forward == whole.samples_forward


def test_damaged_weights_of_an_epoch_are_named(tmp_path, original, monkeypatch):
    class Damages(Rewind):
        def on_train_epoch_end(self, trainer, pl_module):
            flip_bit(tmp_path / self.folder / "5.pt")
            super().on_train_epoch_end(trainer, pl_module)

    procedure = Procedure(steps=24, unlearn_steps=23, batch_size=300, lr=0.05)
    stage = Scrub(LINEAR, procedure, original, lr=0.3, forget_steps=23, rewind=True)
    monkeypatch.setattr(stage, "configure_callbacks", lambda: [Damages()])
    expected = r"5\.pt, which rewinding needs, is missing or damaged: delete .*last\.ckpt and run the same command"
    with pytest.raises(UserError, match=expected):
        trainer(tmp_path).fit(stage, datamodule=digits(0.5))
    assert Rewind.find_damaged(tmp_path) == tmp_path / Rewind.folder / "5.pt"


@pytest.mark.parametrize("damages", [True, False])
def test_a_run_whose_kept_weights_are_damaged_starts_from_the_beginning(tmp_path, capsys, damages):
    run = Run.at(tmp_path, "poison_digits", "Scrub", 0, "0123456789")
    epoch = run.folder / Rewind.folder / "5.pt"
    for path in (run.checkpoint, epoch):
        save_tensors(path, {"state_dict": {"weight": torch.zeros(1000)}})
    if damages:
        flip_bit(epoch)
    found = Job(None, None, None, run, None, {})._find_checkpoint()
    assert (found is None, run.checkpoint.exists(), epoch.exists()) == (damages, not damages, not damages)
    said = f"{epoch} is damaged: this unfinished run is trained from the beginning\n" if damages else ""
    assert capsys.readouterr().err == said


def test_a_run_that_is_stopped_early_rewinds_among_its_epochs(tmp_path, original):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx == 5

    procedure = Procedure(steps=24, unlearn_steps=23, batch_size=300, lr=0.05)
    stage = Scrub(LINEAR, procedure, original, lr=0.3, forget_steps=23, rewind=True)
    run = trainer(tmp_path, Stops())
    run.fit(stage, datamodule=digits(0.5))
    assert run.global_step == 6
    kept = {int(path.stem): torch.load(path, weights_only=True) for path in tmp_path.glob("epochs/*.pt")}
    assert max(kept) == 6
    rewound = int(run.logged_metrics["rewound_to"])
    assert equal_tensors(dict(stage.network.state_dict()), kept[rewound])


def test_rewinding_needs_validation_samples(tmp_path, original):
    run = trainer(tmp_path)
    data = DigitsDataModule(Poison(size=36), val_size=0)
    run.fit(Original(LINEAR, SHORT), datamodule=data)
    run.save_checkpoint(tmp_path / "none.ckpt", weights_only=True)
    made = Scrub(LINEAR, SHORT, str(tmp_path / "none.ckpt"), rewind=True)
    with pytest.raises(UserError, match="val_size=0"):
        trainer(tmp_path).fit(made, datamodule=DigitsDataModule(Poison(size=36), val_size=0))


@pytest.mark.parametrize("options", [{"distill": -1}, {"lr": 0}, {"forget_steps": -1}])
def test_impossible_options(options):
    with pytest.raises(UserError, match="Scrub needs"):
        Scrub(LINEAR, SHORT, **options)


def test_the_command_line_leaves_no_weights_of_epochs(fit, runs):
    own = shutil.copytree(runs, Path("own"))  # the session's runs stay as they are
    arguments = ["--config", "unlearn/scrub.yaml", "--model.rewind", "true", "--data.identified", "0.5"]
    assert fit("--runs_dir", str(own), *arguments) == 0
    (folder,) = own.glob("poison_digits/Scrub/*")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "csv", "last.ckpt", "metrics.json"}
    assert weights(folder / "last.ckpt")


def test_rewinding_and_averages_exclude_each_other(tmp_path, original):
    stage = Scrub(LINEAR, SHORT, original, rewind=True)
    with pytest.raises(
        UserError, match="rewinding ends with one epoch's weights, and weight averaging with an average"
    ):
        trainer(tmp_path, EMAWeightAveraging()).fit(stage, datamodule=digits(0.5))


def test_rewinding_needs_validation_samples_of_every_class_of_s_f(tmp_path):
    def data():
        return DigitsDataModule(Poison(size=36, target=target), val_size=1)

    target = 0
    first = data()
    first.setup()
    target = int(first.validation.true_labels[0] + 1) % 10
    run, path = trainer(tmp_path), str(tmp_path / "original.ckpt")
    run.fit(Original(LINEAR, SHORT), datamodule=data())
    run.save_checkpoint(path, weights_only=True)
    with pytest.raises(UserError, match=f"no validation sample is of class {target}"):
        trainer(tmp_path).fit(Scrub(LINEAR, SHORT, path, rewind=True), datamodule=data())


def test_a_single_sample_of_s_f_does_for_batch_norm_and_one_left_of_the_retain_data_does_not(tmp_path):
    network = partial(ResNet9, num_classes=10, in_channels=1, width=2)
    torch.save(network().state_dict(), "own.pt")
    data = DigitsDataModule(Poison(size=36), discovery=Uniform(count=1))
    made = Scrub(network, SHORT, original="own.pt")
    trainer(tmp_path).fit(made, datamodule=data)
    assert all(values.isfinite().all() for values in made.network.state_dict().values())
    one_left = Procedure(unlearn_steps=2, batch_size=1195)
    with pytest.raises(UserError, match="the batch norm of ResNet9 cannot train on a batch of one sample: set"):
        trainer(tmp_path).fit(CF(network, one_left, original="own.pt"), datamodule=data)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"weight": torch.zeros(1)}, ["no weights"]])
def test_a_file_in_the_place_of_kept_weights_is_said(tmp_path, content):
    save_tensors(tmp_path / Rewind.folder / "1.pt", content)
    stage = SimpleNamespace(place=tmp_path, network=LINEAR())
    with pytest.raises(UserError, match=r"1\.pt, which rewinding needs, is missing or damaged: delete .*last\.ckpt"):
        Rewind()._load(stage, 0)
