"""The command and what it writes; `tests/integration/test_report_page.py` looks at the page in a browser."""

import csv
import io
import json
import re
import zlib
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.errors import UserError
from cmu_lightning.report import report
from cmu_lightning.report.appearance import FIXED, LEVELS, style
from cmu_lightning.report.build import distinct_names
from cmu_lightning.report.drawing import draw, file_name
from cmu_lightning.report.embedded import vega
from cmu_lightning.report.figures import FIGURES, Figure, figures
from cmu_lightning.report.load import read_runs
from cmu_lightning.report.variants import compare
from tests.helpers.synthetic_runs import Study, whole_study

SEEDS = (0, 1)
NAMES = ("acc_corr", "acc_manipulated", "trade_off", "importance_ratios", "Scrub_across_fractions", "Scrub_trade_off")
ENDINGS = ("png", "svg", "pdf")


def two_settings(place):
    """A folder with a report on two settings, and something broken beside them."""
    for study in (Study(place / "runs"), Study(place / "runs", "confusion_digits", "InterclassConfusion", 122)):
        assert len(list(whole_study(study, ("RewoD", "CF", "Scrub", "Potion"), SEEDS))) == 2 * (1 + 10 * (8 + 3))
    broken = place / "runs/poison_digits/CF/0-broken"
    broken.mkdir()
    (broken / "metrics.json").write_text('{"setting": "<script>alert(1)</script>')
    assert main(["report", str(place / "runs"), "--out", str(place / "out")]) == 0
    return place


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return two_settings(tmp_path_factory.mktemp("report"))


def drawn_of(runs_dir):
    """The figures of the only variant, by name, with their specifications."""
    runs = read_runs(Path(runs_dir))
    (comparison,) = compare(runs.table, "paper")
    return {each.name: (each, each.chart.to_dict()) for each in figures(comparison, runs)}


def data_of(spec):
    """All rows that a specification holds."""
    return [row for rows in spec["datasets"].values() for row in rows]


def test_tables_are_in_three_formats_and_cover_all_settings(made):
    tables = made / "out/tables"
    for name in (
        "retain_change",
        "measures",
        "cost",
        "regret",
        "curves",
        "origin",
        "chosen_runs",
        "missing",
        "skipped",
    ):
        assert {path.suffix for path in tables.glob(f"{name}.*")} == {".csv", ".md", ".tex"}, name
    for name in ("retain_change", "curves", "chosen_runs"):
        lines = (tables / f"{name}.csv").read_text().splitlines()[1:]
        assert {line.split(",")[0] for line in lines} == {"poison_digits", "confusion_digits"}
    assert len((tables / "chosen_runs.csv").read_text().splitlines()) == 1 + 2 * 2 * 10 * 4
    assert "poison_digits/CF/0-broken" in (tables / "skipped.csv").read_text()


def test_pictures_are_there_and_say_what_they_show(made):
    for setting in ("poison_digits", "confusion_digits"):
        for name in NAMES:
            path = made / "out/figures" / setting / name
            assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
            assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
            assert f"{setting}: " in path.with_suffix(".svg").read_text()
    drawn = (made / "out/figures/poison_digits/acc_corr.svg").read_text()
    for said in ("acc_corr: fraction correct", "identified fraction", "RewoD", "None (the original)", "oracle"):
        assert said in drawn


def stamps(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*.*")
        if path.suffix[1:] in ENDINGS
    }


def test_pictures_are_drawn_again_only_when_their_data_change(tmp_path, capsys):
    study = Study(tmp_path / "runs")
    study.original(0)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5, acc_manipulated=0.6, acc_retain=0.9)
    for distill in (0.1, 1.0):
        study.unlearner(
            "Scrub", 1.0, 0, {"distill": distill}, acc_corr=distill / 2, acc_retain=0.9, selection_score=0.5
        )
    command = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    page, before = (tmp_path / "out/index.html").read_bytes(), stamps(tmp_path / "out")
    assert {Path(name).stem for name in before} == set(NAMES) - {"importance_ratios"}
    assert main(command) == 0
    assert "0 drawn, 5 unchanged" in capsys.readouterr().out
    assert ((tmp_path / "out/index.html").read_bytes(), stamps(tmp_path / "out")) == (page, before)

    study.unlearner("CF", 1.0, 0, acc_corr=0.7, acc_manipulated=0.6, acc_retain=0.9)
    assert main(command) == 0
    after = stamps(tmp_path / "out")
    assert {Path(name).stem for name in after if after[name] != before[name]} == {"acc_corr", "trade_off"}


