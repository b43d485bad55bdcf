"""Every stage beside itself on a CPU: on a GPU, if there is one, and with weights laid out in memory as on a GPU."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import (
    ASSD,
    CF,
    ETD,
    LFSSD,
    NGD,
    NPO,
    PURE,
    REM,
    SAP,
    SSD,
    BadT,
    CFk,
    EUk,
    GradientAscent,
    Keep,
    L1Sparse,
    NegGradPlus,
    NegMerge,
    Original,
    Potion,
    Procedure,
    RandomLabel,
    RewoD,
    SalUn,
    Scrub,
    TaskVector,
    TunedSSD,
)
from tests.helpers.short_stages import CheckpointAfter, digits, trainer

GPU = ["gpu"] if torch.cuda.is_available() else []
NETWORK = partial(ResNet9, num_classes=10, in_channels=1, width=4)
FEW = Procedure(steps=6, unlearn_steps=6, batch_size=300, lr=0.01)
STAGES = {
    "Keep": Keep,
    "RewoD": RewoD,
    "CF": CF,
    "BadT": BadT,
    "Scrub": partial(Scrub, forget_steps=4),
    "Scrub, rewound": partial(Scrub, forget_steps=4, rewind=True),
    "SSD": partial(SSD, selection=2.0),
    "SSD-Det": partial(SSD, selection=2.0, fisher="sample"),
    "LFSSD": partial(LFSSD, selection=2.0),
    "ASSD": partial(ASSD, fisher="sample"),
    "TunedSSD": TunedSSD,
    "Potion": partial(Potion, rho=0.5),
    "GradientAscent": partial(GradientAscent, stop_at=None),
    "NPO": NPO,
    "NegGradPlus": NegGradPlus,
    "RandomLabel": RandomLabel,
    "SalUn": SalUn,
    "L1Sparse": L1Sparse,
    "CFk": CFk,
    "EUk": EUk,
    "NGD": NGD,
    "PURE": PURE,
    "REM": REM,
    "TaskVector": TaskVector,
    "NegMerge": NegMerge,
    "SAP": SAP,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Trained on a CPU."""
    folder = tmp_path_factory.mktemp("original")
    run = trainer(folder)
    run.fit(Original(NETWORK, FEW), datamodule=digits())
    run.save_checkpoint(folder / "original.ckpt", weights_only=True)
    return str(folder / "original.ckpt")


@pytest.fixture(params=["laid out", *GPU])
def device(request, monkeypatch):
    """Its arithmetic is of 32 bits, so that it is comparable."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


def fitted(folder, stage, *callbacks, device=None, data=None, ckpt_path=None, **options):
    """Its weights, after what is measured of them is measured."""
    if device == "laid out":
        stage.lay_out = lambda network: network.to(memory_format=torch.channels_last)
    accelerator = "gpu" if device == "gpu" else "cpu"
    run, data = trainer(folder, *callbacks, accelerator=accelerator, devices=1, **options), data or digits(0.5)
    run.fit(stage, datamodule=data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    run.test(stage, datamodule=data, verbose=False)
    return torch.cat([each.detach().cpu().flatten() for each in stage.network.parameters()])


def assert_alike(one, other):
    """All but few: what is dampened is on one side of a threshold."""
    far = (one - other).abs() > 1e-3 + 1e-2 * other.abs()
    assert far.float().mean() < 2e-3
    assert (one - other).abs().mean() < 1e-3 * other.abs().mean() + 1e-5


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_gives_what_it_gives_on_a_cpu(tmp_path, original, device, name):
    plain, there = (STAGES[name](NETWORK, FEW, original) for _ in range(2))
    want = fitted(tmp_path, plain)
    shutil.rmtree(Path(original).parent / "importances", ignore_errors=True)
    got = fitted(tmp_path, there, device=device)
    assert_alike(got, want)
    assert there.results.keys() == plain.results.keys()
    assert there.results["acc_retain"] == pytest.approx(plain.results["acc_retain"], abs=0.02)
    start = torch.load(original, weights_only=True)["state_dict"]
    before = torch.cat([start[f"network.{key}"].flatten() for key, _ in plain.network.named_parameters()])
    assert torch.equal(want, before) == (name == "Keep")


@pytest.mark.parametrize("kind", [Original, ETD])
def test_an_original_is_trained_as_on_a_cpu(tmp_path, device, kind):
    want, got = (fitted(tmp_path, kind(NETWORK, FEW), device=where) for where in (None, device))
    assert_alike(got, want)


@pytest.mark.parametrize("first", ["here", "there"])
def test_a_run_goes_on_on_another_device(tmp_path, original, device, first):
    want = fitted(tmp_path, CF(NETWORK, FEW, original))
    order = (None, device) if first == "here" else (device, None)
    fitted(tmp_path, CF(NETWORK, FEW, original), CheckpointAfter(tmp_path / "part.ckpt", 3), device=order[0])
    resumed = CF(NETWORK, FEW, original)
    assert_alike(fitted(tmp_path, resumed, device=order[1], ckpt_path=str(tmp_path / "part.ckpt")), want)


@pytest.mark.parametrize("device", GPU)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(tmp_path, original, device, precision):
    stage = Scrub(NETWORK, FEW, original, forget_steps=2)
    got = fitted(tmp_path, stage, device=device, precision=precision)
    assert got.isfinite().all()
    assert (got - fitted(tmp_path, Scrub(NETWORK, FEW, original, forget_steps=2))).abs().mean() < 0.02


def test_images_that_stay_in_a_file(tmp_path, original, device):
    want = fitted(tmp_path, CF(NETWORK, FEW, original))
    mapped = DigitsDataModule(Poison(size=36), identified=0.5, memory_map=str(tmp_path))
    assert_alike(fitted(tmp_path, CF(NETWORK, FEW, original), device=device, data=mapped), want)
    assert mapped.samples.images.device.type == "cpu"


@pytest.mark.parametrize("device", GPU)
def test_a_compiled_network(tmp_path, original, device):
    stage = CF(NETWORK, FEW, original)
    stage.compiles = True
    assert_alike(fitted(tmp_path, stage, device=device), fitted(tmp_path, CF(NETWORK, FEW, original)))
