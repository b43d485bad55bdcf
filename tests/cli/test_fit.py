"""`fit`, `test` and `load`, from the command line to what they leave."""

import errno
import json
import os
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd
from lightning.pytorch.plugins.io import TorchCheckpointIO

import cmu_lightning
from cmu_lightning.cli.fit import CLI, main
from cmu_lightning.cli.spelling import normalize
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.execute import Job
from cmu_lightning.experiment.ledger import is_finished
from cmu_lightning.experiment.run import keep_weights, read_metrics, write_metrics
from cmu_lightning.files import write_atomically
from cmu_lightning.parsing import CONFIGS, find_configs
from cmu_lightning.unlearning.checkpoint import save_whole
from tests.helpers.damage import flip_bit
from tests.helpers.networks import Linear
from tests.helpers.run_files import numbers

CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5")


def only_match(folder: Path, pattern: str) -> Path:
    """Return the one path in a folder that matches."""
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


def read_results(folder: Path, method: str) -> dict[str, Any]:
    """Return the `metrics.json` of a method's one run of poison_digits."""
    return json.loads(only_match(folder, f"poison_digits/{method}/*/metrics.json").read_text())


def load_weights(folder: Path, method: str = "Original") -> dict[str, torch.Tensor]:
    """Return the state dict of a method's one run of poison_digits."""
    return torch.load(only_match(folder, f"poison_digits/{method}/*/last.ckpt"), weights_only=True)["state_dict"]


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """Return a copy of the runs folder with the small original, which a test may change."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def test_what_an_original_leaves(runs):
    stored = read_results(runs, "Original")
    folder = only_match(runs, "poison_digits/Original/*")
    assert folder.name == f"0-{stored['hash']}"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "last.ckpt", "metrics.json", "csv"}
    identity = {"setting": "poison_digits", "dataset": "digits", "model": "Linear", "manipulation": "Poison"}
    identity |= {
        "method": "Original",
        "manipulated": 36,
        "seed": 0,
        "original_seed": 0,
        "manipulation_seed": 0,
    }
    assert identity.items() <= stored.items()
    assert (
        stored["samples_forward"] == stored["samples_backward"] == sum(min(101, 1197 - i % 12 * 101) for i in range(40))
    )
    for absent in ("identified", "deleted", "acc_identified", "changed", "selection_score", "original"):
        assert absent not in stored
    assert {"torch", "device", "world_size", "threads", "precision"} <= stored["environment"].keys()
    content = torch.load(folder / "last.ckpt", weights_only=True)
    assert "optimizer_states" not in content
    assert len(content["DigitsDataModule"]["manipulated"]) == 36


def test_what_an_unlearner_leaves_is_found_again_by_test(copied, fit, capsys):
    assert fit(*CF, "--runs_dir", str(copied)) == 0
    stored = read_results(copied, "CF")
    assert (stored["identified"], stored["deleted"], stored["data_seed"], stored["model_seed"]) == (
        0.5,
        18,
        0,
        0,
    )
    assert stored["original"] == read_results(copied, "Original")["hash"]
    content = torch.load(only_match(copied, "poison_digits/CF/*/last.ckpt"), weights_only=True)
    assert len(content["cmu_lightning"]["reference"]) == len(content["DigitsDataModule"]["deleted"]) == 18
    assert not any("original" in key or "teacher" in key for key in content["state_dict"])

    folder = only_match(copied, "poison_digits/CF/*")
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    again = ["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]
    capsys.readouterr()
    assert main(again) == 0
    assert "metrics.json" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()} == before

    stored["acc_corr"] += 0.25
    write_metrics(folder, stored)
    assert main(again) == 1
    assert "not the stored numbers: acc_corr" in capsys.readouterr().err


def test_a_finished_run_is_not_run_again(copied, fit, capsys):
    checkpoint = only_match(copied, "poison_digits/Original/*/last.ckpt")
    written = checkpoint.stat().st_mtime_ns
    assert fit("--runs_dir", str(copied)) == 0
    assert "was finished before" in capsys.readouterr().out
    assert checkpoint.stat().st_mtime_ns == written


def test_the_saved_config_gives_the_same_numbers(copied, tmp_path):
    config = only_match(copied, "poison_digits/Original/*/config.yaml")
    assert main(["fit", "--config", str(config), "--runs_dir", str(tmp_path / "again")]) == 0
    assert are_equal(load_weights(tmp_path / "again"), load_weights(copied))
    one, other = read_results(copied, "Original"), read_results(tmp_path / "again", "Original")
    assert numbers(one) == numbers(other)
    assert only_match(tmp_path / "again", "poison_digits/Original/*").name == config.parent.name
    assert one["config"] == yaml.safe_load(config.read_text())
    assert other["config"] == one["config"] | {"runs_dir": str(tmp_path / "again")}


def test_what_belongs_to_a_stage_does_not_change_its_original(copied, fit):
    """Neither S_f nor the unlearner's seed or steps ask for another original; network, data and procedure do."""
    more = (
        "--data.seed",
        "5",
        "--model.seed",
        "6",
        "--procedure.unlearn_steps",
        "3",
        "--seed_everything",
        "0",
    )
    assert fit(*CF, *more, "--runs_dir", str(copied)) == 0
    assert read_results(copied, "CF")["original"] == read_results(copied, "Original")["hash"]
    assert len(list(copied.glob("poison_digits/Original/*"))) == 1
    hashes = set()
    for change in (("--procedure.lr", "0.01"), ("--data.manipulation.seed", "1"), ("--data.val_size", "100")):
        assert fit(*change, "--procedure.steps", "2", "--runs_dir", str(copied)) == 0
    for path in copied.glob("poison_digits/Original/*"):
        hashes.add(path.name)
    assert len(hashes) == 4


