"""Mistakes of a user: one sentence, exit code 2, and nothing is left behind."""

import re
from pathlib import Path

import pytest
from torch import nn

from cmu_lightning.__main__ import main as run_words
from cmu_lightning.cli.fit import main
from cmu_lightning.cli.messages import one_sentence, user_mistake
from cmu_lightning.errors import UserError
from cmu_lightning.parsing import CONFIGS, name_config
from cmu_lightning.unlearning import CF as Fine
from tests.helpers.run_files import CF


class Untyped(Fine):
    """A method as a newcomer may write it."""

    def __init__(self, network, procedure, original=None, seed=None):
        super().__init__(network, procedure, original, seed)


class Anything(nn.Module):
    """A network that does not say what it takes."""

    def __init__(self, act=None):
        super().__init__()


WRONG: dict[str, tuple[list[str], str]] = {
    "an unknown key": (["--data.identifed", "0.5"], "no option 'identifed'"),
    "an abbreviated key": (["--procedure.step", "3"], "unrecognized arguments: --procedure.step"),
    "a misspelt config": (
        ["--config", "unlearn/cff.yaml"],
        r"no config unlearn/cff.yaml, .* unlearn/cf.yaml",
    ),
    "a config without its ending": (["--config", "unlearn/cf"], "no config unlearn/cf: give unlearn/cf.yaml"),
    "a fraction over 1": (["--data.identified", "1.5"], "identified=1.5 is not in"),
    "more samples than there are": (["--data.manipulation.size", "3000"], "3000 samples .* has 1197"),
    "a class that does not exist": (["--data.manipulation.target", "12"], "label 12 .* 0 to 9"),
    "a number that is none": (["--procedure.lr", "fast"], "procedure.lr=fast is not possible: give a number"),
    "a value without a colon": (
        ["--config", "network: {class_path: ResNet9, init_args: {width 4}}"],
        "the key 'width 4' contains a space, write NAME: VALUE",
    ),
    "arguments that are not indented": (
        ["--config", "data:\n  class_path: DigitsDataModule\n  init_args:\nmanipulation:\n  class_path: Poison\n"],
        "--data: DigitsDataModule cannot be read, check the lines below it and their indentation",
    ),
    "an unknown class": (["--model", "Foo"], "--model: there is no class Foo, check its spelling"),
    "an unknown manipulation": (["--data.manipulation", "Foo"], "--data.manipulation: there is no class Foo"),
    "a misspelt method": (["--model", "Scrubb"], r"there is no class Scrubb, did you mean Scrub\? check its spelling"),
    "a misspelt manipulation": (["--data.manipulation", "Posion"], r"no class Posion, did you mean Poison\?"),
    "a misspelt option": (["--data.identifed", "1"], r"no option 'identifed', did you mean identified\? check its"),
    "a misspelt option of a method": (
        ["--config", "unlearn/scrub.yaml", "--model.distil", "1"],
        r"Scrub: there is no option 'distil', did you mean distill\?",
    ),
    "a misspelt callback": (
        ["--trainer.callbacks+=RichProgresBar"],
        r"^error: --trainer.callbacks: there is no class RichProgresBar, did you mean RichProgressBar\? check [^,]*$",
    ),
    "a misspelt callback of a module": (
        ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStoping"],
        r"there is no lightning.pytorch.callbacks.EarlyStoping, did you mean EarlyStopping\?",
    ),
    "a misspelt logger": (["--trainer.logger", "CSVLoger"], r"no class CSVLoger, did you mean CSVLogger\?"),
    "a misspelt network": (["--network", "ResNet99"], r"no class ResNet99, did you mean ResNet9\?"),
    "a misspelt network of a library": (
        ["--network", "torchvision.models.resnet81"],
        r"there is no torchvision.models.resnet81, did you mean resnet18\?",
    ),
    "a misspelt library": (["--network", "torchvison.models.resnet18"], r"no module torchvison, did you mean torchv"),
    "a misspelt option of a network": (
        ["--network", "ResNet9", "--network.widht", "3"],
        r"no option 'widht', did you mean width\?",
    ),
    "a misspelt option of the Trainer": (["--trainer.device", "1"], r"=1; did you mean trainer.devices\? check"),
    "a misspelt option of the procedure": (["--procedure.step", "3"], r"did you mean procedure.steps\?"),
    "a misspelt option of the command": (["--checkpoint", "none"], r"did you mean checkpoints\?"),
    "an option of a method without the method": (
        ["--model.selection", "3"],
        "--model.selection is not of an original: name a method before it, such as --config unlearn/ssd.yaml",
    ),
    "an option of a method without method and value": (["--model.selection"], "such as --config unlearn/ssd.yaml"),
    "W&B a second time": (["--trainer.logger", "WandbLogger"], "log to W&B a second time: leave it out, .* --wandb.pr"),
    "W&B a second time, in a list": (["--trainer.logger+=WandbLogger"], "log to W&B a second time: leave it out"),
    "W&B a second time, by its path": (
        ["--trainer.logger", "lightning.pytorch.loggers.WandbLogger"],
        "log to W&B a second time: leave it out",
    ),
    "a config without --config": (["unlearn/cf.yaml"], "and unlearn/cf.yaml is none: write --config unlearn/cf.yaml$"),
    "a method without --config": (["SSD"], r"and SSD is none: did you mean --config unlearn/ssd.yaml\?$"),
    "a word": (["word"], "and word is none: write --config before a config, --NAME before a value$"),
    "a class for an argument of any type": (
        ["--network", "tests.cli.test_mistakes.Anything", "--network.act", '{"class_path": "torch.nn.ReLU"}'],
        "network.act names the class torch.nn.*ReLU, .* write a type, such as act: nn.Module",
    ),
    "a folder for a config": (["--config", "/"], "the config / is not a file: give a YAML file"),
    "an option without its value": (["--data.identified"], "data.identified=True is not possible: give a number"),
    "an empty value": (["--data.identified="], "data.identified= is not possible: give a number"),
    "an abstract manipulation": (
        ["--data.manipulation", "Manipulation"],
        "--data.manipulation: no class is named yet, give the options of one after",
    ),
    "no such choice": (
        ["--data.manipulation.position", "middle"],
        "data.manipulation.position=middle is not possible: give one of 'top-left', 'top-right'",
    ),
    "an unknown precision": (
        ["--trainer.precision", "17"],
        "trainer.precision=17 is not possible: give one of 64, .* or one of",
    ),
    "an unknown policy": (
        ["--checkpoints", "some"],
        "checkpoints=some is not possible: give one of 'all', 'chosen', 'none'$",
    ),
    "an unknown argument": (["--foo"], "unrecognized arguments: --foo; check their spelling"),
    "an unknown option of the network": (
        ["--network.widht", "3"],
        "no option 'widht', .*--help; what a function takes",
    ),
    "a key that does not exist": (["--config", "key.yaml"], "no option 'sead_everything', check its spelling"),
    "a config of no options": (["--config", "list.yaml"], "list.yaml holds no mapping"),
    "an unknown strategy": (
        ["--trainer.strategy", "foo"],
        r"\(accelerator=\S+, devices=\S+, strategy=foo\): You selected",
    ),
    "a size that is none": (
        ["--data.manipulation.size", "x"],
        "data.manipulation.size=x is not possible: give a whole number",
    ),
    "a pattern that is no seed": (
        ["--data.manipulation", "Blended", "--data.manipulation.size", "36", "--data.manipulation.pattern", "-1"],
        "-1 is not a seed",
    ),
    "nothing to measure": (["--trainer.limit_test_batches", "0"], "limit_test_batches=0 leaves nothing"),
    "a network of negative width": (["--network", "ResNet9", "--network.width", "-4"], "network.width=-4"),
    "a length of the trainer's": (["--trainer.max_steps", "3"], "trainer.max_steps=3 .* procedure.steps"),
    "a callback that changes steps": (
        ["--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling", "{0: 4}"],
        "GradientAccumulationScheduler would change what a step is: .* procedure.batch_size",
    ),
    "a callback of one's own that does": (
        ["--trainer.callbacks+=tests.unlearning.test_stages.Own", "--trainer.callbacks.scheduling", "{0: 4}"],
        "the callback Own would change what a step is",
    ),
    "a method without types": (
        ["--model", "tests.cli.test_mistakes.Untyped"],
        r"tests.cli.test_mistakes.Untyped takes network without a type, .* write network: Callable\[\[\], nn.Module\]",
    ),
    "averages of one epoch": (
        ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"],
        "StochasticWeightAveraging averages over epochs",
    ),
    "no labels": (["--data.val_labels", "null"], "data.val_labels=null is not possible: leave it out for its default"),
    "no patch": (["--data.manipulation.patch", "null"], "data.manipulation.patch=null is not possible"),
    "no target": (["--data.manipulation.target", "null"], "data.manipulation.target=null is not possible"),
    "no width": (["--network", "ResNet9", "--network.width", "null"], "network.width=null is not possible"),
    "no weight": ([*CF, "--model", "SSD", "--model.selection", "null"], "model.selection=null is not possible"),
    "no augmentation": ([*CF, "--model", "SSD", "--model.augment", "null"], "model.augment=null is not possible"),
    "weights of other classes": (
        ["--network", "torchvision.models.resnet18", "--network.weights", "DEFAULT"],
        "torchvision.models.resnet18 cannot make a network .*'num_classes' expected value 1000.*change the options",
    ),
    "a second sharding": (["--trainer.use_distributed_sampler", "true"], "use_distributed_sampler=True"),
    "a negative seed": (["--seed_everything", "-3"], "seed_everything=-3"),
    "an original's model.seed": (["--model.seed", "3"], "model.seed=3 .* --original_seed"),
    "a network for other images": (["--network.pixels", "100"], "does not take images of shape"),
    "a network for other classes": (["--network.num_classes", "7"], r"shape \(7,\) for the 10 classes"),
    "an original for an original": (
        ["--model.original", "nothing.ckpt"],
        "model.original is not of an original: name a method before it",
    ),
    "a key twice": (["--config", "twice.yaml"], "twice.yaml says steps twice, again in line 3: leave one"),
    "data that are none": (["--config", "data.yaml"], "data=3 is not possible: give a class_path of a Corrupted"),
    "a module that does not exist": (["--model", "nowhere.Stripe"], "there is no module nowhere, check"),
    "a network for no memory": (["--network", "ResNet9", "--network.width", "999999999"], "memory ran out .* network"),
    "a momentum over 1": (["--procedure.momentum", "1"], "procedure.momentum=1.0 is not possible: give 0 or more"),
    "a config with tabs": (["--config", "tab.yaml"], r"tab.yaml is not YAML \(.*line 2, column 1"),
    "a missing original": ([*CF, "--model.original", "nothing.ckpt"], "no checkpoint nothing.ckpt"),
    "a negative seed of the original": (["--original_seed", "-1"], "original_seed=-1"),
    "a negative seed of S_m": (["--data.manipulation.seed", "-1"], "data.manipulation.seed=-1"),
    "no threads": (["--threads", "0"], "threads=0"),
    "a setting outside the runs folder": (["--setting", "../x"], r"setting=\.\./x"),
    "a setting without a name": (["--setting", ""], "setting= names a folder"),
    "an accelerator that does not exist": (["--trainer.accelerator", "foo"], "accelerator='foo'"),
    "clipping to less than nothing": (["--trainer.gradient_clip_val", "-1"], "gradient_clip_val=-1"),
    "clipping to no number": (["--trainer.gradient_clip_val", ".nan"], "gradient_clip_val=nan"),
    "a logger that is not installed": (
        ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "."],
        "`tensorboardX` is available",
    ),
    "a logger without a place": (
        ["--trainer.logger", "TensorBoardLogger"],
        "--trainer.logger: TensorBoardLogger: the following arguments are required: save_dir$",
    ),
    "an infinite weight": ([*CF, "--model", "Scrub", "--model.distill", ".nan"], "distill >= 0, .* not distill=nan"),
    "validation every 0 steps": (["--trainer.val_check_interval", "0"], "val_check_interval=0"),
    "validation by the clock": (["--trainer.val_check_interval", "{minutes: 5}"], "give a number of steps above 0"),
    "a precision of the strategy's own": (
        [
            *("--trainer.strategy", "SingleDeviceStrategy", "--trainer.strategy.device", "cpu"),
            "--trainer.strategy.precision_plugin={class_path: lightning.pytorch.plugins.DoublePrecision}",
        ],
        r"strategy.init_args.precision_plugin changes a run's numbers .* give trainer.precision",
    ),
    "a trigger larger than the image": (["--data.manipulation.patch", "13"], "13 pixels .* 12x12"),
    "a trigger of other channels": (["--data.manipulation.value", "[1,1,1]"], "3 numbers for 1 channels"),
    "an empty config": (["--config", "empty.yaml"], "empty.yaml is empty"),
    "a config that is no text": (["--config", "binary.yaml"], "binary.yaml is not text"),
    "a config as an original": ([*CF, "--model.original", str(CONFIGS / "poison_digits.yaml")], "is refused"),
    "a missing checkpoint": (["--ckpt_path", "nothing.ckpt"], "no checkpoint nothing.ckpt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(case, fit, capsys):
    Path("empty.yaml").write_text("")
    Path("binary.yaml").write_bytes(bytes(range(128, 256)))
    Path("tab.yaml").write_text("data:\n\tinit_args: {}\n")
    Path("twice.yaml").write_text("procedure:\n  steps: 3\n  steps: 4\n")
    Path("data.yaml").write_text("data: 3\n")
    Path("list.yaml").write_text("- 1\n")
    Path("key.yaml").write_text("sead_everything: 3\n")
    arguments, says = WRONG[case]
    assert fit("--runs_dir", "runs", *arguments) == 2
    error = re.sub(r"\Aloading digits\n", "", capsys.readouterr().err.strip())
    assert error.startswith("error: ")
    assert error.count("\n") == 0
    assert "Traceback" not in error
    assert re.search(says, error), error
    left = [path for path in Path("runs").rglob("*") if ".locks" not in path.parts]
    assert left == []


def test_stopping_early_by_what_is_not_logged(fit, capsys):
    watching = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "loss"]
    assert fit(*watching, "--procedure.steps", "2", "--trainer.val_check_interval", "1", "--runs_dir", "runs") == 2
    assert (
        "error: EarlyStopping watches `loss`, which this stage does not log: give one of `val"
        in capsys.readouterr().err
    )


