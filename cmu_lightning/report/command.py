"""`python -m cmu_lightning report RUNS_DIR --out REPORT_DIR` and `python -m cmu_lightning list [RUNS_DIR]`.

Pandas and Altair are imported once there is something to do, so that `--help` answers at once.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cmu_lightning.console import PlainConsole
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import choose_runs_dir
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.selection import RULES

if TYPE_CHECKING:
    from cmu_lightning.report.build import Report
    from cmu_lightning.report.load import Runs, Skipped

STYLES = ("screen", "paper")
LISTED = ("setting", "method", "identified", "seeds", "tuned", "acc_corr", "acc_retain")
"""Columns of `list`."""

SHOWN = 20
"""Number of skipped items that the screen shows; the report names all."""


def parser() -> Parser:
    """Return the parser of the command `report`."""
    made = Parser("report", "Figures, tables and one HTML page from a folder of runs.")
    made.add_argument(
        "runs_dir", type=Path, metavar="RUNS_DIR", help="Runs folder of fit and sweep, or a file with its runs."
    )
    made.add_argument("--out", type=Path, required=True, metavar="REPORT_DIR", help="Where the report goes.")
    made.add_argument(
        "--select",
        choices=list(RULES),
        default="paper",
        help="Rule that chooses hyperparameters; oracle uses clean labels. Default: paper.",
    )
    made.add_argument("--settings", metavar="A,B", help="Report only these settings, such as poison_digits.")
    made.add_argument(
        "--style",
        choices=STYLES,
        default="screen",
        help="Of the figure files: paper is serif, without titles and notes. Default: screen.",
    )
    made.add_argument("--pack", type=Path, metavar="FILE", help="Write the runs into one file, which report can read.")
    made.add_argument("--wandb", action="store_true", help="Upload it as a run of job type report.")
    made.add_argument("--entity", help="User or team on W&B; default WANDB_ENTITY, else yours.")
    made.add_argument("--project", help="On W&B; default WANDB_PROJECT, else cmu_lightning.")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command `report`, and return its exit code.

    Args:
        arguments: Without the word report.

    Raises:
        UserError: The arguments cannot work, or there is nothing to report.
    """
    given = parser().parse_args(list(arguments))
    read_env()
    check_paths(given.runs_dir, given.out)
    if given.pack is not None and given.pack.resolve() == given.runs_dir.resolve():
        raise UserError(f"--pack {given.pack} is the file that is read, and would be replaced: give another")
    if given.pack is not None and given.pack.resolve().is_relative_to(given.out.resolve()):
        raise UserError(f"--pack {given.pack} is in the folder of the report, which holds nothing else: give another")
    if given.wandb:
        from cmu_lightning.experiment.wandb_settings import check_environment, destination

        check_environment()
        destination(given.entity, given.project)
    report = _read_and_write(PlainConsole(), given)
    if given.wandb:
        from cmu_lightning.report.upload import upload

        upload(report, given.out, given.select, given.entity, given.project)
    return 0


def check_paths(runs_dir: Path, out: Path) -> None:
    """Make sure that a report can be made from one path and written to another.

    Args:
        runs_dir: Where runs are read from.
        out: Where the report is to be.

    Raises:
        UserError: There are no runs, or one folder contains the other.
    """
    if not runs_dir.exists():
        raise UserError(f"there is no runs folder {runs_dir}: give one that fit or sweep has written to")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    if out.resolve().is_relative_to(runs_dir.resolve()) or runs_dir.resolve().is_relative_to(out.resolve()):
        raise UserError(
            f"--out {out} and the runs folder {runs_dir} contain each other: give another folder for the report"
        )


def filtered(runs: "Runs", settings: Sequence[str]) -> "Runs":
    """Return the runs of some settings.

    Args:
        runs: All runs.
        settings: Names of the settings; none keeps all.

    Raises:
        UserError: No run can be reported, or there is none of one of the settings.
    """
    from dataclasses import replace

    from cmu_lightning.report.load import OF_REPAIR

    given, table = runs.source, runs.table
    for depth, what in enumerate(("run", "method", "setting")):
        if table.empty and any(given.glob("/".join(["*"] * depth + ["metrics.json"]))):
            folder = given.resolve().parents[2 - depth]
            raise UserError(f"{given} is the folder of one {what}: give the runs folder, {folder}")
    if table.empty and any(each.reason == OF_REPAIR for each in runs.skipped):
        raise UserError(
            f"no run in {given} has numbers to compare, because the manipulation of their data is unknown: the choice "
            "of repair, with its reasons, is in the repaired.json of their setting"
        )
    if table.empty:
        raise UserError(f"there is no finished run in {given}: run fit or sweep first")
    known = sorted(table["setting"].unique())
    if unknown := [name for name in settings if name not in known]:
        raise UserError(
            f"there is no finished run of {', '.join(unknown)} in {given}: its settings are {', '.join(known)}"
        )
    return replace(runs, table=table[table["setting"].isin(settings)]) if settings else runs


