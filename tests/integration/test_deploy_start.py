"""What the commands of deploy import before they know that their arguments make sense."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("command", ["repair", "predict", "export"])
def test_help_needs_no_torch(command):
    code = f"""
import sys
from cmu_lightning.__main__ import main
try:
    main(["{command}", "--help"])
finally:
    assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert f"usage: python -m cmu_lightning {command} " in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere"], "there is no run folder nowhere"),
        (["export", "nowhere", "--out", "new"], "there is no run folder nowhere"),
        (["repair", "--config", "own_images.yaml", "--model.original", "nothing.pt"], "there is no such file"),
    ],
)
def test_a_wrong_path_is_reported_without_torch(arguments, message):
    code = f"""
import sys
from cmu_lightning.__main__ import main
assert main({arguments}) == 2
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert message in ended.stderr
