"""`python -m cmu_lightning dashboard --entity E --project P`."""

import json
import re
from collections.abc import Sequence

from rich.console import Console

from cmu_lightning.errors import UserError, first_line
from cmu_lightning.parsing import Parser, read_env


def parser() -> Parser:
    """The command's arguments."""
    made = Parser("dashboard", "A workspace and a report on Weights & Biases.")
    made.add_argument("--entity", required=True, help="User or team.")
    made.add_argument("--project", required=True, help="Project of the runs.")
    made.add_argument("--setting", help="Show the runs of this setting alone, such as poison_cifar10.")
    made.add_argument("--json", action="store_true", help="Print what would be sent; no key is needed.")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Without the word dashboard.

    Returns:
        The exit code.

    Raises:
        UserError: The arguments cannot work, there is no key, or the server refuses.
    """
    given = parser().parse_args(list(arguments))
    if given.setting is not None and not re.fullmatch(r"\w[\w.-]*", given.setting):
        raise UserError(f"--setting {given.setting} is no name of a setting: give one such as poison_cifar10")
    try:
        from cmu_lightning.dashboard import build
    except ModuleNotFoundError as error:
        raise UserError(f"dashboards need {error.name}: pip install 'cmu-lightning[dashboards]'") from error
    made = [make(given.entity, given.project, given.setting) for make in (build.workspace, build.report)]
    if given.json:
        specs = dict(zip(("workspace", "report"), (json.loads(build.as_json(each)) for each in made), strict=True))
        print(json.dumps(specs, indent=2))
        return 0
    _save(made)
    return 0


def _save(made: list) -> None:  # type: ignore[type-arg]
    import wandb

    from cmu_lightning.experiment.wandb_settings import has_key

    read_env()
    if not has_key():
        raise UserError("dashboard needs a key for W&B: set WANDB_API_KEY, run `wandb login`, or give --json")
    try:
        for each in made:
            each.save()
            Console(soft_wrap=True).print(each.url, markup=False)
    except (wandb.Error, OSError, ValueError) as error:
        raise UserError(f"W&B did not take the dashboard ({first_line(error)}): is it reachable?") from error
