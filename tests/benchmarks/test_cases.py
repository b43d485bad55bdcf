"""The four cases of `repair`, rehearsed on small made-up data."""

import json
import re
import sys

import pytest
import torch

from benchmarks import cases
from cmu_lightning.data import CIFAR10DataModule, PCAMDataModule, Split


def small(self):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (260, 32, 32, 3), generator=generator).to(torch.uint8)
    labels = torch.arange(260) % self.num_classes
    return Split(images[:200], labels[:200]), None, Split(images[200:], labels[200:])


@pytest.mark.parametrize("case", cases.CASES)
def test_a_case(case, monkeypatch, capsys, tmp_path):
    for kind in (CIFAR10DataModule, PCAMDataModule):
        monkeypatch.setattr(kind, "load", small)
    tiny = [
        "--images",
        "150",
        "--steps",
        "2",
        "--width",
        "1",
        "--only",
        "cf",
        "--results",
        str(tmp_path / "cases.jsonl"),
    ]
    monkeypatch.setattr(sys, "argv", ["cases.py", "--case", case, *tiny])
    cases.main()
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w+) \{'affected': [01]\.\d+, 'all': [01]\.\d+\}$", printed, re.MULTILINE) == [
        *("before", "after", "oracle")
    ]
    assert re.search(r"is kept: of 1 candidates|is the highest of 1 candidates", printed)
    assert f'"case": "{case}"' in printed
    line = json.loads((tmp_path / "cases.jsonl").read_text())
    assert (line["case"], sorted(line["oracle"])) == (case, ["affected", "all"])