def test_pictures_of_runs_that_are_gone_go(tmp_path):
    for setting in ("one", "two"):
        study = Study(tmp_path / "runs", setting)
        study.original(0)
        study.unlearner("CF", 1.0, 0, acc_corr=0.5)
    command = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert (tmp_path / "out/figures/two/acc_corr.pdf").exists()
    (tmp_path / "runs/two").rename(tmp_path / "two")
    assert main(command) == 0
    files = {str(path.relative_to(tmp_path / "out/figures")) for path in (tmp_path / "out/figures").rglob("*.*")}
    assert files == {f"one/acc_corr.{ending}" for ending in ENDINGS}


FOREIGN = {
    "a photograph": "figures/one/mine.png",
    "a note": "notes.txt",
    "a table of one's own": "tables/mine.csv",
    "something deeper": "tables/old/curves.csv",
    "another page": "index.html",
    "a hidden file": ".git/config",
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(case, tmp_path, capsys):
    study = Study(tmp_path / "runs", "one")
    study.original(0)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5)
    out = tmp_path / "out"
    command = ["report", str(tmp_path / "runs"), "--out", str(out)]
    assert main(command) == 0
    mine = out / FOREIGN[case]
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_bytes(b"mine")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert main(command) == 2
    said = f"--out {out} holds {FOREIGN[case]}, which no earlier report has written: give a new or an empty folder"
    assert capsys.readouterr().err == f"error: {said}\n"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    if case != "another page":
        assert main(command) == 0


def test_what_an_interrupted_report_and_wandb_leave_is_no_obstacle(tmp_path):
    study = Study(tmp_path / "runs", "one")
    study.original(0)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5)
    for left in ("figures/one/.acc_corr.png.part", "wandb/run-1/files/config.yaml"):
        (tmp_path / "out" / left).parent.mkdir(parents=True)
        (tmp_path / "out" / left).write_text("half")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0


def test_tables_that_no_run_makes_any_more_go(tmp_path):
    for setting, manipulation in (("one", "Poison"), ("two", "RandomSwap")):
        study = Study(tmp_path / "runs", setting, manipulation)
        study.original(0, acc_corr=0.1)
        study.unlearner("CF", 1.0, 0, acc_corr=0.5)
    command = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert (tmp_path / "out/tables/regime_map.csv").exists()
    (tmp_path / "runs/two").rename(tmp_path / "two")
    assert main(command) == 0
    assert not list((tmp_path / "out").rglob("regime_map*"))


def test_settings_are_what_is_reported(made, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["report", str(made / "runs"), "--out", str(out), "--settings"]
    assert main([*command, "confusion_digits"]) == 0
    rows = list(csv.DictReader(io.StringIO((out / "tables/curves.csv").read_text())))
    assert {row["setting"] for row in rows} == {"confusion_digits"}
    whole = list(csv.DictReader(io.StringIO((made / "out/tables/curves.csv").read_text())))
    assert rows == [row for row in whole if row["setting"] == "confusion_digits"]
    assert {path.parent.name for path in (out / "figures").rglob("*.png")} == {"confusion_digits"}
    assert main([*command, "confusion_digits, poison_digits"]) == 0
    assert (out / "tables/curves.csv").read_bytes() == (made / "out/tables/curves.csv").read_bytes()
    capsys.readouterr()
    assert main([*command, "poison_digits,mine"]) == 2
    said = capsys.readouterr().err
    assert "there is no finished run of mine in" in said
    assert "its settings are confusion_digits, poison_digits\n" in said


def test_figures_for_a_paper_have_neither_title_nor_note(tmp_path):
    study = Study(tmp_path / "runs")
    study.original(0, val_acc=0.9)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5, val_acc=0.1)
    command = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    path = tmp_path / "out/figures/poison_digits/acc_corr.svg"
    usual = path.read_text()
    assert "Destroyed" in usual or "destroyed" in usual
    assert main([*command, "--style", "paper"]) == 0
    paper = path.read_text()
    for said in ("poison_digits: ", "Means over seeds", "destroyed models"):
        assert said in usual
        assert said not in paper
    assert ("serif" in paper, ">CF<" in paper, "acc_corr: fraction correct" in paper) == (True, True, True)
    assert '"Times New Roman"' in paper.replace("&quot;", '"')
    assert (tmp_path / "out/index.html").read_text().count("Means over seeds") >= 1  # the page keeps it
    assert main(command) == 0
    assert path.read_text() == usual