def test_a_runs_folder_that_cannot_be_written(fit, capsys):
    Path("file").write_text("")
    assert fit("--runs_dir", "file/runs") == 2
    assert "nothing can be written to file/runs" in capsys.readouterr().err


def test_data_that_cannot_be_downloaded(capsys, monkeypatch):
    def unreachable(*arguments, **more):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    assert main(["fit", "--config", "poison_cifar10.yaml", "--config", "trainer/smoke.yaml"]) == 2
    assert "could not be downloaded (no route to host)" in capsys.readouterr().err
    assert not list(Path("runs").rglob("metrics.json"))


def test_test_needs_a_checkpoint(capsys):
    assert main(["test", "--config", "poison_digits.yaml"]) == 2
    assert "give --ckpt_path" in capsys.readouterr().err


def test_long_complaints_become_one_line():
    message = 'Parser key "data":\n  Does not validate against any of the Union subtypes\n  Errors:\n    - bad value\n'
    assert one_sentence(message) == "--data: bad value"
    assert one_sentence("Given value\n  NoneType") == "Given value NoneType", "rather than nothing"


def test_a_manipulation_without_arguments(fit, monkeypatch):
    """jsonargparse gives such a class no `init_args`."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("own_manipulation.py").write_text(
        "from cmu_lightning.data import Poison\n\n\nclass Small(Poison):\n"
        "    def __init__(self):\n        super().__init__(size=36)\n"
    )
    assert fit("--data.manipulation", "own_manipulation.Small") == 0


def test_types_are_named_in_words():
    assert one_sentence("Parser key \"a.b\":\n  Expected a <class 'list'>. Got value: x").endswith("give a list")
    message = "Parser key \"a\":\n  Expected a <class 'int'> <class 'float'>. Got value: x"
    assert one_sentence(message) == "a=x is not possible: give a whole number or a number"


def test_a_mistake_is_told_in_its_own_words():
    """What a user's network says may look like the parser's noise."""
    outer = ValueError("in a library")
    outer.__cause__ = UserError("Net does not take images ('NoneType' object is not callable):\n change network")
    assert user_mistake(outer) == "Net does not take images ('NoneType' object is not callable): change network"


JOBS = {
    "SLURM": {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "study", "PROCID": "0", "LOCALID": "0", "NODEID": "0"},
    "torchrun": {"TORCHELASTIC_RUN_ID": "7", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_with_fewer_processes_than_devices_is_refused(job, fit, capsys, monkeypatch):
    """It would train on one device, or wait for processes that nobody starts."""
    for name, value in JOBS[job].items():
        monkeypatch.setenv(f"SLURM_{name}" if job == "SLURM" else name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    assert fit("--trainer.devices", "2", "--trainer.strategy", "ddp") == 2
    said = capsys.readouterr().err
    assert "error: 1 process was started for trainer.devices=2 and trainer.num_nodes=1: start one for each" in said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "The server socket has failed to listen: EADDRINUSE, address already in use",
            "port 1, at which the processes",
        ),
        (
            "[gloo/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4",
            "another process of this run has ended: run",
        ),
        ("Expected to have finished reduction in the prior iteration before", "has a layer that no loss depends on"),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_words_of_processes_that_cannot_work_together(words, sentence, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr("cmu_lightning.cli.messages.describe_deaths", lambda seconds: "")
    said = user_mistake(RuntimeError(words))
    assert said is None if sentence is None else sentence in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "poison_digits.yaml"], "and poison_digits.yaml is none: write --config poison_digits.yaml"),
        (["fit", "poison_digit.yaml"], r"did you mean --config poison_digits.yaml\?"),
        (["fit"], "fit needs a setting: give --config and one of confusion_cifar10.yaml, .*, poison_pcam.yaml"),
        (["fit", "--threads", "1"], "fit needs a setting"),
        (
            ["fit", "--config", "poison_digit.yaml"],
            r"no config poison_digit.yaml, .*project's \(did you mean poison_digits.yaml\?\): ",
        ),
        (["test"], "test needs a run: give the folder of one, such as test runs/"),
        (["test", "nowhere"], "nowhere is not a run: it has no config.yaml; give one such as runs/"),
        (
            ["fitt", "--config", "poison_digits.yaml"],
            r"no command fitt: give one of fit, .* \(did you mean fit\?\)$",
        ),
    ],
)
def test_the_first_line_that_is_typed(words, says, capsys):
    assert run_words(words) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]*\n", said)
    assert re.search(says, said), said
    assert list(Path().iterdir()) == []


def test_a_progress_bar_of_the_users_takes_the_place_of_ours(fit, capsys):
    bar = ("--trainer.enable_progress_bar", "true", "--trainer.callbacks+=RichProgressBar")
    assert fit(*bar, "--procedure.steps", "2", "--runs_dir", "runs") == 0
    assert "Epoch 0" in capsys.readouterr().out


def test_test_of_a_run(unlearned, capsys):
    (run,) = unlearned.glob("poison_digits/CF/*")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert run_words(["test", str(run)]) == 0
    assert "metrics.json" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert name_config(["test", str(run), "--threads", "1"]) == [
        "test",
        f"--config={run}/config.yaml",
        f"--ckpt_path={run}/last.ckpt",
        "--threads=1",
    ]


def test_the_help_shows_our_options_and_the_trainers_on_request(capsys):
    for words, shown in (["--help"], "--procedure.lr"), (["--help", "trainer"], "--trainer.max_epochs"):
        with pytest.raises(SystemExit, match="0"):
            run_words(["fit", *words])
        said = capsys.readouterr().out
        assert shown in said
        assert ("--trainer.max_epochs" in said) != ("--procedure.lr" in said)
        assert ("--help trainer lists them" in said) == ("--procedure.lr" in said)


@pytest.mark.parametrize(
    ("option", "shown", "not_shown"),
    [("model", "SSD", "Unlearner"), ("data", "DigitsDataModule", "Poison"), ("network", "ResNet9", "SSD")],
)
def test_help_without_a_name_lists_the_classes(option, shown, not_shown, capsys):
    with pytest.raises(SystemExit, match="0"):
        run_words(["fit", f"--{option}.help"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown in listed
    assert not_shown not in listed
    assert len(set(listed)) == len(listed)
