"""The command, its pictures and its page, the latter in a real browser."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cmu_lightning.__main__ import main
from cmu_lightning.report.comparing.summarise import Summary
from cmu_lightning.report.comparing.variants import variants
from cmu_lightning.report.file_name import file_name
from cmu_lightning.report.pictures import draw, draw_chart, draw_map
from cmu_lightning.report.pictures.appearance import FIXED, styles
from cmu_lightning.report.pictures.chart import Axis, Chart, Map, Mark, Series
from cmu_lightning.report.pictures.scatter import across_fractions
from cmu_lightning.report.pictures.variant import pictures
from cmu_lightning.report.reading.collect import collect
from tests.helpers.browser import visit
from tests.helpers.synthetic_runs import Study, whole_study

SEEDS = (0, 1)
NAMES = ("acc_corr", "acc_manipulated", "importance_ratios", "Scrub_across_fractions", "Scrub_trade_off")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on two settings, with something broken beside them."""
    place = tmp_path_factory.mktemp("report")
    for study in (Study(place / "runs"), Study(place / "runs", "confusion_digits", "InterclassConfusion", 122)):
        assert len(list(whole_study(study, ("RewoD", "CF", "Scrub", "Potion"), SEEDS))) == 2 * (1 + 10 * (8 + 3))
    broken = place / "runs/poison_digits/CF/0-broken"
    broken.mkdir()
    (broken / "metrics.json").write_text('{"setting": "<script>alert(1)</script>')
    assert main(["report", str(place / "runs"), "--out", str(place / "out")]) == 0
    return place


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
            assert f"{setting}: " in path.with_suffix(".svg").read_text()
    drawn = (made / "out/figures/poison_digits/acc_corr.svg").read_text()
    for said in ("acc_corr: fraction correct", "identified fraction", "RewoD", "None (the original)", "oracle"):
        assert said in drawn


def stamps(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.[ps][nv]g")}


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
    assert "0 drawn, 4 unchanged" in capsys.readouterr().out
    assert ((tmp_path / "out/index.html").read_bytes(), stamps(tmp_path / "out")) == (page, before)

    study.unlearner("CF", 1.0, 0, acc_corr=0.7, acc_manipulated=0.6, acc_retain=0.9)
    assert main(command) == 0
    after = stamps(tmp_path / "out")
    assert {Path(name).stem for name in after if after[name] != before[name]} == {"acc_corr"}


def test_pictures_of_runs_that_are_gone_go_and_those_of_others_stay(tmp_path):
    for setting in ("one", "two"):
        study = Study(tmp_path / "runs", setting)
        study.original(0)
        study.unlearner("CF", 1.0, 0, acc_corr=0.5)
    command = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    mine = tmp_path / "out/figures/two/mine.png"
    mine.write_bytes(b"a photograph")
    (tmp_path / "runs/two").rename(tmp_path / "two")
    assert main(command) == 0
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")} == {
        "figures/one/acc_corr.png",
        "figures/two/mine.png",
    }


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
    (variant,) = variants(collect(tmp_path / "runs")[0])
    chart = pictures(Summary(variant, "paper"), tmp_path / "runs", styles(["CF", "RewoD"]), [])[0]
    parts = {
        name: [[point[0] for point in each.points] for each in chart.series if each.name == name] for name in FIXED
    }
    assert parts["CF"] == [[0.1, 0.2], [0.6]]
    assert parts["RewoD"] == [[0.1, 0.2, 0.5, 0.6]]
    assert "standard deviation" not in chart.note  # of one seed there is none
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/figures/poison_digits/acc_corr.svg").read_text().count(">CF<") == 1


