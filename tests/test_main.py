"""What a newcomer types first."""

import re
import subprocess
import sys

import pytest

from cmu_lightning.__main__ import HELP, LIGHT, main


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(option, capsys):
    assert main([option]) == 0
    assert capsys.readouterr().out == HELP
    assert re.findall(r"^  (\w+) ", HELP, re.MULTILINE) == ["fit", "test", *_in_order()]


def _in_order():
    return sorted(LIGHT, key=HELP.index)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "there is no command: give one of fit, test, sweep"),
        (["fitt"], "there is no command fitt: give one of fit"),
    ],
)
def test_what_is_no_command_is_said(given, says, capsys):
    assert main(given) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]*\n", printed.err)
    assert says in printed.err


def test_help_needs_no_torch():
    code = "import sys; from cmu_lightning.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
