"""Command lines by the run that they lead to."""

import os
from pathlib import Path

import pytest

from cmu_lightning import devices
from cmu_lightning.devices import gpus, has_bf16
from cmu_lightning.experiment import ledger

COMMAND = ["--config", "mine.yaml", "--data.identified", "0.5"]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    Path("mine.yaml").write_text("setting: mine\ndata: parts/data.yaml\n")
    Path("parts").mkdir()
    Path("parts/data.yaml").write_text("class_path: DigitsDataModule\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    forget()
    yield
    forget()


def forget():
    """As another process would."""
    for kept in (ledger._read, ledger._path, ledger._precision, devices._capabilities):
        kept.cache_clear()


def test_one_command_has_one_name():
    named = ledger.note_name(COMMAND)
    assert named == ledger.note_name(["--config=mine.yaml", "--data.identified=5e-1", "--runs_dir", "elsewhere"])
    assert named != ledger.note_name(["--config=mine.yaml", "--data.identified=0.25"])


@pytest.mark.parametrize(("capabilities", "bf16"), [("8.0\n9.0\n", True), ("7.5\n", False), ("8.0\n7.5\n", False)])
def test_gpus_with_and_without_bf16_lead_elsewhere(capabilities, bf16, monkeypatch, tmp_path):
    without = ledger.note_name(COMMAND)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{capabilities}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    forget()
    assert has_bf16() == bf16
    assert gpus() == ["0", "1"][: len(capabilities.split())]
    assert ledger.note_name(COMMAND) != without
    named = ledger.note_name(COMMAND)
    monkeypatch.setattr(ledger, "has_bf16", lambda: not bf16)
    forget()
    assert ledger.note_name(COMMAND) not in (named, without)


def test_whatever_could_lead_elsewhere_makes_another_name(monkeypatch):
    named = {ledger.note_name(COMMAND)}
    Path("parts/data.yaml").write_text("class_path: CIFAR10DataModule\n")
    named.add(ledger.note_name(COMMAND))
    Path("mine.yaml").write_text("setting: other\ndata: parts/data.yaml\n")
    forget()
    named.add(ledger.note_name(COMMAND))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # which makes the precision another one
    forget()
    named.add(ledger.note_name(COMMAND))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    forget()
    assert len(named) == 4
    command = [*COMMAND, "--procedure", "steps.yaml"]
    for text in ("steps: 3", "steps: 4", "mine: deep.yaml"):
        Path("steps.yaml").write_text(text)
        named.add(ledger.note_name(command))
    for text in ("", "steps: 50", "steps.yaml: steps.yaml"):
        Path("deep.yaml").write_text(text)
        named.add(ledger.note_name(command))
    assert len(named) == 9, "an empty file says nothing"
    assert ledger.note_name(COMMAND) in named
