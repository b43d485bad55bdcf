"""The tutorial docs/own_model.md, from its first file to its last, by the commands as a reader types them."""

import csv
import json
import re
from pathlib import Path

import onnxruntime
import pytest
import torch

import cmu_lightning
from cmu_lightning.errors import UserError
from cmu_lightning.parsing import PACKAGE
from tests.helpers.forked_commands import run_command

TUTORIAL = PACKAGE.parent / "docs/own_model.md"


def output_of(command: str) -> str:
    """Run a command of the page, and return what it prints."""
    ended = run_command(command)
    assert ended.code == 0, f"{command}: {ended.err}"
    return ended.out


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch):
    text = TUTORIAL.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    files = dict(content.removeprefix("# ").split("\n", 1) for kind, content in blocks if kind)
    assert [*files] == ["images.py", "my_net.py", "train.py", "mine.yaml", "result.py", "notebook.py"]
    for name, content in files.items():
        Path(name).write_text(content)
    commands = [line for kind, content in blocks if not kind for line in content.splitlines()]
    first, install, images, train, repair, result, notebook, scrub, predict, export = commands
    assert (install, images, train) == ("pip install '.[export]'", "python images.py", "python train.py")
    output_of(images)
    assert len(list(Path("images/train").glob("*/*.png"))) == 1200
    output_of(train)
    assert first == repair == "python -m cmu_lightning repair --config mine.yaml --model.original model.pt"
    output_of(repair)
    choice = json.loads(Path("runs/mine/repaired.json").read_text())
    assert (len(choice["candidates"]), choice["failed"]) == (13, {})
    methods = {each["method"] for each in (choice["original"], *choice["candidates"])}
    assert methods == {"Keep", "PURE", "Potion", "ASSD", "SSD", "CF", "Scrub", "BadT"}
    assert "tries 13 candidates" in text
    method = {each["run"]: each["method"] for each in choice["candidates"]}[choice["run"]]
    assert f"> {method} is chosen: its score of" in text
    assert "is the highest of 13 candidates" in text
    shown = output_of(result)
    original, repaired = (list(map(float, line.split()[-2:])) for line in shown.splitlines())
    assert original[0] > 0.9
    assert original[1] < 0.3
    assert repaired[0] > 0.85
    assert repaired[1] > 0.7
    assert re.match(r".* is (kept: of|chosen: .* is the highest of) 2 candidates", output_of(notebook))
    output_of(scrub)
    assert len(list(Path("runs/mine/Scrub").iterdir())) == 3
    output_of(predict.replace("RUN", choice["run"]))
    with Path("predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    flagged = [row for row in rows if row["split"] == "deleted"]
    assert sorted(row["name"] for row in flagged) == sorted(Path("flagged.csv").read_text().split()[1:])
    assert sum(row["changed"] == "true" for row in flagged) > len(flagged) / 2
    output_of(export.replace("RUN", choice["run"]))
    with pytest.raises(UserError, match=rf"{method}/\S+ needs my_net.Net, which is not found .*: be in the folder"):
        cmu_lightning.load(choice["run"])
    monkeypatch.syspath_prepend(str(tmp_path))
    inputs = torch.randn(5, 1, 16, 16)
    session = onnxruntime.InferenceSession("FOLDER/model.onnx", providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        ours = cmu_lightning.load(choice["run"])(inputs)
    assert (ours - torch.from_numpy(theirs)).abs().max() < 1e-4


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TUTORIAL.read_text()):
        assert (TUTORIAL.parent / target).exists(), target
