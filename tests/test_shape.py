"""What CONTRIBUTING says of the folders: who imports whom, and what starts without torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cmu_lightning"
ORDER = (
    *("errors", "console", "escaping", "files", "yaml_files", "parsing", "devices", "metrics"),
    *("models", "data", "unlearning", "experiment", "selection", "cli", "report", "sweep", "deploy"),
)
"""Files, then folders and the file `selection`: each imports from those before it, and not from those behind it."""


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the files and folders of the package that statements import, functions' too, but not for types alone."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE.name}."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{PACKAGE.name}."))
        yield from imported(ast.iter_child_nodes(node))


def sources(name: str) -> list[Path]:
    return [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else sorted((PACKAGE / name).rglob("*.py"))


def test_the_order_names_every_file_and_folder():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__", "__main__"} == set(ORDER)


def test_the_guide_for_contributors_states_the_order():
    said = re.search(
        r"import only from those before them(.*?)\n\nTo ", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    assert tuple(name for name in re.findall(r"`(\w+)`", said[1]) if name in ORDER) == ORDER


@pytest.mark.parametrize("name", ORDER)
def test_imports_lead_backwards(name):
    behind = set(ORDER[ORDER.index(name) + 1 :])
    found = {str(path.relative_to(ROOT)): set(imported(ast.parse(path.read_text()).body)) for path in sources(name)}
    assert {path: names & behind for path, names in found.items() if names & behind} == {}


def test_imports_that_are_found():
    code = """
        from cmu_lightning import data
        import cmu_lightning.models.resnet9
        if TYPE_CHECKING:
            from cmu_lightning.cli import fit
        def late():
            from cmu_lightning.report.load import read
    """
    assert list(imported(ast.parse("if True:" + code).body)) == ["data", "models", "report"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "sweep"])
def test_a_command_that_starts_fast_imports_no_torch(command):
    """The workers of a sweep do, in processes of their own."""
    code = f"import sys, cmu_lightning.{command}.command; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_file_of_integration_tests_is_marked_slow():
    unmarked = [path.name for path in ROOT.glob("tests/integration/test_*.py") if "mark.slow" not in path.read_text()]
    assert unmarked == []
