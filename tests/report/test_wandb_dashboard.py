"""Dashboards refer to what runs log, and the server takes them."""

import json
import time
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.report.wandb_dashboard import SECTIONS
from tests.helpers.run_files import SCRUB, records

COMMAND = ("dashboard", "--entity", "team", "--project", "study", "--setting", "poison_digits")


def printed(capsys) -> dict:
    capsys.readouterr()
    assert main([*COMMAND, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def panels(node) -> list[dict]:
    """Every panel in a specification."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node] if isinstance(node, dict) and "viewType" in node else []
    return own + [panel for each in inner for panel in panels(each)]


def named(text: str) -> tuple[str, str]:
    """Where a reference looks, and for what."""
    for beginning in ("config:", "summary:", "summary_metrics."):
        if text.startswith(beginning):
            return beginning.rstrip(":."), text.removeprefix(beginning).removesuffix(".value")
    return ("config", text.removesuffix(".value")) if text.endswith(".value") else ("history", text)


def references(spec: dict) -> set[tuple[str, str]]:
    """Of panels and of the workspace's columns, groups and filters."""
    found = set()
    for panel in panels(spec):
        config = panel["config"]
        texts = [config[key] for key in ("xAxis", "yAxis", "groupBy", "targetKey") if key in config]
        texts += [*config.get("metrics", []), *config.get("mediaKeys", [])]
        texts += [column["accessor"] for column in config.get("columns", [])]
        found |= {named(text) for text in texts}
    for runs in spec.get("section", {}).get("runSets", []):
        found |= {named(column) for column in runs["runFeed"]["columnPinned"] if not column.startswith("run:")}
        found |= {("config", group["name"].removesuffix(".value")) for group in runs["grouping"]}
        found |= {("config", each["key"]["name"]) for each in runs["filters"]["filters"]}
    return found


def test_every_key_is_one_that_runs_log(place, fit, capsys):
    for arguments in (SCRUB, ("--config", "unlearn/ssd.yaml", "--data.identified", "0.5")):
        more = ("--trainer.val_check_interval", "10", "--wandb.mode", "offline", "--runs_dir", str(place))
        assert fit(*arguments, *more) == 0
    logged = set()
    for method in ("Scrub", "SSD"):
        for record in records(next(Path(place).glob(f"poison_digits/{method}/*"))):
            for kind, part in (("config", "config"), ("summary", "summary"), ("summary_metrics", "summary")):
                logged |= {(kind, key.split(".")[0]) for key in record.get(part, {}).get("update", {})}
            logged |= {("history", key.split(".")[0]) for key in record.get("history", {}).get("item", {})}
    in_curves = {name for kind, name in logged if kind == "history"}
    logged |= {("history", name) for kind, name in logged if kind == "summary"}
    specs = printed(capsys)
    for spec in specs.values():
        drawn = [panel["config"]["metrics"] for panel in panels(spec) if "Line Plot" in panel["viewType"]]
        assert len(drawn) == 7
        assert {name for names in drawn for name in names} <= in_curves
        assert len(references(spec)) > 20
        assert references(spec) <= logged
    assert ("history", "no such key") not in logged


def test_both_hold_every_panel(capsys):
    expected = sum(len(section()) for section in SECTIONS.values())
    specs = printed(capsys)
    assert expected >= 25
    assert [len(panels(spec)) for spec in specs.values()] == [expected, expected]
    (runs,) = specs["workspace"]["section"]["runSets"]
    assert runs["filters"]["filters"][0]["value"] == "poison_digits"
    assert runs["grouping"][0]["name"] == "method.value"


def test_the_server_takes_them(server, capsys):
    stub = server()
    assert main(COMMAND) == 0
    assert len(stub.views) == 2
    urls = capsys.readouterr().out.split()
    assert len(urls) == 2
    assert all(url.startswith("http") for url in urls)
    assert all("acc_corr" in json.dumps(view) for view in stub.views)


@pytest.mark.slow
@pytest.mark.parametrize(
    "behaviour", [{"answers": "500"}, {"answers": "never"}, {"key": "f" * 40}, {"key": "abc"}], ids=str
)
def test_a_server_that_refuses_is_one_sentence(behaviour, server, monkeypatch, capsys):
    server(**behaviour)
    begin = time.monotonic()
    assert main(COMMAND) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: W&B did not take the dashboard (")
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dashboard", "--project", "p"], "required: --entity"),
        (["dashboard", "--entity", "e", "--project", "p", "--setting", "a b"], "--setting a b is no name"),
        (list(COMMAND), "needs a key"),
    ],
)
def test_what_is_wrong_is_said(arguments, says, place, capsys):
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
