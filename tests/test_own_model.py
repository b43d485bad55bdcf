"""The tutorial, from its first file to its last."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import onnxruntime
import torch

import cmu_lightning
from cmu_lightning.__main__ import main
from cmu_lightning.parsing import PACKAGE

TUTORIAL = PACKAGE.parent / "docs/own_model.md"


def test_the_tutorial(tmp_path, monkeypatch, capsys):
    text = TUTORIAL.read_text()
    files = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["images.py", "my_net.py", "train.py", "mine.yaml", "result.py"]
    for name, content in files:
        Path(name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    runpy.run_path("images.py")
    assert len(list(Path("images/train").glob("*/*.png"))) == 1200
    runpy.run_path("train.py")
    commands = re.findall(r"^python -m cmu_lightning (repair .*|fit .*)$", text, re.MULTILINE)
    assert commands[0] == commands[1] == "repair --config mine.yaml --model.original model.pt"
    assert main(commands[0].split()) == 0
    assert "12 candidates" in text
    told = runpy.run_path("result.py")
    original, repaired = told["accuracy"]["original"], told["accuracy"]["repaired"]
    assert original[0] > 0.9
    assert original[1] < 0.3
    assert repaired[0] > 0.85
    assert repaired[1] > 0.7
    assert main(commands[2].split()) == 0
    assert len(commands) == 3
    assert len(list(Path("runs/mine/Scrub").iterdir())) == 3
    chosen = json.loads(Path("runs/mine/repaired.json").read_text())["run"]
    for command in re.findall(r"^python -m cmu_lightning ((?:predict|export) RUN .*)$", text, re.MULTILINE):
        assert main(command.replace("RUN", chosen).split()) == 0
    with Path("predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    flagged = [row for row in rows if row["split"] == "deleted"]
    assert sorted(row["name"] for row in flagged) == sorted(Path("flagged.csv").read_text().split()[1:])
    assert sum(row["changed"] == "true" for row in flagged) > len(flagged) / 2
    images = torch.randn(5, 1, 16, 16)
    session = onnxruntime.InferenceSession("FOLDER/model.onnx", providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        ours = cmu_lightning.load(chosen)(images)
    assert (ours - torch.from_numpy(theirs)).abs().max() < 1e-4 * max(1, float(ours.abs().max()))


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TUTORIAL.read_text()):
        assert (TUTORIAL.parent / target).exists(), target
