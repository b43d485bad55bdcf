"""Shipped configs: settings, overlays, and the released code's options."""

from pathlib import Path

import pytest
import torch
import yaml

from cmu_lightning.cli.fit import CLI, main
from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.parsing import CONFIGS

OVERLAY = "released_code.yaml"
SETTINGS = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name != OVERLAY)
OVERLAYS = sorted(
    str(path.relative_to(CONFIGS)) for folder in ("unlearn", "trainer") for path in CONFIGS.glob(f"{folder}/*")
)
SIZES = {
    "poison_cifar10.yaml": (500, 4000),
    "confusion_cifar10.yaml": (5000, 4000),
    "poison_cifar100.yaml": (500, 6000),
    "confusion_cifar100.yaml": (500, 6000),
    "poison_pcam.yaml": (2621, 4000),
}


@pytest.mark.parametrize(
    ("setting", "overlay"),
    [(setting, "unlearn/ssd.yaml") for setting in SETTINGS]
    + [("poison_cifar10.yaml", overlay) for overlay in OVERLAYS],
)
def test_settings_take_overlays(setting, overlay, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", setting, "--config", overlay, "--print_config"])
    assert ended.value.code in (0, None)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["setting"] == Path(setting).stem
    if setting in SIZES:
        size, steps = SIZES[setting]
        assert config["data"]["init_args"]["manipulation"]["init_args"]["size"] == size
        if "smoke" not in overlay:
            procedure = config["procedure"]
            assert (procedure["steps"], procedure["unlearn_steps"], procedure["batch_size"]) == (
                steps,
                1000,
                512,
            )
            assert (procedure["lr"], procedure["momentum"], procedure["weight_decay"]) == (0.025, 0.9, 5e-4)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_config_begins_with_its_command(path):
    head = path.read_text().split("\n\n")[0]
    assert head.startswith("# ")
    assert "#   python -m cmu_lightning fit --config" in head


@pytest.mark.parametrize("setting", ["poison_digits.yaml", "confusion_digits.yaml"])
def test_the_digits_settings_run_with_every_unlearner(setting, tmp_path, monkeypatch):
    few = [
        "--procedure.steps",
        "2",
        "--procedure.unlearn_steps",
        "2",
        "--network.width",
        "2",
        "--trainer.accelerator",
        "cpu",
    ]
    assert main(["fit", "--config", setting, *few]) == 0
    data = DigitsDataModule(Poison(size=36))
    data.setup()
    row = int(torch.nonzero(~data.held)[0])  # a list may name no sample that validates
    Path("list.csv").write_text(f"index,corrected_label\n{row},1\n")
    of_list = ["--data.discovery", "Flagged", "--data.discovery.path", "list.csv"]
    for overlay in OVERLAYS:
        if overlay.startswith("unlearn"):
            more = of_list if overlay == "unlearn/relabel.yaml" else []
            assert main(["fit", "--config", setting, "--config", overlay, *few, *more]) == 0
    assert len(list(Path("runs").rglob("metrics.json"))) == 1 + sum(o.startswith("unlearn") for o in OVERLAYS)
    assert CLI.code == 0


RELEASED: dict[str, list[str]] = {
    "poison": ["--data.manipulation.value", "[1.0166,1.0,1.0028]"],
    "confusion": ["--data.manipulation.pick", "first"],
    "confusion_cifar100": ["--data.manipulation.pair", "[47,53]", "--procedure.unlearn_steps", "1500"],
    "ssd": ["--model.augment", "true"],
    "scrub": ["--model.forget_steps", "100"],
}


@pytest.mark.parametrize(("setting", "method"), [("poison_cifar10", "scrub"), ("confusion_cifar100", "ssd")])
def test_the_released_code_s_options_are_those_that_its_overlay_names(setting, method, capsys):
    own = [RELEASED.get(key, []) for key in (setting.partition("_")[0], setting, method)]
    text = " ".join((CONFIGS / OVERLAY).read_text().split())
    arguments = [argument for part in own for argument in part]
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        assert f"{option} {value}" in text
    configs = ["--config", f"{setting}.yaml", "--config", OVERLAY, "--config", f"unlearn/{method}.yaml"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *configs, *arguments, "--print_config"])
    assert ended.value.code in (0, None)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["init_args"]["val_size"] == 0
    assert config["model"]["class_path"].rpartition(".")[2].lower() == method
