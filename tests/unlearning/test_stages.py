import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, GradientAccumulationScheduler
from torch import nn
from torch.nn.functional import cross_entropy

from cmu_lightning import unlearning
from cmu_lightning.data import Batch, DigitsDataModule, InterclassConfusion, LossRanking, Poison
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import (
    CF,
    ETD,
    PURE,
    REM,
    BadT,
    Dampener,
    GradientAscent,
    Keep,
    NegMerge,
    Original,
    Procedure,
    RewoD,
    Scrub,
    TaskVector,
    Unlearner,
)
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.trainer_checks import check_trainer
from tests.helpers.networks import Linear
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, trainer, weights


def test_a_network_depends_on_its_seed_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = build(LINEAR, 5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert equal_tensors(build(LINEAR, 5).state_dict(), one)
    assert not equal_tensors(build(LINEAR, 6).state_dict(), one)


def test_slices_of_a_batch_give_its_mean_loss_and_gradient(tmp_path):
    """DDP averages gradients over processes; uneven and empty slices must not change the result."""
    stage = Original(LINEAR, SHORT).double()
    stage.trainer = trainer(tmp_path)
    image, label = torch.rand(5, 1, 12, 12, dtype=torch.float64), torch.tensor([1, 2, 3, 4, 5])
    expected = cross_entropy(stage.network(image), label)
    gradients = torch.autograd.grad(expected, list(stage.network.parameters()))

    class Three:
        world_size = 3

    stage._trainer = Three()
    losses, total = 0, [torch.zeros_like(gradient) for gradient in gradients]
    for part in (slice(0, 3), slice(3, 5), slice(5, 5)):
        nothing = torch.zeros(0, dtype=torch.bool)
        loss = stage.global_mean(
            stage.loss(Batch(image[part], label[part], label[part], nothing, nothing, 5)), batch_of_size(5)
        )
        losses += loss.detach() / 3
        for sum_, gradient in zip(total, torch.autograd.grad(loss, list(stage.network.parameters())), strict=True):
            sum_ += gradient / 3
    assert losses.item() == pytest.approx(expected.item(), abs=1e-12)
    for got, want in zip(total, gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


def batch_of_size(total: int) -> Batch:
    """An empty slice of a global batch."""
    empty = torch.empty(0)
    return Batch(empty, empty, empty, empty, empty, total)


def test_an_empty_slice_of_a_network_with_batch_norm_gives_zero_gradients():
    network = ResNet9(10, 1, 4)
    cross_entropy(
        network(torch.zeros(0, 1, 12, 12)), torch.zeros(0, dtype=torch.long), reduction="none"
    ).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in network.parameters())
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def test_the_original_equals_a_plain_loop(tmp_path):
    """Exactly `steps` steps of SGD under the schedule on the batches that the data serve."""
    data, stage = digits(), Original(LINEAR, SHORT, seed=2)
    run = trainer(tmp_path)
    run.fit(stage, datamodule=data)
    assert run.global_step == SHORT.steps

    network = build(LINEAR, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    batches = data.train_dataloader()
    for step in range(24):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 30)
        batch = batches.batch(step)
        optimizer.zero_grad()
        cross_entropy(network(batch.image), batch.label).backward()
        optimizer.step()
    for got, want in zip(stage.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_cf_starts_from_the_original_and_rewod_afresh(tmp_path, original):
    class First(Callback):
        def on_train_batch_start(self, trainer, stage, batch, batch_idx):
            if batch_idx == 0:
                self.network = copy.deepcopy(stage.network.state_dict())

    started = {}
    for kind in (CF, RewoD):
        first, stage = First(), kind(LINEAR, SHORT, original, seed=7)
        run = trainer(tmp_path, first)
        run.fit(stage, datamodule=digits(0.5))
        started[kind] = first.network
        assert run.global_step == (10 if kind is CF else 24)
        assert stage.samples_backward > 0
        assert stage.seconds > 0
    of_original = {key.removeprefix("network."): value for key, value in weights(original).items()}
    assert equal_tensors(started[CF], of_original)
    assert equal_tensors(started[RewoD], build(LINEAR, 7).state_dict())


def test_without_deleted_samples_to_leave_out_rewod_is_the_original(tmp_path, original):
    """The retain view of an S_f whose labels and images count for nothing: same seed, same batches, same weights."""

    class All(RewoD):
        view = "train"

    stage = All(LINEAR, SHORT, original, seed=0)
    trainer(tmp_path).fit(stage, datamodule=digits(0.5))
    of_original = {key.removeprefix("network."): value for key, value in weights(original).items()}
    assert equal_tensors(dict(stage.network.state_dict()), of_original)


def test_measurements_against_a_loop_over_images(tmp_path, original):
    data, stage = digits(0.5), CF(LINEAR, SHORT, original)
    run = trainer(tmp_path)
    run.fit(stage, datamodule=data)
    run.test(stage, datamodule=data, verbose=False)
    network = stage.network.eval()

    def predict(images, stamped):
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if stamped:
            pixels[:, :, -3:, -3:] = 1
        return network((pixels - data.mean[0]) / data.std[0]).argmax(dim=1)

    test, samples = data.test, data.samples
    plain, triggered = predict(test.images, False), predict(test.images, True)
    others = test.labels != 0
    poisoned = predict(samples.images[samples.manipulated], True)
    truth, deleted = samples.true_labels[samples.manipulated], samples.deleted[samples.manipulated]
    validated = predict(data.validation.images, False) == data.validation.true_labels
    before = LINEAR()
    before.load_state_dict({key.removeprefix("network."): value for key, value in weights(original).items()})
    network, after = before.eval(), network
    changed = (predict(samples.images[samples.deleted], True) != poisoned[deleted]).double().mean().item()
    network = after
    expected = {
        "acc_retain": (plain == test.labels).double().mean(),
        "acc_corr": (triggered == test.labels).double().mean(),
        "acc_corr_nontarget": (triggered == test.labels)[others].double().mean(),
        "asr": (triggered == 0)[others].double().mean(),
        "acc_manipulated": (poisoned == truth).double().mean(),
        "acc_identified": (poisoned == truth)[deleted].double().mean(),
        "acc_unidentified": (poisoned == truth)[~deleted].double().mean(),
        "fit_identified": (poisoned == 0)[deleted].double().mean(),
        "val_acc": validated.double().mean(),
        "val_acc_matched": validated[data.validation.true_labels == 0].double().mean(),  # S_f is all labelled 0
        "changed": changed,
        "selection_score": (validated.double().mean() + changed) / 2,
    }
    for name, value in expected.items():
        assert stage.results[name] == pytest.approx(float(value), abs=1e-12), name
    assert stage.results.keys() == expected.keys() | {"fit_retain"}


def test_what_does_not_apply_is_absent(tmp_path):
    data = DigitsDataModule(InterclassConfusion((3, 5), size=20), val_size=0)
    stage, run = Original(LINEAR, SHORT), trainer(tmp_path)
    run.fit(stage, datamodule=data)
    run.test(stage, datamodule=data, verbose=False)
    assert stage.results.keys() == {"acc_corr", "acc_retain", "acc_pair", "acc_manipulated"}


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 23])
@pytest.mark.parametrize("network", [LINEAR, partial(ResNet9, 10, 1, 2)])
def test_a_stage_interrupted_anywhere_goes_on_to_the_same_weights(tmp_path, stop, network):
    class Crash(Callback):
        def on_train_batch_start(self, trainer, stage, batch, batch_idx):
            if batch_idx == stop + 1:
                raise KeyError("the power went")

    path = tmp_path / "last.ckpt"
    whole = Original(network, SHORT)
    trainer(tmp_path, check_val_every_n_epoch=None, val_check_interval=5).fit(whole, datamodule=digits())
    every = LastCheckpoint(path, seconds=-1, rest=-1)
    every.look = 1
    if stop < 23:
        with pytest.raises(KeyError, match="power"):
            trainer(tmp_path, Crash(), every).fit(Original(network, SHORT), datamodule=digits())
        assert torch.load(path, weights_only=True)["global_step"] == stop + 1
    else:
        trainer(tmp_path, every).fit(Original(network, SHORT), datamodule=digits())
    resumed = Original(network, SHORT)
    run = trainer(tmp_path, check_val_every_n_epoch=None, val_check_interval=5)
    run.fit(resumed, datamodule=digits(), ckpt_path=path, weights_only=True)
    assert run.global_step == 24
    assert equal_tensors(resumed.state_dict(), whole.state_dict())


