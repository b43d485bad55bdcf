"""The page of a repair in a real browser."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cmu_lightning.deploy.findings import gather
from cmu_lightning.deploy.repair_page import write_page
from tests.deploy.test_repair_page import EVIL, FORMULA, csv_text, named_images, outcome_of
from tests.helpers.browser import visit

pytestmark = pytest.mark.slow

LOOK = """
const images = [...document.querySelectorAll(".gallery img")];
while (!images.every((image) => image.complete)) await new Promise((done) => setTimeout(done, 20));
outcome.images = images.map((image) => [image.naturalWidth, image.width, getComputedStyle(image).imageRendering]);
outcome.files = [...document.querySelectorAll(".gallery .file")].map((each) => each.textContent);
outcome.classes = [...document.querySelectorAll("#classes td.name")].map((each) => each.textContent);
const link = document.querySelector("a[download]");
const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (each) => each.charCodeAt(0));
outcome.list = new TextDecoder().decode(bytes);
outcome.name = link.download;
const figures = [...document.querySelectorAll("figure")];
const words = (figure) => [...figure.querySelectorAll(".role-mark text")].map((each) => each.textContent);
outcome.words = figures.map(words);
outcome.points = figures.map((figure) => figure.querySelectorAll("path[aria-roledescription='point']").length);
outcome.outside = figures.filter((figure) => {
  const [box, frame] = [figure.querySelector("svg"), figure].map((each) => each.getBoundingClientRect());
  return box.left < frame.left - 1 || box.right > frame.right + 1;
}).length;
outcome.reached = [...document.querySelectorAll("#bar a, #theme, .wide, a[download], pre")].every((each) => {
  each.focus();
  return document.activeElement === each;
});
outcome.targets = [...document.querySelectorAll("#bar a")].every((each) => document.querySelector(each.hash));
const theme = () => [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor,
  document.querySelector(".role-axis-title text").getAttribute("fill")];
outcome.theme = theme();
document.getElementById("theme").click();
await drawn();
outcome.other_theme = theme();
outcome.wide = document.documentElement.scrollWidth - innerWidth;
"""
WHITE, BLACK = ["light", "rgb(255, 255, 255)", "#1b1b1b"], ["dark", "rgb(21, 24, 28)", "#e8e8e8"]
DARK = "--blink-settings=preferredColorScheme=0"


@pytest.fixture
def page() -> Path:
    """A page on images and classes with names that would run as scripts; PURE suspects two of them."""
    rows = [[f"{name}/{FORMULA} & 1.png", 0, "0.9", 1] for name in (EVIL, f"./{FORMULA}")]
    suspects = Path("runs/mine/PURE/PURE/suspects.csv")
    suspects.parent.mkdir(parents=True)
    suspects.write_text(csv_text(["name", "given_label", "probability", "suggested_label"], *rows))
    return write_page(outcome_of(**{EVIL: EVIL}), Path("out"), named_images()).resolve()


def test_the_page_in_a_browser(page):
    outcome = visit(page, LOOK, "--window-size=1300,900")
    assert outcome["problems"] == []
    assert outcome["images"] == [[8, 96, "pixelated"]] * (1 + 2 + 7)
    assert set(outcome["files"]) == {f"{name}/{FORMULA} & {at}.png" for name in (EVIL, FORMULA) for at in range(4)}
    assert outcome["classes"] == [EVIL, FORMULA]
    assert outcome["list"] == gather(named_images(), Path("runs/mine/PURE/PURE/suspects.csv")).next_list()
    assert outcome["name"] == "next_round.csv"
    assert outcome["words"][0] == ["the original: 80.0%", "PURE: 80.0%", "CF: 10.0%"]
    assert outcome["words"][1] == ["the original: 50.0%", "PURE: 50.0%", "CF: 50.0%"]
    assert outcome["points"] == [4, 4]  # one is ringed
    assert outcome["outside"] == 0
    assert outcome["reached"] is True
    assert outcome["targets"] is True
    assert (outcome["theme"], outcome["other_theme"]) == (WHITE, BLACK)
    assert outcome["wide"] <= 0


@pytest.mark.parametrize("width", [420, 360])
def test_the_page_on_a_telephone_in_the_dark(page, width):
    outcome = visit(page, LOOK, DARK, f"--window-size={width},900")
    assert outcome["problems"] == []
    assert (outcome["theme"], outcome["other_theme"]) == (BLACK, WHITE)
    assert outcome["outside"] == 0
    assert outcome["wide"] <= 0


def test_the_page_without_its_scripts(page):
    """All but the charts is there, in the colours that the reader prefers."""
    page.write_text(re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL))
    look = """
const shown = (each) => getComputedStyle(document.querySelector(each)).display !== "none";
outcome.shown = ["#theme", ".drawn", "#candidates table", "#classes svg", ".gallery img", "a[download]"].map(shown);
outcome.colour = getComputedStyle(document.body).backgroundColor;
"""
    outcome = visit(page, look, DARK)
    assert outcome["problems"] == []
    assert outcome["shown"] == [False, False, True, True, True, True]
    assert outcome["colour"] == BLACK[1]
    assert visit(page, look)["colour"] == WHITE[1]


def test_the_page_needs_nothing_else(page):
    before, _, after = re.split(r'(<script id="vega">.*?</script>)', page.read_text(), flags=re.DOTALL)
    ours = before + after
    named = re.findall(r'(?:src|href|srcset|data)="([^"]*)"', ours)
    assert {each[:5] for each in named if not each.startswith("#")} == {"data:"}
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|\bimport\(", ours)


def test_no_torch_before_there_is_something_to_show():
    code = """
import sys, cmu_lightning.deploy.repair_page
print([name for name in ("torch", "altair", "pandas", "jinja2", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