def test_a_report_from_python_is_the_commands(made, tmp_path):
    index = report(made / "runs", tmp_path / "out")
    assert index == tmp_path / "out/index.html"
    assert index.read_bytes() == (made / "out/index.html").read_bytes()
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")}
    assert written == {
        path.relative_to(made / "out") for path in (made / "out").rglob("*.*") if path.name != "watched.html"
    }
    for wrong, says in (
        ({"select": "best"}, "give one of the rules paper"),
        ({"style": "loud"}, "the styles screen, paper"),
        ({"settings": ["mine"]}, "no finished run of mine"),
    ):
        with pytest.raises(UserError, match=says):
            report(made / "runs", tmp_path / "out", **wrong)
    with pytest.raises(UserError, match="no runs folder nowhere"):
        report("nowhere", tmp_path / "out")


def test_runs_are_listed(made, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["list", str(made / "runs")]) == 0
    said = capsys.readouterr().out
    assert "1 items were skipped" in said
    assert f"{2 * 2 * (1 + 10 * 11)} runs; --csv FILE writes all" in said
    lines = [line.split() for line in said.splitlines()]
    scrub = [line for line in lines if line[:3] == ["poison_digits", "Scrub", "0.3"]]
    assert len(scrub) == 8 * 2
    assert sum("distill=0.001" in line for line in scrub) == 2
    monkeypatch.setenv("CMU_RUNS_DIR", str(made / "runs"))
    assert main(["list", "--csv", "all/runs.csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(Path("all/runs.csv").read_text())))
    assert len(rows) == 2 * 2 * (1 + 10 * 11)
    stored = json.loads((made / "runs" / rows[7]["folder"] / "metrics.json").read_text())
    assert (rows[7]["hash"], float(rows[7]["acc_corr"])) == (stored["hash"], stored["acc_corr"])
    assert rows[7]["procedure.unlearn_steps"] == "100"


def test_names_that_mean_something_elsewhere_are_listed_as_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    Study(tmp_path / "r[old]", setting="=1+1").original(0)
    Study(tmp_path / "r[old]", setting="[b]").original(0)
    assert main(["list", str(tmp_path / "r[old]")]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if "Original" in line} == {"=1+1", "[b]"}
    assert main(["list", str(tmp_path / "r[old]"), "--csv", "[a].csv"]) == 0
    assert "columns in [a].csv" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(Path("[a].csv").read_text())))
    assert {row["setting"] for row in rows} == {"'=1+1", "[b]"}
    assert {row["seed"] for row in rows} == {"0"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "there is no runs folder nowhere"),
        (["empty"], "there is no finished run in empty"),
        (["runs", "--csv", "file/runs.csv"], "file/runs.csv cannot be written"),
        (["runs", "more"], "list: unrecognized arguments: more"),
    ],
)
def test_what_cannot_be_listed_is_said(arguments, says, capsys):
    Study(Path("runs")).original(0)
    Path("empty").mkdir()
    Path("file").write_text("")
    assert main(["list", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_damaged_histogram_is_named(tmp_path, capsys):
    study = Study(tmp_path / "runs")
    study.original(0)
    folder = study.unlearner("SSD", 1.0, 0, acc_corr=0.5)
    for content in ("{", '{"log10_edges": [0, 1], "counts": [1, 2], "left_alone": 0, "selected": 1}'):
        (folder / "importance_ratios.json").write_text(content)
        assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
        assert "importance_ratios.json,damaged" in (tmp_path / "out/tables/skipped.csv").read_text()
        assert not (tmp_path / "out/figures/poison_digits/importance_ratios.png").exists()


def test_a_line_ends_where_a_fraction_is_missing(tmp_path):
    study = Study(tmp_path / "runs")
    study.original(0)
    for identified in (0.1, 0.2, 0.5, 0.6):
        study.unlearner("RewoD", identified, 0, acc_corr=0.5)
        if identified != 0.5:
            study.unlearner("CF", identified, 0, acc_corr=0.5)
    figure, spec = drawn_of(tmp_path / "runs")["acc_corr"]
    parts = {"CF": {}, "RewoD": {}}
    for row in data_of(spec):
        if row["method"] in parts:
            assert row["x"] == row["identified"]  # without bars nothing is moved sideways
            parts[row["method"]].setdefault(row["part"], []).append(row["x"])
    assert list(parts["CF"].values()) == [[0.1, 0.2], [0.6]]
    assert list(parts["RewoD"].values()) == [[0.1, 0.2, 0.5, 0.6]]
    assert "standard deviation" not in figure.note  # of one seed there is none
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/figures/poison_digits/acc_corr.svg").read_text().count(">CF<") == 1


def test_bars_of_methods_stand_beside_each_other(tmp_path):
    study = Study(tmp_path / "runs")
    for seed in (0, 1):
        study.original(seed)
        for method in ("BadT", "CF", "RewoD"):
            study.unlearner(method, 0.5, seed, acc_corr=0.5 + seed / 10)
    figure, spec = drawn_of(tmp_path / "runs")["acc_corr"]
    rows = {row["method"]: row for row in data_of(spec) if "identified" in row}
    places = [rows[method]["x"] for method in ("BadT", "CF", "RewoD")]
    assert places[0] < places[1] == 0.5 < places[2]
    assert places[2] - places[0] < 0.02
    assert {row["identified"] for row in rows.values()} == {0.5}
    assert (rows["CF"]["low"], rows["CF"]["high"]) == pytest.approx((0.55 - 0.0707, 0.55 + 0.0707), abs=1e-4)
    assert "Bars: standard deviation over seeds" in figure.note


def test_the_trade_off_has_a_mark_for_each_method_at_a_fraction_that_most_share(tmp_path):
    study = Study(tmp_path / "runs")
    for seed in (0, 1):
        study.original(seed, acc_corr=0.1, acc_retain=0.9)
        study.unlearner("RewoD", 1.0, seed, acc_corr=0.8, acc_retain=0.95)
        for method in ("CF", "SSD"):
            study.unlearner(method, 0.5, seed, acc_corr=0.3, acc_retain=0.7)
            study.unlearner(method, 1.0, seed, acc_corr=0.4 + seed / 10, acc_retain=0.6 + seed / 10)
        study.unlearner("BadT", 0.5, seed, acc_corr=0.4, acc_retain=0.6)
    figure, spec = drawn_of(tmp_path / "runs")["trade_off"]
    assert figure.title == "acc_corr against acc_retain at identified 0.5"  # as many share 1, which is further off
    marks = {row["method"]: (row["mean_x"], row["mean"]) for row in data_of(spec)}
    assert marks == {
        "BadT": pytest.approx((0.6, 0.4)),
        "CF": pytest.approx((0.7, 0.3)),
        "SSD": pytest.approx((0.7, 0.3)),
        "None (the original)": pytest.approx((0.9, 0.1)),
        "oracle": pytest.approx((0.95, 0.8)),
    }
    assert "No mark: RewoD, without runs there." in figure.note


def ratios(folder, count, selected=1):
    content = {"log10_edges": [-1.0, 0.0, 1.0], "counts": [count, 2], "left_alone": 0, "selected": selected}
    (folder / "importance_ratios.json").write_text(json.dumps(content))


def test_histograms_compare_methods_at_the_same_fraction(tmp_path):
    study = Study(tmp_path / "runs")
    study.original(0)
    for method, fractions in (
        ("SSD", (0.1, 0.5, 1.0)),
        ("Potion", (0.1, 0.5)),
        ("LFSSD", (0.5, 1.0)),
        ("ASSD", (0.1,)),
    ):
        for at in fractions:
            ratios(study.unlearner(method, at, 0, acc_corr=0.5), round(at * 100), 7)
    figure, spec = drawn_of(tmp_path / "runs")["importance_ratios"]
    assert figure.note.startswith("At identified 0.5. ")
    assert "No histogram there: ASSD." in figure.note
    assert "SSD: seed 0, 7 dampened" in figure.note
    first = {row["method"]: row["count"] for row in data_of(spec) if row["left"] == -1.0}
    assert first == {"SSD": 50, "Potion": 50, "LFSSD": 50}


def chunks(png):
    """The kinds and contents of a PNG file's chunks, whose checksums are right."""
    at, found = 8, []
    while at < len(png):
        size = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + size]
        assert zlib.crc32(body) == int.from_bytes(png[at + 8 + size : at + 12 + size])
        found.append((body[:4], body[4:]))
        at += 12 + size
    return found


def test_long_titles_notes_and_names_stay_within_the_picture(tmp_path):
    """Text is neither cut nor over the edge; the widths of the letters come from the picture's own font."""
    study = Study(tmp_path / "runs")
    study.original(0)
    names = ["Mine", *(f"Mine (way={'long ' * 12}{at})" for at in range(1, 10))]
    for at in range(10):
        study.unlearner("Mine", 0.5, 0, {"way": f"{'long ' * 12}{at}"}, acc_corr=at / 10)
    figure, spec = drawn_of(tmp_path / "runs")["acc_corr"]
    long = figure._replace(title="title " * 40, note="a note " * 90)
    assert draw(long, spec, "a setting " * 12, tmp_path / "x", paper=False)
    svg = (tmp_path / "x.svg").read_text()
    words = re.findall(r">([^<>]+)</t(?:ext|span)>", svg)
    assert set(names) <= set(words)
    assert " ".join(word for word in words if word.startswith("a note") or word.endswith("note")).count("a note") >= 80
    assert "…" not in svg
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    assert width > 440 + 6 * max(map(len, names))  # beside the axes there is room for the longest name
    kinds = [kind for kind, _ in chunks((tmp_path / "x.png").read_bytes())]
    assert (kinds[0], kinds[-2:]) == (b"IHDR", [b"tEXt", b"IEND"])


def test_a_pack_leaves_out_what_is_damaged(tmp_path, capsys):
    study = Study(tmp_path / "runs")
    study.original(0)
    (study.unlearner("SSD", 1.0) / "importance_ratios.json").write_text("{")
    (study.unlearner("CF", 1.0) / "config.yaml").unlink()
    assert (
        main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--pack", str(tmp_path / "a.jsonl")])
        == 0
    )
    lines = [json.loads(text) for text in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["method"], "importance_ratios" in line) for line in lines] == [("Original", False), ("SSD", False)]
    assert "2 runs in" in (said := capsys.readouterr().out.replace("\n", " "))
    assert "1 have no whole config.yaml" in said


