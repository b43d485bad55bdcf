"""YAML texts of which a few bytes are endless, deep or large, wherever YAML is read."""

import shutil
from pathlib import Path

import pytest
import yaml

import cmu_lightning
from cmu_lightning.__main__ import main
from cmu_lightning.errors import UserError
from cmu_lightning.report.load import _from_yaml
from cmu_lightning.yaml_files import TooLargeYAML, check_yaml, parse_yaml, read_mapping

NINE = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{now}: &{now} [{', '.join([f'*{before}'] * 9)}]\n" for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)
ALIASES = "aliases that stand for more than 100,000 values, or for themselves"
DEPTH = "more than 64 brackets or indentations within each other"
HOSTILE = {
    "nested aliases": (NINE, ALIASES),
    "a list in itself": ("a: &a [*a]", ALIASES),
    "a mapping in itself": ("a: &a {b: *a}", ALIASES),
    "a mapping that merges itself": ("a: &a {<<: *a}", ALIASES),
    "a chain of aliases": ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 900)), ALIASES),
    "brackets": ("a: " + "[" * 3000 + "]" * 3000, DEPTH),
    "open brackets": ("{a: " * 3000, DEPTH),
    "indentation": ("\n".join(" " * i + "a:" for i in range(300)), DEPTH),
    "dashes": ("- " * 3000, DEPTH),
    "keys of keys": ("? " * 3000, DEPTH),
}
UNREADABLE = {
    "a day that is none": "a: 2026-13-99",
    "a truth that is none": "a: !!bool maybe",
    "a number of 5,000 digits": "a: " + "9" * 5000,
    "a date that is none": "a: !!timestamp x",
    "a list as a key": "? [a]\n: 1",
    "code": "a: !!python/object/apply:os.system [ls]",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_has_no_end_is_refused_before_it_is_read(case):
    text, says = HOSTILE[case]
    Path("hostile.yaml").write_text(text)
    for read in (parse_yaml, check_yaml):
        with pytest.raises(TooLargeYAML, match=says):
            read(text)
    with pytest.raises(UserError, match=rf"the config hostile.yaml has {says}: write fewer"):
        read_mapping(Path("hostile.yaml"), "config", "")
    assert _from_yaml(text) is None


@pytest.mark.parametrize("case", UNREADABLE)
def test_values_that_cannot_be_read(case):
    Path("bad.yaml").write_text(UNREADABLE[case])
    with pytest.raises(UserError, match=r"the config bad.yaml is not YAML \("):
        read_mapping(Path("bad.yaml"), "config", "")
    assert _from_yaml(UNREADABLE[case]) is None


@pytest.mark.parametrize("case", ["nested aliases", "a list in itself", "brackets"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "hostile.yaml"],
        ["--procedure", "hostile.yaml"],
        ["--config", "outer.yaml"],
        ["--config={TEXT}"],
        ["--data.manipulation.size={TEXT}"],
        ["--data.manipulation={TEXT}"],
        ["--trainer.callbacks={TEXT}"],
        ["--network={TEXT}"],
    ],
)
def test_every_place_of_a_command_line(case, arguments, fit, capsys):
    text = HOSTILE[case][0]
    Path("hostile.yaml").write_text(text)
    Path("outer.yaml").write_text("procedure: hostile.yaml\n")
    assert fit("--runs_dir", "runs", *(each.replace("{TEXT}", text) for each in arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("case", HOSTILE)
def test_sweep_files_and_configs_of_runs(case, unlearned, capsys):
    text, says = HOSTILE[case]
    Path("sweep.yaml").write_text(text)
    assert main(["sweep", "sweep.yaml", "--runs_dir", "runs"]) == 2
    assert says in capsys.readouterr().err
    (run,) = unlearned.glob("poison_digits/CF/*")
    copy = Path(shutil.copytree(run, "RUN"))
    (copy / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config.yaml is not a run's, or damaged"):
        cmu_lightning.load(copy)


def test_aliases_of_people_are_taken():
    """Merged keys are no repeated ones."""
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n"
    Path("aliases.yaml").write_text(text)
    assert read_mapping(Path("aliases.yaml"), "config", "")["b"] == {"x": 3, "y": 2}
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["3", "null", "", "a: [1, {b: 2}]", "'*'", "a: 1e-3", "2026-11-28", "# nothing"])
def test_the_same_as_yaml_itself(text):
    check_yaml(text)
    assert parse_yaml(text) == yaml.safe_load(text)
