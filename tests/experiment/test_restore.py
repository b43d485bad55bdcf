"""A run folder from a stranger: its config makes a network and data, and calls nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import cmu_lightning
from cmu_lightning.__main__ import main
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.restore import restore_data, restore_network
from cmu_lightning.models.admitted import check_names, find_maker, standard_library
from cmu_lightning.models.factory import NetworkFromFunction
from tests.helpers.forked_commands import run_command

FACTORY = "cmu_lightning.models.factory.NetworkFromFunction"
TOUCH = "touch executed"


def spec(path, **arguments):
    return {"class_path": path, "init_args": arguments}


HOSTILE = {
    "a shell command": spec("os.system", command=TOUCH),
    "a shell command by another name": spec("posix.system", command=TOUCH),
    "the output of a process": spec("subprocess.check_output", args=TOUCH.split()),
    "a process": spec("subprocess.Popen", args=TOUCH.split()),
    "source": spec("builtins.exec", source="open('executed', 'w')"),
    "an expression": spec("builtins.eval", source="open('executed', 'w')"),
    "a call that is prepared": spec("functools.partial", func="os.system", command=TOUCH),
    "a call that is prepared, by another name": spec("torchvision.models.resnet.partial", func="os.system"),
    "a script": spec("runpy.run_path", path_name="hostile.py"),
    "a module that acts when it is imported": spec("importlib.import_module", name="hostile"),
    "a module of Python's that does": spec("antigravity.webbrowser"),
    "a module of a module": spec("torch.os.system", command=TOUCH),
    "a reader of pickles": spec("pickle.load", file="hostile.pkl"),
    "another reader of pickles": spec("torch.load", f="hostile.pkl", weights_only=False),
    "a method": spec("lightning.pytorch.LightningModule.load_from_checkpoint", checkpoint_path="hostile.ckpt"),
    "a repository": spec("torch.hub.load", repo_or_dir=".", model="net", source="local"),
    "source, returned as a network": spec("torch.fx.graph_module.reduce_graph_module", body={}, import_block=TOUCH),
    "a launcher": spec("torch.distributed.launcher.api.elastic_launch", config=None, entrypoint="/bin/sh"),
    "a class of nobody": spec("strange.Net"),
    "a function behind the class": spec(FACTORY, function="os.system", arguments={"command": TOUCH}),
    "a function with a colon": spec(FACTORY, function="os:system", arguments={"command": TOUCH}),
    "a process inside a network": spec(
        "tests.helpers.networks.Linear", pixels=spec("subprocess.Popen", args=TOUCH.split()), num_classes=10
    ),
    "a process among arguments that are not typed": spec(
        "torch.nn.Transformer", custom_encoder=spec("subprocess.Popen", args=TOUCH.split())
    ),
    "a launcher among arguments": spec(
        "torch.nn.Transformer", custom_encoder=spec("torch.distributed.launcher.api.elastic_launch", entrypoint="sh")
    ),
    "a name": "os.system",
    "a list": ["os.system", TOUCH],
    "nothing": None,
}


@pytest.fixture
def stranger():
    """A run folder as far as it is read before weights are."""
    Path("hostile.py").write_text("open('executed', 'w')\n")
    Path("RUN").mkdir()
    yield Path("RUN")
    assert not Path("executed").exists()


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize(("key", "restore"), [("network", restore_network), ("data", restore_data)])
def test_nothing_but_networks_and_data_is_made(case, key, restore, stranger):
    (stranger / "config.yaml").write_text(yaml.safe_dump({key: HOSTILE[case]}))
    with pytest.raises(UserError, match=rf"RUN/config.yaml(:{key}|[ ]is not a run's).*: "):
        restore(stranger)


@pytest.mark.parametrize(
    "case",
    [
        "a shell command",
        "a call that is prepared, by another name",
        "a launcher",
        "a function behind the class",
        "a process among arguments that are not typed",
    ],
)
@pytest.mark.parametrize("key", ["network", "data", "data.manipulation", "model", "callbacks", "logger"])
def test_no_key_of_a_config_calls_it(case, key, fit, stranger, capsys):
    at = {
        "network": {"network": HOSTILE[case]},
        "data": {"data": HOSTILE[case]},
        "data.manipulation": {"data": spec("DigitsDataModule", manipulation=HOSTILE[case])},
        "model": {"model": HOSTILE[case]},
        "callbacks": {"trainer": {"callbacks": [HOSTILE[case]]}},
        "logger": {"trainer": {"logger": [HOSTILE[case]]}},
    }
    Path("hostile.yaml").write_text(yaml.safe_dump(at[key]))
    assert fit("--config", "hostile.yaml", "--runs_dir", "runs") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["predict", "export --out OUT", "test"])
def test_commands_refuse_a_run_whose_network_is_a_shell_command(command, unlearned, stranger, capsys):
    (run,) = Path(shutil.copytree(unlearned, "runs")).glob("poison_digits/CF/*")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"network": spec("os.system", command=TOUCH)}))
    assert main([*command.split(), str(run)]) == 2
    assert "os.system" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"config.yaml:network=os.system belongs to Python itself"):
        cmu_lightning.load(run)


def test_weights_need_no_other_class_of_the_config(unlearned, stranger):
    """Callbacks, loggers and the stage of somebody who has other packages."""
    (run,) = unlearned.glob("poison_digits/CF/*")
    shutil.copytree(run, stranger, dirs_exist_ok=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["class_path"] = "strange.Method"
    config["trainer"] |= {"callbacks": [spec("strange.Callback")], "logger": [spec("strange.Logger")]}
    (stranger / "config.yaml").write_text(yaml.safe_dump(config))
    assert cmu_lightning.load(stranger).training is False
    assert restore_data(stranger).samples.deleted.any()


@pytest.mark.parametrize(
    "name",
    [
        "torchvision.models.resnet18",
        "torchvision.models.get_model",
        "torchvision.models.ResNet",
        "torch.nn.Flatten",
        "cmu_lightning.models.ResNet9",
        FACTORY,
    ],
)
def test_classes_of_networks_and_functions_that_make_them_are_taken(name):
    assert find_maker(name).__name__ == name.rpartition(".")[2]


FUNCTIONS = """
from torch import nn
def typed() -> nn.Module: return nn.Flatten()
def untyped(): return nn.Flatten()
def number() -> int: return 3
def wrong(): return 3
"""


def test_functions_of_the_user(monkeypatch, tmp_path):
    Path("own_functions.py").write_text(FUNCTIONS)
    Path("own_tools.py").write_text("def untyped(): return 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("typed", "untyped"):
        assert type(NetworkFromFunction(f"own_functions.{name}")).__name__ == "Flatten"
    with pytest.raises(UserError, match=r"own_functions\.wrong returns a int, not a network"):
        NetworkFromFunction("own_functions.wrong")
    for name in ("own_functions.number", "own_tools.untyped"):
        with pytest.raises(UserError, match=rf"network={name} is no function that makes networks: annotate"):
            find_maker(name)


def test_functions_of_an_installed_package_without_annotations(monkeypatch, tmp_path):
    """As timm's are: taken where networks are defined, refused where they are only used."""
    Path("pack_networks.py").write_text("from torch import nn\nclass Net(nn.Flatten): pass\ndef net(): return Net()\n")
    Path("pack_tools.py").write_text("from torch import nn\ndef net(): return nn.Flatten()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("cmu_lightning.models.admitted.INSTALLED", [tmp_path])
    assert find_maker("pack_networks.net")().start_dim == 1
    with pytest.raises(UserError, match=r"network=pack_tools\.net is no function that makes networks"):
        find_maker("pack_tools.net")


def test_a_file_of_the_user_that_has_the_name_of_a_module_of_python(monkeypatch, tmp_path):
    Path("this.py").write_text("from torch import nn\nclass Net(nn.Flatten): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    standard_library.cache_clear()
    try:
        assert find_maker("this.Net").__name__ == "Net"
        assert "os" in standard_library()
    finally:
        standard_library.cache_clear()


def test_names_that_are_no_classes_are_not_looked_at():
    check_names({"setting": "os.system", "data": {"root": "os.path"}, "function": 3, "class_path": None})


def test_an_argument_whose_name_ends_in_function_is_looked_at():
    from joblib.memory import MemorizedFunc  # an installed class of no kind that a config needs

    hidden = {"class_path": f"{MemorizedFunc.__module__}.{MemorizedFunc.__qualname__}", "init_args": {"func": 1}}
    with pytest.raises(UserError, match="is neither a network nor data"):
        check_names({"network": spec("torch.nn.TripletMarginWithDistanceLoss", distance_function=hidden)})


@pytest.mark.slow
def test_a_stranger_runs_nothing_in_a_process_of_its_own(stranger):
    (stranger / "config.yaml").write_text(yaml.safe_dump({"network": spec("os.system", command=TOUCH)}))
    (stranger / "metrics.json").write_text(json.dumps({"hash": "0", "setting": "a", "method": "b"}))
    (stranger / "last.ckpt").write_bytes(b"")
    ended = run_command("python -m cmu_lightning predict RUN")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