def shown(figure):
    """Its boxes in pixels: of the whole, of its texts, and of what else is asked for."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    return figure.bbox, lambda artist: artist.get_window_extent(renderer)


def test_long_titles_notes_and_names_stay_within_the_picture():
    names = [f"CF (data.discovery=ByDifficulty, data.discovery.first=hardest, way={at})" for at in range(9)]
    series = [Series(name, name, FIXED["CF"], [Mark(0.1, 0.5, None, "")]) for name in names]
    chart = Chart("x", "a setting " * 12, "lines", "title", "a note " * 90, Axis("x"), Axis("y"), series)
    with mpl.rc_context(draw.LOOK):
        figure = draw_chart.figure_of(chart)
        box, extent = shown(figure)
    title, note = map(extent, figure.texts)
    label, legend = extent(figure.axes[0].xaxis.label), extent(figure.legends[0])
    assert title.x1 < box.x1
    assert title.y1 <= box.y1
    assert note.y1 < label.y0
    assert title.y0 > extent(figure.axes[0]).y1
    assert legend.x0 > extent(figure.axes[0]).x1
    assert legend.x1 < box.x1
    assert legend.y0 > note.y1
    assert [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()] == names


def test_a_long_title_of_a_map_stays_within_the_picture():
    chart = Map("x", "digits, ResNet9", "a way of finding " * 9, "a note " * 90, 500, 200, (46, 24), [], [])
    with mpl.rc_context(draw.LOOK):
        figure = draw_map.figure_of(chart)
        box, extent = shown(figure)
    for text in figure.axes[0].texts:
        assert extent(text).x1 < box.x1
        assert box.y0 <= extent(text).y0
        assert extent(text).y1 < box.y1


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


def test_names_of_files_are_short_and_each_its_own():
    assert file_name("digits, ResNet9 (a=1)") == "digits_ResNet9_a=1"
    long = ["x" * 100 + end for end in "ab"]
    assert len({file_name(each) for each in long}) == 2
    assert all(len(file_name(each)) == 80 for each in long)


def test_many_values_have_colours_of_their_own_and_a_short_legend(tmp_path):
    study = Study(tmp_path / "runs")
    study.original(0)
    for at in range(40):
        study.unlearner("Scrub", 1.0, 0, {"distill": at / 7}, acc_corr=0.5, acc_retain=0.9, selection_score=0.5)
    (variant,) = variants(collect(tmp_path / "runs")[0])
    chart = across_fractions(Summary(variant, "paper"), "Scrub")
    assert len({each.style for each in chart.series}) >= 10
    assert chart.legend[0][0] == "distill 0"
    assert len(chart.legend) == 11
    assert chart.legend[-2][0] == f"distill {39 / 7:g}"


def test_destroyed_models_are_named_in_the_picture(tmp_path):
    study = Study(tmp_path / "runs")
    study.original(0, val_acc=0.9)
    study.unlearner("CF", 0.5, 0, acc_corr=0.5, val_acc=0.8)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5, val_acc=0.1)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    drawn = (tmp_path / "out/figures/poison_digits/acc_corr.svg").read_text()
    assert "Destroyed models" in drawn
    assert "CF at 1." in drawn


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
    "a report among the runs": (["runs", "--out", "runs/report"], "lie in each other"),
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


def test_no_torch_and_no_matplotlib_before_it_draws():
    study = Study(Path("runs"))
    study.original(0)
    study.unlearner("CF", 1.0, 0, acc_corr=0.5)
    code = """