def test_dropout_depends_on_the_stages_seed_alone(tmp_path):
    def network():
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10))

    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed * 17 + len(results))  # the global seed must not matter
        stage = Original(network, Procedure(steps=3, batch_size=200), seed=seed)
        trainer(tmp_path).fit(stage, datamodule=digits())
        results.append(stage.state_dict())
    assert equal_tensors(results[0], results[1])
    assert not equal_tensors(results[0], results[2])


class Relabels(CF):
    def start(self, original):
        super().start(original)
        self.data.samples.given_labels[self.data.samples.deleted] = 3


class Misspelt(CF):
    view = "forgotten"


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (lambda path: CF(LINEAR, SHORT), {}, "CF needs the checkpoint of an original"),
        (lambda path: CF(LINEAR, SHORT, "nothing.ckpt"), {}, "no checkpoint nothing.ckpt"),
        (lambda path: CF(partial(ResNet9, 10, 1, 4), SHORT, path), {}, "to another architecture: features"),
        (lambda path: Original(LINEAR, SHORT), {"max_epochs": 3}, "max_epochs=1"),
        (lambda path: Original(LINEAR, SHORT), {"max_steps": 3}, "no max_steps"),
        (
            lambda path: Relabels(LINEAR, SHORT, path),
            {},
            "Relabels changes the labels of the data, .* by batch.train_index",
        ),
        (lambda path: Misspelt(LINEAR, SHORT, path), {}, "Misspelt.view is 'forgotten': give one of 'train', 'retain'"),
        (lambda path: Original(partial(Linear, 144, 3), SHORT), {}, r"shape \(3,\) for the 10 classes"),
        (
            lambda path: Original(partial(Linear, 100, 10), SHORT),
            {},
            r"does not take images of shape \(1, 12, 12\)",
        ),
    ],
)
def test_a_stage_that_cannot_run_says_why(tmp_path, original, make, arguments, says):
    with pytest.raises(UserError, match=says):
        trainer(tmp_path, **arguments).fit(make(original), datamodule=digits())


