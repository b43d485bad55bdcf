"""The report's page in a real browser, and the command in a process of its own."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.report.appearance import SEQUENCE
from tests.helpers.browser import visit
from tests.helpers.synthetic_runs import Study
from tests.report.test_command import NAMES, two_settings
from tests.report.test_regimes import study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on two settings, with something broken beside them."""
    return two_settings(tmp_path_factory.mktemp("report"))


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
    before, bundled, after = re.split(r'(<script id="vega">.*?</script>)', text, flags=re.DOTALL)
    assert "vegaEmbed" in bundled
    ours = before + after
    assert "@import" not in ours
    assert "url(" not in ours
    assert not re.search(r"\bfetch\(|XMLHttpRequest|\bimport\(", ours)
    assert '"url"' not in ours  # data of figures lie in the page


LOOK = """
const figures = [...document.querySelectorAll("figure")];
const charts = figures.filter((figure) => !figure.classList.contains("map"));
const marks = (figure) => [...figure.querySelectorAll(".role-mark path, .role-mark line, .role-mark text")];
const said = (figure) => marks(figure).map((mark) => mark.getAttribute("aria-label") ?? "");
const shown = (method) => figures.map((figure) => {
  const { view } = views.get(figure);
  const items = [];
  const walk = (item) => {
    if (item.datum?.method === method && item.bounds && item.mark?.marktype !== "group") items.push(item);
    (item.items ?? []).forEach(walk);
  };
  walk(view.scenegraph().root);
  return items.length > 0;
});
const button = (method) => document.querySelector(`#legend button[data-method="${method}"]`);
const press = async (method) => { button(method).click(); await new Promise((done) => setTimeout(done, 300)); };
outcome.names = figures.map((figure) => figure.dataset.name);
outcome.counts = charts.map((figure) => marks(figure).length);
outcome.labels = [...charts[0].querySelectorAll(".role-axis-title text")].map((text) => text.textContent);
outcome.methods = [...document.querySelectorAll("#legend button")].map((each) => each.dataset.method);
outcome.outside = charts.filter((figure) => {
  const [box, frame] = [figure.querySelector("svg").getBoundingClientRect(), figure.getBoundingClientRect()];
  return box.left < frame.left - 1 || box.right > frame.right + 1;
}).length;
outcome.before = shown("CF");
await press("CF");
outcome.hidden = shown("CF");
outcome.others = shown("RewoD");
outcome.pressed = button("CF").getAttribute("aria-pressed");
await press("CF");
outcome.again = shown("CF");
await press("Scrub");
const hover = async (figure, says) => {
  const { view } = views.get(figure);
  let found = null;
  const walk = (item) => {
    if (typeof item.tooltip === "string" && item.tooltip.startsWith(says)) found = item;
    (item.items ?? []).forEach(walk);
  };
  walk(view.scenegraph().root);
  const mark = [...figure.querySelectorAll(".role-mark *")].find((each) => each.__data__ === found);
  const at = { bubbles: true, clientX: 50, clientY: 50 };
  for (const kind of ["pointerover", "pointermove"]) mark.dispatchEvent(new PointerEvent(kind, at));
  for (const kind of ["mouseover", "mousemove"]) mark.dispatchEvent(new MouseEvent(kind, at));
  await new Promise((done) => setTimeout(done, 100));
  return document.getElementById("vg-tooltip-element")?.textContent;
};
outcome.tip = await hover(charts[0], "RewoD, identified 1:");
const theme = () => [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor,
  charts[0].querySelector(".role-axis-title text").getAttribute("fill")];
outcome.theme = theme();
document.getElementById("theme").click();
await drawn();
outcome.other_theme = theme();
outcome.still_hidden = shown("Scrub");
outcome.wide = document.documentElement.scrollWidth - innerWidth;
"""
WHITE, BLACK = ["light", "rgb(255, 255, 255)", "#1b1b1b"], ["dark", "rgb(21, 24, 28)", "#e8e8e8"]


def test_the_page_in_a_browser(made):
    outcome = visit(made / "out/index.html", LOOK)
    assert outcome["problems"] == []
    assert outcome["names"] == [*NAMES, *NAMES, "regime_map"]
    assert min(outcome["counts"]) >= 4
    assert max(outcome["counts"]) >= 8 * 10 * 2 + 10 * 2  # every run of Scrub, and circles
    assert outcome["outside"] == 0
    assert outcome["labels"] == ["identified fraction of S_m", "acc_corr: fraction correct"]
    assert outcome["methods"] == ["CF", "Potion", "RewoD", "Scrub"]
    of_all = [name in ("acc_corr", "acc_manipulated", "trade_off", "regime_map") for name in outcome["names"]]
    assert outcome["before"] == outcome["again"] == outcome["others"] == of_all
    assert outcome["hidden"] == [False] * len(of_all)
    assert outcome["pressed"] == "false"
    assert outcome["still_hidden"] == [False] * len(of_all)  # in the other theme too
    stored = made.glob("runs/confusion_digits/RewoD/*/metrics.json")
    measured = [
        run["acc_corr"] for run in map(json.loads, (path.read_text() for path in stored)) if run["identified"] == 1
    ]
    assert len(measured) == 2
    assert f"RewoD, identified 1: {sum(measured) / 2:.3f}" in outcome["tip"]
    assert (outcome["theme"], outcome["other_theme"]) == (WHITE, BLACK)
    assert outcome["wide"] <= 0