def _read_and_write(console: PlainConsole, given: Namespace) -> "Report":
    """Read runs, write the report, and print a summary."""
    out: Path = given.out
    with console.status(f"reading {given.runs_dir}"):
        from cmu_lightning.report.build import build, refuse_foreign, write_report
        from cmu_lightning.report.load import pack, read_runs

        refuse_foreign(out)
        everything = read_runs(given.runs_dir)
    try:
        runs = filtered(everything, [name.strip() for name in (given.settings or "").split(",") if name.strip()])
    except UserError:
        _name(console, everything.skipped, everywhere=False)
        raise
    if given.pack is not None:
        packed, count = pack(runs, given.pack), len(runs.table)
        without = f"; {count - packed:,} have no whole config.yaml, and are left out" * (packed < count)
        console.print(f"{packed:,} runs in {given.pack}{without}", soft_wrap=True)
    with console.status(f"building the report of {len(runs.table):,} runs"):
        report = build(runs, given.select)
    drawn = write_report(report, out, given.style == "paper", lambda todo: console.track(todo, "drawing", len(todo)))
    _name(console, runs.skipped)
    count = len(report.drawings)
    console.print(f"{len(runs.table):,} runs, {count} figures ({drawn} drawn, {count - drawn} unchanged)")
    console.print(f"{out / 'index.html'}", soft_wrap=True)
    return report


def _name(console: PlainConsole, skipped: "list[Skipped]", everywhere: bool = True) -> None:
    """Print what was skipped; the report, if there is one, names all of it."""
    if not skipped:
        return
    shown = Table("path", "reason", title=f"skipped: {len(skipped)}", title_justify="left")
    for each in skipped[:SHOWN]:
        shown.add_row(*each)
    console.print(shown)
    if len(skipped) > SHOWN:
        console.print(f"and {len(skipped) - SHOWN} more" + ", all of them in the report" * everywhere)


def list_parser() -> Parser:
    """Return the parser of the command `list`."""
    made = Parser("list", "All finished runs, one line each.")
    made.add_argument(
        "runs_dir",
        type=Path,
        nargs="?",
        metavar="RUNS_DIR",
        help="Runs folder of fit and sweep, or a file with its runs; default CMU_RUNS_DIR, else runs.",
    )
    made.add_argument("--csv", type=Path, metavar="FILE", help="Write all columns to a file instead.")
    return made


def list_runs(arguments: Sequence[str]) -> int:
    """Run the command `list`, and return its exit code.

    Args:
        arguments: Without the word list.

    Raises:
        UserError: There is no run, or the file cannot be written.
    """
    given = list_parser().parse_args(list(arguments))
    read_env()
    console = PlainConsole(soft_wrap=True)
    source = choose_runs_dir(given.runs_dir)
    from cmu_lightning.report.load import read_runs, results
    from cmu_lightning.report.table import without_formulas

    table = results(source)
    skipped = table.attrs["skipped"]
    if table.empty:
        filtered(read_runs(source), ())  # says why
    if given.csv is not None:
        try:
            given.csv.parent.mkdir(parents=True, exist_ok=True)
            without_formulas(table).to_csv(given.csv, index=False)
        except OSError as error:
            raise UserError(f"{given.csv} cannot be written ({error.strerror}): give another --csv") from error
        console.print(f"{len(table):,} runs and {len(table.columns)} columns in {given.csv}")
    else:
        shown = Table(*LISTED, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for _, own in table.groupby(["setting", "method"], sort=False):
            # Hyperparameters that are equal for all runs of a method distinguish nothing.
            several = [
                name
                for name in map(str, own.columns)
                if name.startswith("hyperparameters.") and len(own[name].map(str).unique()) > 1
            ]
            records: Any = own.astype(object).where(own.notna(), None).to_dict("records")
            for run in records:
                tuned = ", ".join(f"{name.partition('.')[2]}={_cell(run, name)}" for name in several)
                shown.add_row(*(tuned if name == "tuned" else _cell(run, name) for name in LISTED))
        PlainConsole().print(shown)
        console.print(f"{len(table):,} runs; --csv FILE writes all {len(table.columns)} columns")
    if skipped:
        console.print(f"{len(skipped):,} items were skipped, which report names")
    return 0


def _cell(run: dict[str, Any], column: str) -> str:
    """Return a value of a run as text."""
    from cmu_lightning.report.load import SEEDS, seeds_text

    if column == "seeds":
        return seeds_text(dict.fromkeys(SEEDS) | run)  # where all runs are originals, some seeds are no column
    value = run.get(column)
    if isinstance(value, float):
        return f"{value:.3f}" if column in ("acc_corr", "acc_retain", "val_acc") else f"{value:,.4g}"
    return "–" if value is None else str(value)