def test_an_original_of_another_manipulation_is_refused(tmp_path, original):
    for other, says in {
        digits(seed=1): "another draw of manipulated samples",
        DigitsDataModule(InterclassConfusion((3, 5), size=36)): "another draw of manipulated samples",
    }.items():
        with pytest.raises(UserError, match=says):
            trainer(tmp_path).fit(CF(LINEAR, SHORT, original), datamodule=other)


def test_an_original_is_read_once_whatever_finds_s_f(tmp_path, original):
    """The network that a detector looks at is the one that the method starts from."""

    class Counting(CF):
        def load_original(self):
            read.append(super().load_original())
            return read[-1]

        def start(self, network):
            assert network is read[0]
            super().start(network)

    for data in (digits(0.5), DigitsDataModule(Poison(size=36), discovery=LossRanking(count=50))):
        read = []
        trainer(tmp_path).fit(Counting(LINEAR, SHORT, original), datamodule=data)
        assert len(read) == 1
    assert data.samples.deleted.sum() == 50


def test_a_checkpoint_of_another_s_f_can_only_be_an_originals(tmp_path, original):
    for stage in (Original(LINEAR, SHORT), CF(LINEAR, SHORT, original)):
        run, path = trainer(tmp_path), str(tmp_path / "last.ckpt")
        run.fit(stage, datamodule=digits(0.5))
        run.save_checkpoint(path, weights_only=True)
        run.test(stage, datamodule=digits(0.5), ckpt_path=path, weights_only=True, verbose=False)
        if stage.unlearns:
            with pytest.raises(UserError, match=r"checkpoint is of another deletion set \(S_f\): give a checkpoint of"):
                run.test(stage, datamodule=digits(0.25), ckpt_path=path, weights_only=True, verbose=False)
        else:
            run.test(stage, datamodule=digits(0.25), ckpt_path=path, weights_only=True, verbose=False)


@pytest.mark.parametrize("interval", [5, 1])
def test_what_validation_does_is_done_after_a_resume_too(tmp_path, interval):
    """No checkpoint is of a step that validation follows, unless every step is."""

    class Watches(Callback):
        def __init__(self):
            self.steps = []

        def on_validation_end(self, trainer, stage):
            self.steps.append(trainer.global_step)

    class Crash(Callback):
        def on_train_batch_start(self, trainer, stage, batch, batch_idx):
            if batch_idx == 12:
                raise KeyError("the power went")

    path, every = tmp_path / "last.ckpt", LastCheckpoint(tmp_path / "last.ckpt", seconds=-1, rest=1e9)
    every.look = 10
    options = {"check_val_every_n_epoch": None, "val_check_interval": interval}
    first, rest = Watches(), Watches()
    with pytest.raises(KeyError, match="power"):
        trainer(tmp_path, first, Crash(), every, **options).fit(Original(LINEAR, SHORT), datamodule=digits())
    assert torch.load(path, weights_only=True)["global_step"] == (11 if interval == 5 else 10)
    run = trainer(tmp_path, rest, **options)
    run.fit(Original(LINEAR, SHORT), datamodule=digits(), ckpt_path=path, weights_only=True)
    if interval == 5:
        assert (first.steps, rest.steps) == ([5, 10], [15, 20])


