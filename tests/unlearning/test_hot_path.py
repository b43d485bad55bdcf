"""No step waits for the device, and a network agrees with itself in every precision."""

import copy
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cmu_lightning.cli.values import precision
from cmu_lightning.data import (
    AdapBlend,
    AllToAll,
    Batch,
    Blended,
    DigitsDataModule,
    LossRanking,
    Poison,
    PULearning,
    TaCT,
)
from cmu_lightning.data.batches import EvaluationBatches, Source
from cmu_lightning.data.evaluation import Evaluation
from cmu_lightning.data.samples import Samples
from cmu_lightning.data.sampling import EpochSampler
from cmu_lightning.data.transforms import CropAndFlip, Pixels
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import (
    CF,
    ETD,
    NPO,
    PURE,
    REM,
    SSD,
    BadT,
    Keep,
    NegGradPlus,
    Original,
    Procedure,
    Relabel,
    Scrub,
    Stage,
)
from cmu_lightning.unlearning.extra_channels import ExtraCapacity
from cmu_lightning.unlearning.networks import share_batch_norm
from tests.helpers.short_stages import LINEAR, SHORT, digits, trainer

GPU = torch.device("cuda", 0)
COUNT = 2500


def test_numbers_that_are_shown_do_not_live_on_the_device(tmp_path, monkeypatch):
    """The progress bar reads them after every step."""
    monkeypatch.setattr(Stage, "device", torch.device("meta"))  # whose numbers cannot be read
    stage = Original(LINEAR, Procedure(steps=12, batch_size=300))
    run = trainer(tmp_path, log_every_n_steps=5, limit_val_batches=0)
    run.fit(stage, datamodule=digits())
    assert run.progress_bar_metrics["train_loss"] > 0


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to a GPU, and which of them the CPU waits for."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and kwargs["device"] == GPU:
            pinned = getattr(args[0], "pinned", False)
            self.count["does not wait" if kwargs.get("non_blocking") and pinned else "waits"] += 1
        return function(*args, **kwargs)


@pytest.fixture
def fake(monkeypatch):
    """Tensors that have shapes and devices alone; five samples of a batch are stamped."""
    five = SimpleNamespace(**vars(torch))

    def nonzero(mask):
        assert mask.device.type == "cpu"  # elsewhere it waits
        return torch.zeros(5, 1, dtype=torch.long)

    five.nonzero = nonzero
    monkeypatch.setattr("cmu_lightning.data.transforms.torch", five)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that says so."""
    copied = tensor.clone()
    copied.pinned = True
    return copied


def samples(device: torch.device = GPU) -> Samples:
    """Some of S_tr on a device, all alike."""
    images = torch.zeros(COUNT, 32, 32, 3, dtype=torch.uint8, device=device)
    classes = torch.zeros(COUNT, dtype=torch.long, device=device)
    return Samples(images, classes, classes, classes > 0, classes > 0, classes)


TRIGGERS = [Poison(size=5), Poison(size=5, value=[1.0, 0.5, 0.0]), AllToAll(size=5), TaCT(size=5), Blended(size=5)]
TRIGGERS += [AdapBlend(size=5)]


@pytest.mark.parametrize("manipulation", TRIGGERS, ids=lambda made: type(made).__name__)
def test_no_step_waits_for_a_copy_to_the_gpu(fake, monkeypatch, manipulation):
    source = Source(samples(), torch.arange(COUNT), EpochSampler(COUNT, 512, 0, shuffle=False), CropAndFlip(4, True))
    monkeypatch.setattr(CropAndFlip, "draw", lambda self, count, generator: torch.zeros(count, 3, dtype=torch.long))
    pixels = Pixels((0.5,) * 3, (0.5,) * 3, manipulation, GPU)
    source.batch(0, pixels, 0, 1)  # an epoch's order is copied once, and so is a pattern
    with Copies() as seen:
        batch = source.batch(1, pixels, 0, 1)
    assert batch.image.shape == (512, 3, 32, 32)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert seen.count == {"does not wait": 1}  # which of them are stamped


def test_no_step_waits_for_images_that_do_not_fit_the_gpu(fake, monkeypatch):
    order = EpochSampler(COUNT, 512, 0, shuffle=False)
    source = Source(samples(torch.device("cpu")), torch.arange(COUNT), order, CropAndFlip(4, True))
    monkeypatch.setattr(CropAndFlip, "draw", lambda self, count, generator: torch.zeros(count, 3, dtype=torch.long))
    pixels = Pixels((0.5,) * 3, (0.5,) * 3, Keyed(size=5), GPU)
    with Copies() as seen:
        batch = source.batch(0, pixels, 0, 1)
    assert all(field.device == GPU for field in batch[:-1])
    # images, crops, both labels, the mask of S_f, which are stamped, and both kinds of indices
    assert seen.count == {"does not wait": 8}


class Keyed(Poison):
    """Stamps by the sample's index."""

    def stamp_training(self, images, index):
        assert index.device == GPU
        return images