def test_a_pack_does_not_replace_the_file_that_is_read(tmp_path, capsys):
    study, packed = Study(tmp_path / "runs"), tmp_path / "a.jsonl"
    study.original(0)
    study.unlearner("CF", 1.0)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--pack", str(packed)]) == 0
    before = packed.read_text()
    again = ["--out", str(tmp_path / "out"), "--settings", "poison_digits", "--pack", str(packed)]
    assert main(["report", str(packed), *again]) == 2
    assert "is the file that is read, and would be replaced: give another" in capsys.readouterr().err
    assert packed.read_text() == before


def test_a_pack_does_not_lie_in_the_report(tmp_path, capsys):
    """Whose folder holds nothing else, or the next report would be refused."""
    study, out = Study(tmp_path / "runs"), tmp_path / "out"
    study.original(0)
    study.unlearner("CF", 1.0)
    assert main(["report", str(tmp_path / "runs"), "--out", str(out), "--pack", str(out / "mine.jsonl")]) == 2
    assert "is in the folder of the report, which holds nothing else: give another" in capsys.readouterr().err
    assert not out.exists()


def test_names_of_files_are_short_and_each_its_own():
    assert file_name("digits, ResNet9 (a=1)") == "digits_ResNet9_a=1"
    long = ["x" * 100 + end for end in "ab"]
    assert len({file_name(each) for each in long}) == 2
    assert all(len(file_name(each)) == 80 for each in long)


