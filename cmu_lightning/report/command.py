"""`python -m cmu_lightning report RUNS_DIR --out REPORT_DIR`."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table as Shown

from cmu_lightning.errors import UserError
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.report.comparing.select import RULES
from cmu_lightning.report.reading.collect import OF_REPAIR, Skipped, collect
from cmu_lightning.report.reading.results_file import pack, unpack

if TYPE_CHECKING:
    from cmu_lightning.report.write import Written

SHOWN = 20
"""How many skipped things are named on the screen; the report names all."""


def parser() -> Parser:
    """The command's arguments."""
    made = Parser("report", "Figures, tables and one HTML page from a folder of runs.")
    made.add_argument(
        "runs_dir", type=Path, metavar="RUNS_DIR", help="What fit and sweep write to, or its runs as a file."
    )
    made.add_argument("--out", type=Path, required=True, metavar="REPORT_DIR", help="Where the report goes.")
    made.add_argument(
        "--select",
        choices=list(RULES),
        default="paper",
        help="How hyperparameters are chosen; oracle looks at clean labels. Default: paper.",
    )
    made.add_argument("--pack", type=Path, metavar="FILE", help="Write the runs into one file, which report reads too.")
    made.add_argument("--wandb", action="store_true", help="Upload it as a run of job type report.")
    made.add_argument("--entity", help="User or team on W&B; default WANDB_ENTITY, else yours.")
    made.add_argument("--project", help="On W&B; default WANDB_PROJECT, else cmu_lightning.")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Without the word report.

    Returns:
        The exit code.

    Raises:
        UserError: The arguments cannot work, or there is nothing to report.
    """
    given = parser().parse_args(list(arguments))
    read_env()
    runs_dir, out = given.runs_dir, given.out
    if not runs_dir.exists():
        raise UserError(f"there is no runs folder {runs_dir}: give one that fit or sweep has written to")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    if out.resolve().is_relative_to(runs_dir.resolve()) or runs_dir.resolve().is_relative_to(out.resolve()):
        raise UserError(
            f"--out {out} and the runs folder {runs_dir} lie in each other: give another folder for the report"
        )
    console = Console()
    with TemporaryDirectory() as folder:
        if runs_dir.is_dir():
            written = _read_and_write(console, given, runs_dir, [])
        else:
            written = _read_and_write(console, given, Path(folder), unpack(runs_dir, Path(folder)))
    if given.wandb:
        from cmu_lightning.report.upload import upload

        upload(written, out, given.select, given.entity, given.project)
    return 0


def _read_and_write(console: Console, given: Namespace, runs_dir: Path, unread: list[Skipped]) -> "Written":
    """Read a folder and write its report.

    Args:
        console: Shows progress.
        given: The command's arguments.
        runs_dir: The folder.
        unread: What was skipped before.
    """
    out: Path = given.out
    with console.status(f"reading {given.runs_dir}"):
        results, skipped = collect(runs_dir)
    skipped = [*unread, *skipped]
    for depth, what in enumerate(("run", "method", "setting")):
        if not results and any(runs_dir.glob("/".join(["*"] * depth + ["metrics.json"]))):
            folder = runs_dir.resolve().parents[2 - depth]
            raise UserError(f"{given.runs_dir} is the folder of one {what}: give the runs folder, {folder}")
    if not results:
        _name(console, skipped, everywhere=False)
        if any(each.reason == OF_REPAIR for each in skipped):
            raise UserError(
                f"no run in {given.runs_dir} can be reported, for nobody knows what was done to their data: what "
                "repair chose, and why, is in the repaired.json of their setting"
            )
        raise UserError(f"there is no finished run in {given.runs_dir}: run fit or sweep first")
    from cmu_lightning.report.write import write_figures, write_page_and_tables

    if given.pack is not None:
        packed = pack(results, runs_dir, given.pack)
        without = f"; {len(results) - packed:,} have no whole config.yaml, and are left out" * (packed < len(results))
        console.print(f"{packed:,} runs in {given.pack}{without}", soft_wrap=True)
    try:
        with console.status(f"writing {out}"):
            written = write_page_and_tables(results, skipped, runs_dir, out, given.select, given.runs_dir)
        drawn = write_figures(written.charts, out, lambda todo: track(todo, "drawing", console=console, transient=True))
    except OSError as error:
        raise UserError(f"the report cannot be written to {out} ({error}): give another --out") from error
    _name(console, skipped)
    figures = sum(map(len, written.charts.values()))
    console.print(f"{len(results):,} runs, {figures} figures ({drawn} drawn, {figures - drawn} unchanged)")
    console.print(f"{out / 'index.html'}", soft_wrap=True)
    return written


def _name(console: Console, skipped: list[Skipped], everywhere: bool = True) -> None:
    """Say what was skipped; what is not on the screen is in the report, if there is one."""
    if not skipped:
        return
    shown = Shown("path", "reason", title=f"skipped: {len(skipped)}", title_justify="left")
    for each in skipped[:SHOWN]:
        shown.add_row(*(str(part).replace("[", "\\[") for part in each))
    console.print(shown)
    if len(skipped) > SHOWN:
        console.print(f"and {len(skipped) - SHOWN} more" + ", all of them in the report" * everywhere)