def on_gpu(monkeypatch: pytest.MonkeyPatch, stage: Stage, **more: Any) -> Stage:
    """A stage that takes its device for a GPU."""
    stage._trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=GPU, reduce=lambda value, **_: value), **more)
    monkeypatch.setattr(type(stage), "trainer", property(lambda self: self._trainer))
    return stage


@pytest.mark.parametrize("method", [Original, CF, Scrub, BadT])
def test_no_step_reads_a_number_from_the_gpu(fake, monkeypatch, method):
    """Fake tensors have none; curves are read where they are logged, at the fifth step."""
    with GPU:
        stage = on_gpu(monkeypatch, method(LINEAR, SHORT), log_every_n_steps=5, world_size=1)
        stage.teachers = tuple(LINEAR() for _ in range(stage.forwards - 1))
    monkeypatch.setattr(method, "global_rank", 0)
    label = torch.zeros(7, dtype=torch.long, device=GPU)
    batch = Batch(torch.zeros(7, 1, 12, 12, device=GPU), label, label, label > 0, label, 7)
    for step in range(4):
        monkeypatch.setattr(method, "global_step", step)
        assert stage.training_step(batch, step).device == GPU
    monkeypatch.setattr(method, "global_step", 4)
    with pytest.raises(DataDependentOutputException):
        stage.training_step(batch, 4)