@pytest.mark.parametrize("width", [420, 360])
def test_the_page_follows_the_readers_preference_on_a_telephone(made, width):
    options = ("--blink-settings=preferredColorScheme=0", f"--window-size={width},900")
    outcome = visit(made / "out/index.html", LOOK, *options)
    assert (outcome["theme"], outcome["other_theme"]) == (BLACK, WHITE)
    assert outcome["problems"] == []
    assert outcome["outside"] == 0
    assert outcome["wide"] <= 0


def test_text_of_runs_stays_text(tmp_path):
    evil = "</script><script>problems.push('ran')</script>"
    made = Study(tmp_path / "runs")
    made.original(0)
    for how in (1.0, 2.0):
        for kind in ("plain", evil):
            for identified in (0.4, 0.6, 0.7)[: 3 if kind == "plain" else 2]:
                own = {evil: how, "kind": kind}
                made.unlearner("Mine", identified, 0, own, acc_corr=0.5, acc_retain=0.9, selection_score=0.5)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    look = """
outcome.titles = [...document.querySelectorAll("figcaption")].map((each) => each.textContent);
outcome.words = [...document.querySelectorAll("figure text")].map((text) => text.textContent);
outcome.methods = [...document.querySelectorAll("#legend button")].map((each) => each.textContent);
"""
    outcome = visit(tmp_path / "out/index.html", look)
    assert outcome["problems"] == []
    assert evil in outcome["words"]  # the title of a legend
    assert outcome["methods"] == ["Mine", f"Mine (kind={evil})"]
    # of two equally close
    assert f"Every run of Mine (kind={evil}) at identified 0.4 (as Figures 11 to 14)" in outcome["titles"]


MAP = """
const map = document.querySelector("figure.map");
const { view } = views.get(map);
const cells = {};
const walk = (item) => {
  if (item.mark?.marktype === "rect" && item.datum?.text) cells[item.datum.text.split(":")[0]] = item;
  (item.items ?? []).forEach(walk);
};
walk(view.scenegraph().root);
outcome.words = [...map.querySelectorAll("text")].map((text) => text.textContent);
const cell = (name) => cells[name];
outcome.fill = cell("CF, Poison, identified 0.5").fill;
outcome.gap = [cell("CF, Poison, identified 1").fillOpacity, cell("CF, Poison, identified 1").strokeDash];
const [here, there] = ["Poison", "RandomSwap"].map((name) => cell(`CF, ${name}, identified 0.5`));
outcome.above = here.y < there.y && here.x === there.x;
outcome.tip = cell("CF, Poison, identified 0.5").tooltip;
outcome.wide = document.documentElement.scrollWidth - innerWidth;
"""


@pytest.mark.parametrize("window", ["1300,900", "420,900"])
def test_the_map_in_a_browser(window):
    study("Poison")
    study("RandomSwap")
    assert main(["report", "runs", "--out", "out"]) == 0
    outcome = visit(Path("out/index.html").resolve(), MAP, f"--window-size={window}")
    assert outcome["problems"] == []
    assert {"0.25", "RandomSwap", "CF", "RewoD", "0.5"} <= set(outcome["words"])
    assert outcome["fill"] == SEQUENCE[2]
    assert outcome["gap"] == [0, [2, 2]]
    assert outcome["above"] is True
    assert outcome["tip"].startswith("CF, Poison, identified 0.5: recovery 0.250; acc_corr 0.300")
    assert outcome["wide"] <= 0


def test_no_torch_and_nothing_heavy_before_there_is_something_to_do():
    made = Study(Path("runs"))
    made.original(0)
    made.unlearner("CF", 1.0, 0, acc_corr=0.5)
    code = """
import sys
from cmu_lightning.__main__ import main
import cmu_lightning.report
for command in ("report", "list"):
    try: main([command, "--help"])
    except SystemExit: pass
print([name for name in ("torch", "pandas", "numpy", "altair", "vl_convert", "yaml", "jinja2") if name in sys.modules])
assert main(["list", "runs"]) == 0
print([name for name in ("torch", "lightning", "altair", "vl_convert") if name in sys.modules])
assert main(["report", "runs", "--out", "out"]) == 0
print([name for name in ("torch", "lightning", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == ["[]", "[]", "[]"]
    assert Path("out/index.html").exists()
