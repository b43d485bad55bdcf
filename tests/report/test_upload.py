"""A report on W&B: what is sent is what was written."""

import csv
import json
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.experiment.wandb_settings import end_client
from tests.helpers.run_files import records
from tests.helpers.synthetic_runs import Study, whole_study

REPORT = ["report", "study", "--out", "out", "--wandb", "--entity", "team", "--project", "mine"]


@pytest.fixture
def study():
    assert list(whole_study(Study(Path("study")), ("RewoD", "Potion"), (0,)))


def test_every_table_and_chart_is_sent(place, study, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(REPORT) == 0
    sent = records(Path("out"))
    logged = {key.split(".")[0] for record in sent for key in record.get("history", {}).get("item", {})}
    tables = {path.stem for path in Path("out/tables").glob("*.csv")}
    figures = {f"{path.parent.name}/{path.stem}" for path in Path("out/figures").rglob("*.png")}
    assert {key.partition("/")[2] for key in logged if key.startswith("tables/")} == tables
    assert figures <= logged
    assert {"poison_digits/acc_corr", "poison_digits charts/acc_corr"} <= {key.removesuffix("_table") for key in logged}
    (stored,) = Path("out").rglob("curves_*.table.json")
    content = json.loads(stored.read_text())
    head, *rows = csv.reader(Path("out/tables/curves.csv").read_text().splitlines())
    assert content["columns"] == head
    assert [["" if cell is None else str(cell) for cell in row] for row in content["data"]] == rows


def test_the_server_gets_a_run_of_job_type_report(place, server, study):
    stub = server()
    assert main(REPORT) == 0
    (run,) = stub.runs.values()
    assert run.about["jobType"] == "report"
    assert run.exitcode == 0
    assert run.values["settings"] == ["poison_digits"]
    assert "index.html" in run.files
    tables = {path.stem for path in Path("out/tables").glob("*.csv")}
    assert {name.split("/")[-1].rsplit("_", 2)[0] for name in run.files if "table/tables/" in name} == tables
    assert sum(name.endswith(".png") for name in run.files) == len(list(Path("out/figures").rglob("*.png")))
    assert len(stub.artifacts) >= len(tables)


def test_without_a_key_the_report_is_written_and_one_sentence_said(place, study, capsys):
    assert main(REPORT) == 2
    assert "--wandb needs a key" in capsys.readouterr().err
    assert Path("out/index.html").exists()


def test_a_server_that_refuses_is_named(place, server, study, monkeypatch, capsys):
    server(answers="500")
    monkeypatch.setattr("cmu_lightning.report.upload.SECONDS", 3.0)
    assert main(REPORT) == 2
    assert "W&B cannot be reached" in capsys.readouterr().err
    end_client()
