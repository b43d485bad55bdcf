"""What the README says of the folders."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cmu_lightning"


def imported(statements):
    """Folders of this project that are imported, but for the sake of types alone."""
    for one in statements:
        if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING":
            continue
        if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("cmu_lightning."):
            yield one.module.split(".")[1]
        yield from imported(ast.iter_child_nodes(one))


def test_folders_import_from_those_before_them():
    said = re.search(r"The code is in folders.*?:(.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    order = [name for name in re.findall(r"`(\w+)`", said[1]) if (PACKAGE / name).is_dir()]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(order) == folders
    for at, folder in enumerate(order):
        for path in (PACKAGE / folder).rglob("*.py"):
            later = set(imported(ast.parse(path.read_text()).body)) & set(order[at + 1 :])
            assert not later, f"{path} imports {later}"
