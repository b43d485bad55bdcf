"""Every command that docs/reproduction.md plans for a GPU, rehearsed on the CPU with tiny settings."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from cmu_lightning.cli.fit import CLI, main
from cmu_lightning.data import CIFAR10DataModule, Split
from cmu_lightning.parsing import PACKAGE

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs/reproduction.md").read_text()
PLAN = re.findall(r"^\| (.+?) \| `(python .+?)` \| \d+ s \|$", PAGE, re.MULTILINE)

LINEAR = ["--network", "tests.helpers.networks.Linear", "--network.pixels", "3072", "--network.num_classes"]
FIT = ["--procedure.batch_size", "64", "--data.val_size", "20", "--data.manipulation.size", "30", "--threads", "1"]
FIT += ["--trainer.accelerator", "cpu"]
DIGITS = ["--setting", "poison_digits.yaml", "--runs", "2", "--procedure.steps", "2", "--procedure.unlearn_steps", "2"]
DIGITS += ["--network.width", "2", "--trainer.accelerator", "cpu", "--threads", "1"]
TINY = {
    "profile_step.py": ["--steps", "2", "--warmup", "1", *LINEAR, "10", *FIT],
    "fit": [*LINEAR, "10", *FIT, "--procedure.steps", "2"],
    "learning_curve.py": ["--procedure.steps", "2", *LINEAR, "10", *FIT],
    "released_code.py": ["--steps", "2", "--warmup", "1", "--batch_size", "8", "--rounds", "1", "--workers", "0"],
    "ssd_grid.py": ["--share", "0.5", "--width", "1"],
    "tuned_ssd.py": [*LINEAR, "10", *FIT, "--procedure.steps", "2"],
    "evaluation.py": ["--width", "1", "--images", "40", "--rounds", "1"],
    "workers.py": [*DIGITS, "--workers", "2"],
}
SAYS = {
    "profile_step.py": r"[\d.]+ steps a second",
    "fit": "acc_corr",
    "learning_curve.py": r"epoch  1: ours [\d.]+, theirs 0\.5191, 0\.5281",
    "released_code.py": r"released code, 0 workers +[\d,]+ images a second; ours is [\d.]+ times as fast",
    "ssd_grid.py": '"case": "CIFAR-10, 50%"',
    "tuned_ssd.py": '"runs": 39.*"the same point": true',
    "evaluation.py": r"ours takes [\d.]+ times the loop",
    "workers.py": r"2 runs with 2 workers: +[\d.]+ s",
}
RELEASED = {
    "resnet": """
import timm, torch
def resnet9(classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, classes))
""",
    "datasets": """
class DatasetWrapper:
    def __init__(self, dataset, manip_dict, mode, corrupt_val):
        self.dataset = dataset
    def __len__(self):
        return len(self.dataset)
    def __getitem__(self, index):
        return (*self.dataset[index], 0)
""",
    "methods": """
import torch
class Naive:
    def __init__(self, opt, model):
        self.model, self.seen = model.cuda(), 0
        self.optimizer = torch.optim.SGD(model.parameters(), lr=opt.max_lr)
    def train_one_epoch(self, loader):
        for images, target, _ in loader:
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.model(images.cuda()), target.cuda()).backward()
            self.optimizer.step()
""",
}
"""As much of the authors' interface as the benchmark touches."""


def small(self):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1760, 32, 32, 3), generator=generator).to(torch.uint8)
    labels = torch.arange(1760) % self.num_classes
    return Split(images[:1700], labels[:1700]), None, Split(images[1700:], labels[1700:])


class Stored:
    """As torchvision's CIFAR-10."""

    def __init__(self, root, train, transform):
        self.image = torch.rand(3, 32, 32)

    def __len__(self):
        return 50_000

    def __getitem__(self, index):
        return self.image, index % 10


def load(script):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plan_has_all_that_is_asked():
    asked = {command.split()[2].removeprefix("benchmarks.") for _, command in PLAN}
    assert asked == {name.removesuffix(".py") for name in TINY} - {"fit"} | {"cmu_lightning"}
    assert len(PLAN) == 10


def rehearsals():
    """The one that times workers starts processes."""
    for what, command in PLAN:
        marks = [pytest.mark.slow] if "benchmarks.workers" in command else []
        yield pytest.param(what, command, id=command, marks=marks)


@pytest.mark.parametrize(("what", "command"), list(rehearsals()))
def test_a_command_of_the_plan(monkeypatch, capsys, tmp_path, what, command):
    monkeypatch.setattr(CIFAR10DataModule, "prepare_data", lambda self: None)
    monkeypatch.setattr(CIFAR10DataModule, "load", small)
    monkeypatch.setattr(CLI, "instantiate_trainer", CLI.instantiate_trainer)  # the profile's is undone
    for kind in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(kind, "cuda", kind.cuda)  # likewise
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, text in RELEASED.items():
        (tmp_path / "released/src").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"released/src/{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    named = {"$RELEASED": str(tmp_path / "released"), "$CMU_DATA_DIR": str(tmp_path)}
    _, asked, *arguments = [named.get(word, word) for word in shlex.split(command)[1:]]
    if asked == "cmu_lightning":
        assert main([*arguments, *TINY["fit"]]) == 0
        assert re.search(SAYS["fit"], capsys.readouterr().out)
        return
    script = f"{asked.replace('.', '/')}.py"
    name = Path(script).name
    tiny = [*TINY[name]]
    if "poison_cifar100.yaml" in arguments:
        tiny[tiny.index("--network.num_classes") + 1] = "100"
    module = load(ROOT / script)
    if name == "released_code.py":
        monkeypatch.setattr(module, "CIFAR10", Stored)
    monkeypatch.setattr(sys, "argv", [script, *arguments, *tiny])
    module.main()
    assert re.search(SAYS[name], capsys.readouterr().out), what