class Waits(TorchDispatchMode):
    """Counts what the CPU waits for: copies to and from a GPU that are not pinned, and sizes that depend on data."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("device") is not None:
            pinned = getattr(args[0], "pinned", False) and kwargs.get("non_blocking")
            self.count += {args[0].device.type, torch.device(kwargs["device"]).type} == {"cpu", "cuda"} and not pinned
        self.count += function in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default)
        return function(*args, **kwargs)


NORMED = partial(ResNet9, num_classes=10, in_channels=1, width=2)


def relabel(stage: Any) -> None:
    stage.labels = torch.zeros(COUNT, dtype=torch.long)


def pure(stage: Any) -> None:
    stage.weight, stage.alternatives = torch.zeros(COUNT), torch.zeros(COUNT, 10)
    stage.position, stage.factor = torch.zeros(COUNT, dtype=torch.long), torch.ones(7, device=GPU)


def etd(stage: Any) -> None:
    for site in stage.sites():
        site.register_forward_hook(stage._drop)


def ascent(stage: Any) -> None:
    stage.stop_at, stage.interval, stage.factors = 0.2, 2, (1.0, -0.5)


def rem(stage: Any) -> None:
    stage.teachers = (NORMED(),)
    stage.capacity = ExtraCapacity(stage.network, 1.0, 0.2, 0)
    stage.known_rows = torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("method", "prepare"),
    [(Relabel, relabel), (PURE, pure), (ETD, etd), (REM, rem), (NPO, ascent), (NegGradPlus, ascent)],
)
def test_no_step_waits_for_tensors_of_its_method(fake, monkeypatch, method, prepare):
    with GPU:
        stage = on_gpu(monkeypatch, method(NORMED, SHORT), optimizers=[], world_size=1)
        stage.teachers, data = (NORMED(),), SimpleNamespace(samples=samples())
    # What such a method keeps is on the CPU, as after a resume.
    with GPU if method in (ETD, REM) else torch.device("cpu"):
        prepare(stage)
    monkeypatch.setattr(method, "data", data)
    monkeypatch.setattr(method, "global_step", 10_001)
    if method in (PURE, Relabel):
        stage.on_train_start()
    label = torch.zeros(7, dtype=torch.long, device=GPU)
    batch = Batch(torch.zeros(7, 1, 12, 12, device=GPU), label, label, label > 0, label, 7)
    stage.parts = batch, batch
    with Waits() as seen:
        if method in (NPO, NegGradPlus):
            assert stage.on_train_batch_start(batch, 0) is None
        stage.loss(batch.joined(batch) if method is NegGradPlus else batch)
    assert seen.count == 0


def test_the_clock_stops_when_the_gpu_has_done_its_work(monkeypatch):
    stage, waited = Original(LINEAR, SHORT), []
    monkeypatch.setattr(Stage, "device", GPU)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(stage.started))
    stage.started = 1.0
    stage.stop_clock()
    assert waited == [1.0]
    assert stage.started is None


def test_on_a_gpu_weights_are_channels_last_and_batch_norm_is_synchronised(monkeypatch):
    stage = on_gpu(monkeypatch, Original(lambda: ResNet9(10, 1, width=2), SHORT))
    stage.network.register_buffer("volume", torch.zeros(2, 2, 2, 2, 2))  # which has no such layout
    stage.lay_out(stage.network)
    kernels = [each for each in stage.network.parameters() if each.dim() == 4 and each.shape[2] > 1]
    assert kernels
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in kernels)
    keys = list(stage.network.state_dict())
    shared = share_batch_norm(stage.network, GPU)
    kinds = {type(module) for module in shared.modules()}
    assert nn.SyncBatchNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert list(shared.state_dict()) == keys


def test_on_a_gpu_weights_stay_as_they_are_where_the_network_needs_contiguous_images(monkeypatch):
    stage = on_gpu(monkeypatch, Original(lambda: ResNet9(10, 1, width=2), SHORT))
    stage.contiguous = True
    stage.lay_out(stage.network)
    assert all(each.is_contiguous() for each in stage.network.parameters())


class Watched(nn.Linear):
    """A linear layer that notes, with gradients and without, whether kernels are chosen by a stopwatch."""

    seen: ClassVar[dict[bool, set[bool]]] = {}

    def forward(self, inputs):
        if len(inputs) > 1:  # one image is to see whether it fits
            self.seen.setdefault(torch.is_grad_enabled(), set()).add(torch.backends.cudnn.benchmark)
        return super().forward(inputs)


@pytest.mark.parametrize("discovery", [None, LossRanking(count=30), PULearning(known=9)])
@pytest.mark.parametrize(("method", "in_steps"), [(CF, True), (SSD, False)])
def test_evaluation_chooses_nothing_by_a_stopwatch(tmp_path, original, monkeypatch, method, in_steps, discovery):
    """Which rounds otherwise in the next process; steps do. Importances and detectors are kept, and are no steps."""
    monkeypatch.setattr(Watched, "seen", {})
    stage = method(lambda: nn.Sequential(nn.Flatten(), Watched(144, 32), nn.ReLU(), nn.Linear(32, 10)), SHORT, original)
    run = trainer(tmp_path, benchmark=True, val_check_interval=5 if stage.trains else 1)
    data = DigitsDataModule(Poison(size=36), 1.0 if discovery else 0.5, discovery=discovery)
    try:
        run.fit(stage, datamodule=data)
        run.test(stage, datamodule=data, verbose=False)
    finally:
        torch.backends.cudnn.benchmark = False
    assert Watched.seen == {True: {in_steps}, False: {False}}


@pytest.mark.parametrize("of_gpu", [True, False])
def test_a_resume_on_another_device_remembers_as_it_has_to(of_gpu):
    """A checkpoint of a GPU says `fused`, and its momentum is laid out as channels last."""
    stage = Original(partial(nn.Conv2d, 2, 3, 3), SHORT)
    parameters = list(stage.network.parameters())
    first = stage.procedure.optimizer(parameters)
    for parameter in parameters:
        parameter.grad = torch.rand(parameter.shape)
    first.step()
    state = copy.deepcopy(first.state_dict())
    momentum = state["state"][0]["momentum_buffer"]
    if of_gpu:
        state["param_groups"][0]["fused"] = True
        state["state"][0]["momentum_buffer"] = momentum.to(memory_format=torch.channels_last)
    resumed = stage.procedure.optimizer(parameters)
    resumed.load_state_dict(state)
    stage._trainer = SimpleNamespace(optimizers=[resumed])
    stage.on_train_start()
    remembered = resumed.state[parameters[0]]["momentum_buffer"]
    assert remembered.stride() == parameters[0].stride()
    assert torch.equal(remembered, momentum)
    assert resumed.param_groups[0]["fused"] is None


def test_evaluation_copies_what_is_asked_once(fake):
    split = samples()
    asked = torch.zeros(COUNT, 6, dtype=torch.long)
    stamped = torch.ones(COUNT, dtype=torch.bool)
    rows = torch.arange(COUNT)
    what = Evaluation(("a",) * 6, split.images, rows, stamped, asked, asked > 0, rows)
    pixels = Pixels((0.5,) * 3, (0.5,) * 3, Poison(size=5), GPU)
    with Copies() as seen:
        assert len(list(EvaluationBatches(what, pixels, 0, 1))) == 3
    assert seen.count["waits"] == 4  # rows, target, domain and what tells samples apart


def test_a_checkpoint_that_is_just_written_is_not_written_again(tmp_path):
    written = []

    class Counting(LastCheckpoint):
        def on_train_batch_end(self, trainer, *others):
            before = self.written
            super().on_train_batch_end(trainer, *others)
            written.append(self.written != before)

    for rest, expected in ((-1, 5), (1e9, 0)):
        written.clear()
        stage = Original(LINEAR, SHORT)
        trainer(tmp_path, Counting(tmp_path / "last.ckpt", rest=rest)).fit(stage, datamodule=digits())
        assert sum(written) == expected  # 24 steps are six epochs, and what follows the last is written at the end


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_network_agrees_with_itself(tmp_path, original, precision):
    stage, run = Keep(LINEAR, SHORT, original), trainer(tmp_path, precision=precision)
    run.fit(stage, datamodule=digits())
    run.test(stage, datamodule=digits(), verbose=False)
    assert stage.results["changed"] == 0


def test_the_original_is_asked_in_the_precision_of_the_trainer(tmp_path, original):
    """So that what rounding changes does not count as changed."""
    seen = []

    class Watched(Keep):
        def classes(self, network, what):
            network.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
            return super().classes(network, what)

    trainer(tmp_path, precision="bf16-mixed").fit(Watched(LINEAR, SHORT, original), datamodule=digits())
    assert seen
    assert all(seen)


@pytest.mark.parametrize(
    ("there", "bf16", "accelerator", "expected"),
    [
        (False, False, "auto", "32-true"),
        (True, True, "cpu", "32-true"),
        (True, True, "auto", "bf16-mixed"),
        (True, True, "gpu", "bf16-mixed"),
        (True, False, "cuda", "16-mixed"),
    ],
)
def test_precision_is_mixed_on_gpus(monkeypatch, there, bf16, accelerator, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert precision(accelerator) == expected


def test_short_names_of_a_precision_are_the_same_run(fit, tmp_path):
    for given in ("bf16", "bf16-mixed"):
        arguments = ("--procedure.steps", "1", "--trainer.precision", given, "--trainer.accelerator", "cpu")
        assert fit(*arguments, "--runs_dir", str(tmp_path)) == 0
    assert len(list(tmp_path.rglob("metrics.json"))) == 1


class Normed(nn.Module):
    """No nn.Sequential, which torch 2.11 does not compile in place."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(144), nn.Linear(144, 10)

    def forward(self, images):
        return self.linear(self.norm(images.flatten(1)))


