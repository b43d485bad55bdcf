"""The examples in docstrings give what they show."""

import doctest
import importlib

import pytest

from cmu_lightning.parsing import PACKAGE

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if any(">>> " in line and "+SKIP" not in line for line in path.read_text().splitlines())
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert not result.failed, capsys.readouterr().out
    assert result.attempted


def test_there_are_examples() -> None:
    assert "cmu_lightning.data.manipulations.triggers" in MODULES