def test_files_of_figures_of_alike_names_are_told_apart():
    assert distinct_names(["a b", "a_b", "c", "a/b"]) == ["a_b", "a_b_2", "c", "a_b_3"]


def test_many_values_have_colours_of_their_own_and_a_short_legend(tmp_path):
    study = Study(tmp_path / "runs")
    study.original(0)
    for at in range(40):
        study.unlearner("Scrub", 1.0, 0, {"distill": at / 7}, acc_corr=0.5, acc_retain=0.9, selection_score=0.5)
    _, spec = drawn_of(tmp_path / "runs")["Scrub_across_fractions"]
    colour = spec["layer"][0]["encoding"]["color"]
    assert len(set(colour["scale"]["range"])) == 10
    assert len(colour["scale"]["domain"]) == 40
    assert colour["legend"]["title"] == "distill"
    assert len(colour["legend"]["values"]) == 10
    assert (colour["legend"]["values"][0], colour["legend"]["values"][-1]) == ("0", f"{39 / 7:g}")
    assert [row["ring"] for row in data_of(spec) if row["ring"]] == ["chosen (paper)"]


def test_destroyed_models_are_named_in_the_picture(tmp_path):
    study = Study(tmp_path / "runs")
    study.original(0, val_acc=0.9)
    study.unlearner("CF", 0.5, 0, acc_corr=0.5, val_acc=0.8)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5, val_acc=0.1)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    drawn = (tmp_path / "out/figures/poison_digits/acc_corr.svg").read_text()
    assert "Hollow: destroyed models" in drawn
    assert "CF at 1." in drawn
    _, spec = drawn_of(tmp_path / "runs")["acc_corr"]
    assert {row["x"]: row["destroyed"] for row in data_of(spec) if row["method"] == "CF"} == {0.5: 0, 1.0: 1}
    (hollow,) = [layer for layer in spec["layer"] if {"filter": "datum.destroyed"} in layer.get("transform", [])]
    assert hollow["mark"]["filled"] is False


