"""Keys of command lines in the ledger."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmu_lightning import devices
from cmu_lightning.devices import gpus, has_bf16
from cmu_lightning.experiment import ledger
from cmu_lightning.experiment.run import Run
from cmu_lightning.files import write_json

COMMAND = ["--config", "mine.yaml", "--data.identified", "0.5"]


@pytest.fixture(autouse=True)
def _configs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A config and its part in an empty folder, and no GPU."""
    Path("mine.yaml").write_text("setting: mine\ndata: parts/data.yaml\n")
    Path("parts").mkdir()
    Path("parts/data.yaml").write_text("class_path: DigitsDataModule\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    clear_caches()
    yield
    clear_caches()


def clear_caches() -> None:
    """Make this process read files and variables again, as another process would."""
    for kept in (ledger._read_version, ledger._config_path, ledger._hardware, devices._capabilities):
        kept.cache_clear()


def test_spellings_of_one_command_have_one_key():
    named = ledger.command_key(COMMAND)
    assert named == ledger.command_key(["--config=mine.yaml", "--data.identified=5e-1", "--runs_dir", "elsewhere"])
    assert named != ledger.command_key(["--config=mine.yaml", "--data.identified=0.25"])


def test_numbers_of_which_the_kind_counts_have_keys_of_their_own():
    """1 is one batch, and 1.0 is all of them; a setting is a name."""
    for name, first, second in (("--trainer.limit_test_batches", "1", "1.0"), ("--setting", "10", "1e1")):
        assert ledger.command_key([f"{name}={first}"]) != ledger.command_key([f"{name}={second}"])
    assert ledger.command_key(["--model.distill=1"]) == ledger.command_key(["--model.distill=1.0"])


@pytest.mark.parametrize("name", ["my data+1.yaml", "data.json", "parts/deep.yml"])
def test_parts_are_found_whatever_they_are_called(name):
    Path("mine.yaml").write_text(f"setting: mine\ntrainer:\n  callbacks:\n    - {name}\n")
    keys = set()
    for size in (1, 2):
        Path(name).write_text(f'{{"size": {size}}}')
        clear_caches()
        keys.add(ledger.command_key(COMMAND))
    assert len(keys) == 2


def test_inline_yaml_may_be_longer_than_a_name_of_a_file():
    assert ledger.command_key(["--config", '{"setting": "' + "a" * 300 + '", "seed_everything": 1}'])


@pytest.mark.parametrize(("capabilities", "bf16"), [("8.0\n9.0\n", True), ("7.5\n", False), ("8.0\n7.5\n", False)])
def test_gpus_with_and_without_bf16_lead_elsewhere(capabilities, bf16, monkeypatch, tmp_path):
    without = ledger.command_key(COMMAND)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{capabilities}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    clear_caches()
    assert has_bf16() == bf16
    assert gpus() == ["0", "1"][: len(capabilities.split())]
    assert ledger.command_key(COMMAND) != without
    named = ledger.command_key(COMMAND)
    monkeypatch.setattr(ledger, "has_bf16", lambda: not bf16)
    clear_caches()
    assert ledger.command_key(COMMAND) not in (named, without)


def test_whatever_could_lead_elsewhere_makes_another_key(monkeypatch):
    named = {ledger.command_key(COMMAND)}
    Path("parts/data.yaml").write_text("class_path: CIFAR10DataModule\n")
    named.add(ledger.command_key(COMMAND))
    Path("mine.yaml").write_text("setting: other\ndata: parts/data.yaml\n")
    clear_caches()
    named.add(ledger.command_key(COMMAND))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # which makes the precision another one
    clear_caches()
    named.add(ledger.command_key(COMMAND))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    clear_caches()
    assert len(named) == 4
    command = [*COMMAND, "--procedure", "steps.yaml"]
    for text in ("steps: 3", "steps: 4", "mine: deep.yaml"):
        Path("steps.yaml").write_text(text)
        named.add(ledger.command_key(command))
    for text in ("", "steps: 50", "steps.yaml: steps.yaml"):
        Path("deep.yaml").write_text(text)
        named.add(ledger.command_key(command))
    assert len(named) == 9, "an empty file says nothing"
    assert ledger.command_key(COMMAND) in named


@pytest.mark.parametrize("damaged", [b"", b"\n", b"\xff\xfe\x00", b"mine/CF/0-", b"mine\nlast time"])
def test_a_damaged_entry_is_absent_and_written_again(damaged):
    """An empty one would name the runs folder itself, and be kept for ever."""
    run = Run.at(Path("runs"), "mine", "CF", 0, "0123456789")
    write_json(run.folder / "metrics.json", {"hash": run.hash})
    entry = Path("runs/.sweep/asked/key")
    entry.parent.mkdir(parents=True)
    entry.write_bytes(damaged)
    assert ledger.find_folder("key", Path("runs")) is None
    assert not ledger.is_finished("key", Path("runs"))
    ledger.record_run("key", run)
    assert ledger.find_folder("key", Path("runs")) == run.folder
    assert ledger.is_finished("key", Path("runs"))


def test_an_entry_follows_the_run_and_is_otherwise_left_as_it_is():
    entry = Path("runs/.sweep/asked/key")
    for hash in ("0123456789", "abcdef0123"):
        run = Run.at(Path("runs"), "mine", "CF", 0, hash)
        for may_change in (False, True):
            ledger.record_run("key", run, may_change)
            written = entry.stat().st_mtime_ns, entry.stat().st_ino
            ledger.record_run("key", run, may_change)
            assert (entry.stat().st_mtime_ns, entry.stat().st_ino) == written
            assert ledger.find_folder("key", Path("runs")) == run.folder
            assert not ledger.is_finished("key", Path("runs"))
