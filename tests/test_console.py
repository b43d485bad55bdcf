"""What is shown of names and paths that mean something to rich, to its emoji or to a terminal."""

import ast
import io

import pytest
from rich.table import Table

from cmu_lightning import console as ours
from cmu_lightning.console import PlainConsole, bar, say
from cmu_lightning.parsing import PACKAGE

ODD = "r[old]/[/a]/[bold red]b/:cat:/\x1b[2J\udcff"
SHOWN = "r[old]/[/a]/[bold red]b/:cat:/\\x1b[2J\\udcff"


@pytest.fixture
def screen():
    return PlainConsole(file=io.StringIO(), width=200, force_terminal=True, color_system=None, highlight=False)


def test_lines_and_tables_are_shown_as_they_are(screen):
    table = Table("name", ODD, title=ODD)
    table.add_row(ODD, "")
    screen.print(ODD)
    screen.print(table)
    assert screen.file.getvalue().count(SHOWN) == 4
    assert "\x1b[2J" not in screen.file.getvalue()


def test_so_is_the_line_beside_a_spinner_or_a_bar(screen):
    with screen.status(ODD):
        pass
    assert list(screen.track(range(3), ODD, 3)) == [0, 1, 2]
    assert screen.file.getvalue().count(SHOWN) >= 2
    assert "\x1b[2J" not in screen.file.getvalue()


def test_messages_and_lines_of_progress(capsys, monkeypatch):
    monkeypatch.setattr(ours, "PAUSE", 0)
    say(ODD)
    assert list(bar([1], ODD, 1)) == [1]
    said = capsys.readouterr().err.splitlines()
    assert said == [SHOWN, f"{SHOWN}: 1 of 1, 0:00:00 left"]


def test_nothing_else_prints_by_rich():
    """Another console, progress or markup would read names again."""
    allowed = {"console.py", "unlearning/progress.py"}  # the second is Lightning's bar, whose markup it escapes
    found: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in (
                "rich",
                "rich.console",
                "rich.progress",
                "rich.markup",
            ):
                names = {alias.name for alias in node.names} & {"Console", "track", "print", "get_console", "escape"}
                found.setdefault(str(path.relative_to(PACKAGE)), []).extend(names)
    assert {name for name, imports in found.items() if imports} <= allowed


def test_a_sweeps_bar_and_failures_show_names_as_they_are(capsys):
    from cmu_lightning.sweep.progress import SweepProgress

    progress = SweepProgress(1, 0)
    assert isinstance(progress.console, PlainConsole)
    progress.say(f"failed: {ODD}")
    assert capsys.readouterr().err == f"failed: {SHOWN}\n"