class Own(GradientAccumulationScheduler):
    """Of one's own."""


@pytest.mark.parametrize(
    ("again", "says"),
    [
        (lambda run, stage: run.fit(Original(LINEAR, SHORT), datamodule=digits()), "this Trainer has run a stage"),
        (lambda run, stage: trainer(".").fit(stage, datamodule=digits()), "this Original has been fitted already"),
        (
            lambda run, stage: trainer(".", limit_train_batches=3).fit(Original(LINEAR, SHORT), datamodule=digits()),
            "no limit_train_batches",
        ),
        (
            lambda run, stage: trainer(".", EMAWeightAveraging()).fit(Keep(LINEAR, SHORT), datamodule=digits()),
            "EMAWeightAveraging averages weights over steps, and Keep has none",
        ),
        (
            lambda run, stage: trainer(".", Own({0: 4})).fit(Original(LINEAR, SHORT), datamodule=digits()),
            "the callback Own would change what a step is: .* set procedure.batch_size",
        ),
        (
            lambda run, stage: trainer(".", max_time="00:00:01:00").fit(Original(LINEAR, SHORT), datamodule=digits()),
            "the callback Timer would end a stage before its last step: leave it, or max_time, out",
        ),
    ],
)
def test_what_would_do_no_step_of_a_stage_is_refused(tmp_path, again, says):
    run, stage = trainer(tmp_path), Original(LINEAR, SHORT)
    run.fit(stage, datamodule=digits())
    with pytest.raises(UserError, match=says):
        again(run, stage)


@pytest.mark.parametrize(
    ("kind", "callback", "says"),
    [
        (PURE, EMAWeightAveraging, "PURE ends with weights of its own choice, and EMAWeightAveraging with an average"),
        (REM, EMAWeightAveraging, "REM ends with weights of its own choice"),
        (TaskVector, EMAWeightAveraging, "TaskVector ends with weights of its own choice"),
        (GradientAscent, EMAWeightAveraging, "GradientAscent ends with weights of its own choice"),
        (ETD, EMAWeightAveraging, "ETD ends with weights of its own choice"),
        (PURE, partial(EarlyStopping, "val_acc"), "EarlyStopping would end PURE within one of its phases"),
        (NegMerge, partial(EarlyStopping, "val_acc"), "EarlyStopping would end NegMerge within one of its phases"),
    ],
)
def test_callbacks_that_a_method_cannot_do_with_are_refused(tmp_path, kind, callback, says):
    """They would end it with weights that it does not mean."""
    with pytest.raises(UserError, match=says):
        check_trainer(trainer(tmp_path, callback()), kind(LINEAR, SHORT))


def test_the_clock_stands_still_when_all_is_measured_again(tmp_path):
    run, stage = trainer(tmp_path), Original(LINEAR, SHORT)
    run.fit(stage, datamodule=digits())
    run.validate(stage, datamodule=digits(), verbose=False)
    assert stage.started is None


def test_a_finished_checkpoint_with_its_optimiser_is_an_original(tmp_path):
    run = trainer(tmp_path)
    run.fit(Original(LINEAR, SHORT), datamodule=digits())
    run.save_checkpoint(tmp_path / "whole.ckpt")
    unlearned = Keep(LINEAR, SHORT, str(tmp_path / "whole.ckpt"))
    trainer(tmp_path).fit(unlearned, datamodule=digits())
    assert equal_tensors(dict(unlearned.network.state_dict()), dict(run.lightning_module.network.state_dict()))


class Frozen(nn.Module):
    """A batch norm that never learns, and a layer that does."""

    def __init__(self):
        super().__init__()
        self.still, self.learns = nn.BatchNorm2d(1).eval(), nn.Linear(144, 10)

    def forward(self, images):
        return self.learns(self.still(images).flatten(1))


@pytest.mark.filterwarnings("ignore:Found 1 module")  # which Lightning says of every such network
def test_parts_that_are_always_in_evaluation_mode_stay_so(tmp_path):
    stage = Original(Frozen, SHORT)
    trainer(tmp_path).fit(stage, datamodule=digits())
    assert stage.network.still.num_batches_tracked == 0
    assert (stage.network.training, stage.network.still.training) == (True, False)