def test_seeds_are_resolved_recorded_and_honoured(tmp_path, fit):
    folder = tmp_path / "r"
    assert (
        fit(
            "--seed_everything",
            "3",
            "--data.manipulation.seed",
            "4",
            "--procedure.steps",
            "2",
            "--runs_dir",
            str(folder),
        )
        == 0
    )
    stored = read_results(folder, "Original")
    assert (stored["seed"], stored["original_seed"], stored["manipulation_seed"]) == (3, 3, 4)
    config = yaml.safe_load(only_match(folder, "poison_digits/Original/*/config.yaml").read_text())
    assert (
        config["original_seed"],
        config["model"]["init_args"]["seed"],
        config["data"]["init_args"]["seed"],
    ) == (3, 3, 3)
    assert config["threads"] == torch.get_num_threads()


@pytest.mark.slow
def test_an_unfinished_original_is_resumed_whatever_s_f_it_was_begun_with(copied, fit):
    path = only_match(copied, "poison_digits/Original/*/metrics.json")
    stored = read_metrics(path.parent)
    shutil.rmtree(path.parent)
    assert fit("--data.identified", "0.25", "--runs_dir", str(copied)) == 0
    path.unlink()
    assert fit(*CF, "--runs_dir", str(copied)) == 0
    again = read_metrics(path.parent)
    assert numbers(again) == numbers(stored)
    assert again["environment"] == stored["environment"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ssd", "keep"])
def test_clipped_originals_are_dampened_too(copied, fit, method):
    clipped = ("--trainer.gradient_clip_val", "0.1", "--runs_dir", str(copied))
    assert fit(*clipped, "--config", f"unlearn/{method}.yaml", "--data.identified", "0.5") == 0
    assert len(list(copied.glob("poison_digits/Original/*/metrics.json"))) == 2
    assert len(list(copied.glob("poison_digits/*/*/metrics.json"))) == 3


def test_an_unfinished_run_is_resumed(copied, fit):
    """After training and before measuring: only the measuring is left."""
    path = only_match(copied, "poison_digits/Original/*/metrics.json")
    stored = read_metrics(path.parent)
    path.unlink()
    assert fit("--runs_dir", str(copied)) == 0
    again = read_metrics(path.parent)
    assert again | {"config": stored["config"]} == stored
    assert again["config"] == yaml.safe_load(path.with_name("config.yaml").read_text())


def test_weights_can_be_dropped(copied, fit):
    assert fit(*CF, "--checkpoints", "none", "--runs_dir", str(copied)) == 0
    assert read_results(copied, "CF")["dropped_checkpoint"] == "last.ckpt"
    assert not list(copied.glob("poison_digits/CF/*/last.ckpt"))


@pytest.mark.parametrize(("is_kept", "spelled"), [(False, "chosen"), (False, "until_chosen"), (True, "until_chosen")])
def test_runs_of_a_sweep_keep_their_weights_until_it_has_chosen(copied, fit, is_kept, spelled):
    """Older sweeps have stored another word for it, which a stored config may still have."""
    Path("stored.yaml").write_text(f"checkpoints: {spelled}\n")
    with keep_weights() if is_kept else nullcontext():
        assert fit(*CF, "--config", "stored.yaml", "--runs_dir", str(copied)) == 0
    folder, stored = only_match(copied, "poison_digits/CF/*"), read_results(copied, "CF")
    assert (folder / "last.ckpt").exists() == is_kept == ("dropped_checkpoint" not in stored)
    assert stored["config"]["checkpoints"] == "chosen"
    assert yaml.safe_load((folder / "config.yaml").read_text()) == stored["config"]
    if is_kept:
        assert main(["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]) == 0
        assert isinstance(cmu_lightning.load(folder), Linear)


def test_load_gives_the_network(runs):
    network = cmu_lightning.load(only_match(runs, "poison_digits/Original/*"))
    assert isinstance(network, Linear)
    assert not network.training
    assert network(torch.zeros(2, 1, 12, 12)).shape == (2, 10)


def test_configs_are_found_from_anywhere(tmp_path):
    assert find_configs(["--config", "unlearn/cf.yaml", "-c=poison_digits.yaml"]) == [
        f"--config={CONFIGS / 'unlearn/cf.yaml'}",
        f"-c={CONFIGS / 'poison_digits.yaml'}",
    ]
    Path("mine.yaml").write_text("setting: mine")
    assert find_configs(["--config", "mine.yaml"]) == ["--config=mine.yaml"]


def test_what_a_config_says_can_be_taken_back(fit, tmp_path):
    for at, null in enumerate((["--data.manipulation.size=null"], ["--data.manipulation.size", "null"])):
        folder = str(tmp_path / str(at))
        assert fit(*null, "--data.manipulation.fraction", "0.01", "--procedure.steps", "1", "--runs_dir", folder) == 0
        assert read_results(Path(folder), "Original")["manipulated"] == 12
    sorted_by_name = ["--config=a.yaml", "--model.augment=true", "--model.class_path=SSD", "--seed_everything=1"]
    assert normalize(sorted_by_name) == [sorted_by_name[at] for at in (0, 2, 1, 3)]
    twice = ["--model.class_path=SSD", "--model.augment=true", "--model.class_path=LFSSD"]
    assert normalize(twice) == ["--model.class_path=LFSSD", "--model.augment=true"]
    apart = ["--model.class_path=SSD", "--model.selection=5", "--config=unlearn/cf.yaml", "--model.class_path=SSD"]
    assert normalize(apart) == apart
    both = ["--model.seed=1", "--config=a.yaml", "--model.lr=0.1", "--model.class_path=Scrub"]
    assert normalize(both) == [both[at] for at in (0, 1, 3, 2)]
    overlaid = ["--model.augment=true", "--config=a.yaml", "--model.class_path=SSD"]
    assert normalize(overlaid) == overlaid
    kept = ["--model.original", "null", "--threads=null", "--data.manipulation.size", "3"]
    assert normalize(kept) == ["--model.original=null", "--threads=null", "--data.manipulation.size=3"]
    no_equals = ["fit", "--model.augment", "true", "--model.class_path", "SSD", "-c", "a.yaml", "--threads", "-1"]
    assert normalize(["fit", "--model.rewind", "--model.help", "--help"]) == [
        *("fit", "--model.rewind=true", "--model.help", "--help")
    ]
    joined = ["fit", "--model.class_path=SSD", "--model.augment=true", "-c=a.yaml", "--threads=-1"]
    assert normalize(no_equals) == joined
    assert normalize(["--data.manipulation.flips", "{9:1,2:0}"]) == ["--data.manipulation.flips={9: 1,2: 0}"]
    for spelled in (["--network", "my.net"], ["--network=my.net"]):
        assert normalize(spelled) == ['--network={"class_path": "my.net"}']


def test_settings_from_dot_env(tmp_path, fit, monkeypatch):
    Path(".env").write_text("CMU_RUNS_DIR=from_env\nWANDB_MODE=online\n")
    monkeypatch.setenv("CMU_RUNS_DIR", "")
    monkeypatch.delenv("CMU_RUNS_DIR")
    assert fit("--procedure.steps", "1") == 0
    assert read_results(Path("from_env"), "Original")["hash"]
    assert os.environ["WANDB_MODE"] == "disabled"  # the environment wins
    monkeypatch.delenv("CMU_RUNS_DIR")


SCRUB = ("--config", "poison_digits.yaml", "--config", "unlearn/scrub.yaml")


def test_help_and_print_config(capsys, fit):
    for arguments, says in {
        ("fit", "--help"): "--procedure.unlearn_steps",
        ("--help", "fit"): "{fit,test}",
        ("fit", "--config", "poison_digits.yaml", "--compile", "--print_config"): "compile: true",
        ("fit", *SCRUB, "--model.rewind", "--print_config"): "rewind: true",
        ("--print_config", "fit", "--config", "poison_digits.yaml"): "setting: poison_digits",
        ("fit", "-h"): "usage: python -m cmu_lightning [options] fit",
        ("fit", "--config", "poison_digits.yaml", "--print_config"): "setting: poison_digits",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code in (0, None)
        printed = capsys.readouterr()
        assert says in printed.out
        assert "Warning" not in printed.err


def test_help_of_a_method_is_of_its_options(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "Scrub"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m cmu_lightning")
    assert "--model.distill DISTILL" in printed
    assert "torch.nn" not in printed  # of which there are hundreds
    assert len(printed.splitlines()) < 80


def test_an_original_says_that_it_knows_no_deletion_set(copied, fit, capsys):
    assert fit("--data.identified", "0.5", "--runs_dir", str(copied)) == 0
    assert "this is the original, of which no S_f is a part" in capsys.readouterr().err
    assert fit(*CF, "--data.identified", "0.5", "--runs_dir", str(copied)) == 0
    assert fit("--runs_dir", str(copied)) == 0
    assert "this is the original" not in capsys.readouterr().err


def test_a_single_callback_is_taken(fit, tmp_path):
    assert fit("--runs_dir", str(tmp_path / "own"), "--trainer.callbacks", "LearningRateMonitor") == 0


def test_checkpoints_of_other_runs_are_refused(copied, fit, capsys):
    original = str(only_match(copied, "poison_digits/Original/*/last.ckpt"))
    assert fit(*CF, "--ckpt_path", original, "--runs_dir", str(copied)) == 2
    assert "give it as --model.original" in capsys.readouterr().err
    assert fit(*CF, "--model.original", original, "--data.manipulation.seed", "1", "--runs_dir", str(copied)) == 2
    assert "another draw of manipulated samples" in capsys.readouterr().err
    assert fit(*CF, "--model.original", original, "--network", "ResNet9", "--network.in_channels", "1") == 2
    assert "to another architecture" in capsys.readouterr().err
    Path(original).write_bytes(Path(original).read_bytes()[:3000])
    assert fit(*CF, "--model.original", original, "--runs_dir", str(copied)) == 2
    assert "cannot be read as a checkpoint" in capsys.readouterr().err
    assert not list(copied.glob("poison_digits/CF/*"))


def test_weights_that_a_killed_process_has_said_to_drop_are_dropped(copied, fit):
    path = only_match(copied, "poison_digits/Original/*/last.ckpt")
    write_metrics(path.parent, read_metrics(path.parent) | {"dropped_checkpoint": path.name})
    assert fit("--runs_dir", str(copied)) == 0
    assert not path.exists()
    assert read_metrics(path.parent)["dropped_checkpoint"] == path.name


def test_a_finished_run_survives_whatever_is_missing(copied, fit, capsys):
    folder = only_match(copied, "poison_digits/Original/*")
    (folder / "config.yaml").unlink()
    assert fit("--runs_dir", str(copied)) == 0
    assert (folder / "last.ckpt").exists()
    (folder / "metrics.json").write_text("[]")
    assert fit("--runs_dir", str(copied)) == 2
    assert "metrics.json is damaged" in capsys.readouterr().err
    assert (folder / "last.ckpt").exists()


def test_a_config_of_another_run_is_refused(copied, fit, capsys):
    assert fit(*CF, "--runs_dir", str(copied)) == 0
    config, checkpoint = (
        only_match(copied, f"poison_digits/{name}") for name in ("Original/*/config.yaml", "CF/*/last.ckpt")
    )
    assert main(["test", "--config", str(config), "--ckpt_path", str(checkpoint)]) == 2
    assert "belongs to another run than the config" in capsys.readouterr().err


def write_on_full_disk(path, content):
    """Write as `write_atomically` does where the disk is full before the content is on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", refuse_to_write)
        write_atomically(path, content)


def refuse_to_write(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_the_same_command_resumes(copied, fit, capsys, monkeypatch):
    arguments = (*CF, "--runs_dir", str(copied))
    with monkeypatch.context() as patch:
        patch.setattr("cmu_lightning.unlearning.checkpoint.write_atomically", write_on_full_disk)
        assert fit(*arguments) == 2
    assert "error: there is no room to write ([Errno 28]" in capsys.readouterr().err
    assert not list(copied.glob("poison_digits/CF/*/*ckpt*"))
    assert not list(copied.glob("poison_digits/CF/*/.*"))
    assert fit(*arguments) == 0
    assert read_results(copied, "CF")["method"] == "CF"


@pytest.mark.parametrize("method", [("unlearn/ssd.yaml",), ("unlearn/scrub.yaml", "--model.rewind", "true")])
def test_a_full_disk_is_said_in_importances_and_rewinding_too(copied, fit, capsys, monkeypatch, method):
    command = ("--config", *method, "--data.identified", "0.5", "--runs_dir", str(copied))
    with monkeypatch.context() as patch:
        patch.setattr("cmu_lightning.unlearning.checkpoint.write_atomically", write_on_full_disk)
        assert fit(*command) == 2
    assert "error: there is no room to write ([Errno 28]" in capsys.readouterr().err
    assert not list(copied.rglob("*.part"))
    assert fit(*command) == 0


def test_an_older_checkpoint_outlives_a_full_disk(tmp_path, monkeypatch):
    def save_checkpoint(path, weights_only):
        strategy.checkpoint_io.save_checkpoint({"state_dict": {}}, path)

    before = TorchCheckpointIO()
    strategy = SimpleNamespace(checkpoint_io=before, broadcast=lambda each: each)
    last = tmp_path / "last.ckpt"
    last.write_bytes(b"whole")
    monkeypatch.setattr("cmu_lightning.unlearning.checkpoint.write_atomically", write_on_full_disk)
    with pytest.raises(OSError, match="No space"):
        save_whole(SimpleNamespace(save_checkpoint=save_checkpoint, strategy=strategy), last, weights_only=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("last.ckpt", b"whole")]
    assert strategy.checkpoint_io is before


def test_an_unfinished_run_whose_checkpoint_is_damaged_is_trained_from_the_beginning(copied, fit, capsys):
    stored, weights = read_results(copied, "Original"), load_weights(copied)
    only_match(copied, "poison_digits/Original/*/metrics.json").unlink()
    path = only_match(copied, "poison_digits/Original/*/last.ckpt")
    flip_bit(path)
    assert fit("--ckpt_path", str(path), "--runs_dir", str(copied)) == 2
    assert f"error: {path} is damaged" in capsys.readouterr().err
    assert fit("--runs_dir", str(copied)) == 0
    assert f"{path} is damaged: this unfinished run is trained from the beginning" in capsys.readouterr().err
    assert numbers(read_results(copied, "Original")) == numbers(stored)
    assert are_equal(load_weights(copied), weights)


@pytest.mark.parametrize("how", ["test", "load", "--model.original"])
def test_a_damaged_checkpoint_is_refused(copied, fit, capsys, how):
    path = only_match(copied, "poison_digits/Original/*/last.ckpt")
    flip_bit(path)
    if how == "load":
        with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
            cmu_lightning.load(path.parent)
        return
    if how == "test":
        assert main(["test", "--config", str(path.parent / "config.yaml"), "--ckpt_path", str(path)]) == 2
    else:
        assert fit(*CF, how, str(path), "--runs_dir", str(copied)) == 2
    said = capsys.readouterr().err
    assert f"error: {path} is damaged, its checksums do not agree" in said
    assert "delete it, and the same command makes it again" in said
    assert not list(copied.glob("poison_digits/CF/*"))


def test_a_run_that_diverged_is_no_result(copied, fit, capsys):
    scrub = ("--config", "unlearn/scrub.yaml", "--data.identified", "0.5", "--model.lr", "1e30")
    for diverging in (("--procedure.lr", "1e30"), scrub):
        assert fit("--runs_dir", str(copied), *diverging) == 2
        assert "error: training diverged to weights that are not finite" in capsys.readouterr().err
    for _ in range(2):  # the same command ends in the same way
        assert fit("--runs_dir", str(copied), *diverging, "--trainer.log_every_n_steps", "5") == 2
        assert "error: training diverged: train_loss became nan in steps 1 to 5 of 20" in capsys.readouterr().err
    assert len(list(copied.rglob("metrics.json"))) == 1


def test_an_original_given_by_its_path_keeps_its_seed_and_is_asked_again(copied, fit):
    assert fit("--runs_dir", "other", "--seed_everything", "1", "--data.manipulation.seed", "0") == 0
    (given,) = Path("other").glob("poison_digits/Original/*/last.ckpt")
    arguments = [*CF, "--runs_dir", str(copied), "--model.original"]
    assert fit(*arguments, str(given)) == 0
    stored = read_results(copied, "CF")
    assert (stored["seed"], stored["original_seed"], stored["model_seed"]) == (0, 1, 0)
    finished = {path.name: is_finished(path.name, copied) for path in (copied / ".sweep/asked").iterdir()}
    assert sorted(finished.values()) == [False, True], "other weights may lie at the path by now"


def test_ctrl_c_is_said(copied, fit, capsys, monkeypatch):
    def interrupted(self, batch):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("cmu_lightning.unlearning.CF.loss", interrupted)
    with pytest.raises(SystemExit) as ended:
        fit(*CF, "--runs_dir", str(copied))
    signal.signal(signal.SIGINT, handler)
    assert ended.value.code == 130
    assert "interrupted: run the same command again to continue" in capsys.readouterr().err


def test_only_the_command_that_is_asked_for_has_a_parser():
    for arguments, known in ((["fit", "--threads", "1"], {"fit"}), (["test"], {"test"}), ([], {"fit", "test"})):
        cli = CLI.__new__(CLI)
        cli.arguments = arguments
        assert cli.subcommands().keys() == known


def test_lightning_starts_further_processes_with_this_command(copied, fit, monkeypatch):
    """Whatever program calls `main`, and whatever its own arguments are."""
    started = []

    def note(job, ckpt_path):
        started.append(_basic_subprocess_cmd())
        return True

    monkeypatch.setattr(Job, "execute", note)
    monkeypatch.setattr(sys, "argv", ["notebook", "--its-own"])
    before = sys.modules["__main__"].__spec__
    assert fit("--runs_dir", str(copied)) == 0
    (command,) = started
    assert command[:4] == [sys.executable, "-m", "cmu_lightning.__main__", "fit"]
    assert command[4:][-1] == f"--runs_dir={copied}"
    assert (sys.argv, sys.modules["__main__"].__spec__) == (["notebook", "--its-own"], before)
