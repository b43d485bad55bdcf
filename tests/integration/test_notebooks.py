"""The notebooks run from the first cell to the last, and what they say of their results is true."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "docs/notebooks"


def executed(name: str) -> str:
    """Run a notebook in a kernel of its own; return what it printed."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


@pytest.mark.slow
def test_poison_unlearn_look():
    printed = executed("poison_unlearn_look.ipynb")
    without, triggered = map(float, re.search(r"without the patch ([\d.]+), with it ([\d.]+)", printed).groups())
    assert without > 0.9 > 0.3 > triggered
    counts = re.search(r"(\d+) suspects, (\d+) of them manipulated, of (\d+)", printed)
    suspects, right, hidden = map(int, counts.groups())
    assert hidden == 36
    assert right > 0.8 * max(suspects, hidden)


@pytest.mark.slow
def test_analyse_a_study():
    assert "81 runs, 8 methods, seeds [0, 1, 2]" in executed("analyse_a_study.ipynb")