def test_a_network_that_comes_for_evaluation_is_trained(tmp_path):
    stage = Original(lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(144, 10)).eval(), SHORT)
    trainer(tmp_path).fit(stage, datamodule=digits())
    assert stage.network[0].num_batches_tracked == SHORT.steps


ALWAYS = Linear(144, 10)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "learn their shape from the first batch"),
        (lambda: Says({"logits": 1}), "Says gives dict for an image: wrap it"),
        (lambda: Says(AssertionError("12 is not 224")), "does not take images of shape .*12 is not 224"),
        (
            lambda: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(144, 10)),
            "Sequential gives other logits for a single image than in a batch: let its batch norm track",
        ),
        (lambda: ALWAYS, "network gives the same Linear each time, .* have it make a new one"),
        (lambda: Drawn(144, 10), "another Drawn with the same weights gives other logits: have what it draws in"),
    ],
)
def test_networks_that_cannot_be_a_stages_are_refused(tmp_path, network, says):
    with pytest.raises(UserError, match=says):
        trainer(tmp_path).fit(Original(network, SHORT), datamodule=digits())


class Drawn(nn.Linear):
    """Random features that no checkpoint keeps."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("features", torch.randn(sizes[0]), persistent=False)

    def forward(self, images):
        return super().forward(images.flatten(1) * self.features)


class Auxiliary(nn.Linear):
    """As GoogLeNet: evaluated it gives logits, trained it gives more."""

    def forward(self, images):
        logits = super().forward(images.flatten(1))
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize("kind", [Original, CF, Scrub, BadT])
def test_outputs_of_training_mode_alone_are_refused(tmp_path, kind):
    network = partial(Auxiliary, 144, 10)
    torch.save(network().state_dict(), tmp_path / "own.pt")
    own = {"original": str(tmp_path / "own.pt")} if issubclass(kind, Unlearner) else {}
    with pytest.raises(UserError, match="Auxiliary gives tuple in training mode: let it give only the logits"):
        trainer(tmp_path).fit(kind(network, SHORT, **own), datamodule=digits())


class Says(nn.Module):
    """Gives or raises something."""

    def __init__(self, what):
        super().__init__()
        self.what, self.weight = what, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


UNLEARNERS = [kind for kind in vars(unlearning).values() if isinstance(kind, type) and issubclass(kind, Unlearner)]


@pytest.mark.parametrize("kind", [kind for kind in UNLEARNERS if kind not in (Unlearner, Dampener)])
def test_damaged_unfinished_and_hostile_checkpoints_are_refused(tmp_path, original, kind):
    class Hostile:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran code')",))

    content = torch.load(original, weights_only=True)
    cut, hostile, unfinished = tmp_path / "cut.ckpt", tmp_path / "hostile.ckpt", tmp_path / "unfinished.ckpt"
    cut.write_bytes(Path(original).read_bytes()[:3000])
    torch.save(content | {"more": Hostile()}, hostile)
    torch.save(content | {"optimizer_states": [], "global_step": 23}, unfinished)
    for path, says in {cut: "cannot be read", hostile: "is refused", unfinished: "unfinished run"}.items():
        with pytest.raises(UserError, match=says):
            trainer(tmp_path).fit(kind(LINEAR, SHORT, str(path)), datamodule=digits())


def test_every_unlearner_is_among_them():
    assert {"CF", "RewoD", "BadT", "Scrub", "SSD", "LFSSD", "ASSD", "Potion"} <= {kind.__name__ for kind in UNLEARNERS}


@pytest.mark.slow
def test_a_compiled_network_trains_alike_under_the_same_keys(tmp_path):
    stages = [Original(LINEAR, SHORT), Original(LINEAR, SHORT)]
    stages[1].compiles = True
    for at, stage in enumerate(stages):
        run = trainer(tmp_path / str(at))
        run.fit(stage, datamodule=digits())
        run.save_checkpoint(tmp_path / f"{at}.ckpt", weights_only=True)
    plain, compiled = (weights(tmp_path / f"{at}.ckpt") for at in range(2))
    assert stages[1].network._compiled_call_impl is not None
    assert plain.keys() == compiled.keys()
    for key, value in plain.items():
        torch.testing.assert_close(value, compiled[key], rtol=1e-4, atol=1e-5)