def test_the_folder_of_a_setting_is_not_that_of_the_runs(tmp_path, capsys):
    Study(tmp_path / "runs").original(0)
    assert main(["report", str(tmp_path / "runs/poison_digits"), "--out", str(tmp_path / "out")]) == 2
    assert f"is the folder of one setting: give the runs folder, {tmp_path / 'runs'}\n" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "runs/poison_digits/Original"), "--out", str(tmp_path / "out")]) == 2
    assert f"is the folder of one method: give the runs folder, {tmp_path / 'runs'}\n" in capsys.readouterr().err


WRONG = {
    "no folder of runs": (["nothing", "--out", "out"], "there is no runs folder nothing"),
    "no folder to write to": (["runs"], "--out"),
    "an unknown rule": (["runs", "--out", "out", "--select", "best"], "best"),
    "an unknown option": (["runs", "--out", "out", "--fast"], "--fast"),
    "an empty folder": (["empty", "--out", "out"], "no finished run in empty"),
    "nothing but damaged runs": (["broken", "--out", "out"], "no finished run in broken"),
    "a report among the runs": (["runs", "--out", "runs/report"], "contain each other"),
    "a file to write to": (["runs", "--out", "file"], "--out file is a file: give a folder"),
    "a folder below a file": (["runs", "--out", "file/report"], "cannot be written to file/report"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(case, capsys):
    study = Study(Path("runs"))
    study.original(0)
    Path("empty").mkdir()
    Path("broken/s/m/0-x").mkdir(parents=True)
    Path("broken/s/m/0-x/metrics.json").write_text("{")
    Path("file").write_text("")
    arguments, says = WRONG[case]
    assert main(["report", *arguments]) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]*\n", printed.err)
    assert says in printed.err
    assert not Path("out").exists()
    assert ("s/m/0-x" in printed.out) == ("broken" in arguments)


def test_methods_look_the_same_everywhere_and_unlike_each_other():
    assert len(set(FIXED.values())) == len(FIXED)
    assert len({(each.shape, each.dash) for each in FIXED.values()}) == len(FIXED)  # in grey too
    assert len({each.colour for each in FIXED.values()}) == len({each.shape for each in FIXED.values()}) == len(FIXED)
    others = [f"Mine{at}" for at in range(200)] + ["CF (procedure.unlearn_steps=50)"]
    assert style("Mine1") == style("Mine1")
    assert not {style(name).colour for name in others} & {each.colour for each in [*FIXED.values(), *LEVELS.values()]}
    assert not {style(name).dash for name in others} & {each.dash for each in FIXED.values()}
    assert len({style(name) for name in others}) > 100


def test_a_method_looks_the_same_whatever_else_is_in_the_report(tmp_path):
    looks = []
    for place, methods in (("one", ("CF", "Mine")), ("two", ("BadT", "Another", "Mine", "SSD", "CF"))):
        study = Study(tmp_path / place)
        study.original(0)
        for method in methods:
            study.unlearner(method, 1.0, 0, acc_corr=0.5)
        _, spec = drawn_of(tmp_path / place)["acc_corr"]
        encodings = [layer["encoding"] for layer in spec["layer"]]
        look = {}
        for channel in ("color", "shape", "strokeDash"):
            scale = next(each[channel]["scale"] for each in encodings if channel in each)
            look |= {(channel, name): kind for name, kind in zip(scale["domain"], scale["range"], strict=True)}
        looks.append(look)
    first, second = looks
    assert len(first) == 3 * 3  # with None; there is no oracle
    assert first.items() <= second.items()


def test_every_figure_is_a_valid_specification_with_the_parameter_that_hides(made):
    runs = read_runs(made / "runs")
    for comparison in compare(runs.table, "paper"):
        for figure in figures(comparison, runs):
            spec = figure.chart.to_dict(validate=True)
            assert {"name": "hidden", "value": []} in spec["params"]
            assert "title" not in spec
            assert "config" not in spec or set(spec["config"]) <= {"view"}  # themes come from where it is drawn


def test_a_new_figure_is_a_function_that_is_listed_once(tmp_path, monkeypatch):
    import altair as alt
    import pandas as pd

    def fresh(comparison, runs):
        data = pd.DataFrame(
            {"method": comparison.methods, "runs": [len(comparison.points_of(each)) for each in comparison.methods]}
        )
        chart = (
            alt.Chart(data).mark_bar().encode(x="method:N", y="runs:Q").add_params(alt.param(name="hidden", value=[]))
        )
        yield Figure("fresh", "How many points", "A note.", chart)

    monkeypatch.setattr("cmu_lightning.report.figures.FIGURES", (*FIGURES, fresh))
    study = Study(tmp_path / "runs")
    study.original(0)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert {path.suffix[1:] for path in (tmp_path / "out/figures/poison_digits").glob("fresh.*")} == set(ENDINGS)
    assert "How many points" in (tmp_path / "out/index.html").read_text()


def test_the_script_of_the_page_is_cached_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda: "made();")
    assert vega() == "made();"
    (cached,) = (tmp_path / "cmu_lightning").iterdir()
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda: "made_again();")
    assert vega() == "made();"
    cached.write_text(cached.read_text().replace("made", "evil"))
    assert vega() == "made_again();"


def test_the_page_says_what_was_skipped_and_runs_none_of_it(made):
    text = (made / "out/index.html").read_text()
    assert "poison_digits/CF/0-broken/metrics.json" in text
    assert "alert(1)" not in text