@pytest.mark.slow
def test_steps_alone_are_compiled(tmp_path):
    stage, run = Original(Normed, Procedure(steps=4, batch_size=399)), trainer(tmp_path)
    stage.compiles = True
    counters.clear()
    run.fit(stage, datamodule=digits())
    compiled = counters["stats"]["unique_graphs"]
    run.test(stage, datamodule=digits(), verbose=False)
    assert counters["stats"]["unique_graphs"] == compiled > 0
    assert 0.05 < stage.results["acc_retain"] <= 1


@pytest.mark.parametrize(("clip", "fused"), [(None, True), (1.0, None)])
def test_what_is_clipped_is_not_fused(monkeypatch, clip, fused):
    made = {}
    stage = Original(LINEAR, SHORT)
    strategy = SimpleNamespace(root_device=GPU)
    stage._trainer = SimpleNamespace(gradient_clip_val=clip, strategy=strategy)
    monkeypatch.setattr(type(stage), "trainer", property(lambda self: self._trainer))
    monkeypatch.setattr("cmu_lightning.unlearning.procedure.SGD", partial(_keep, made))
    stage.configure_optimizers()
    assert made["fused"] is fused


def _keep(made: dict[str, Any], parameters: Any, lr: float, **arguments: Any) -> torch.optim.SGD:
    made.update(arguments)
    return torch.optim.SGD(parameters, lr)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "16-true"])
def test_weights_of_other_precision_are_refused(fit, capsys, precision):
    assert fit("--trainer.precision", precision) == 2
    assert f"trainer.precision={precision} changes the weights" in capsys.readouterr().err


def test_without_the_command_line_too(tmp_path):
    with pytest.raises(UserError, match="precision=bf16-true changes the weights"):
        trainer(tmp_path, precision="bf16-true").fit(Original(LINEAR, SHORT), datamodule=digits())