import sys
from cmu_lightning.__main__ import main
try: main(["report", "--help"])
except SystemExit: pass
print([name for name in ("torch", "matplotlib", "yaml", "jinja2") if name in sys.modules])
assert main(["report", "runs", "--out", "out"]) == 0
print([name for name in ("torch", "lightning") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == ["[]", "[]"]
    assert Path("out/index.html").exists()


def test_methods_look_the_same_everywhere_and_unlike_each_other():
    first, second = styles(["SSD", "Mine", "CF (procedure.unlearn_steps=50)"]), styles(["Mine", "CF"])
    assert first["SSD"] == second["SSD"] == FIXED["SSD"]
    assert len(set(first.values())) == len(first)
    assert len({(style.shape, style.dashes) for style in FIXED.values()}) == len(FIXED)  # in grey too
    assert styles(["b", "a"])["a"] == styles(["a", "b"])["a"]


def test_text_of_runs_stays_text(tmp_path):
    evil = "</script><script>problems.push('ran')</script>"
    study = Study(tmp_path / "runs")
    study.original(0)
    for how in (1.0, 2.0):
        for kind in ("plain", evil):
            for identified in (0.4, 0.6, 0.7)[: 3 if kind == "plain" else 2]:
                own = {evil: how, "kind": kind}
                study.unlearner("Mine", identified, 0, own, acc_corr=0.5, acc_retain=0.9, selection_score=0.5)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    look = "outcome.titles = [...document.querySelectorAll('svg.plot')].map((plot) => plot.getAttribute('aria-label'));"
    outcome = visit(tmp_path / "out/index.html", look + "outcome.keys = document.querySelector('.key').textContent;")
    assert outcome["problems"] == []
    assert f"{evil} 1" in outcome["keys"]
    # of two equally close
    assert f"Every run of Mine (kind={evil}) at identified 0.4 (as Figures 11 to 14)" in outcome["titles"]


class Links(HTMLParser):
    """What a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        named = [value for key, value in attrs if key in ("src", "href", "data", "srcset")]
        self.found += [value for value in named if not value.startswith(("#", "data:"))]


def test_the_page_needs_nothing_else(made):
    text = (made / "out/index.html").read_text()
    links = Links()
    links.feed(text)
    assert links.found == []
    assert "@import" not in text
    assert "url(" not in text
    assert not re.search(r"\bfetch\(|XMLHttpRequest|\bimport\(", text)


def test_the_page_says_what_was_skipped_and_runs_none_of_it(made):
    text = (made / "out/index.html").read_text()
    assert "poison_digits/CF/0-broken/metrics.json" in text
    assert "alert(1)" not in text


LOOK = """
const shown = (method) => [...document.querySelectorAll(".series")]
  .filter((group) => group.dataset.method === method).map((group) => getComputedStyle(group).display !== "none");
const button = (method) => document.querySelector(`#legend button[data-method="${method}"]`);
const charts = [...document.querySelectorAll("figure:not(.map)")];
outcome.maps = [...document.querySelectorAll("figure.map")].map((map) => map.querySelectorAll("rect").length);
outcome.charts = charts.map((figure) => figure.querySelectorAll("svg.plot .series *").length);
outcome.titles = charts.map((figure) => figure.querySelector("svg.plot").getAttribute("aria-label"));
const words = (figure) => [...figure.querySelectorAll("svg.plot > text")].map((text) => text.textContent);
outcome.labels = charts.map((figure) => words(figure).slice(-2));
outcome.outside = [...document.querySelectorAll(".plot .mark")].filter((mark) => {
  const [box, frame] = [mark.getBoundingClientRect(), mark.closest("svg").getBoundingClientRect()];
  return box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom;
}).length;
outcome.methods = [...document.querySelectorAll("#legend button")].map((each) => each.dataset.method);
outcome.before = shown("CF");
button("CF").click();
outcome.hidden = shown("CF");
outcome.others = shown("RewoD");
outcome.pressed = button("CF").getAttribute("aria-pressed");
button("CF").click();
outcome.again = shown("CF");
const tip = document.getElementById("tip");
const hover = (target) => target.dispatchEvent(new MouseEvent("mousemove", { bubbles: true, clientX: 50 }));
hover(charts[0].querySelector('.series[data-method="RewoD"] .hit:last-of-type'));
outcome.tip = [tip.hidden, tip.textContent];
hover(document.body);
outcome.tip_after = tip.hidden;
outcome.theme = [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor];
document.getElementById("theme").click();
outcome.other_theme = [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor];
outcome.wide = document.documentElement.scrollWidth - innerWidth;
"""
WHITE, BLACK = ["light", "rgb(255, 255, 255)"], ["dark", "rgb(21, 24, 28)"]


def test_the_page_in_a_browser(made):
    outcome = visit(made / "out/index.html", LOOK)
    assert outcome["problems"] == []
    assert len(outcome["charts"]) == 2 * len(NAMES)
    assert min(outcome["charts"]) >= 8 * 2 + 2  # every run of Scrub at one fraction, and two circles
    assert outcome["outside"] == 0
    assert outcome["labels"][0] == ["identified fraction of the manipulated samples", "acc_corr: fraction correct"]
    assert outcome["methods"] == ["CF", "Potion", "RewoD", "Scrub"]
    assert outcome["before"] == outcome["again"] == [True] * 5  # two charts in each of two settings, and a map
    assert outcome["hidden"] == [False] * 5
    assert outcome["others"] == [True] * 5
    assert outcome["maps"] == [4 * 10 * 2 + 10]  # methods, fractions and manipulations, and the scale
    assert outcome["pressed"] == "false"
    stored = made.glob("runs/confusion_digits/RewoD/*/metrics.json")
    measured = [
        run["acc_corr"] for run in map(json.loads, (path.read_text() for path in stored)) if run["identified"] == 1
    ]
    assert len(measured) == 2
    assert outcome["tip"][0] is False
    assert f"RewoD, identified 1: {sum(measured) / 2:.3f}" in outcome["tip"][1]
    assert outcome["tip_after"] is True
    assert (outcome["theme"], outcome["other_theme"]) == (WHITE, BLACK)
    assert outcome["wide"] <= 0


def test_the_page_follows_the_readers_preference(made):
    outcome = visit(made / "out/index.html", LOOK, "--blink-settings=preferredColorScheme=0", "--window-size=420,900")
    assert (outcome["theme"], outcome["other_theme"]) == (BLACK, WHITE)
    assert outcome["problems"] == []
    assert outcome["wide"] <= 0  # on a telephone too
