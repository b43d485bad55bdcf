"""The command line before a command has begun."""

import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from pkgutil import resolve_name

import pytest

from cmu_lightning import __version__
from cmu_lightning.__main__ import HELP, LIGHT, main


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(option, capsys):
    assert main([option]) == 0
    assert capsys.readouterr().out == HELP
    assert re.findall(r"^  (\w+) ", HELP, re.MULTILINE) == ["fit", "test", *sorted(LIGHT, key=HELP.index)]


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cmu-lightning {__version__}\n"


def test_the_console_script_ends_the_process(monkeypatch, capsys):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    run = resolve_name(project["scripts"]["cmu-lightning"])
    assert project["version"] == __version__
    for words, code in (["--version"], 0), (["fitt"], 2):
        monkeypatch.setattr("sys.argv", ["cmu-lightning", *words])
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == code


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "there is no command: give one of fit, test, sweep"),
        (["fitt"], "there is no command fitt: give one of fit"),
        (["fitt"], "export (did you mean fit?)\n"),
        (["xyz"], "predict, export\n"),
    ],
)
def test_an_unknown_command_is_refused_with_the_list_of_commands(given, says, capsys):
    assert main(given) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]*\n", printed.err)
    assert says in printed.err


@pytest.mark.parametrize(
    "given", [["fit", "a" * 5000], ["sweep", "a" * 300], ["predict", "a" * 5000], ["list", "a" * 300]]
)
def test_a_word_that_is_longer_than_any_name_of_a_file(given, capsys):
    assert main(given) == 2
    assert re.fullmatch(r"error: a{40}\.\.\.a{10} is longer than any name of a file: [^\n]*\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", ["fit", "sweep"])
def test_ctrl_c_before_a_command_has_begun(command, monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("cmu_lightning.__main__.import_module", interrupted)
    assert main([command]) == 130
    assert capsys.readouterr().err == "interrupted: run the same command again to continue\n"


@pytest.mark.slow
def test_help_needs_no_torch():
    code = "import sys; from cmu_lightning.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "given", [["report", ".", "--out", "report"], ["fit", "--config", "poison_digits.yaml"], ["predict", "RUN"]]
)
def test_an_env_file_that_cannot_be_read_is_said(given, capsys):
    Path(".env").write_bytes(b"WANDB_MODE=\xff\xfe\n")
    assert main(given) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: the file .env cannot be read \([^\n]*\): write lines such as [^\n]*\n", said), said


def test_a_closed_pipe_ends_a_command_quietly():
    files = Path(__file__).parents[2] / "sweeps/digits"
    command = f"{sys.executable} -m cmu_lightning sweep {files} --dry_run | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")
    assert ended.stdout.count("\n") == 1
